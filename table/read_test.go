package table

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// proof is a value that proves itself: it begins with the number that is also the item's CAS, and follows from that and the key.
func proof(dst []byte, key []byte, cas uint64, n int) []byte {
	dst = binary.LittleEndian.AppendUint64(dst[:0], cas)
	step := Hash(key) | 1
	for x := cas; len(dst) < n; x += step {
		dst = binary.LittleEndian.AppendUint64(dst, x)
	}
	return dst
}

// proved reports whether value is one for the key and CAS, whole.
func proved(key []byte, it *Item, value []byte) bool {
	if len(value) != it.ValueLen || len(value) < 8 || binary.LittleEndian.Uint64(value) != it.CAS {
		return false
	}
	step := Hash(key) | 1
	for i, x := 8, it.CAS; i+8 <= len(value); i, x = i+8, x+step {
		if binary.LittleEndian.Uint64(value[i:]) != x {
			return false
		}
	}
	return true
}

// TestReadersWithoutLock reads without the lock while writers store, overwrite, change, move, collect and remove: what Confirm confirms is one item,
// whole, that was stored under its key; and a key that is stored all the time is never confirmed to be missing. (The race detector does not see
// mapped memory. This test is what speaks for sequence numbers, with and without it.)
func TestReadersWithoutLock(t *testing.T) {
	const keys, readers, writers = 600, 3, 2
	steps := 60_000
	if testing.Short() {
		steps /= 6
	}
	tb := newTable(t, 4<<20, 256<<10, 0)
	key := func(buf []byte, i int) []byte { return fmt.Appendf(buf[:0], "key%d", i) }
	stays := func(i int) bool { return i%4 == 0 }
	var cas atomic.Uint64
	put := func(r *rand.Rand, i int, value []byte) []byte {
		k := key(nil, i)
		n := 8 * (1 + r.IntN(100))
		if !stays(i) && r.IntN(20) == 0 {
			n = 8 * (1 + r.IntN(6_000)) // many pieces
		}
		it := Item{TS: Timestamp{Write: r.Uint64()}, CAS: cas.Add(1)}
		if r.IntN(3) == 0 {
			it.TS.Step, it.Exptime = r.Uint64(), 1_000
		}
		value = proof(value, k, it.CAS, n)
		hash := Hash(k)
		l := tb.Lane(LaneOf(hash))
		l.Lock()
		defer l.Unlock()
		if err := l.Put(hash, k, &it, value); err != nil && stays(i) {
			var old Item
			if !l.Find(hash, k, &old) {
				t.Errorf("%s was not to go", k)
			}
		}
		return value
	}
	setup := rand.New(rand.NewPCG(1, 1))
	for i := range keys {
		put(setup, i, nil)
	}
	visit := func(k []byte, _ uint64, _ *Item) Verdict {
		var i int
		_, _ = fmt.Sscanf(string(k), "key%d", &i)
		if stays(i) {
			return Keep
		}
		return Drop
	}
	var write, read sync.WaitGroup
	var stop atomic.Bool
	var confirmed, hits atomic.Int64
	for w := range writers {
		write.Go(func() {
			r := rand.New(rand.NewPCG(2, uint64(w)))
			var value []byte
			for range steps {
				i := r.IntN(keys)
				switch p := r.IntN(10); {
				case p < 6:
					value = put(r, i, value)
				case p < 8:
					l := tb.Lane(r.IntN(Lanes))
					l.Lock()
					l.Collect(0, visit)
					l.Unlock()
				default:
					k := key(nil, i)
					hash := Hash(k)
					l := tb.Lane(LaneOf(hash))
					l.Lock()
					var it Item
					if l.Find(hash, k, &it) {
						if stays(i) || r.IntN(2) == 0 {
							it.TS.Step, it.Exptime = r.Uint64(), r.Uint32()
							_ = l.Update(&it) // without memory it stays as it is
						} else {
							l.Remove(&it)
						}
					}
					l.Unlock()
				}
			}
		})
	}
	for n := range readers {
		read.Go(func() {
			r := rand.New(rand.NewPCG(3, uint64(n)))
			var k, value []byte
			var it Item
			for !stop.Load() {
				i := r.IntN(keys)
				k = key(k, i)
				hash := Hash(k)
				l := tb.Lane(LaneOf(hash))
				ticket, found := l.View(hash, k, &it)
				if found {
					value = l.AppendValue(value[:0], &it)
				}
				if !l.Confirm(ticket) {
					continue
				}
				confirmed.Add(1)
				switch {
				case found && !proved(k, &it, value):
					t.Errorf("%s: %d bytes, cas %d: confirmed, and not what was stored", k, len(value), it.CAS)
					return
				case found:
					hits.Add(1)
				case stays(i):
					t.Errorf("%s: confirmed to be missing", k)
					return
				}
			}
		})
	}
	write.Wait()
	stop.Store(true)
	read.Wait()
	if confirmed.Load() < int64(steps/10) || hits.Load() == 0 {
		t.Errorf("%d reads were confirmed, %d of them hits: readers hardly get through", confirmed.Load(), hits.Load())
	}
	tb.checkAll(t, 0)
}
