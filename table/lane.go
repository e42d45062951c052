package table

import (
	"slices"
	"sync"
	"sync/atomic"
)

// Lane is the keys whose hashes begin with the lane's number: an index and a log of their own, under one
// lock. All methods but View, Confirm and AppendValue are called with the lane locked.
type Lane struct {
	// What a reader without the lock needs, in one cache line.
	memory
	seq       atomic.Uint64 // odd while a writer is changing something; goes up by 2 with each locked section that did
	buckets   atomic.Uint64 // of the index
	pages     []uint32      // segments that the index's buckets lie in, in order; atomic
	pageShift uint64        // log2 of the buckets in a page

	mu sync.Mutex
	*pool
	*counting
	writing bool // seq is odd

	// Index (index.go).
	entries         int    // stored keys, tombstones too
	tombstones      int    // of them
	indexSegments   int    // index pages
	overflowPages   uint32 // of them, those of overflow buckets, linked by segment.next; 0: none
	ghosts          uint64 // ever made
	freeBuckets     uint64 // overflow buckets given back, linked; 0: none
	freshBuckets    uint64 // overflow buckets never used: from here ...
	freshBucketsEnd uint64 // ... to here

	// Log (log.go).
	small, main  queue
	leastExptime uint32       // no item expires before this
	logSegments  atomic.Int64 // in queues and open, for Fullest

	// Reclaiming (collect.go, sweep.go).
	victim     victim
	collecting atomic.Bool // there is a victim
	fruitless  int         // segments in a row that Collect gained nothing from
	asked      bool        // an item that may go was met since Collect last gained something, or saw all of the lane
	opened     int         // open segments that Collect has tried since then
	sweeping   uint32      // segment that Sweep is in; 0: none
	sweepAt    uint32      // bytes of it that Sweep has seen
	sweepLeast uint32      // least exptime that Sweep has left in it
	visited    Item        // what visit is shown: here, so that it does not escape

	evicted, expired, moved uint64 // for Stats

	_ [64]byte // the next lane's reader line is not ours
}

func (l *Lane) init(t *Table) {
	l.memory, l.pool, l.counting = t.memory, &t.pool, &t.counting
	l.pageShift = uint64(t.segmentShift) - bucketShift
	// A lane with all its memory full of the smallest items would need about a quarter of it for the
	// index. Where keys are not spread evenly one lane may need more than its share; beyond this, chains grow.
	l.pages = make([]uint32, max(8, len(t.segments)/8))
	first, _ := l.take(1, useIndex, true)
	l.pages[0] = first
	l.indexSegments = 1
	for b := uint64(0); b < firstBuckets; b++ {
		l.clearBucket(l.bucketOffset(b))
	}
	l.buckets.Store(firstBuckets)
	l.small.use, l.main.use = useSmall, useMain
	l.leastExptime = noExptime
}

// Lock makes the caller the only one who may change the lane, or see it between changes.
func (l *Lane) Lock() { l.mu.Lock() }

// Unlock ends what Lock began, and lets readers without the lock see the changes.
func (l *Lane) Unlock() {
	if l.writing {
		l.writing = false
		l.seq.Add(1)
	}
	l.mu.Unlock()
}

// change is called before the first change of a locked section: from here to Unlock, readers without the lock wait or
// read again. Sections that only look do not disturb them.
func (l *Lane) change() {
	if !l.writing {
		l.writing = true
		l.seq.Add(1)
	}
}

// Find looks the key up and fills in it with its header. It counts no access (see Used).
func (l *Lane) Find(hash uint64, key []byte, it *Item) bool {
	slot, entry, word := l.lookup(hash, key, seqIgnored)
	if slot == 0 {
		return false
	}
	it.slot = slot
	l.readHeader(recordOf(entry), word, it)
	return true
}

// AppendValue appends the value of it, which comes from Find, Put, Update or View, to dst, and always as
// many bytes as it.ValueLen says. After View the lane need not be locked, and the bytes mean something only if Confirm says
// so afterwards.
func (l *Lane) AppendValue(dst []byte, it *Item) []byte {
	n := uint64(it.ValueLen)
	dst = slices.Grow(dst, it.ValueLen)
	at := it.rec + headBytes(it.word) + keyLen(it.word)
	if it.word&markSplit == 0 {
		if n > l.size-at {
			return dst[:len(dst)+it.ValueLen]
		}
		return append(dst, l.bytes(at, n)...)
	}
	link := *l.word(linkAt(it.rec, it.word))
	part := link & partMask
	if part > n || part > l.size-at {
		return dst[:len(dst)+it.ValueLen]
	}
	return l.appendPieces(append(dst, l.bytes(at, part)...), link>>partBits*wordBytes, n-part)
}

