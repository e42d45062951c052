package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"hermesd/table"
)

// Limits of a Message on the wire.
const (
	MaxKey   = 250     // bytes of Key: memcached's limit
	MaxValue = 1 << 30 // bytes of Value: memcached's greatest item size; a transport's own limit is usually lower
)

// codecHeadMax is the greatest number of bytes that a message takes besides its key and value.
const codecHeadMax = 8 + 8*8 + 4 + 4 + 1 + 1 + 4

// A message on the wire. All words are little-endian.
//
//	0..3   head: kind 5 bits | lane 6 | Bits 8 | has flags 1 | has exptime 1 | has finisher 1 | has key 1 |
//	       class of the value's length 2 | 0
//	4..7   eight lengths of 4 bits: the bytes (0..8) that each of the next eight words takes
//	8..    Epoch, Clock - TS.Version() (zigzag), ID, TS.Write, TS.Step, Newer.Write, Newer.Step, CAS: only the
//	       bytes below the leading zeros, so a zero word takes none
//	       flags 4, exptime 4, finisher 1, key length 1, value length 0, 1, 2 or 4: those that the head names
//	       key, value
//
// Why this form. Fixed words would cost an INV 66 bytes besides key and value; as it is, it takes 27 to 29 when
// versions are below 2^24..2^32, an ACK 17 to 19. Varints would cost as little, but decode byte by
// byte, with a branch for each; here the lengths are known before the first word is touched, so that one comparison
// bounds the whole message, and each word is one load and two shifts. Clock is sent as the distance
// from the version of TS because that is where it usually is: it takes no byte in most INVs.
//
// From is not in a message: a channel has one sending incarnation for all its life, which its handshake has
// told, and the transport fills it in. Epoch is in every message although it seldom changes within a
// channel: it changes lane by lane while a member enters a view, so no batch has only one for sure, and one byte
// is cheaper than being wrong.
//
// There is one encoding of each message: leading zero bytes, and zero fields marked as present, are
// refused. So damaged bytes are more likely to be noticed, and a decoded message encodes to the same bytes.
const (
	headLaneShift   = 5
	headBitsShift   = 11
	headFlags       = 1 << 19
	headExptime     = 1 << 20
	headFinisher    = 1 << 21
	headKey         = 1 << 22
	headValueShift  = 23 // 2 bits
	headUnusedShift = 25

	kindMask = 1<<headLaneShift - 1
	laneMask = 1<<(headBitsShift-headLaneShift) - 1
)

// Errors of DecodeMessage; those of meaning are built by checkMessage.
var (
	ErrTruncated  = errors.New("replication: message is cut off")
	errHead       = errors.New("replication: message head has unknown bits or lengths")
	errNotMinimal = errors.New("replication: message is not in its shortest form")
	errValueSize  = fmt.Errorf("replication: message with a value of more than %d bytes", MaxValue)
)

// MessageBound is the most bytes that AppendMessage takes for m, and never less than the capacity that it needs.
func MessageBound(m *Message) int { return codecHeadMax + len(m.Key) + len(m.Value) }

