package replication

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// TestFullMemory fills groups far beyond their memory, through all replicas at once, with values of all sizes: every set is stored, nothing
// waits for ever, and in the end all replicas hold the same. It is what credit and eviction are for.
func TestFullMemory(t *testing.T) {
	for _, c := range []struct {
		name        string
		memory      uint64
		itemSizeMax uint32
		valueMin    int
		valueMax    int
		keys        int // drawn at random; 0: every set has a key of its own
		fills       int // how many times the memory is written
	}{
		{"small values", 4 << 20, 32 << 10, 1, 200, 0, 3},
		{"small values, few keys again and again", 4 << 20, 32 << 10, 1, 200, 30_000, 2},
		{"all sizes", 16 << 20, 256 << 10, 1, 255 << 10, 0, 6},
		{"large values", 32 << 20, 1 << 20, 600 << 10, 1000 << 10, 0, 6},
		{"large values, few keys again and again", 32 << 20, 1 << 20, 1, 1000 << 10, 40, 6},
		{"many segments", 64 << 20, 1 << 20, 1, 40 << 10, 0, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			fills := c.fills
			if testing.Short() {
				fills = min(fills, 2)
			}
			cl := newCluster(t, clusterOptions{replicas: 3, memoryBytes: c.memory, itemSizeMax: c.itemSizeMax})
			const callers = 6 // of each replica
			var left, number atomic.Int64
			left.Store(int64(fills) * int64(c.memory))
			var wg sync.WaitGroup
			for i, node := range cl.nodes {
				for j := range callers {
					wg.Go(func() {
						r := rand.New(rand.NewPCG(uint64(i), uint64(j)))
						caller := newCaller(node)
						value := make([]byte, c.valueMax)
						for left.Load() > 0 {
							n := number.Add(1)
							if c.keys > 0 {
								n = r.Int64N(int64(c.keys))
							}
							size := c.valueMin + r.IntN(c.valueMax-c.valueMin)
							if r.IntN(4) > 0 {
								size = c.valueMin + r.IntN(1+size/20)
							}
							left.Add(-int64(size + 60))
							if got := caller.do(OpSet, fmt.Sprintf("key%d", n), string(value[:size])); got.Status != Stored {
								t.Errorf("set of %d bytes: status %d %s\n%s", size, got.Status, got.Err, cl.describe())
								left.Store(0)
							}
						}
					})
				}
			}
			wg.Wait()
			held := cl.requireSame()
			evictions := uint64(0)
			for _, n := range cl.nodes {
				evictions += n.counters.evictions.Load()
			}
			if c.keys == 0 && (len(held) == 0 || evictions == 0) {
				t.Errorf("%d items are left after %d evictions: the memory was to be too small, and used", len(held), evictions)
			}
			t.Logf("%d sets, %d items left, %d evictions\n%s", number.Load(), len(held), evictions, cl.describe())
		})
	}
}
