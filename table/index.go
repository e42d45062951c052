package table

import (
	"math/bits"
	"sync/atomic"
	"unsafe"
)

// This file is the index of a lane: a hash table of buckets that grows one bucket at a time (linear hashing,
// Litwin 1980), so that no insertion ever waits for a resize. A bucket is one cache line: seven entries and
// the offset of an overflow bucket. An entry is one word:
//
//	tag 24 | accesses 2 | location 38
//
// The tag is bits 6 to 29 of the hash. The bits from 6 on are the ones by which buckets split, so a split
// needs only what is in the index and reads no record; the others make a wrong guess rare (with a million
// items per lane, one lookup in 1,000 compares a key in vain). Location is the offset of the record
// in words of 8 bytes; accesses counts uses since Collect last looked, up to 3. An empty entry is 0.
//
// An entry whose item was evicted from the small queue stays as a ghost until its place is needed: the
// location then has ghostBit, and when it was made. A key that comes back while its ghost is fresh goes to
// the main queue (see collect.go). So ghosts cost no memory and no further cache miss.
//
// Readers without the lock read entries atomically and add to accesses by compare-and-swap. An index page is not
// used for anything else until Clear, so such an addition can hit another item's entry, harmlessly, but
// never a record; and Clear waits for those that are under way (see count).

const (
	bucketBytes  = 64
	bucketShift  = 6
	bucketSlots  = 7
	linkOffset   = bucketSlots * wordBytes
	firstBuckets = 64 // of a lane: one page of minSegmentBytes
	firstLevel   = 6  // log2 of firstBuckets

	// fillNum/fillDen entries for each bucket make the index grow. More cost lookups overflow buckets, fewer cost memory.
	fillNum, fillDen = 5, 1

	tagBits    = 24
	tagShift   = 40
	usesShift  = 38
	usesOne    = 1 << usesShift
	usesMask   = 3 << usesShift
	locMask    = 1<<usesShift - 1
	ghostBit   = 1 << (usesShift - 1)
	ghostMask  = ghostBit - 1
	identity   = ^uint64(usesMask) // tag and location
	noBucket   = 0
	maxUses    = 3
	seqIgnored = ^uint64(0) // for lookup with the lock held
)

func tagOf(hash uint64) uint64 { return hash >> firstLevel & (1<<tagBits - 1) }

func entryOf(tag, rec uint64) uint64 { return tag<<tagShift | rec/wordBytes }

func isGhost(e uint64) bool { return e&ghostBit != 0 }

// isItem: neither empty nor a ghost.
func isItem(e uint64) bool { return e&locMask != 0 && e&ghostBit == 0 }

func recordOf(e uint64) uint64 { return e & locMask * wordBytes }

func usesOf(e uint64) uint64 { return e >> usesShift & 3 }

func (l *Lane) entry(slot uint64) uint64 { return atomic.LoadUint64(l.word(slot)) }

func (l *Lane) setEntry(slot, e uint64) { atomic.StoreUint64(l.word(slot), e) }

// use counts an access to the entry at slot, which was e when it was read. Nothing is written once the
// count is full, so that readers of a hot item share its cache line.
func (l *Lane) use(slot, e uint64) {
	if e&usesMask != usesMask {
		atomic.CompareAndSwapUint64(l.word(slot), e, e+usesOne)
	}
}

// count is use without the lock, by a View that has seen the entry at slot while seq was the lane's sequence number; it is the
// View's. Clear changes the number and then waits until nobody counts any more: who is counted
// after that sees the new number and leaves the entry alone, which may be no entry now.
func (l *Lane) count(slot, e, seq uint64, it *Item) {
	if e&usesMask == usesMask {
		return
	}
	c := &l.counting[uintptr(unsafe.Pointer(it))>>countShift%countShards]
	c.readers.Add(1)
	if l.seq.Load() == seq {
		l.use(slot, e)
	}
	c.readers.Add(-1)
}

// counting is how many readers without the lock are about to count an access: in shards, chosen by where a reader keeps its Item, so that
// readers on different processors seldom write to the same cache line.
type counting [countShards]struct {
	readers atomic.Int64
	_       [56]byte
}

const (
	countShards = 64
	countShift  = 7 // an Item is about so large
)

// bucketFor is the offset of the first bucket that a hash belongs to.
func (l *Lane) bucketFor(hash uint64) uint64 {
	n := l.buckets.Load()
	mask := uint64(1)<<uint(bits.Len64(n)) - 1 // for buckets that have split, or come from a split
	b := hash & mask
	if b >= n {
		b &= mask >> 1
	}
	return l.bucketOffset(b)
}

func (l *Lane) bucketOffset(b uint64) uint64 {
	shift := uint(l.pageShift)
	page := uint64(atomic.LoadUint32(&l.pages[b>>shift]))
	return page<<(shift+bucketShift) | b&(1<<shift-1)<<bucketShift
}

