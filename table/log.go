package table

// This file is the log of a lane: segments that records are appended to, in two queues (see collect.go).
// Nothing is ever moved to make room within a segment; a record that is no longer wanted is marked dead,
// and a segment in which nothing lives goes back to the pool.

// queue is the segments of one queue, oldest first, and the one that records are being added to.
type queue struct {
	head, tail uint32 // full segments, linked by next and prev; 0: none
	open       uint32 // not linked yet; 0: none
	count      int    // full ones and the open one
	use        segmentUse
}

// push adds a segment to the end of q.
func (l *Lane) push(q *queue, id uint32) {
	s := &l.segments[id]
	s.prev, s.next, s.use = q.tail, 0, q.use
	if q.tail != 0 {
		l.segments[q.tail].next = id
	} else {
		q.head = id
	}
	q.tail = id
	q.count++
	l.logSegments.Add(1)
}

// unlink takes a segment out of q, wherever it is there.
func (l *Lane) unlink(q *queue, id uint32) {
	s := &l.segments[id]
	if s.prev != 0 {
		l.segments[s.prev].next = s.next
	} else {
		q.head = s.next
	}
	if s.next != 0 {
		l.segments[s.next].prev = s.prev
	} else {
		q.tail = s.prev
	}
	s.prev, s.next = 0, 0
	q.count--
	l.logSegments.Add(-1)
}

func (l *Lane) queueOf(use segmentUse) *queue {
	if use == useSmall {
		return &l.small
	}
	return &l.main
}

// seal ends the open segment of q, which becomes the newest full one.
func (l *Lane) seal(q *queue) {
	id := q.open
	if id == 0 {
		return
	}
	q.open = 0
	q.count--
	l.logSegments.Add(-1)
	l.segments[id].open = false
	if s := &l.segments[id]; s.live == 0 && !s.pinned {
		l.release(id)
		return
	}
	l.push(q, id)
}

// begin makes a segment, already taken, the open one of q, which has none.
func (l *Lane) begin(q *queue, id uint32) {
	s := &l.segments[id]
	s.open, s.next, s.use = true, 0, q.use
	q.open = id
	q.count++
	l.logSegments.Add(1)
}

// release gives a segment back that is in no queue and holds nothing that lives.
func (l *Lane) release(id uint32) {
	if l.sweeping == id {
		l.sweeping = 0
	}
	l.give(id)
}

// room is how many bytes the open segment of q still takes.
func (l *Lane) room(q *queue) uint64 {
	if q.open == 0 {
		return 0
	}
	return l.segmentBytes - uint64(l.segments[q.open].used)
}

// add reserves n bytes, which fit, in the open segment of q.
func (l *Lane) add(q *queue, n uint64) (rec uint64) {
	s := &l.segments[q.open]
	rec = l.offset(q.open) + uint64(s.used)
	s.used += uint32(n)
	s.live += uint32(n)
	return rec
}

// bury marks n bytes at rec dead, and gives the segment back if that was the last that lived there.
func (l *Lane) bury(rec, n uint64) {
	*l.word(rec) = markDead | n<<lengthShift
	id := uint32(rec >> l.segmentShift)
	s := &l.segments[id]
	s.live -= uint32(n)
	if s.live == 0 && !s.open && !s.pinned {
		l.unlink(l.queueOf(s.use), id)
		l.release(id)
	}
}

// shrink leaves n bytes of the record at rec, which was was bytes long.
func (l *Lane) shrink(rec, was, n uint64) {
	if n < was {
		l.bury(rec+n, was-n) // cannot be the last that lives: the first n bytes do
	}
}

// buryItem marks dead all records of a key whose header is at rec.
func (l *Lane) buryItem(rec uint64) {
	w := *l.word(rec)
	var piece uint64
	if w&markSplit != 0 {
		piece = l.next(rec)
	}
	l.bury(rec, l.recordBytes(rec))
	l.buryPieces(piece)
}

// noteExptime tells the segment of rec, and the lane, that something there expires at exptime.
func (l *Lane) noteExptime(rec uint64, exptime uint32) {
	if exptime == 0 {
		return
	}
	s := l.segmentOf(rec)
	s.leastExptime = min(s.leastExptime, exptime)
	l.leastExptime = min(l.leastExptime, exptime)
}
