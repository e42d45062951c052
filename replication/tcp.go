package replication

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

// TCPConfig says what a TCP transport needs. The limits have defaults that suit a group; tests set them lower.
type TCPConfig struct {
	// Self is this life of this replica, until Reset. Its number is 1 to MaxMember, its incarnation not 0. Where peers are
	// listed with any incarnation, incarnations should grow from one life to the next: when two processes claim one number at once, the
	// greater incarnation is believed.
	Self Member
	// Listener listens already where the other members are told to dial, so that a port in use is the caller's one clear line. Its
	// connections are *net.TCPConn. NewTCP takes it over, and closes it also when it fails.
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
	// its channel is broken; 0: 5 s, at least 500 ms, for TCP sends lost bytes again after 200 ms at the earliest. It notices vanished
	// hosts and cut cables, an idle one only after two seconds or more; a process that dies is noticed at once.
	PeerTimeout time.Duration
	// Path is a way for messages that is tried before this connection's own; nil: none. The transport closes it, also when NewTCP fails.
	Path Path
	// NoPath says why Path is nil, where somebody may wonder: for the log, for Channels, and for peers that have one.
	NoPath string
	// PathOnly refuses channels whose messages would have to go over TCP; Path is needed then.
	PathOnly bool
	// HandshakeTimeout is how long a new connection may take to say who it is; 0: 5 s.
	HandshakeTimeout time.Duration
	// HoldTimeout is how long a member that connects and is not among the peers is held, in case SetPeers is about to list it, before it
	// is refused; 0: 1 s. It is at most half of HandshakeTimeout, which the one that is held measures too.
	HoldTimeout time.Duration
}

// Defaults and limits of TCP.
const (
	defaultPeerTimeout      = 5 * time.Second
	minPeerTimeout          = 500 * time.Millisecond
	defaultHandshakeTimeout = 5 * time.Second
	defaultHoldTimeout      = 1 * time.Second

	strangersMax = 128 // connections at once that have not said who they are yet
)

// OutLimitFor is the OutLimit, in bytes, that suits values of up to valueMax bytes. The updates on their way to a member are bounded by its
// credit: two of the largest values, or 16 MiB where that is more (credit.init). The answers to its updates may carry values too, as
// many in the usual case. The rest is for messages without values, which no credit bounds. A member that stays away longer
// than that takes is one that the group waits for anyway.
func OutLimitFor(valueMax int) int { return 64<<20 + 4*valueMax }

var errStartedBefore = errors.New("replication: the transport has been started before")

// Why channels end, as PeerDown is told, that this end does not want any more.
var (
	errTransportClosed = errors.New("this replica closes")
	errReset           = errors.New("this replica begins a new life")
)

// TCP is the Transport over TCP: one connection for each pair of members, dialled by the one with the higher
// number. So there is one direction of setting up, no two connections of a pair cross each other, and who tries
// again after a break is never in question. The price is that a restarted member with a low number waits to be
// dialled, at most redialMax, unless the other is told of it by SetPeers.
//
// What Send encodes gathers in a buffer for each member (tcpChannel); Flush writes it, and what the socket does
// not take is left to that member's writer goroutine. Each channel has one goroutine that reads, and calls the Handler.
type TCP struct {
	cfg   TCPConfig
	log   zerolog.Logger
	peers [MaxMember + 1]atomic.Pointer[tcpPeer] // by number; nil: never listed
	dirty atomic.Uint64                          // bit n: something may wait to be flushed for member n

	handler   Handler
	interrupt func(peer Member) // the handler's, or nothing
	ctx       context.Context   // done: closed
	cancel    context.CancelCauseFunc
	wg        sync.WaitGroup // every goroutine of the transport

	mu       sync.Mutex
	started  bool
	closed   bool
	self     Member
	changed  chan struct{}         // closed by the next SetPeers or Reset: who is held in the handshake is judged again
	arrivals map[Member]*arrival   // those held in the handshake, the latest of each member
	conns    map[net.Conn]struct{} // all that are open, for Close
	said     map[string]struct{}   // what was logged of connections that belong to no member

	strangers atomic.Int64  // connections that have not said who they are yet, or are held
	refused   atomic.Uint64 // connections refused, of members and others
}

