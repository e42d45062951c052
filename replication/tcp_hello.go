package replication

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"time"
	"unicode"

	"hermesd/table"
)

// The handshake. The dialler says HELLO; the listener, once nothing of an earlier channel with that member can be delivered any
// more, answers with its own; if both have a path, they agree on whether to use it (tcp_path.go); the dialler, which made sure of the same
// before it dialled, calls PeerUp and says READY; then the listener calls PeerUp and says READY. What follows are frames (tcp_channel.go); each end may send them as
// soon as it has said READY. In place of any of these, REFUSE tells the other why not, in words for its log; NOTYET does so
// where the reason may pass by itself.
//
// Each HELLO names both lives, so that a member never takes one incarnation for another. A listener that does not find the dialler among its
// peers, or is not the incarnation that the dialler looks for, holds it for HoldTimeout: views do not reach all members at one time.
//
//	magic 8 bytes | protocol version 2 | type 2 | length of payload 4 | payload | CRC-32C of all before 4
//
// The first 16 bytes stay as they are in all versions of the protocol, so that versions can refuse each other in words.
const (
	// ProtocolVersion is that of the messages between replicas. All of a group must have the same.
	ProtocolVersion = 3

	textMax    = 16 << 10        // bytes of a refusal
	lingerTime = 1 * time.Second // for a refusal to arrive

	greetHead = 16
	helloSize = 1 + 1 + 2 + 8 + 8 + 4 + 1 // without the reason
)

var greetMagic = [8]byte{'h', 'e', 'r', 'm', 'e', 's', 'd', '\n'}

type greeting uint16

const (
	greetHello greeting = 1 + iota
	greetReady
	greetRefuse
	greetNotYet
	greetPath
)

// hello is the payload of HELLO: number 1 byte, number of to 1, lanes 2, incarnation 8, incarnation of to 8, valueMax 4, path 1 (0 or 1), and if it is
// 0 the reason, in words.
type hello struct {
	from     Member
	to       Member // whom the sender believes to talk to; incarnation 0: any
	lanes    uint16
	valueMax uint32
	path     bool   // the sender has a path, and which it is the PATH messages tell
	noPath   string // why it has none
}

// refusal is an error whose text came from the peer, or is meant for it.
type refusal struct {
	text   string
	toPeer bool // we refuse, and the peer is to be told
	notYet bool // it may be worth trying again soon: a view may be on its way to the one that refuses
}

func (r *refusal) Error() string {
	if r.toPeer {
		return r.text
	}
	return "it refuses: " + r.text
}

func refuse(format string, args ...any) error {
	return &refusal{text: fmt.Sprintf(format, args...), toPeer: true}
}

func refuseYet(format string, args ...any) error {
	return &refusal{text: fmt.Sprintf(format, args...), toPeer: true, notYet: true}
}

// isNotYet reports whether err is a refusal, by either end, that may pass by itself.
func isNotYet(err error) bool {
	var r *refusal
	return errors.As(err, &r) && r.notYet
}

// notOurs is what somebody is told who talks something else to the replication port. It is how a
// memcached client learns of it.
const notOurs = "SERVER_ERROR this is the replication port of hermesd, not the one for clients\r\n"

var errNotOurs = errors.New("it does not speak hermesd's replication protocol")

// appendGreeting appends one message of the handshake.
func appendGreeting(dst []byte, kind greeting, payload []byte) []byte {
	start := len(dst)
	dst = append(dst, greetMagic[:]...)
	dst = binary.LittleEndian.AppendUint16(dst, ProtocolVersion)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(kind))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(payload)))
	dst = append(dst, payload...)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// readGreeting reads one message of the handshake, and no byte more. A REFUSE comes back as an error.
func readGreeting(r io.Reader) (greeting, []byte, error) {
	b := make([]byte, greetHead, greetHead+helloSize+4)
	// Whoever says something else is told so at once, though it may be shorter than the magic.
	for have := 0; have < len(greetMagic); {
		n, err := r.Read(b[have:len(greetMagic)])
		have += n
		if !bytes.HasPrefix(greetMagic[:], b[:have]) {
			return 0, nil, errNotOurs
		}
		if err != nil && have < len(greetMagic) {
			return 0, nil, err
		}
	}
	if _, err := io.ReadFull(r, b[len(greetMagic):]); err != nil {
		return 0, nil, err
	}
	version, kind, length := binary.LittleEndian.Uint16(b[8:]), greeting(binary.LittleEndian.Uint16(b[10:])), binary.LittleEndian.Uint32(b[12:])
	if length > textMax {
		return 0, nil, errNotOurs
	}
	b = append(b, make([]byte, length+4)...)
	if _, err := io.ReadFull(r, b[greetHead:]); err != nil {
		return 0, nil, err
	}
	end := len(b) - 4
	if crc32.Checksum(b[:end], castagnoli) != binary.LittleEndian.Uint32(b[end:]) {
		return 0, nil, errNotOurs
	}
	payload := b[greetHead:end]
	// A refusal is understood whatever the version: it may be about that.
	if kind == greetRefuse {
		return 0, nil, &refusal{text: printable(payload)}
	}
	if version != ProtocolVersion {
		return 0, nil, refuse("it speaks version %d of the replication protocol and this replica version %d: run the same hermesd everywhere",
			version, ProtocolVersion)
	}
	if kind == greetNotYet {
		return 0, nil, &refusal{text: printable(payload), notYet: true}
	}
	return kind, payload, nil
}

