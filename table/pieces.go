package table

// This file stores records, and cuts those that do not fit. A segment ends where the next record does not
// fit any more. If that record is small, the rest of the segment is left empty: at most 1/16 of it, and
// one place to read each small item. If it is larger, it is cut there: its value goes on in pieces in further
// segments. So a value may be of any size, needs no segments that lie side by side, and wastes nothing.

// smallShare is the part of a segment up to which a record is never cut, and which the first part of one that is
// cut has at least.
const smallShare = 16

// cut says how a record is stored: part bytes of its value with the header and, if split, the rest in
// pieces.
type cut struct {
	fresh  bool   // the open segment has too little room left: begin another one
	split  bool   // the header needs a link
	part   uint64 // bytes of the value in the first record
	pieces int    // further segments that are begun for the rest
}

// cutFor decides how a record of head bytes before its value (without the link) and n bytes of value goes into q. linked:
// there are more pieces anyway.
func (l *Lane) cutFor(q *queue, head, n uint64, linked bool) cut {
	room, all := l.room(q), l.segmentBytes
	small := all / smallShare
	link := uint64(0)
	if linked {
		link = wordBytes
	}
	whole := align(head + link + n)
	if whole <= room {
		return cut{part: n, split: linked}
	}
	c := cut{}
	if whole <= small || room < align(head+wordBytes)+small {
		c.fresh = true
		if room = all; whole <= room {
			c.part, c.split = n, linked
			return c
		}
	}
	c.split = true
	c.part = room - (head + wordBytes)
	most := l.segmentBytes - pieceHeaderBytes
	c.pieces = int((n - c.part + most - 1) / most)
	return c
}

// store writes a record of a key to q: the header for it, the key, and value, which continues in the piece at rest (0:
// does not). It takes all segments that it needs first, so that it succeeds or changes nothing.
func (l *Lane) store(q *queue, key []byte, it *Item, marks uint64, value []byte, rest uint64, intoReserve bool) (rec uint64, ok bool) {
	w := packWord(len(key), it) | marks
	if w&markSplit != 0 {
		panic("table: the link is store's to add")
	}
	head := headBytes(w) + uint64(len(key))
	c := l.cutFor(q, head, uint64(len(value)), rest != 0)
	segments := c.pieces
	if c.fresh {
		segments++
	}
	var list uint32
	if segments > 0 {
		if list, ok = l.take(segments, q.use, intoReserve); !ok {
			return 0, false
		}
		if c.fresh {
			list = l.turn(q, list)
		}
	}
	if c.split {
		w |= markSplit
		head += wordBytes
	}
	rec = l.add(q, align(head+c.part))
	l.writeHeader(rec, w, it)
	if c.split {
		*l.word(linkAt(rec, w)) = c.part
	}
	copy(l.bytes(rec+headBytes(w), uint64(len(key))), key)
	copy(l.bytes(rec+head, c.part), value)
	l.noteExptime(rec, it.Exptime)
	last := rec
	for value = value[c.part:]; len(value) > 0; {
		list = l.turn(q, list)
		n := min(uint64(len(value)), l.segmentBytes-pieceHeaderBytes)
		last = l.addPiece(q, last, value[:n])
		value = value[n:]
	}
	if rest != 0 {
		l.setNext(last, rest)
		l.setPrevious(rest, last)
	}
	return rec, true
}

// turn seals the open segment of q and begins the first of list; it returns the others.
func (l *Lane) turn(q *queue, list uint32) uint32 {
	rest := l.segments[list].next
	l.seal(q)
	l.begin(q, list)
	return rest
}

// addPiece writes a piece, which fits, to q and links it to the one before.
func (l *Lane) addPiece(q *queue, previous uint64, part []byte) (rec uint64) {
	rec = l.add(q, align(pieceHeaderBytes+uint64(len(part))))
	*l.word(rec) = markPiece | uint64(len(part))<<lengthShift
	*l.word(rec + wordBytes) = 0
	l.setPrevious(rec, previous)
	l.setNext(previous, rec)
	copy(l.bytes(rec+pieceHeaderBytes, uint64(len(part))), part)
	return rec
}

