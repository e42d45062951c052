package replication

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

// TCPConfig says what a TCP transport needs. The limits have defaults that suit a group; tests set them lower.
type TCPConfig struct {
	// Self is this life of this replica. Its number must be in Group. Incarnations should grow from one life to the next:
	// when two processes claim one number at once, the greater incarnation is believed.
	Self Member
	// Group gives the replication address, host:port, of every member, self included. It must be the same text in the whole
	// group: members that were started with different groups refuse each other.
	Group map[uint8]string
	// Listener listens at this member's address already, so that a port in use is the caller's one clear line. NewTCP takes it
	// over, and closes it also when it fails. It may be nil in a group of one.
	Listener net.Listener
	// Logger is told of channels set up, lost and refused; a reason that repeats is logged once.
	Logger zerolog.Logger
	// ValueMax is the most bytes of a value, 1 to MaxValue, the same in the whole group.
	ValueMax int

	// OutLimit is the most bytes that may wait for one member beyond what its socket has taken; 0: OutLimitFor(ValueMax). A message
	// that finds so much waiting breaks the channel (the engine then sends again), so that a member that does not read costs bounded
	// memory: OutLimit and one message. What the engine has in flight to one member must therefore be less.
	OutLimit int
	// PeerTimeout is how long a member may leave bytes or keepalive probes unacknowledged, or its receive window closed, before
	// its channel is broken; 0: 5 s, at least 1 s. It notices vanished hosts and cut cables; a process that dies is noticed at once.
	PeerTimeout time.Duration
	// HandshakeTimeout is how long a new connection may take to say who it is; 0: 5 s.
	HandshakeTimeout time.Duration
}

// Defaults and limits of TCP.
const (
	defaultPeerTimeout      = 5 * time.Second
	defaultHandshakeTimeout = 5 * time.Second

	strangersMax = 128 // connections at once that have not said who they are yet
)

// OutLimitFor is the OutLimit, in bytes, that suits values of up to valueMax bytes. The updates on their way to a member are bounded by its
// credit: two of the largest values, or 16 MiB where that is more (credit.init). The answers to its updates may carry values too, as
// many in the usual case. The rest is for messages without values, which no credit bounds. A member that stays away longer
// than that takes is one that the group waits for anyway.
func OutLimitFor(valueMax int) int { return 64<<20 + 4*valueMax }

var errStartedBefore = errors.New("replication: the transport has been started before")

// errTransportClosed is what PeerDown is told when Close ends a channel.
var errTransportClosed = errors.New("this replica closes")

// TCP is the Transport over TCP: one connection for each pair of members, dialled by the one with the higher
// number. So there is one direction of setting up, no two connections of a pair cross each other, and who tries
// again after a break is never in question. The price is that a restarted member with a low number waits to be
// dialled, at most redialMax.
//
// What Send encodes gathers in a buffer for each member (tcpChannel); Flush writes it, and what the socket does
// not take is left to that member's writer goroutine. Each channel has one goroutine that reads, and calls the Handler.
type TCP struct {
	cfg    TCPConfig
	digest [sha256.Size]byte // of Group
	log    zerolog.Logger
	peers  [MaxMember + 1]*tcpPeer // by number; nil: self, or not in the group
	dirty  atomic.Uint64           // bit n: something may wait to be flushed for member n

	handler Handler
	ctx     context.Context // done: closed
	cancel  context.CancelFunc
	wg      sync.WaitGroup // every goroutine of the transport

	mu      sync.Mutex
	started bool
	closed  bool
	conns   map[net.Conn]struct{} // all that are open, for Close
	said    map[string]struct{}   // what was logged of connections that belong to no member

	strangers atomic.Int64  // connections that have not said who they are yet
	refused   atomic.Uint64 // connections refused, of members and others
}

// NewTCP checks cfg and returns a transport that does nothing until Start.
func NewTCP(cfg TCPConfig) (*TCP, error) {
	if err := cfg.complete(); err != nil {
		if cfg.Listener != nil {
			_ = cfg.Listener.Close()
		}
		return nil, err
	}
	t := &TCP{cfg: cfg, log: cfg.Logger, digest: sha256.Sum256([]byte(groupText(cfg.Group))),
		conns: make(map[net.Conn]struct{}), said: make(map[string]struct{})}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	for number, address := range cfg.Group {
		if number != cfg.Self.Number {
			t.peers[number] = newTCPPeer(t, number, address)
		}
	}
	return t, nil
}

