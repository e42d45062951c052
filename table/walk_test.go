package table

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// keyOfLane is the i'th of the test's keys for a lane.
func keyOfLane(lane, i int) []byte {
	for n := 0; ; n++ {
		key := fmt.Appendf(nil, "k%d-%d", i, n)
		if LaneOf(Hash(key)) == lane {
			return key
		}
	}
}

// putEmpty stores the first n keys of a lane without values.
func putEmpty(t *testing.T, l *Lane, lane, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		key := keyOfLane(lane, i)
		if err := l.Put(Hash(key), key, &Item{}, nil); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWalkVisitsEachKeyOnceInALaneAtRest(t *testing.T) {
	const keys = 2_000
	l := newTable(t, 4<<20, 1<<20, 0).Lane(0)
	l.Lock()
	defer l.Unlock()
	putEmpty(t, l, 0, 0, keys)
	for _, steps := range []int{-1, 1, 7, 1 << 30} {
		seen := map[string]int{}
		calls := 0
		for cursor, done := uint64(0), false; !done; calls++ {
			cursor, done = l.Walk(cursor, steps, func(key []byte, it *Item) bool {
				seen[string(key)]++
				return true
			})
		}
		for key, n := range seen {
			if n != 1 {
				t.Errorf("steps %d: %q is visited %d times", steps, key, n)
			}
		}
		buckets, each := int(l.Stats().Buckets), max(steps, 1)
		if want := (buckets + each - 1) / each; len(seen) != keys || calls != want {
			t.Errorf("steps %d: %d keys in %d calls, want %d in %d", steps, len(seen), calls, keys, want)
		}
	}
}

func TestWalkOfAnEmptyLaneIsDone(t *testing.T) {
	l := newTable(t, 1<<20, 1<<10, 0).Lane(0)
	l.Lock()
	defer l.Unlock()
	if _, done := l.Walk(0, 1<<30, func(key []byte, it *Item) bool {
		t.Errorf("%q is visited", key)
		return true
	}); !done {
		t.Error("not done")
	}
}

func TestWalkStopsAfterTheBucket(t *testing.T) {
	l := newTable(t, 4<<20, 1<<20, 0).Lane(0)
	l.Lock()
	defer l.Unlock()
	putEmpty(t, l, 0, 0, 2_000)
	seen, calls := 0, 0
	for cursor, done := uint64(0), false; !done; calls++ {
		before := cursor
		cursor, done = l.Walk(cursor, 1<<30, func(key []byte, it *Item) bool {
			seen++
			return false
		})
		if cursor <= before {
			t.Fatalf("cursor %d after %d", cursor, before)
		}
	}
	if buckets := int(l.Stats().Buckets); seen != 2_000 || calls < buckets/2 {
		t.Errorf("%d keys in %d calls; want 2000, and about as many calls as the %d buckets", seen, calls, buckets)
	}
}

func TestWalkMayUpdateAndRemove(t *testing.T) {
	tb := newTable(t, 4<<20, 1<<20, 0)
	l := tb.Lane(0)
	l.Lock()
	putEmpty(t, l, 0, 0, 1_000)
	i, kept := 0, map[string]bool{}
	for cursor, done := uint64(0), false; !done; {
		cursor, done = l.Walk(cursor, 3, func(key []byte, it *Item) bool {
			if i++; i%3 == 0 {
				l.Remove(it)
				return true
			}
			kept[string(key)] = true
			it.Exptime, it.TS.Step = 7, 8 // no room for them: the record moves
			if i%3 == 1 {
				it.State = Tombstone
			}
			if err := l.Update(it); err != nil {
				t.Error(err)
			}
			return true
		})
	}
	if i != 1_000 {
		t.Errorf("%d visits", i)
	}
	n := 0
	l.Each(func(key []byte, it *Item) bool {
		if n++; !kept[string(key)] || it.TS.Step != 8 {
			t.Errorf("%q is stored: %+v", key, it)
		}
		return true
	})
	if n != len(kept) {
		t.Errorf("%d keys are left, want %d", n, len(kept))
	}
	l.Unlock()
	tb.checkAll(t, 0)
}

// walk is a Walk of one lane by the model: what must be visited is what is stored all the time.
type walk struct {
	cursor uint64
	must   map[string]int // key to life, as the walk began
}

func (m *model) beginWalk(lane int) *walk {
	w := &walk{must: map[string]int{}}
	l := m.t.Lane(lane)
	l.Lock()
	defer l.Unlock()
	l.Each(func(key []byte, it *Item) bool {
		w.must[string(key)] = m.items[string(key)].life
		return true
	})
	return w
}

// goOn makes one call of Walk, and at the end of the walk checks that everything has been visited.
func (w *walk) goOn(t testing.TB, m *model, lane int) (done bool) {
	l := m.t.Lane(lane)
	l.Lock()
	defer l.Unlock()
	left := m.rng.IntN(40)
	w.cursor, done = l.Walk(w.cursor, 1+m.rng.IntN(8), func(key []byte, it *Item) bool {
		want := m.items[string(key)]
		if want == nil {
			t.Fatalf("visit of %q, which is not stored", key)
		}
		m.same(key, it, l.AppendValue(nil, it), want)
		delete(w.must, string(key))
		switch m.rng.IntN(400) {
		case 0:
			delete(m.items, string(key))
			l.Remove(it)
		case 1, 2, 3, 4, 5:
			k := string(key)
			was := it.State
			m.fill(it)
			it.State |= was & Tombstone
			if l.Update(it) == nil {
				m.store([]byte(k), it, want.value)
			}
		}
		left--
		return left > 0
	})
	if done {
		for key, life := range w.must {
			if now := m.items[key]; now != nil && now.life == life {
				t.Fatalf("lane %d: %q was stored all the time, and not visited", lane, key)
			}
		}
	}
	return done
}

// TestWalkModel does everything else at random between the calls of a Walk, while the index grows from its first size.
func TestWalkModel(t *testing.T) {
	for _, c := range []struct {
		name       string
		memory     uint64
		drop, pend int
	}{
		{"memory is short", 2 << 20, 40, 30}, // chains grow instead of the index
		{"index grows", 32 << 20, 2, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			seed := rand.Uint64()
			defer func() {
				if t.Failed() {
					t.Logf("seed %d", seed)
				}
			}()
			m := &model{
				t: newTable(t, c.memory, 1<<20, 0), rng: rand.New(rand.NewPCG(seed, 3)),
				items: map[string]*modelItem{}, now: 1000, keys: 60_000, large: 20_000, drop: c.drop, pend: c.pend,
			}
			walks := make([]*walk, Lanes)
			finished, grown := 0, uint64(0)
			steps := 120_000
			if testing.Short() && c.drop >= 10 {
				steps /= 5 // not where the index is to grow: that takes all of them
			}
			for i := range steps {
				m.step(t)
				if i%64 == 0 {
					m.makeRoom(uint64(8 * m.t.SegmentBytes()))
				}
				lane := m.rng.IntN(Lanes)
				if walks[lane] == nil {
					walks[lane] = m.beginWalk(lane)
				}
				if i%2 == 0 && walks[lane].goOn(t, m, lane) {
					walks[lane] = nil
					finished++
				}
			}
			for lane := range Lanes {
				grown += m.t.Lane(lane).Stats().Buckets - firstBuckets
			}
			if finished < Lanes || c.drop < 10 && grown < 10*Lanes {
				t.Errorf("%d walks came to their end while the index grew by %d buckets", finished, grown)
			}
			m.t.checkAll(t, m.now)
			m.compareAll(t)
		})
	}
}
