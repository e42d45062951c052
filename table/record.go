package table

// This file is the layout of a record: how an Item, its key and its value lie in a log segment. All
// records start at a multiple of 8 bytes and are as long as a multiple of 8 bytes, so that a segment can
// be walked from its first byte, and so that every word of a header is read and written whole.
//
// The header of a stored key, in words of 8 bytes; those in brackets are there only when needed:
//
//	0    keyLen 8 | State 8 | Finisher 8 | marks 8 | valueLen 32
//	1    TS.Write
//	2    CAS (of a tombstone: TS.Step)
//	[3]  TS.Step            markStep: the last update was a read-modify-write
//	[4]  Exptime | Flags    markMeta: one of them is not 0
//	[5]  next 40 | part 24  markSplit: value continues in a piece at next; part bytes of it lie here
//	key, value (or its first part), padding
//
// A piece carries the further bytes of a value that is too large for one segment:
//
//	0    0 24 | markPiece 8 | length 32
//	1    next: offset of the next piece, 0 in the last
//	2    previous: offset of the piece before, or of the key's header
//	bytes, padding
//
// What is dead keeps only how long it is, for walking:
//
//	0    0 24 | markDead 8 | bytes 32
//
// Tombstones have neither exptime, flags nor CAS, and so the words that every record has are enough for
// them: turning an item into a tombstone never needs room that is not there.

const (
	wordBytes        = 8
	headerBytes      = 3 * wordBytes
	pieceHeaderBytes = 3 * wordBytes

	markDead    = 1 << 24
	markPiece   = 1 << 25
	markSplit   = 1 << 26
	markStep    = 1 << 27
	markMeta    = 1 << 28
	markEvicted = 1 << 29 // chosen by Collect from the small queue, the delete is under way

	stateShift    = 8
	finisherShift = 16
	lengthShift   = 32

	partBits = 24
	partMask = 1<<partBits - 1
)

// maxKeyBytes is memcached's limit for keys. The layout has room for 255.
const maxKeyBytes = 250

// where says at which place of the table an Item lies. Offsets are in bytes from the start of the mapping.
type where struct {
	slot uint64 // of the index entry
	rec  uint64 // of the record
	word uint64 // the record's first word as it was read
}

func align(n uint64) uint64 { return (n + wordBytes - 1) &^ (wordBytes - 1) }

// headBytes is the length of the words before the key of a record whose first word is w.
func headBytes(w uint64) uint64 {
	return headerBytes + wordBytes*(w/markStep&1+w/markMeta&1+w/markSplit&1)
}

func isTombstone(w uint64) bool { return w>>stateShift&uint64(Tombstone) != 0 }

func keyLen(w uint64) uint64 { return w & 0xff }

// packWord makes the first word of it's record, with the marks of the optional words that it needs.
func packWord(keyBytes int, it *Item) uint64 {
	w := uint64(keyBytes) | uint64(it.State)<<stateShift | uint64(it.Finisher)<<finisherShift
	if it.State&Tombstone != 0 {
		return w
	}
	w |= uint64(it.ValueLen) << lengthShift
	if it.TS.Step != 0 {
		w |= markStep
	}
	if it.Exptime != 0 || it.Flags != 0 {
		w |= markMeta
	}
	return w
}

// writeHeader stores the words before the key, except the one of markSplit.
func (m *memory) writeHeader(rec, w uint64, it *Item) {
	*m.word(rec) = w
	*m.word(rec + wordBytes) = it.TS.Write
	if it.State&Tombstone != 0 {
		*m.word(rec + 2*wordBytes) = it.TS.Step
		return
	}
	*m.word(rec + 2*wordBytes) = it.CAS
	at := rec + headerBytes
	if w&markStep != 0 {
		*m.word(at) = it.TS.Step
		at += wordBytes
	}
	if w&markMeta != 0 {
		*m.word(at) = uint64(it.Exptime) | uint64(it.Flags)<<32
	}
}

// readHeader fills in it from the record at rec, whose first word is w. It reads within the mapping
// whatever w is, so that a reader without the lock may call it.
func (m *memory) readHeader(rec, w uint64, it *Item) {
	it.State = State(w >> stateShift)
	it.Finisher = uint8(w >> finisherShift)
	it.ValueLen = int(w >> lengthShift)
	it.TS.Write = *m.word(rec + wordBytes)
	it.rec, it.word = rec, w
	it.Exptime, it.Flags = 0, 0
	if it.State&Tombstone != 0 {
		it.CAS, it.TS.Step, it.ValueLen = 0, *m.word(rec + 2*wordBytes), 0
		return
	}
	it.CAS, it.TS.Step = *m.word(rec + 2*wordBytes), 0
	at := rec + headerBytes
	if w&markStep != 0 {
		it.TS.Step = *m.word(at)
		at += wordBytes
	}
	if w&markMeta != 0 {
		meta := *m.word(at)
		it.Exptime, it.Flags = uint32(meta), uint32(meta>>32)
	}
}

// linkAt is the offset of the word of markSplit in the header at rec.
func linkAt(rec, w uint64) uint64 { return rec + headBytes(w) - wordBytes }

// recordBytes is the length of the record at rec, whatever it is; the caller holds the lock.
func (m *memory) recordBytes(rec uint64) uint64 {
	w := *m.word(rec)
	switch {
	case w&markDead != 0:
		return w >> lengthShift
	case w&markPiece != 0:
		return align(pieceHeaderBytes + w>>lengthShift)
	case w&markSplit != 0:
		return align(headBytes(w) + keyLen(w) + *m.word(linkAt(rec, w))&partMask)
	}
	return align(headBytes(w) + keyLen(w) + w>>lengthShift)
}

// key is the key of the header at rec, in place.
func (m *memory) key(rec uint64) []byte {
	w := *m.word(rec)
	return m.bytes(rec+headBytes(w), keyLen(w))
}