// lookup finds the key's entry: its place, its value and its record's first word; slot 0 if there is none. A reader
// without the lock gives the lane's sequence number at which it began, and is told that there is none once that has changed (it
// might otherwise follow overflow buckets that move to other chains under it).
func (l *Lane) lookup(hash uint64, key []byte, seq uint64) (slot, entry, word uint64) {
	tag := tagOf(hash)
	b := l.bucketFor(hash)
	for {
		for slot = b; slot < b+linkOffset; slot += wordBytes {
			entry = l.entry(slot)
			if entry>>tagShift != tag || !isItem(entry) {
				continue
			}
			if word, ok := l.hasKey(recordOf(entry), key); ok {
				return slot, entry, word
			}
		}
		if b = l.entry(b + linkOffset); b == noBucket {
			return 0, 0, 0
		}
		if seq != seqIgnored && l.seq.Load() != seq {
			return 0, 0, 0
		}
	}
}

// hasKey compares the key of the record at rec. To a reader without the lock the record may be anything by
// now, so nothing beyond the mapping may be read.
func (l *Lane) hasKey(rec uint64, key []byte) (word uint64, ok bool) {
	if rec > l.size-wordBytes {
		return 0, false // what was an entry is other memory now (Clear)
	}
	word = *l.word(rec)
	if int(keyLen(word)) != len(key) {
		return 0, false
	}
	at := rec + headBytes(word)
	if at+uint64(len(key)) > l.size {
		return 0, false
	}
	return word, string(l.bytes(at, uint64(len(key)))) == string(key)
}

// slotOf is the place of the entry for the record at rec, of a key with this hash. There must be one.
func (l *Lane) slotOf(hash, rec uint64) uint64 {
	want := entryOf(tagOf(hash), rec)
	for b := l.bucketFor(hash); b != noBucket; b = l.entry(b + linkOffset) {
		for slot := b; slot < b+linkOffset; slot += wordBytes {
			if l.entry(slot)&identity == want {
				return slot
			}
		}
	}
	panic("table: a live record has no index entry")
}

// place finds room for a new entry: a slot that is empty, or holds the key's own ghost, or the oldest
// ghost, or is the first of an added overflow bucket. It changes nothing else. fresh says that
// the key has a ghost that is not too old.
func (l *Lane) place(hash uint64) (slot uint64, fresh, ok bool) {
	tag := tagOf(hash)
	var empty, ghost, last uint64
	var age uint64
	for b := l.bucketFor(hash); b != noBucket; b = l.entry(b + linkOffset) {
		last = b
		for s := b; s < b+linkOffset; s += wordBytes {
			e := l.entry(s)
			switch {
			case e == 0:
				if empty == 0 {
					empty = s
				}
			case isGhost(e):
				a := l.ghostAge(e)
				if e>>tagShift == tag && a <= l.ghostsKept() {
					return s, true, true
				}
				if ghost == 0 || a > age {
					ghost, age = s, a
				}
			}
		}
	}
	if empty != 0 {
		return empty, false, true
	}
	if ghost != 0 {
		return ghost, false, true
	}
	b, ok := l.newOverflow()
	if !ok {
		return 0, false, false
	}
	l.setEntry(last+linkOffset, b)
	return b, false, true
}

// ghostAge is how many ghosts were made after this one (modulo 2^37).
func (l *Lane) ghostAge(e uint64) uint64 { return (l.ghosts - e) & ghostMask }

// ghostsKept is the age up to which ghosts count: as many as there are items (S3-FIFO: as many as in the main queue).
func (l *Lane) ghostsKept() uint64 { return uint64(l.entries) }

// leaveGhost turns the entry at slot into a ghost.
func (l *Lane) leaveGhost(slot uint64) {
	l.ghosts++
	l.setEntry(slot, l.entry(slot)>>tagShift<<tagShift|ghostBit|l.ghosts&ghostMask)
}

// newOverflow takes an empty overflow bucket, from a page of the lane or from a new one.
func (l *Lane) newOverflow() (b uint64, ok bool) {
	if !l.haveOverflow(1) {
		return 0, false
	}
	if b = l.freeBuckets; b != noBucket {
		l.freeBuckets = l.entry(b + linkOffset)
	} else {
		b = l.freshBuckets
		l.freshBuckets += bucketBytes
	}
	l.clearBucket(b)
	return b, true
}

// haveOverflow makes sure that newOverflow will succeed n times.
func (l *Lane) haveOverflow(n int) bool {
	for b := l.freeBuckets; b != noBucket && n > 0; b = l.entry(b + linkOffset) {
		n--
	}
	for n > int(l.freshBucketsEnd-l.freshBuckets)/bucketBytes {
		for ; l.freshBuckets < l.freshBucketsEnd; l.freshBuckets += bucketBytes {
			l.giveOverflow(l.freshBuckets)
			n--
		}
		id, ok := l.take(1, useIndex, false)
		if !ok {
			return false
		}
		l.indexSegments++
		l.segments[id].next = l.overflowPages
		l.overflowPages = id
		l.freshBuckets = l.offset(id)
		l.freshBucketsEnd = l.freshBuckets + l.segmentBytes
	}
	return true
}