// Put stores a key: the header as it says (but for ValueLen, which it sets) and value, of which it keeps a copy. value must not
// lie in the table. If the key is stored its record is overwritten where it lies when that is large enough. A
// tombstone has no value, exptime, flags or CAS: they are ignored. On ErrNoMemory nothing has changed.
func (l *Lane) Put(hash uint64, key []byte, it *Item, value []byte) error {
	l.change()
	if it.State&Tombstone != 0 {
		value, it.Exptime, it.Flags, it.CAS = nil, 0, 0, 0
	}
	it.ValueLen = len(value)
	slot, entry, word := l.lookup(hash, key, seqIgnored)
	var ok bool
	switch {
	case slot == 0:
		ok = l.insert(hash, key, it, value)
	case it.State&Tombstone != 0:
		it.where = where{slot: slot, rec: recordOf(entry), word: word}
		return l.Update(it)
	case l.overwrite(slot, entry, word, it, key, value):
		ok = true
	default:
		ok = l.replace(slot, entry, word, it, key, value)
	}
	if !ok {
		return ErrNoMemory
	}
	return nil
}

// insert stores a key that is not there yet.
func (l *Lane) insert(hash uint64, key []byte, it *Item, value []byte) bool {
	l.growIndex()
	slot, fresh, ok := l.place(hash)
	if !ok {
		return false
	}
	q := &l.small
	if fresh {
		q = &l.main
	}
	rec, ok := l.append(q, key, it, value)
	if !ok {
		return false
	}
	l.setEntry(slot, entryOf(tagOf(hash), rec))
	l.entries++
	if it.State&Tombstone != 0 {
		l.tombstones++
	}
	it.where = where{slot: slot, rec: rec, word: *l.word(rec)}
	return true
}

// append stores a record for Put.
func (l *Lane) append(q *queue, key []byte, it *Item, value []byte) (rec uint64, ok bool) {
	tombstone := it.State&Tombstone != 0 // small, and what makes room in the end: it may use the reserve
	if !tombstone && l.keptForCollect(q) {
		return 0, false
	}
	return l.store(q, key, it, 0, value, 0, tombstone)
}

// keptForCollect tells whether the open segment of q has to be left to Collect. Collecting a segment begins at most one
// other, from the reserve if need be, and gives one back. So the reserve never shrinks, as long as nobody
// else fills the one that it has begun.
func (l *Lane) keptForCollect(q *queue) bool {
	return q == &l.main && l.victim.id != 0 && int(l.free.Load()) <= l.reserve
}

// overwrite stores in place of the record that is there, if that can be.
func (l *Lane) overwrite(slot, entry, word uint64, it *Item, key, value []byte) bool {
	to := packWord(len(key), it)
	if word&markSplit != 0 || isTombstone(word) {
		return false // a deleted key that comes back begins a new life in the small queue
	}
	rec := recordOf(entry)
	was, n := l.recordBytes(rec), align(headBytes(to)+uint64(len(key)+len(value)))
	if n > was || n < was/2 {
		return false // no room; or so much that copying it elsewhere is the lesser waste
	}
	l.writeHeader(rec, to, it)
	at := rec + headBytes(to)
	copy(l.bytes(at, uint64(len(key))), key)
	copy(l.bytes(at+uint64(len(key)), uint64(len(value))), value)
	l.shrink(rec, was, n)
	l.noteExptime(rec, it.Exptime)
	l.use(slot, entry)
	it.where = where{slot: slot, rec: rec, word: to}
	return true
}

// replace stores a new record of an item and buries the old one.
func (l *Lane) replace(slot, entry, word uint64, it *Item, key, value []byte) bool {
	old := recordOf(entry)
	q := l.queueOf(l.segmentOf(old).use)
	if isTombstone(word) {
		q = &l.small
		if word&markEvicted != 0 {
			q = &l.main
		}
	}
	rec, ok := l.append(q, key, it, value)
	if !ok {
		return false
	}
	l.buryItem(old)
	entry = l.entry(slot)
	if isTombstone(word) {
		l.tombstones--
		entry &^= usesMask
	} else if usesOf(entry) < maxUses {
		entry += usesOne
	}
	l.setEntry(slot, entry&^locMask|rec/wordBytes)
	it.where = where{slot: slot, rec: rec, word: *l.word(rec)}
	return true
}

// Update changes the header of a stored key to what it says and keeps the value; it comes from Find (or Put, or Update)
// and the lane has not changed since. With State Tombstone the key loses its value, exptime, flags and CAS. Only Put
// turns a tombstone back into an item. A record that has no room for a first Step, or a first exptime or flags, is written
// anew: that may be ErrNoMemory, and then nothing has changed. Other changes never fail, nor does
// turning an item into a tombstone.
func (l *Lane) Update(it *Item) error {
	l.checkPlace(it)
	l.change()
	word := *l.word(it.rec)
	if it.State&Tombstone != 0 {
		l.entomb(it, word)
		return nil
	}
	if isTombstone(word) {
		panic("table: Update cannot bring a tombstone back: Put")
	}
	it.ValueLen = int(word >> lengthShift)
	to := packWord(int(keyLen(word)), it)
	if to&^word&(markStep|markMeta) != 0 {
		q := l.queueOf(l.segmentOf(it.rec).use)
		if l.keptForCollect(q) || !l.moveItem(q, it.slot, it.rec, it, false) {
			return ErrNoMemory
		}
		return nil
	}
	to |= word & (markStep | markMeta | markSplit | markEvicted)
	l.writeHeader(it.rec, to, it)
	l.noteExptime(it.rec, it.Exptime)
	it.word = to
	return nil
}

