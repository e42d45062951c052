package table

import (
	"bytes"
	"testing"
)

// mustPut stores value under the lane's key number i.
func mustPut(t *testing.T, l *Lane, lane, i int, it Item, value []byte) {
	t.Helper()
	key := keyOfLane(lane, i)
	if err := l.Put(Hash(key), key, &it, value); err != nil {
		t.Fatal(err)
	}
}

// TestVisitMayChangeWhatItIsAskedAbout: a visit may remove the item, or put another record in its place, and then returns Pending; also that of an
// Invalid item, which any other verdict but Drop would keep.
func TestVisitMayChangeWhatItIsAskedAbout(t *testing.T) {
	const now = 1000
	for _, state := range []State{0, Invalid} {
		for _, change := range []struct {
			name string
			do   func(l *Lane, key []byte, it *Item)
			left int
		}{
			{"removes it", func(l *Lane, key []byte, it *Item) { l.Remove(it) }, 0},
			{"puts a tombstone in its place", func(l *Lane, key []byte, it *Item) {
				it.State = Tombstone | Invalid
				if err := l.Update(it); err != nil {
					t.Error(err)
				}
			}, 50},
			{"puts a larger item in its place", func(l *Lane, key []byte, it *Item) {
				if err := l.Put(Hash(key), key, &Item{TS: it.TS}, make([]byte, 20_000)); err != nil {
					t.Error(err)
				}
			}, 50},
			{"removes it and puts others, for which the index grows", func(l *Lane, key []byte, it *Item) {
				l.Remove(it)
				for i := range byte(40) {
					other := append(bytes.Clone(key), i)
					if err := l.Put(Hash(other), other, &Item{}, nil); err != nil {
						t.Error(err)
					}
				}
			}, 50 * 40},
		} {
			for what, reclaim := range map[string]func(l *Lane, visit Visit) bool{
				"Collect": func(l *Lane, visit Visit) bool { return l.Collect(now, visit) },
				"Sweep":   func(l *Lane, visit Visit) bool { return l.Sweep(now, 10, visit) == 10 },
			} {
				if what == "Sweep" && state == Invalid {
					continue // it is not asked about
				}
				l := newTable(t, 8<<20, 1<<20, 4<<10).Lane(0)
				l.Lock()
				for i := range 50 {
					mustPut(t, l, 0, i, Item{State: state, Exptime: now}, make([]byte, i*20))
				}
				asked := map[string]bool{}
				for reclaim(l, func(inTable []byte, hash uint64, it *Item) Verdict {
					if key := bytes.Clone(inTable); it.Exptime != 0 && !asked[string(key)] {
						asked[string(key)] = true
						change.do(l, key, it)
						return Pending
					}
					return Keep
				}) {
					l.check(t, now)
				}
				if len(asked) != 50 || l.Stats().Items+l.Stats().Tombstones != change.left {
					t.Errorf("%s, state %d, visit %s: asked about %d items of 50, then %+v; want %d keys", what, state, change.name, len(asked), l.Stats(), change.left)
				}
				l.check(t, now)
				l.Unlock()
			}
		}
	}
}

// TestCompactEnds: where an item does not fit, the end of a segment stays empty. That is no garbage, though it may be more than the share.
func TestCompactEnds(t *testing.T) {
	l := newTable(t, 1<<20, 16<<10, 4<<10).Lane(0)
	l.Lock()
	defer l.Unlock()
	key := func(i int) []byte { // as long as can be, so that the link has the least room
		key := keyOfLane(0, i)
		for pad := 0; ; pad++ {
			long := append(bytes.Clone(key), bytes.Repeat([]byte{'x'}, maxKeyBytes-len(key)-10)...)
			if long[len(key)] = byte('a' + pad%26); LaneOf(Hash(long)) == 0 {
				return long
			}
			key = append(key, 'y')
		}
	}
	const items, value = 20, 3_350
	for i := range items {
		if err := l.Put(Hash(key(i)), key(i), &Item{}, make([]byte, value)); err != nil {
			t.Fatal(err)
		}
	}
	if got := l.Stats().LogBytes; got != items*4<<10 {
		t.Fatalf("%d items lie in %d bytes: not one in each segment, so the test is void", items, got)
	}
	keep := func([]byte, uint64, *Item) Verdict { return Keep }
	for n := 0; l.Compact(16, 0, keep); n++ {
		if n > 100*items {
			t.Fatalf("Compact has made %d steps, and moved %d records, where nothing is dead", n, l.Stats().Moved)
		}
	}
}