// complete checks the configuration and fills in defaults.
func (cfg *TCPConfig) complete() error {
	if _, ok := cfg.Group[cfg.Self.Number]; !ok {
		return fmt.Errorf("replication: member %d is not in its own group %s", cfg.Self.Number, groupText(cfg.Group))
	}
	owners := make(map[string]uint8)
	for number, address := range cfg.Group {
		if number < 1 || number > MaxMember {
			return fmt.Errorf("replication: member number %d is not in 1..%d", number, MaxMember)
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			return fmt.Errorf("replication: address %q of member %d is not host:port: %w", address, number, err)
		}
		if other, ok := owners[address]; ok {
			return fmt.Errorf("replication: members %d and %d have the same address %s", min(number, other), max(number, other), address)
		}
		owners[address] = number
	}
	switch {
	case cfg.Listener == nil && len(cfg.Group) > 1:
		return errors.New("replication: a member of a group needs a listener")
	case cfg.ValueMax < 1 || cfg.ValueMax > MaxValue:
		return fmt.Errorf("replication: ValueMax %d is not in 1..%d", cfg.ValueMax, MaxValue)
	case cfg.OutLimit < 0 || cfg.HandshakeTimeout < 0:
		return errors.New("replication: OutLimit and HandshakeTimeout cannot be negative")
	case cfg.PeerTimeout != 0 && cfg.PeerTimeout < time.Second:
		return fmt.Errorf("replication: PeerTimeout %v is below 1s", cfg.PeerTimeout)
	}
	if cfg.OutLimit == 0 {
		cfg.OutLimit = OutLimitFor(cfg.ValueMax)
	}
	if cfg.PeerTimeout == 0 {
		cfg.PeerTimeout = defaultPeerTimeout
	}
	if cfg.HandshakeTimeout == 0 {
		cfg.HandshakeTimeout = defaultHandshakeTimeout
	}
	return nil
}

// groupText writes a group as --group takes it, members in order. Its digest is what members compare.
func groupText(group map[uint8]string) string {
	var b strings.Builder
	for _, number := range sortedNumbers(group) {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%d=%s", number, group[number])
	}
	return b.String()
}

func sortedNumbers(group map[uint8]string) []uint8 {
	numbers := make([]uint8, 0, len(group))
	for number := range group {
		numbers = append(numbers, number)
	}
	slices.Sort(numbers)
	return numbers
}

// Start implements Transport.
func (t *TCP) Start(h Handler) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return errTransportClosed
	case t.started:
		return errStartedBefore
	}
	t.started, t.handler = true, h
	if t.cfg.Listener != nil {
		t.wg.Go(t.accept)
	}
	for number, p := range t.peers {
		if p != nil && number < int(t.cfg.Self.Number) {
			t.wg.Go(p.dialLoop)
		}
	}
	return nil
}

// Send implements Transport. A value above ValueMax is a mistake of the caller's, and panics.
func (t *TCP) Send(to uint8, m *Message) {
	if int(to) >= len(t.peers) || t.peers[to] == nil {
		return
	}
	if len(m.Value) > t.cfg.ValueMax {
		panic(fmt.Sprintf("replication: sending a value of %d bytes, more than ValueMax %d", len(m.Value), t.cfg.ValueMax))
	}
	p := t.peers[to]
	ch := p.channel.Load()
	if ch == nil || !ch.send(m) {
		p.stats.dropped.Add(1)
		return
	}
	// The bit is set after the bytes lie in the buffer: whoever takes the bit away finds them.
	if bit := uint64(1) << to; t.dirty.Load()&bit == 0 {
		t.dirty.Or(bit)
	}
}

// Flush implements Transport. What another goroutine has sent meanwhile may go along.
func (t *TCP) Flush() {
	if t.dirty.Load() == 0 {
		return
	}
	for dirty := t.dirty.Swap(0); dirty != 0; dirty &= dirty - 1 {
		number := firstMember(dirty)
		if ch := t.peers[number].channel.Load(); ch != nil {
			ch.flush()
		}
	}
}

// Close implements Transport. It ends every channel, with PeerDown, and what has not been written is lost. It must
// not be called from inside a handler call, for it waits for them.
func (t *TCP) Close() error {
	t.mu.Lock()
	if !t.closed {
		t.closed = true
		t.cancel()
		if t.cfg.Listener != nil {
			_ = t.cfg.Listener.Close()
		}
		for conn := range t.conns {
			_ = conn.Close()
		}
	}
	t.mu.Unlock()
	t.wg.Wait()
	return nil
}

// track registers conn so that Close closes it; false: closed already, and conn too.
func (t *TCP) track(conn net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		_ = conn.Close()
		return false
	}
	t.conns[conn] = struct{}{}
	return true
}

// release closes conn and forgets it.
func (t *TCP) release(conn net.Conn) {
	_ = conn.Close()
	t.mu.Lock()
	delete(t.conns, conn)
	t.mu.Unlock()
}

// sleep waits for d; false: the transport was closed meanwhile.
func (t *TCP) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-t.ctx.Done():
		return false
	}
}