// AppendMessage appends the encoding of m to dst and returns the longer slice, like append. It allocates only
// if dst is too small; capacity for codecHeadMax bytes more than needed may be used. From is not encoded.
// A message that DecodeMessage would refuse is a mistake of the caller's, and panics here, where it can be found.
func AppendMessage(dst []byte, m *Message) []byte {
	if err := checkMessage(m); err != nil {
		panic(err)
	}
	start := len(dst)
	dst = slices.Grow(dst, codecHeadMax+len(m.Key)+len(m.Value))
	b := (*[codecHeadMax]byte)(dst[start : start+codecHeadMax])

	head := uint32(m.Kind) | uint32(m.Lane)<<headLaneShift | uint32(m.Bits)<<headBitsShift
	var lens uint32
	p := 8
	n := putWord(b, p, m.Epoch)
	p, lens = p+n, lens|uint32(n)
	n = putWord(b, p, zigzag(m.Clock-m.TS.Version()))
	p, lens = p+n, lens|uint32(n)<<4
	n = putWord(b, p, m.ID)
	p, lens = p+n, lens|uint32(n)<<8
	n = putWord(b, p, m.TS.Write)
	p, lens = p+n, lens|uint32(n)<<12
	n = putWord(b, p, m.TS.Step)
	p, lens = p+n, lens|uint32(n)<<16
	n = putWord(b, p, m.Newer.Write)
	p, lens = p+n, lens|uint32(n)<<20
	n = putWord(b, p, m.Newer.Step)
	p, lens = p+n, lens|uint32(n)<<24
	n = putWord(b, p, m.CAS)
	p, lens = p+n, lens|uint32(n)<<28

	if m.Flags != 0 {
		head |= headFlags
		binary.LittleEndian.PutUint32(b[p:], m.Flags)
		p += 4
	}
	if m.Exptime != 0 {
		head |= headExptime
		binary.LittleEndian.PutUint32(b[p:], m.Exptime)
		p += 4
	}
	if m.Finisher != 0 {
		head |= headFinisher
		b[p] = m.Finisher
		p++
	}
	if len(m.Key) != 0 {
		head |= headKey
		b[p] = byte(len(m.Key))
		p++
	}
	switch n := len(m.Value); {
	case n == 0:
	case n < 1<<8:
		head |= 1 << headValueShift
		b[p] = byte(n)
		p++
	case n < 1<<16:
		head |= 2 << headValueShift
		binary.LittleEndian.PutUint16(b[p:], uint16(n))
		p += 2
	default:
		head |= 3 << headValueShift
		binary.LittleEndian.PutUint32(b[p:], uint32(n))
		p += 4
	}
	binary.LittleEndian.PutUint64(b[:], uint64(head)|uint64(lens)<<32)
	return append(append(dst[:start+p], m.Key...), m.Value...)
}

// putWord stores v at b[p:] and returns how many bytes of it count; the rest of the eight is overwritten by what
// follows. No word starts later than 14 bytes before the end of b.
func putWord(b *[codecHeadMax]byte, p int, v uint64) int {
	binary.LittleEndian.PutUint64(b[p:], v)
	return (bits.Len64(v) + 7) >> 3
}