// TestCollectReachesHeadersBehindWhatStays: the pieces of large values fill the main queue, or it holds what has to stay besides; their headers, which
// are what may be given up, lie in the small queue's few segments.
func TestCollectReachesHeadersBehindWhatStays(t *testing.T) {
	drop := func(_ []byte, _ uint64, it *Item) Verdict {
		if it.State&Invalid != 0 {
			return Keep
		}
		return Drop
	}
	const stay, large = 40, 150_000
	for name, state := range map[string]State{"tombstones": Tombstone, "invalid items": Invalid} {
		for _, behind := range []int{0, 40} { // whether the large item's header is in a segment that is open
			l := newTable(t, 4<<20, 1<<20, 4<<10).Lane(0)
			l.Lock()
			for i := range stay {
				mustPut(t, l, 0, i, Item{State: state}, make([]byte, 200))
			}
			for l.Collect(0, drop) { // what stays is in the main queue now
			}
			mustPut(t, l, 0, stay, Item{}, make([]byte, large))
			var it Item
			l.Find(Hash(keyOfLane(0, stay)), keyOfLane(0, stay), &it)
			it.Exptime = 1000
			if err := l.Update(&it); err != nil { // the header moves behind the pieces
				t.Fatal(err)
			}
			for i := range behind {
				mustPut(t, l, 0, stay+1+i, Item{State: state}, make([]byte, 200))
			}
			want := stay + behind
			for range 4 {
				for n := 0; l.Collect(0, drop); n++ {
					if n > 10_000 {
						t.Fatalf("%s: Collect makes progress for ever", name)
					}
				}
			}
			if s := l.Stats(); s.Items+s.Tombstones != want || s.LiveBytes >= large {
				t.Errorf("%s, %d behind the large item: %+v is left, want %d keys", name, behind, s, want)
			}
			l.check(t, 0)
			l.Unlock()
		}
	}
}

// TestSweepIsNotHeldUpByWhatStays: items that have expired and have to stay for long are looked at again each second. The others' turn must come all
// the same, however little each Sweep does.
func TestSweepIsNotHeldUpByWhatStays(t *testing.T) {
	const stay, go_, expires = 400, 100, 1000
	for name, state := range map[string]State{"invalid": Invalid, "kept": 0} {
		tb := newTable(t, 4<<20, 1<<20, 4<<10)
		l := tb.Lane(0)
		l.Lock()
		for i := range stay {
			mustPut(t, l, 0, i, Item{State: state, Exptime: expires, Flags: 1}, make([]byte, 50))
		}
		for i := range go_ {
			mustPut(t, l, 0, stay+i, Item{Exptime: expires}, make([]byte, 50))
		}
		dropped := 0
		for second := range uint32(60) {
			l.Sweep(expires+second, 20, func(_ []byte, _ uint64, it *Item) Verdict {
				if it.Flags == 1 {
					return Keep
				}
				dropped++
				return Drop
			})
		}
		if dropped != go_ {
			t.Errorf("%s: 1200 looks, and %d of %d expired items are given back behind %d that stay", name, dropped, go_, stay)
		}
		if n := l.Sweep(expires+60, 10*(stay+go_), func([]byte, uint64, *Item) Verdict { return Keep }); n > 2*(stay+go_) {
			t.Errorf("%s: one Sweep looks at %d records of a lane of %d", name, n, stay)
		}
		l.check(t, expires+60)
		l.Unlock()
	}
}

// TestPutInASweepOfTheOpenSegment: visit empties the open segment that Sweep is in, and puts what ends it.
func TestPutInASweepOfTheOpenSegment(t *testing.T) {
	const now = 1000
	tb := newTable(t, 4<<20, 1<<20, 4<<10)
	l := tb.Lane(0)
	l.Lock()
	mustPut(t, l, 0, 0, Item{Exptime: now}, make([]byte, 3_800))
	l.Sweep(now, 10, func(_ []byte, _ uint64, it *Item) Verdict {
		l.Remove(it)
		mustPut(t, l, 0, 1, Item{}, make([]byte, 500))
		return Pending
	})
	l.check(t, now)
	l.Unlock()
	tb.checkAll(t, now)
}