// expectGreeting is readGreeting for a message that must be of one kind.
func expectGreeting(r io.Reader, want greeting) ([]byte, error) {
	kind, payload, err := readGreeting(r)
	if err == nil && kind != want {
		err = fmt.Errorf("handshake message of kind %d instead of %d", kind, want)
	}
	return payload, err
}

// hello is the HELLO of self to a peer.
func (t *TCP) hello(self, to Member) []byte {
	b := make([]byte, 0, helloSize)
	b = append(b, self.Number, to.Number)
	b = binary.LittleEndian.AppendUint16(b, table.Lanes)
	b = binary.LittleEndian.AppendUint64(b, self.Incarnation)
	b = binary.LittleEndian.AppendUint64(b, to.Incarnation)
	b = binary.LittleEndian.AppendUint32(b, uint32(t.cfg.ValueMax))
	if t.cfg.Path != nil {
		b = append(b, 1)
	} else {
		b = append(append(b, 0), shorten(t.cfg.NoPath)...)
	}
	return appendGreeting(nil, greetHello, b)
}

// readHello reads a HELLO.
func readHello(r io.Reader) (hello, error) {
	b, err := expectGreeting(r, greetHello)
	if err != nil {
		return hello{}, err
	}
	if len(b) < helloSize || b[helloSize-1] > 1 {
		return hello{}, errNotOurs
	}
	return hello{from: Member{Number: b[0], Incarnation: binary.LittleEndian.Uint64(b[4:])},
		to:    Member{Number: b[1], Incarnation: binary.LittleEndian.Uint64(b[12:])},
		lanes: binary.LittleEndian.Uint16(b[2:]), valueMax: binary.LittleEndian.Uint32(b[20:]),
		path: b[helloSize-1] == 1, noPath: printable(b[helloSize:])}, nil
}

// checkHello refuses what no view can mend. It gives the reason that helps most: each later check can fail because of what an earlier
// one names.
func (t *TCP) checkHello(h *hello, self uint8) error {
	switch {
	case h.from.Number < 1 || h.from.Number > MaxMember || h.from.Incarnation == 0:
		return refuse("there is no member %d of incarnation %d", h.from.Number, h.from.Incarnation)
	case h.from.Number == self:
		return refuse("both ends are member %d: give every replica a number of its own", self)
	case h.to.Number != self:
		return refuse("member %d looks for member %d at the address of member %d: see that each replica listens where the others are told",
			h.from.Number, h.to.Number, self)
	case h.lanes != table.Lanes:
		return refuse("member %d has %d lanes and member %d has %d: run the same hermesd everywhere", h.from.Number, h.lanes, self, table.Lanes)
	case int(h.valueMax) != t.cfg.ValueMax:
		return refuse("member %d takes values up to %d bytes and member %d up to %d: give all replicas the same item size limit",
			h.from.Number, h.valueMax, self, t.cfg.ValueMax)
	case t.cfg.PathOnly && !h.path:
		return refuse("member %d is to use nothing but %s, and member %d does not: %s", self, t.cfg.Path.Name(), h.from.Number, h.noPath)
	}
	return nil
}

// tellRefusal tells the other end why its connection is refused, as far as it has to be told, and ends it so that the text arrives.
func tellRefusal(conn *net.TCPConn, err error) {
	var r *refusal
	_ = conn.SetDeadline(time.Now().Add(lingerTime))
	switch {
	case errors.As(err, &r) && r.toPeer:
		kind := greetRefuse
		if r.notYet {
			kind = greetNotYet
		}
		_, _ = conn.Write(appendGreeting(nil, kind, shorten(r.text)))
	case errors.Is(err, errNotOurs):
		_, _ = conn.Write([]byte(notOurs))
	default:
		return
	}
	linger(conn)
}

// linger waits until the other end has closed, or the deadline. Closing with bytes unread sends a reset, which can
// overtake what was written last.
func linger(conn *net.TCPConn) {
	_ = conn.CloseWrite()
	_, _ = io.CopyN(io.Discard, conn, 64<<20)
}

func shorten(text string) []byte { return []byte(text[:min(len(text), textMax)]) }

// printable makes text from a peer fit for a log.
func printable(text []byte) string {
	return string(bytes.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text))
}
