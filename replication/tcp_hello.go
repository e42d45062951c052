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
// more, answers with its own; the dialler, which made sure of the same before it dialled, calls PeerUp and says
// READY; then the listener calls PeerUp and says READY. What follows are frames (tcp_channel.go); each end may send them as
// soon as it has said READY. In place of any of these, REFUSE tells the other why not, in words for its log.
//
//	magic 8 bytes | protocol version 2 | type 2 | length of payload 4 | payload | CRC-32C of all before 4
//
// The first 16 bytes stay as they are in all versions of the protocol, so that versions can refuse each other in words.
const (
	protocolVersion = 1

	textMax    = 16 << 10        // bytes of a refusal
	lingerTime = 1 * time.Second // for a refusal to arrive

	greetHead = 16
	helloSize = 1 + 1 + 2 + 8 + 4 + 32
)

var greetMagic = [8]byte{'h', 'e', 'r', 'm', 'e', 's', 'd', '\n'}

type greeting uint16

const (
	greetHello greeting = 1 + iota
	greetReady
	greetRefuse
)

// hello is the payload of HELLO: number 1 byte, to 1, lanes 2, incarnation 8, valueMax 4, group 32.
type hello struct {
	from     Member
	to       uint8 // whom the sender believes to talk to
	lanes    uint16
	valueMax uint32
	group    [32]byte // SHA-256 of groupText
}

// refusal is an error whose text came from the peer, or is meant for it.
type refusal struct {
	text   string
	toPeer bool // we refuse, and the peer is to be told
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

// notOurs is what somebody is told who talks something else to the replication port. It is how a
// memcached client learns of it.
const notOurs = "SERVER_ERROR this is the replication port of hermesd, not the one for clients\r\n"

var errNotOurs = errors.New("it does not speak hermesd's replication protocol")

// appendGreeting appends one message of the handshake.
func appendGreeting(dst []byte, kind greeting, payload []byte) []byte {
	start := len(dst)
	dst = append(dst, greetMagic[:]...)
	dst = binary.LittleEndian.AppendUint16(dst, protocolVersion)
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
	if version != protocolVersion {
		return 0, nil, refuse("it speaks version %d of the replication protocol and this replica version %d: run the same hermesd everywhere",
			version, protocolVersion)
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

func (t *TCP) hello(to uint8) []byte {
	b := make([]byte, 0, helloSize)
	b = append(b, t.cfg.Self.Number, to)
	b = binary.LittleEndian.AppendUint16(b, table.Lanes)
	b = binary.LittleEndian.AppendUint64(b, t.cfg.Self.Incarnation)
	b = binary.LittleEndian.AppendUint32(b, uint32(t.cfg.ValueMax))
	b = append(b, t.digest[:]...)
	return appendGreeting(nil, greetHello, b)
}

// readHello reads a HELLO and refuses what does not belong to this group.
func (t *TCP) readHello(r io.Reader) (hello, error) {
	b, err := expectGreeting(r, greetHello)
	if err != nil {
		return hello{}, err
	}
	if len(b) != helloSize {
		return hello{}, errNotOurs
	}
	h := hello{from: Member{Number: b[0], Incarnation: binary.LittleEndian.Uint64(b[4:])}, to: b[1],
		lanes: binary.LittleEndian.Uint16(b[2:]), valueMax: binary.LittleEndian.Uint32(b[12:]), group: [32]byte(b[16:])}
	return h, t.checkHello(&h)
}

// checkHello gives the reason that helps most: each later check can fail because of what an earlier one names.
func (t *TCP) checkHello(h *hello) error {
	self, group := t.cfg.Self.Number, groupText(t.cfg.Group)
	_, known := t.cfg.Group[h.from.Number]
	switch {
	case h.group != t.digest && !known:
		return refuse("member %d is not in the group of member %d, which is %s", h.from.Number, self, group)
	case h.group != t.digest:
		return refuse("members %d and %d were started with different groups: that of member %d is %s", h.from.Number, self, self, group)
	case h.from.Number == self:
		return refuse("both ends are member %d: give every replica a number of its own", self)
	case !known:
		return refuse("member %d is not in the group %s", h.from.Number, group)
	case h.to != self:
		return refuse("member %d looks for member %d at the address of member %d: see that each replica listens where the group %s says",
			h.from.Number, h.to, self, group)
	case h.lanes != table.Lanes:
		return refuse("member %d has %d lanes and member %d has %d: run the same hermesd everywhere", h.from.Number, h.lanes, self, table.Lanes)
	case int(h.valueMax) != t.cfg.ValueMax:
		return refuse("member %d takes values up to %d bytes and member %d up to %d: give all replicas the same item size limit",
			h.from.Number, h.valueMax, self, t.cfg.ValueMax)
	}
	return nil
}

// tellRefusal tells the other end why its connection is refused, as far as it has to be told, and ends it so that the text arrives.
func tellRefusal(conn *net.TCPConn, err error) {
	var r *refusal
	_ = conn.SetDeadline(time.Now().Add(lingerTime))
	switch {
	case errors.As(err, &r) && r.toPeer:
		_, _ = conn.Write(appendGreeting(nil, greetRefuse, shorten(r.text)))
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
