package table

import "testing"

// check verifies everything that must hold in a lane between two calls: the log can be walked, counts are
// right, every live record has its entry and every entry its record, and pieces hang together.
func (l *Lane) check(t testing.TB, now uint32) {
	t.Helper()
	items, tombstones := 0, 0
	pieces := map[uint64]bool{}
	walked := map[uint32]bool{}
	walk := func(id uint32, use segmentUse, open bool) {
		s := &l.segments[id]
		if walked[id] || s.pinned != (id == l.victim.id) {
			t.Fatalf("segment %d: is in two places: %v; pinned: %v", id, walked[id], s.pinned)
		}
		walked[id] = true
		if s.use != use || s.open != open {
			t.Fatalf("segment %d: use %d open %v, want %d %v", id, s.use, s.open, use, open)
		}
		live := uint64(0)
		for at := uint64(0); at < uint64(s.used); {
			rec := l.offset(id) + at
			n := l.recordBytes(rec)
			if n == 0 || n%wordBytes != 0 || at+n > uint64(s.used) {
				t.Fatalf("segment %d: record at %d of %d bytes", id, at, n)
			}
			at += n
			w := *l.word(rec)
			if w&markDead != 0 {
				continue
			}
			live += n
			if w&markPiece != 0 {
				pieces[rec] = true
				continue
			}
			items++
			if isTombstone(w) {
				tombstones++
			}
			var it Item
			key := l.key(rec)
			if !l.Find(Hash(key), key, &it) || it.rec != rec {
				t.Fatalf("segment %d: live record of %q at %d has no entry", id, key, rec)
			}
			// What has expired and had to stay is swept again in the next second.
			if due := max(it.Exptime, now+1); it.Exptime != 0 && (due < s.leastExptime && l.sweeping != id || due < l.leastExptime) {
				t.Fatalf("%q expires at %d, its segment at %d, the lane at %d", key, it.Exptime, s.leastExptime, l.leastExptime)
			}
		}
		if live != uint64(s.live) {
			t.Fatalf("segment %d: %d bytes live, counted %d", id, live, s.live)
		}
	}
	segments := 0
	for _, q := range []*queue{&l.small, &l.main} {
		n := 0
		for id := q.head; id != 0; id = l.segments[id].next {
			walk(id, q.use, false)
			if l.segments[id].live == 0 {
				t.Fatalf("segment %d is full, dead and not given back", id)
			}
			n++
		}
		if q.open != 0 {
			walk(q.open, q.use, true)
			n++
		}
		if n != q.count {
			t.Fatalf("queue %d: %d segments, counted %d", q.use, n, q.count)
		}
		segments += n
	}
	if int64(segments) != l.logSegments.Load() {
		t.Fatalf("%d log segments, counted %d", segments, l.logSegments.Load())
	}
	if v := l.victim.id; v != 0 {
		walk(v, l.segments[v].use, false)
	}
	if l.sweeping != 0 && !walked[l.sweeping] {
		t.Fatalf("Sweep is in segment %d, which is not in the lane", l.sweeping)
	}
	if l.Collecting() != (l.victim.id != 0) {
		t.Fatalf("collecting: %v, victim %d", l.Collecting(), l.victim.id)
	}
	if items != l.entries || tombstones != l.tombstones {
		t.Fatalf("%d items, %d tombstones, counted %d, %d", items, tombstones, l.entries, l.tombstones)
	}
	seen := 0
	l.Each(func(key []byte, it *Item) bool {
		seen++
		w := *l.word(it.rec)
		if w&markSplit == 0 {
			return true
		}
		have := *l.word(linkAt(it.rec, w)) & partMask
		for previous, p := it.rec, l.next(it.rec); p != 0; previous, p = p, l.next(p) {
			if !pieces[p] || *l.word(p + 2*wordBytes) != previous {
				t.Fatalf("%q: piece at %d is not live or not linked back to %d", key, p, previous)
			}
			delete(pieces, p)
			have += *l.word(p) >> lengthShift
		}
		if have != uint64(it.ValueLen) {
			t.Fatalf("%q: %d bytes in pieces, value is %d", key, have, it.ValueLen)
		}
		return true
	})
	if seen != items {
		t.Fatalf("index has %d entries, log %d items", seen, items)
	}
	if len(pieces) != 0 {
		t.Fatalf("%d pieces live that belong to nobody", len(pieces))
	}
	l.checkIndex(t)
}

// checkIndex verifies that the index consists of its pages, and each bucket of them is in one place.
func (l *Lane) checkIndex(t testing.TB) {
	t.Helper()
	overflow := map[uint64]bool{}
	once := func(b uint64) {
		if overflow[b] || b%bucketBytes != 0 {
			t.Fatalf("overflow bucket at %d is in two places, or none", b)
		}
		overflow[b] = true
	}
	n := l.buckets.Load()
	for i := range n {
		for b := l.entry(l.bucketOffset(i) + linkOffset); b != noBucket; b = l.entry(b + linkOffset) {
			once(b)
		}
	}
	for b := l.freeBuckets; b != noBucket; b = l.entry(b + linkOffset) {
		once(b)
	}
	for b := l.freshBuckets; b < l.freshBucketsEnd; b += bucketBytes {
		once(b)
	}
	pages := 0
	for i, id := range l.pages {
		if id != 0 {
			pages++
			if l.segments[id].use != useIndex {
				t.Fatalf("page %d of the index, segment %d, has use %d", i, id, l.segments[id].use)
			}
		}
		if used := uint64(i)<<l.pageShift < n; used && id == 0 {
			t.Fatalf("page %d of the index is missing: %d buckets", i, n)
		}
	}
	perPage := int(l.segmentBytes / bucketBytes)
	for id := l.overflowPages; id != 0; id = l.segments[id].next {
		pages++
		for i := range perPage {
			b := l.offset(id) + uint64(i)*bucketBytes
			if !overflow[b] {
				t.Fatalf("overflow bucket at %d is lost", b)
			}
			delete(overflow, b)
		}
	}
	if len(overflow) != 0 || pages != l.indexSegments {
		t.Fatalf("%d overflow buckets in no page; %d pages, counted %d", len(overflow), pages, l.indexSegments)
	}
}

// checkAll checks all lanes, and that no segment is lost or counted twice.
func (t *Table) checkAll(tb testing.TB, now uint32) {
	tb.Helper()
	n := int(t.free.Load())
	for i := range t.lanes {
		l := &t.lanes[i]
		l.Lock()
		l.check(tb, now)
		n += int(l.logSegments.Load()) + l.indexSegments
		if l.victim.id != 0 {
			n++
		}
		l.Unlock()
	}
	free := 0
	for id := t.list; id != 0; id = t.segments[id].next {
		free++
	}
	if free += len(t.segments) - int(t.fresh); free != int(t.free.Load()) {
		tb.Fatalf("%d segments are free, counted %d", free, t.free.Load())
	}
	if n != len(t.segments)-1 {
		tb.Fatalf("%d segments in all, there are %d", n, len(t.segments)-1)
	}
}