// DecodeMessage decodes the message at the beginning of buf into m and returns how many bytes it took. All fields of m are
// set, except From, which is not on the wire. Key and Value point into buf. It does not allocate. The error is
// ErrTruncated if buf holds only the beginning of a message, another if the bytes are no message; then m is undefined.
func DecodeMessage(buf []byte, m *Message) (n int, err error) {
	if len(buf) < 8 {
		return 0, ErrTruncated
	}
	word := binary.LittleEndian.Uint64(buf)
	head, lens := uint32(word), uint32(word>>32)
	// A length above 8 has its bit 3 and one of the lower bits set.
	if head>>headUnusedShift != 0 || lens>>3&(lens|lens>>1|lens>>2)&0x11111111 != 0 {
		return 0, errHead
	}
	pairs := lens&0x0f0f0f0f + lens>>4&0x0f0f0f0f
	words := int(pairs * 0x01010101 >> 24) // their sum, at most 64
	valueClass := head >> headValueShift & 3
	need := 8 + words + int(head>>19&1)*4 + int(head>>20&1)*4 + int(head>>21&1) + int(head>>22&1) + int(1<<valueClass>>1)
	if len(buf) < need {
		return 0, ErrTruncated
	}

	m.Kind = Kind(head & kindMask)
	m.Lane = uint8(head >> headLaneShift & laneMask)
	m.Bits = uint8(head >> headBitsShift)
	p, slack := 8, uint64(0)
	m.Epoch, p, slack = getWord(buf, p, lens&15, slack)
	clock, p, slack := getWord(buf, p, lens>>4&15, slack)
	m.ID, p, slack = getWord(buf, p, lens>>8&15, slack)
	m.TS.Write, p, slack = getWord(buf, p, lens>>12&15, slack)
	m.TS.Step, p, slack = getWord(buf, p, lens>>16&15, slack)
	m.Newer.Write, p, slack = getWord(buf, p, lens>>20&15, slack)
	m.Newer.Step, p, slack = getWord(buf, p, lens>>24&15, slack)
	m.CAS, p, slack = getWord(buf, p, lens>>28, slack)
	m.Clock = unzigzag(clock) + m.TS.Version()

	m.Flags, m.Exptime, m.Finisher = 0, 0, 0
	if head&headFlags != 0 {
		m.Flags = binary.LittleEndian.Uint32(buf[p:])
		slack |= zeroBit(uint64(m.Flags))
		p += 4
	}
	if head&headExptime != 0 {
		m.Exptime = binary.LittleEndian.Uint32(buf[p:])
		slack |= zeroBit(uint64(m.Exptime))
		p += 4
	}
	if head&headFinisher != 0 {
		m.Finisher = buf[p]
		slack |= zeroBit(uint64(m.Finisher))
		p++
	}
	keyLen, valueLen := 0, 0
	if head&headKey != 0 {
		keyLen = int(buf[p])
		slack |= zeroBit(uint64(keyLen))
		p++
	}
	switch valueClass {
	case 1:
		valueLen = int(buf[p])
		slack |= zeroBit(uint64(valueLen))
		p++
	case 2:
		valueLen = int(binary.LittleEndian.Uint16(buf[p:]))
		slack |= zeroBit(uint64(valueLen >> 8))
		p += 2
	case 3:
		valueLen = int(binary.LittleEndian.Uint32(buf[p:]))
		slack |= zeroBit(uint64(valueLen >> 16))
		p += 4
	}
	if slack != 0 {
		return 0, errNotMinimal
	}
	if valueLen > MaxValue {
		return 0, errValueSize
	}
	if len(buf)-p < keyLen+valueLen {
		return 0, ErrTruncated
	}
	m.Key = buf[p : p+keyLen : p+keyLen]
	p += keyLen
	m.Value = buf[p : p+valueLen : p+valueLen]
	p += valueLen
	if err := checkMessage(m); err != nil {
		return 0, err
	}
	return p, nil
}

// getWord loads the n-byte word at buf[p:], which is known to be there, and gathers in slack whether its
// last byte is a zero, which the shortest form does not have.
func getWord(buf []byte, p int, n uint32, slack uint64) (uint64, int, uint64) {
	if n == 0 {
		return 0, p, slack
	}
	var v uint64
	if p+8 <= len(buf) {
		unused := 64 - 8*n
		v = binary.LittleEndian.Uint64(buf[p:]) << unused >> unused
	} else {
		v = getTail(buf[p : p+int(n)])
	}
	return v, p + int(n), slack | zeroBit(v>>(8*n-8))
}

// getTail is getWord for the last bytes of a buffer, where eight cannot be loaded.
func getTail(b []byte) (v uint64) {
	for i, c := range b {
		v |= uint64(c) << (8 * i)
	}
	return v
}

// zeroBit returns a word with bit 63 set if v, below 2^63, is 0, and 0 otherwise.
func zeroBit(v uint64) uint64 { return (v - 1) & (1 << 63) }

// zigzag maps small distances, up or down, to small numbers.
func zigzag(d uint64) uint64   { return d<<1 ^ uint64(int64(d)>>63) }
func unzigzag(z uint64) uint64 { return z>>1 ^ -(z & 1) }

// What a message of each kind has to have. All may have ID and the words of a value's header.
const (
	shapeTS       uint8 = 1 << iota // a time stamp
	shapeKey                        // a key, or BitFlush and none
	shapeMayKey                     // a key is allowed
	shapeMayValue                   // a value is allowed
)