// next is the offset of the piece after the record at rec, a header with a link or a piece.
func (l *Lane) next(rec uint64) uint64 {
	w := *l.word(rec)
	if w&markPiece != 0 {
		return *l.word(rec + wordBytes)
	}
	return *l.word(linkAt(rec, w)) >> partBits * wordBytes
}

func (l *Lane) setNext(rec, next uint64) {
	w := *l.word(rec)
	if w&markPiece != 0 {
		*l.word(rec + wordBytes) = next
		return
	}
	at := linkAt(rec, w)
	*l.word(at) = next/wordBytes<<partBits | *l.word(at)&partMask
}

func (l *Lane) setPrevious(piece, previous uint64) { *l.word(piece + 2*wordBytes) = previous }

// buryPieces marks all pieces from piece on dead.
func (l *Lane) buryPieces(piece uint64) {
	for piece != 0 {
		next := l.next(piece)
		l.bury(piece, l.recordBytes(piece))
		piece = next
	}
}

// firstPart is the part of the value that lies with the header at rec.
func (l *Lane) firstPart(rec uint64) []byte {
	w := *l.word(rec)
	n := w >> lengthShift
	if w&markSplit != 0 {
		n = *l.word(linkAt(rec, w)) & partMask
	}
	return l.bytes(rec+headBytes(w)+keyLen(w), n)
}

// moveItem writes the key's header at rec anew, as it says, with the part of the value that lies there, to q.
// The pieces stay. It fails if there is no memory.
func (l *Lane) moveItem(q *queue, slot, rec uint64, it *Item, intoReserve bool) bool {
	w := *l.word(rec)
	var rest uint64
	if w&markSplit != 0 {
		rest = l.next(rec)
	}
	to, ok := l.store(q, l.key(rec), it, w&markEvicted, l.firstPart(rec), rest, intoReserve)
	if !ok {
		return false
	}
	l.bury(rec, l.recordBytes(rec))
	l.setEntry(slot, l.entry(slot)&^locMask|to/wordBytes)
	it.where = where{slot: slot, rec: to, word: *l.word(to)}
	return true
}

// movePiece writes the piece at rec anew to q. It fails if there is no memory.
func (l *Lane) movePiece(q *queue, rec uint64, intoReserve bool) bool {
	n := *l.word(rec) >> lengthShift
	part := l.bytes(rec+pieceHeaderBytes, n)
	next, previous := l.next(rec), *l.word(rec + 2*wordBytes)
	small := l.segmentBytes / smallShare
	if room := l.room(q); align(pieceHeaderBytes+n) > room {
		list, ok := l.take(1, q.use, intoReserve)
		if !ok {
			return false
		}
		// Cut it only into parts that are not small, or it would be crumbs after some moves.
		if room >= pieceHeaderBytes+small && n >= 2*small {
			first := min(room-pieceHeaderBytes, align(n-small))
			previous = l.addPiece(q, previous, part[:first])
			part = part[first:]
		}
		l.turn(q, list)
	}
	last := l.addPiece(q, previous, part)
	l.setNext(last, next)
	if next != 0 {
		l.setPrevious(next, last)
	}
	l.bury(rec, l.recordBytes(rec))
	return true
}

// appendPieces appends n bytes of value, which begin in the piece at piece. Without the lock the chain may change under
// it: then it appends n bytes of whatever, and never reads beyond the mapping.
func (l *Lane) appendPieces(dst []byte, piece uint64, n uint64) []byte {
	for n > 0 {
		if piece == 0 || piece%wordBytes != 0 || piece > l.size-pieceHeaderBytes {
			break
		}
		have := *l.word(piece) >> lengthShift
		if have == 0 || have > n || have > l.size-pieceHeaderBytes-piece {
			break
		}
		dst = append(dst, l.bytes(piece+pieceHeaderBytes, have)...)
		n -= have
		piece = *l.word(piece + wordBytes)
	}
	return dst[:uint64(len(dst))+n] // AppendValue has made it large enough
}
