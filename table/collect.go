package table

// This file reclaims memory: segment by segment, and in steps that are short enough to hold the lane for.
//
// Which items go is decided by S3-FIFO (Yang et al., SOSP 2023), on segments instead of single items. New items
// come into the small queue; when it has more than a tenth of the lane's segments, its oldest is
// collected: items that were used meanwhile move on to the main queue, the others are victims, and leave a
// ghost in the index; who comes back while its ghost is fresh goes straight to the main queue. Otherwise
// the oldest segment of the main queue is collected: items that were used go to its end with one use
// less, the others are victims. But if some segment is dead to a good part (items overwritten,
// deleted, expired), it is collected first and everything alive in it moves: garbage goes before items do.
//
// Moving needs memory before it frees any. Collecting one segment begins at most one other, because
// what lived in one segment fits into one; the pool's reserve is for that. Should even that be gone, what cannot
// be moved stays where it is with its uses lowered, so that all of a segment dies in the end.

// Verdict is what the caller says of an item that could be given up.
type Verdict uint8

const (
	// Drop: the table removes the item now.
	Drop Verdict = iota
	// Pending: the caller has begun to delete the item in the group. It stays where it lies until Update makes it
	// a tombstone, and Remove or Put garbage; when nothing lives in its segment any more, that is given back by itself.
	Pending
	// Keep: the item may not go now. Collect moves it as if it had been used.
	Keep
)

// Visit is asked about an item that could be given up: one that nobody used, or that has expired. key lies in the table
// and is good until Visit changes the lane or returns; it is good for Update and Remove. A Visit that has
// itself removed the item, or put another record in its place, returns Pending. It must not call Collect or Sweep.
type Visit func(key []byte, hash uint64, it *Item) Verdict

const (
	// smallPercent is the share of the lane's segments up to which the small queue is left alone.
	smallPercent = 10
	// deadShare: a segment of which 1/deadShare is dead is collected before any item is evicted.
	deadShare = 4

	// A step of Collect ends after so many records or bytes, whichever comes first: some tens of microseconds.
	stepRecords = 128
	stepBytes   = 64 << 10

	// stepRequeues bounds how many segments full of one value Collect passes over in a step.
	stepRequeues = 64
)

// victim is the segment that is being collected.
type victim struct {
	id      uint32     // 0: none
	at      uint32     // bytes that have been dealt with
	from    segmentUse // queue that it was in
	compact bool       // chosen for its garbage: nobody is evicted
	dead    uint32     // bytes found dead: a gain once the segment is given back
	gain    uint32     // bytes given up, and uses lowered
}

// Collect does one step of making room in the lane: some tens of microseconds. It asks visit about items that
// could go. It returns false if there is nothing more to gain in this lane now. Memory comes back in whole segments, so it
// may take many steps until FreeBytes goes up. Tombstones are never given up; an Invalid
// item only by the verdict Drop (the caller knows that something else has taken its place), and any other verdict keeps it,
// unless visit itself has removed it or put another record in its place.
func (l *Lane) Collect(now uint32, visit Visit) (progress bool) {
	if l.victim.id == 0 && !l.chooseVictim() {
		return false
	}
	l.collect(now, visit)
	return true
}

// Compact is Collect of garbage only: of segments of which one part in share, or more, is dead (items that were overwritten, deleted or
// removed). Only expired items are asked about. It returns false if there is no such segment.
func (l *Lane) Compact(share int, now uint32, visit Visit) (progress bool) {
	if l.victim.id == 0 {
		id := l.mostDead(uint64(share))
		if id == 0 {
			return false
		}
		l.setVictim(id, true)
	}
	l.collect(now, visit)
	return true
}

// Collecting reports whether a segment has been begun to be collected and is not done: as long as that is so, what was moved out of it
// takes memory twice. It may be called without any lock.
func (l *Lane) Collecting() bool { return l.collecting.Load() }

// collect does one step of emptying the victim.
func (l *Lane) collect(now uint32, visit Visit) {
	l.change()
	v := &l.victim
	if v.id == 0 {
		return // only passed over
	}
	base, end := l.offset(v.id), l.segments[v.id].used
	stop := min(end, v.at+stepBytes)
	for records := 0; v.at < stop && records < l.stepRecords; records++ {
		rec := base + uint64(v.at)
		n := l.recordBytes(rec)
		w := *l.word(rec)
		switch {
		case w&markDead != 0:
			v.dead += uint32(n)
		case w&markPiece != 0:
			l.movePiece(&l.main, rec, true)
		default:
			l.collectItem(now, rec, w, visit)
		}
		v.at += uint32(n)
	}
	if v.at >= end {
		l.finishVictim()
	}
}