func (l *Lane) giveOverflow(b uint64) {
	l.setEntry(b+linkOffset, l.freeBuckets)
	l.freeBuckets = b
}

func (l *Lane) clearBucket(b uint64) {
	for at := b; at < b+bucketBytes; at += wordBytes {
		l.setEntry(at, 0)
	}
}

// growIndex splits buckets as long as the index is too full: at most two for each item that came, so
// that it catches up after memory was short. It gives up quietly where there is no memory for it; chains grow
// meanwhile.
func (l *Lane) growIndex() {
	for range 2 {
		if uint64(l.entries)*fillDen <= l.buckets.Load()*fillNum || !l.splitBucket() {
			return
		}
	}
}

// splitBucket adds one bucket and moves to it the entries of the bucket that is next in turn whose hash
// has the further bit set.
func (l *Lane) splitBucket() bool {
	n := l.buckets.Load()
	level := uint(bits.Len64(n)) - 1
	bit := uint64(1) << (level - firstLevel + tagShift) // in the entry's tag
	if level-firstLevel >= tagBits || !l.havePage(n) {
		return false
	}
	from, to := l.bucketOffset(n-1<<level), l.bucketOffset(n)
	if n := l.movers(from, bit); n > bucketSlots && !l.haveOverflow((n-1)/bucketSlots) {
		return false
	}
	l.clearBucket(to)
	end := chainEnd{bucket: to, slot: to}
	for b := from; b != noBucket; b = l.entry(b + linkOffset) {
		for s := b; s < b+linkOffset; s += wordBytes {
			e := l.entry(s)
			if e&bit == 0 {
				continue
			}
			if isItem(e) || isGhost(e) && end.slot < to+linkOffset {
				l.appendEntry(&end, e)
			}
			l.setEntry(s, 0)
		}
	}
	l.buckets.Store(n + 1)
	l.shortenChain(from)
	return true
}

// movers counts the entries of a chain that have a bit set.
func (l *Lane) movers(b, bit uint64) (n int) {
	for ; b != noBucket; b = l.entry(b + linkOffset) {
		for s := b; s < b+linkOffset; s += wordBytes {
			if e := l.entry(s); e&bit != 0 && isItem(e) {
				n++
			}
		}
	}
	return n
}

// chainEnd is where the next entry of a chain goes that is filled from its beginning.
type chainEnd struct{ bucket, slot uint64 }

// appendEntry adds to a chain; haveOverflow has been asked before.
func (l *Lane) appendEntry(end *chainEnd, e uint64) {
	if end.slot == end.bucket+linkOffset {
		b, _ := l.newOverflow()
		l.setEntry(end.bucket+linkOffset, b)
		end.bucket, end.slot = b, b
	}
	l.setEntry(end.slot, e)
	end.slot += wordBytes
}

// shortenChain moves the items of a chain to its front and gives overflow buckets that nothing is left in back.
func (l *Lane) shortenChain(first uint64) {
	if l.entry(first+linkOffset) == noBucket {
		return
	}
	to, slot := first, first
	for b := first; b != noBucket; b = l.entry(b + linkOffset) {
		for s := b; s < b+linkOffset; s += wordBytes {
			e := l.entry(s)
			if !isItem(e) {
				continue
			}
			if slot == to+linkOffset {
				to = l.entry(to + linkOffset)
				slot = to
			}
			if s != slot {
				l.setEntry(s, 0)
				l.setEntry(slot, e)
			}
			slot += wordBytes
		}
	}
	for ; slot < to+linkOffset; slot += wordBytes {
		l.setEntry(slot, 0) // ghosts
	}
	rest := l.entry(to + linkOffset)
	l.setEntry(to+linkOffset, noBucket)
	for rest != noBucket {
		b := rest
		rest = l.entry(b + linkOffset)
		l.giveOverflow(b)
	}
}

// havePage makes sure that bucket number b has a page.
func (l *Lane) havePage(b uint64) bool {
	page := b >> l.pageShift
	if page >= uint64(len(l.pages)) {
		return false
	}
	if l.pages[page] != 0 || page == 0 {
		return true
	}
	id, ok := l.take(1, useIndex, false)
	if ok {
		l.indexSegments++
		atomic.StoreUint32(&l.pages[page], id)
	}
	return ok
}

// clearIndex empties the index and gives back all pages but the first.
func (l *Lane) clearIndex() {
	l.buckets.Store(firstBuckets)
	for b := uint64(0); b < firstBuckets; b++ {
		l.clearBucket(l.bucketOffset(b))
	}
	for page := 1; page < len(l.pages) && l.pages[page] != 0; page++ {
		id := l.pages[page]
		atomic.StoreUint32(&l.pages[page], 0)
		l.give(id)
	}
	for id := l.overflowPages; id != 0; {
		next := l.segments[id].next
		l.give(id)
		id = next
	}
	l.overflowPages = 0
	l.freeBuckets, l.freshBuckets, l.freshBucketsEnd = noBucket, 0, 0
	l.indexSegments = 1
	l.entries, l.tombstones, l.ghosts = 0, 0, 0
}
