package table

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// TestClearGivesEverythingBack fills a table at random until it is full, clears its lanes at some moment, with segments half collected and
// half swept, and does it again: all memory is free then, as in a new table, and nothing of what was stored is found.
func TestClearGivesEverythingBack(t *testing.T) {
	seed := rand.Uint64()
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	m := &model{
		t: newTable(t, 16<<20, 1<<20, 64<<10), rng: rand.New(rand.NewPCG(seed, 4)),
		items: map[string]*modelItem{}, now: 1000, keys: 30_000, drop: 4, pend: 4,
	}
	free, rounds := m.t.FreeBytes(), 6
	if testing.Short() {
		rounds = 2
	}
	midway := 0
	for round := range rounds {
		m.large = [...]int{8_000, 200_000}[round%2] // with small values a segment takes several steps, large ones have many pieces
		for i := range 30_000 + m.rng.IntN(5_000) {
			m.step(t)
			if i%64 == 0 {
				m.makeRoom(uint64(8 * m.t.SegmentBytes()))
			}
		}
		for i := range Lanes {
			l := m.t.Lane(i)
			l.Lock()
			for tries := m.rng.IntN(20); tries > 0 && !l.Collecting() && l.Collect(m.now, m.visit(l)); tries-- {
			}
			if l.Collecting() {
				midway++
			}
			before := l.Stats()
			l.Clear()
			after := l.Stats()
			want := Stats{
				IndexBytes: uint64(m.t.SegmentBytes()), Buckets: firstBuckets,
				Evicted: before.Evicted, Expired: before.Expired, Moved: before.Moved,
			}
			if after != want {
				t.Errorf("lane %d: %+v, want %+v", i, after, want)
			}
			l.Each(func(key []byte, it *Item) bool {
				t.Fatalf("lane %d: %q is still there", i, key)
				return true
			})
			if l.Collecting() || l.Collect(m.now, m.visit(l)) || l.Compact(2, m.now, m.visit(l)) || l.Sweep(m.now+1<<20, 100, m.visit(l)) != 0 {
				t.Errorf("lane %d: there is something to collect or to sweep", i)
			}
			l.Unlock()
			l.Lock()
			l.check(t, m.now)
			l.Unlock()
		}
		m.items, m.todo = map[string]*modelItem{}, nil
		m.t.checkAll(t, m.now)
		if got := m.t.FreeBytes(); got != free {
			t.Fatalf("%d bytes are free, %d were in the beginning", got, free)
		}
	}
	if midway == 0 {
		t.Error("no segment was half collected")
	}
}

// TestClearOfOneLaneLeavesTheOthers.
func TestClearOfOneLaneLeavesTheOthers(t *testing.T) {
	tb := newTable(t, 4<<20, 1<<20, 0)
	for lane := range 3 {
		l := tb.Lane(lane)
		l.Lock()
		putEmpty(t, l, lane, 0, 1_000)
		l.Unlock()
	}
	l := tb.Lane(1)
	l.Lock()
	l.Clear()
	putEmpty(t, l, 1, 1_000, 1_500)
	l.Unlock()
	for lane, want := range []int{1_000, 500, 1_000} {
		if got := tb.Lane(lane).Stats().Items; got != want {
			t.Errorf("lane %d: %d items, want %d", lane, got, want)
		}
	}
	tb.checkAll(t, 0)
}

func TestWalkAcrossClearIsDone(t *testing.T) {
	l := newTable(t, 4<<20, 1<<20, 0).Lane(0)
	l.Lock()
	defer l.Unlock()
	putEmpty(t, l, 0, 0, 2_000)
	cursor, done := l.Walk(0, 200, func([]byte, *Item) bool { return true })
	if done {
		t.Fatal("done before all was seen")
	}
	l.Clear()
	if _, done = l.Walk(cursor, 1, func([]byte, *Item) bool { return true }); !done {
		t.Error("not done, though the lane has been cleared")
	}
}