// NewTCP checks cfg and returns a transport that does nothing until Start, and has no peers until SetPeers.
func NewTCP(cfg TCPConfig) (*TCP, error) {
	if err := cfg.complete(); err != nil {
		if cfg.Listener != nil {
			_ = cfg.Listener.Close()
		}
		if cfg.Path != nil {
			_ = cfg.Path.Close()
		}
		return nil, err
	}
	t := &TCP{cfg: cfg, self: cfg.Self, log: cfg.Logger, interrupt: func(Member) {}, changed: make(chan struct{}),
		arrivals: make(map[Member]*arrival), conns: make(map[net.Conn]struct{}), said: make(map[string]struct{})}
	t.ctx, t.cancel = context.WithCancelCause(context.Background())
	return t, nil
}

// complete checks the configuration and fills in defaults.
func (cfg *TCPConfig) complete() error {
	if err := checkSelf(cfg.Self); err != nil {
		return err
	}
	switch {
	case cfg.Listener == nil:
		return errors.New("replication: a member of a group needs a listener")
	case cfg.ValueMax < 1 || cfg.ValueMax > MaxValue:
		return fmt.Errorf("replication: ValueMax %d is not in 1..%d", cfg.ValueMax, MaxValue)
	case cfg.OutLimit < 0 || cfg.HandshakeTimeout < 0 || cfg.HoldTimeout < 0:
		return errors.New("replication: OutLimit, HandshakeTimeout and HoldTimeout cannot be negative")
	case cfg.PathOnly && cfg.Path == nil:
		return errors.New("replication: PathOnly needs a Path")
	case cfg.PeerTimeout != 0 && cfg.PeerTimeout < minPeerTimeout:
		return fmt.Errorf("replication: PeerTimeout %v is below %v", cfg.PeerTimeout, minPeerTimeout)
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
	if cfg.HoldTimeout == 0 {
		cfg.HoldTimeout = defaultHoldTimeout
	}
	cfg.HoldTimeout = min(cfg.HoldTimeout, cfg.HandshakeTimeout/2)
	return nil
}

// checkSelf says what is wrong with a life of this replica.
func checkSelf(self Member) error {
	switch {
	case self.Number < 1 || self.Number > MaxMember:
		return fmt.Errorf("replication: member number %d is not in 1..%d", self.Number, MaxMember)
	case self.Incarnation == 0:
		return fmt.Errorf("replication: member %d needs an incarnation: 0 stands for any", self.Number)
	}
	return nil
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
	if i, ok := h.(Interrupter); ok {
		t.interrupt = i.Interrupt
	}
	t.wg.Go(t.accept)
	if t.cfg.Path != nil && t.cfg.Path.Revived() != nil {
		t.wg.Go(t.retryPaths)
	}
	for i := range t.peers {
		if p := t.peers[i].Load(); p != nil && p.listing != nil {
			t.attend(p)
		}
	}
	return nil
}

// Send implements Transport. A value above ValueMax is a mistake of the caller's, and panics.
func (t *TCP) Send(to uint8, m *Message) {
	if int(to) >= len(t.peers) {
		return
	}
	p := t.peers[to].Load()
	if p == nil {
		return
	}
	if len(m.Value) > t.cfg.ValueMax {
		panic(fmt.Sprintf("replication: sending a value of %d bytes, more than ValueMax %d", len(m.Value), t.cfg.ValueMax))
	}
	ch := p.channel.Load()
	if ch == nil || !ch.Send(m) {
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
		if ch := t.peers[number].Load().channel.Load(); ch != nil {
			ch.Flush()
		}
	}
}

// Close implements Transport. It ends every channel, with PeerDown, and what has not been written is lost. It must
// not be called from inside a handler call, for it waits for them.
func (t *TCP) Close() error {
	t.mu.Lock()
	first := !t.closed
	if first {
		t.closed = true
		t.cancel(errTransportClosed)
		_ = t.cfg.Listener.Close()
		for conn := range t.conns {
			_ = conn.Close()
		}
	}
	t.mu.Unlock()
	t.wg.Wait()
	if first && t.cfg.Path != nil {
		return t.cfg.Path.Close()
	}
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