// collectItem decides about one item of the victim.
func (l *Lane) collectItem(now uint32, rec, w uint64, visit Visit) {
	v, it := &l.victim, &l.visited
	key := l.key(rec)
	hash := Hash(key)
	slot := l.slotOf(hash, rec)
	entry := l.entry(slot)
	it.slot = slot
	l.readHeader(rec, w, it)
	expired, invalid := it.Expired(now), it.State&Invalid != 0
	if v.compact && !expired {
		l.survive(it, entry)
		return
	}
	l.asked = l.asked || it.State&(Tombstone|Invalid) == 0
	switch {
	case it.State&Tombstone != 0:
		l.survive(it, entry)
		return
	case usesOf(entry) > 0 && !expired && !invalid:
		v.gain++
		if v.from == useSmall {
			entry &^= usesMask
		} else {
			entry -= usesOne
		}
		l.survive(it, entry)
		return
	}
	n := uint32(l.recordBytes(rec))
	verdict := visit(key, hash, it)
	w = *l.word(rec)
	if w&markDead != 0 { // visit has removed it, or put another record in its place
		l.countGivenUp(expired)
		v.gain += n
		return
	}
	slot = l.slotOf(hash, rec) // a Put in visit may have moved entries
	switch {
	case verdict == Drop:
		l.countGivenUp(expired)
		l.drop(slot, rec, v.from == useSmall && !expired && !invalid)
		v.gain += n
	case verdict == Pending && !invalid:
		l.countGivenUp(expired)
		if v.from == useSmall && !expired {
			*l.word(rec) |= markEvicted
		}
		v.gain += n
	default:
		it.slot = slot
		l.readHeader(rec, w, it)
		l.survive(it, l.entry(slot))
	}
}

func (l *Lane) countGivenUp(expired bool) {
	if expired {
		l.expired++
	} else {
		l.evicted++
	}
}

// survive moves an item to the main queue, with the uses that entry says. Without memory it stays.
func (l *Lane) survive(it *Item, entry uint64) {
	l.setEntry(it.slot, entry)
	if l.moveItem(&l.main, it.slot, it.rec, it, true) {
		l.moved++
	}
}

// chooseVictim makes the next segment the victim. It may pass over some and choose none; false
// says that there is nothing to choose from, or that all of the lane has been seen without gaining anything.
func (l *Lane) chooseVictim() bool {
	if l.fruitless > l.small.count+l.main.count {
		more := !l.asked && l.chooseOpen()
		l.fruitless, l.asked = 0, false
		if !more {
			l.opened = 0
		}
		return more
	}
	if id := l.mostDead(deadShare); id != 0 {
		l.setVictim(id, true)
		return true
	}
	for range stepRequeues {
		if l.small.head == 0 && l.main.head == 0 {
			l.change()
			l.seal(&l.small)
			if l.small.head == 0 {
				l.seal(&l.main)
			}
		}
		id := l.main.head
		if id == 0 || l.small.head != 0 && l.smallIsNext() {
			id = l.small.head
		}
		if id == 0 {
			return false
		}
		if !l.isOnePiece(id) {
			l.setVictim(id, false)
			return true
		}
		// The value's header, which lies in front of it, has been judged: this part of it need not be copied.
		l.unlink(l.queueOf(l.segments[id].use), id)
		l.push(&l.main, id)
		l.fruitless++
	}
	return true
}

// smallIsNext tells whether the oldest segment of the small queue is to be collected before that of the main queue: it has more than its share,
// or nothing is to be gained in the main queue. (There may be only pieces in that, of items whose headers are in the small one.)
func (l *Lane) smallIsNext() bool {
	return l.small.count*100 > (l.small.count+l.main.count)*smallPercent || l.fruitless >= l.main.count
}

// chooseOpen makes an open segment the victim, where no item that may go has been met in the full ones: they hold nothing but pieces (and what
// has to stay), and the headers of these, which are what has to be asked about, are in the open ones.
func (l *Lane) chooseOpen() bool {
	for l.opened < 2 {
		q := [...]*queue{&l.small, &l.main}[l.opened]
		l.opened++
		if id := q.open; id != 0 && l.segments[id].live > 0 {
			l.change()
			l.seal(q)
			l.setVictim(id, false)
			return true
		}
	}
	return false
}

func (l *Lane) setVictim(id uint32, compact bool) {
	s := &l.segments[id]
	l.unlink(l.queueOf(s.use), id)
	s.pinned, s.waiting = true, false
	l.victim = victim{id: id, from: s.use, compact: compact}
	l.collecting.Store(true)
}

// finishVictim gives the victim back, or if something had to stay in it, puts it at the end of the main queue.
func (l *Lane) finishVictim() {
	v := &l.victim
	s := &l.segments[v.id]
	s.pinned = false
	if s.live == 0 {
		v.gain += v.dead
		l.release(v.id)
	} else {
		s.waiting = true
		l.push(&l.main, v.id)
	}
	if v.gain > 0 {
		l.fruitless, l.asked, l.opened = 0, false, 0
	} else {
		l.fruitless++
	}
	l.victim = victim{}
	l.collecting.Store(false)
}

// mostDead is the full segment with the least that lives in it, of those of which one part in share is dead; 0: there is none. What has been left
// empty at a segment's end is not dead: it might be left again where the segment's records go, and so for ever.
func (l *Lane) mostDead(share uint64) (id uint32) {
	enough, least := uint32(l.segmentBytes/share), ^uint32(0)
	for _, q := range []*queue{&l.small, &l.main} {
		for i := q.head; i != 0; i = l.segments[i].next {
			if s := &l.segments[i]; s.used-s.live >= enough && s.live < least && !s.waiting {
				id, least = i, s.live
			}
		}
	}
	return id
}

// isOnePiece tells whether the segment is filled by one piece of a value, and holds nothing else: the next item's header may lie behind it.
func (l *Lane) isOnePiece(id uint32) bool {
	first := l.offset(id)
	w := *l.word(first)
	return w&markDead == 0 && w&markPiece != 0 && w>>lengthShift >= l.segmentBytes-l.segmentBytes/deadShare &&
		l.recordBytes(first) == uint64(l.segments[id].used)
}