// TestReadersOfAClearedLane reads without the lock while lanes are filled, cleared and filled again, so that pages of the index become records
// and the other way round: what is confirmed is a whole value of its key, and no count of an access ever hits a record (all that is stored is read
// again, with the lock, before each Clear).
func TestReadersOfAClearedLane(t *testing.T) {
	const lanes, keys, readers = 2, 1_500, 3
	rounds := 400
	if testing.Short() {
		rounds = 60
	}
	tb := newTable(t, 1<<20, 64<<10, 0)
	var all [lanes][][]byte
	for lane := range all {
		for i := range keys {
			all[lane] = append(all[lane], keyOfLane(lane, i))
		}
	}
	var cas atomic.Uint64
	var stop atomic.Bool
	var hits, misses atomic.Int64
	var read, write sync.WaitGroup
	for lane := range all {
		write.Go(func() {
			r := rand.New(rand.NewPCG(5, uint64(lane)))
			l := tb.Lane(lane)
			var value []byte
			for round := range rounds {
				stored := map[string]uint64{}
				n := keys
				if round%2 == 1 {
					n = 40 // few large ones: what was the index holds values now
				}
				for _, i := range r.Perm(keys)[:n] {
					key := all[lane][i]
					it := Item{CAS: cas.Add(1)}
					size := 8 * (1 + r.IntN(4))
					if round%2 == 1 {
						size *= 200
					}
					value = proof(value, key, it.CAS, size)
					l.Lock()
					if l.Put(Hash(key), key, &it, value) == nil {
						stored[string(key)] = it.CAS
					}
					l.Unlock()
				}
				if len(stored) < n/4 {
					t.Errorf("round %d: only %d of %d keys could be stored", round, len(stored), n)
				}
				l.Lock()
				for key, want := range stored {
					var it Item
					if !l.Find(Hash([]byte(key)), []byte(key), &it) || it.CAS != want {
						t.Errorf("round %d: %q is not stored as it was put", round, key)
						continue
					}
					if value = l.AppendValue(value[:0], &it); !proved([]byte(key), &it, value) {
						t.Errorf("round %d: %q is not what was put", round, key)
					}
				}
				l.Clear()
				l.Unlock()
			}
		})
	}
	for n := range readers {
		read.Go(func() {
			r := rand.New(rand.NewPCG(6, uint64(n)))
			var value []byte
			var it Item
			for !stop.Load() {
				lane := r.IntN(lanes)
				key := all[lane][r.IntN(keys)]
				l := tb.Lane(lane)
				ticket, found := l.View(Hash(key), key, &it)
				if found {
					value = l.AppendValue(value[:0], &it)
				}
				switch {
				case !l.Confirm(ticket):
				case !found:
					misses.Add(1)
				case !proved(key, &it, value):
					t.Errorf("%s: %d bytes, cas %d: confirmed, and not what was stored", key, len(value), it.CAS)
					return
				default:
					hits.Add(1)
				}
			}
		})
	}
	write.Wait()
	stop.Store(true)
	read.Wait()
	if hits.Load() == 0 || misses.Load() == 0 {
		t.Errorf("%d hits and %d misses were confirmed", hits.Load(), misses.Load())
	}
	tb.checkAll(t, 0)
}

// TestClearWaitsForCounts: a reader that is about to count an access keeps Clear from making other memory of the index.
func TestClearWaitsForCounts(t *testing.T) {
	tb := newTable(t, 1<<20, 64<<10, 0)
	l := tb.Lane(0)
	l.Lock()
	putEmpty(t, l, 0, 0, 400)
	before := l.Stats().IndexBytes
	l.Unlock()
	c := &tb.counting[3].readers
	c.Add(1)
	cleared := make(chan struct{})
	go func() {
		defer close(cleared)
		l.Lock()
		l.Clear()
		l.Unlock()
	}()
	seq := l.seq.Load()
	for seq&1 == 0 { // until Clear has made known that it changes the lane
		select {
		case <-cleared:
			t.Fatal("Clear did not wait")
		default:
			seq = l.seq.Load()
		}
	}
	for range 10_000 {
		select {
		case <-cleared:
			t.Fatal("Clear did not wait")
		default:
			runtime.Gosched()
		}
	}
	var it Item
	slot, entry := l.bucketOffset(0), uint64(0)
	for entry = l.entry(slot); !isItem(entry); entry = l.entry(slot) {
		slot += wordBytes
	}
	l.count(slot, entry, seq-1, &it) // one that saw the lane before, and comes late
	if got := l.entry(slot); got != entry {
		t.Errorf("the entry was %x, is %x: counted though the lane changes", entry, got)
	}
	c.Add(-1)
	<-cleared
	if after := l.Stats().IndexBytes; after >= before {
		t.Errorf("the index had %d bytes, has %d: the test is void", before, after)
	}
}

// TestViewOfWhatWasAnEntry: a reader without the lock may take bytes of a value for an entry, after Clear. That must not lead it out of the mapping.
func TestViewOfWhatWasAnEntry(t *testing.T) {
	l := newTable(t, 1<<20, 64<<10, 0).Lane(0)
	key := keyOfLane(0, 0)
	hash := Hash(key)
	for _, rec := range []uint64{l.size - wordBytes, l.size, l.size + 1<<20, ghostMask * wordBytes} {
		l.setEntry(l.bucketFor(hash), entryOf(tagOf(hash), rec))
		var it Item
		if _, found := l.View(hash, key, &it); found {
			t.Errorf("found at %d", rec)
		}
	}
	l.Lock()
	l.Clear()
	l.Unlock()
}
