package table

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestCollectReachesEverything stores values of many segments, and has Collect drop whatever it offers: in the end nothing is left, wherever
// headers and pieces have come to lie, and however often items were used.
func TestCollectReachesEverything(t *testing.T) {
	for _, large := range []int{100, 5_000, 100_000, 900_000} {
		for _, uses := range []int{0, 3} {
			t.Run(fmt.Sprintf("values to %d bytes used %d times", large, uses), func(t *testing.T) {
				tb := newTable(t, 64<<20, 1<<20, 4<<10)
				r := rand.New(rand.NewPCG(uint64(large), uint64(uses)))
				value := make([]byte, large)
				for i := range min(20_000, 40<<20/large) {
					key := fmt.Appendf(nil, "key%d", i)
					hash := Hash(key)
					l := tb.Lane(LaneOf(hash))
					l.Lock()
					var it Item
					if err := l.Put(hash, key, &it, value[:1+r.IntN(large)]); err != nil {
						t.Fatal(err)
					}
					for range uses {
						l.Used(&it)
					}
					l.Unlock()
				}
				drop := func([]byte, uint64, *Item) Verdict { return Drop }
				for i := range Lanes {
					l := tb.Lane(i)
					l.Lock()
					for round := 0; round < 2+uses && l.Stats().Items > 0; round++ {
						for l.Collect(0, drop) {
						}
					}
					if s := l.Stats(); s.Items != 0 {
						t.Errorf("lane %d keeps %d items: %+v", i, s.Items, s)
					}
					l.Unlock()
				}
				tb.checkAll(t, 0)
			})
		}
	}
}