var messageShapes = [32]uint8{
	INV:      shapeTS | shapeKey | shapeMayKey | shapeMayValue,
	ACK:      shapeTS | shapeMayKey,
	NACK:     shapeTS | shapeMayKey | shapeMayValue,
	VAL:      shapeTS | shapeKey | shapeMayKey,
	PROBE:    shapeTS | shapeKey | shapeMayKey,
	STATE:    shapeTS | shapeKey | shapeMayKey | shapeMayValue,
	CLOCKASK: 0,
	CLOCK:    0,
	MARK:     0,
	CREDIT:   0,
	FETCH:    0,
	ENTRY:    shapeTS | shapeKey | shapeMayKey | shapeMayValue,
	FETCHED:  0,
	NEEDROOM: 0,
}

// bitsOf are the bits that belong to one kind of message only.
var bitsOf = [32]uint8{INV: BitReplay, ENTRY: BitInvalid, FETCHED: BitComplete}

const (
	messageBits  = BitTombstone | BitOnAbsent | BitFlush | BitAbsent | BitTired // those that may be in any message
	noValueBits  = BitTombstone | BitFlush | BitAbsent                          // those that say that there is no value
	versionLimit = 1 << 56                                                      // clocks and versions are below it
)

// checkMessage says what is wrong with m, for both ends: what would be refused there is not sent here.
func checkMessage(m *Message) error {
	if m.Kind == 0 || m.Kind >= kindEnd {
		return fmt.Errorf("replication: message of unknown kind %d", m.Kind)
	}
	shape := messageShapes[m.Kind]
	switch {
	case m.Bits&^(messageBits|bitsOf[m.Kind]) != 0:
		return fmt.Errorf("replication: %v with unknown bits %#x", m.Kind, m.Bits)
	case int(m.Lane) >= codecLanes:
		return fmt.Errorf("replication: %v for lane %d of %d", m.Kind, m.Lane, codecLanes)
	case m.Clock >= versionLimit:
		return fmt.Errorf("replication: %v with clock %#x out of range", m.Kind, m.Clock)
	case m.Finisher > MaxMember:
		return fmt.Errorf("replication: %v with finisher %d", m.Kind, m.Finisher)
	case badTimestamp(m.TS), badTimestamp(m.Newer):
		return fmt.Errorf("replication: %v with a time stamp out of range: %#x %#x", m.Kind, m.TS, m.Newer)
	case m.TS.IsZero() && shape&shapeTS != 0:
		return fmt.Errorf("replication: %v without a time stamp", m.Kind)
	case len(m.Key) > MaxKey:
		return fmt.Errorf("replication: %v with a key of %d bytes", m.Kind, len(m.Key))
	case len(m.Key) != 0 && (shape&shapeMayKey == 0 || m.Bits&BitFlush != 0):
		return fmt.Errorf("replication: %v with a key where none belongs", m.Kind)
	case len(m.Key) == 0 && shape&shapeKey != 0 && m.Bits&BitFlush == 0:
		return fmt.Errorf("replication: %v without a key", m.Kind)
	case len(m.Value) > MaxValue:
		return errValueSize
	case len(m.Value) != 0 && (shape&shapeMayValue == 0 || m.Bits&noValueBits != 0):
		return fmt.Errorf("replication: %v with a value where none belongs", m.Kind)
	}
	return nil
}

// badTimestamp reports that ts names a member that cannot be, or a stepper without a step or the reverse.
func badTimestamp(ts table.Timestamp) bool {
	step, stepper := ts.Step>>8, ts.Step&0xff
	return ts.Write&0xff > MaxMember || stepper > MaxMember || (step == 0) != (stepper == 0)
}

// codecLanes is the number of lanes that fits the head's 6 bits: a lane outside cannot be sent.
const codecLanes = table.Lanes

// The head has room for table.Lanes lanes: this array cannot be built otherwise.
var _ [laneMask + 1 - table.Lanes]struct{}