// entomb turns the record of it into a tombstone, in place.
func (l *Lane) entomb(it *Item, word uint64) {
	if !isTombstone(word) {
		l.tombstones++
	}
	var piece uint64
	if word&markSplit != 0 {
		piece = l.next(it.rec)
	}
	was, n := l.recordBytes(it.rec), align(headerBytes+keyLen(word))
	key := l.key(it.rec)
	it.ValueLen, it.Exptime, it.Flags, it.CAS = 0, 0, 0, 0
	to := packWord(len(key), it) | word&markEvicted
	copy(l.bytes(it.rec+headerBytes, uint64(len(key))), key) // down over the optional words
	l.writeHeader(it.rec, to, it)
	l.shrink(it.rec, was, n)
	l.buryPieces(piece)
	it.word = to
}

// Remove takes the key of it, which comes from Find (or Put, or Update) with the lane unchanged since, out
// of the table.
func (l *Lane) Remove(it *Item) {
	l.checkPlace(it)
	l.change()
	l.drop(it.slot, it.rec, *l.word(it.rec)&markEvicted != 0)
}

// drop removes a key; ghost says that its ghost is to stay.
func (l *Lane) drop(slot, rec uint64, ghost bool) {
	l.entries--
	if isTombstone(*l.word(rec)) {
		l.tombstones--
	}
	if ghost {
		l.leaveGhost(slot)
	} else {
		l.setEntry(slot, 0)
	}
	l.buryItem(rec)
}

// checkPlace ends the process if it is not the place of a stored key any more: going on would destroy another one.
func (l *Lane) checkPlace(it *Item) {
	if it.slot == 0 || recordOf(l.entry(it.slot)) != it.rec {
		panic("table: the item is not from a Find since the lane last changed")
	}
}

// Used counts an access to the item of it, as View does; for reads that went through Find.
func (l *Lane) Used(it *Item) { l.use(it.slot, l.entry(it.slot)) }

// Uses is how often the item of it has been used since Collect last looked at it, counted up to 3.
func (l *Lane) Uses(it *Item) int { return int(usesOf(l.entry(it.slot))) }

// Each calls f for every stored key, tombstones too, in no order, while the lane stays locked. The key is good until f returns; f must not change
// the lane. When it returns false, there are a few more calls at most.
func (l *Lane) Each(f func(key []byte, it *Item) bool) {
	for n := uint64(0); n < l.buckets.Load() && l.walkBucket(n, f); n++ {
	}
}

// Stats counts what a lane holds. Bytes of several lanes, and FreeBytes, add up to the memory (but for what
// is kept back for reclaiming).
type Stats struct {
	Items      int    // stored keys with a value
	Tombstones int    // stored keys without
	LiveBytes  uint64 // records: headers, keys, values, tombstones
	LogBytes   uint64 // segments that these lie in
	IndexBytes uint64 // segments of the index
	Buckets    uint64 // of the index, without overflow buckets
	Evicted    uint64 // items given up by Collect: verdicts Drop and Pending on items that had not expired
	Expired    uint64 // expired items given up by Collect and Sweep
	Moved      uint64 // records copied by Collect
}

// Add adds another lane's to s.
func (s *Stats) Add(o Stats) {
	s.Items += o.Items
	s.Tombstones += o.Tombstones
	s.LiveBytes += o.LiveBytes
	s.LogBytes += o.LogBytes
	s.IndexBytes += o.IndexBytes
	s.Buckets += o.Buckets
	s.Evicted += o.Evicted
	s.Expired += o.Expired
	s.Moved += o.Moved
}

// Stats counts what the lane holds now. It walks the list of segments.
func (l *Lane) Stats() Stats {
	s := Stats{
		Items:      l.entries - l.tombstones,
		Tombstones: l.tombstones,
		IndexBytes: uint64(l.indexSegments) << l.segmentShift,
		Buckets:    l.buckets.Load(),
		Evicted:    l.evicted,
		Expired:    l.expired,
		Moved:      l.moved,
	}
	add := func(id uint32) {
		if id != 0 {
			s.LiveBytes += uint64(l.segments[id].live)
			s.LogBytes += l.segmentBytes
		}
	}
	for _, q := range []*queue{&l.small, &l.main} {
		for id := q.head; id != 0; id = l.segments[id].next {
			add(id)
		}
		add(q.open)
	}
	add(l.victim.id)
	return s
}
