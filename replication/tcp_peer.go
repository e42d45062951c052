package replication

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// How often a member that cannot be reached is tried: after redialMin, then twice as long each time up to
// redialMax, each wait between half and all of that, so that a group does not knock in step at one that comes back. While two members get
// through to each other, however often their connection breaks, the waits are shorter, for the group waits for them.
const (
	redialMin   = 20 * time.Millisecond
	redialMax   = 500 * time.Millisecond
	redialAgain = 80 * time.Millisecond // at most, after a channel that both had accepted
	dialTimeout = 2 * time.Second
	steadyAfter = 1 * time.Second // a channel that lived as long makes the waits short again
)

// tcpPeer is what lasts of another member, whatever its incarnation and whether or not it is listed at the time.
type tcpPeer struct {
	transport *TCP
	number    uint8
	channel   atomic.Pointer[liveChannel] // what Send uses; nil: not up
	stats     tcpStats

	// turn is held by the one connection that may be between PeerUp and PeerDown. Who has taken it looks whether its listing has ended.
	turn chan struct{}

	// Guarded by the transport's mu.
	listing *listing     // nil: not among the peers
	current *liveChannel // has the turn
	next    *arrival     // waits for the turn
	said    string       // what was logged last, so that it is not said again at every try
}

func newTCPPeer(t *TCP, number uint8) *tcpPeer {
	return &tcpPeer{transport: t, number: number, turn: make(chan struct{}, 1)}
}

// dialLoop keeps a channel with a member of a lower number as long as it is listed so.
func (p *tcpPeer) dialLoop(l *listing) {
	for wait := redialMin; ; {
		before := p.stats.connects.Load()
		up, err := p.dial(l)
		if l.ctx.Err() != nil {
			return
		}
		p.say(l, err)
		wait = redialAfter(wait, up, p.stats.connects.Load() != before, err)
		if !l.sleep(wait/2 + rand.N(wait/2)) {
			return
		}
		wait = min(2*wait, redialMax)
	}
}

// redialAfter is how long to wait at most after a try whose channel was up for so long, or at least accepted, where wait was due.
func redialAfter(wait, up time.Duration, accepted bool, err error) time.Duration {
	switch {
	case up > steadyAfter, isNotYet(err): // who refuses for now has held us before, which is wait enough
		return redialMin
	case accepted:
		return min(wait, redialAgain)
	}
	return wait
}

// dial sets up one channel and serves it until it ends; up is how long it was a channel.
func (p *tcpPeer) dial(l *listing) (up time.Duration, err error) {
	t := p.transport
	// Nothing of an earlier channel, under another listing, may be delivered once the peer has been told that it is dialled.
	select {
	case p.turn <- struct{}{}:
	case <-l.ctx.Done():
		return 0, context.Cause(l.ctx)
	}
	defer func() { <-p.turn }()
	ctx, cancel := context.WithTimeout(l.ctx, dialTimeout)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", l.Address)
	if err != nil {
		return 0, err
	}
	if !t.track(c) {
		return 0, errTransportClosed
	}
	defer t.release(c)
	defer context.AfterFunc(l.ctx, func() { _ = c.Close() })()
	conn := c.(*net.TCPConn)
	if err := t.prepare(conn); err != nil {
		return 0, err
	}
	if _, err := conn.Write(t.hello(l.self, l.Member)); err != nil {
		return 0, err
	}
	h, err := readHello(conn)
	if err == nil {
		err = t.checkAnswer(&h, l)
	}
	if err != nil {
		tellRefusal(conn, err)
		return 0, err
	}
	how, err := p.choosePath(conn, l, &h, true)
	if err != nil {
		tellRefusal(conn, err)
		return 0, err
	}
	return p.serve(conn, l, h.from, how, true)
}

// checkAnswer says what is wrong with the HELLO of one that was dialled.
func (t *TCP) checkAnswer(h *hello, l *listing) error {
	if err := t.checkHello(h, l.self.Number); err != nil {
		return err
	}
	switch {
	case h.from.Number != l.Number:
		return refuse("member %d answers at the address of member %d", h.from.Number, l.Number)
	case !l.means(h.from):
		return refuse("incarnation %d of member %d answers where member %d looks for incarnation %d", h.from.Incarnation, l.Number,
			l.self.Number, l.Incarnation)
	case h.to != l.self:
		return refuse("member %d answers incarnation %d of member %d, which is incarnation %d", l.Number, h.to.Incarnation, l.self.Number,
			l.self.Incarnation)
	}
	return nil
}

// serve makes a channel of a connection whose HELLOs are exchanged and whose path is chosen, and returns why it ended and how long it was
// up. The caller has the turn, and closes conn when the listing ends.
func (p *tcpPeer) serve(conn *net.TCPConn, l *listing, member Member, how agreed, dialled bool) (up time.Duration, err error) {
	t := p.transport
	// Before anybody can break the channel, which is done by setting a deadline.
	_ = conn.SetDeadline(time.Time{})
	ch, err := p.newChannel(member, conn, how)
	if err != nil {
		return 0, err
	}
	defer ch.Close()
	p.setCurrent(ch)
	defer p.setCurrent(nil)
	if l.ctx.Err() != nil { // Reset may have waited for an earlier turn and returned
		return 0, context.Cause(l.ctx)
	}
	defer context.AfterFunc(l.ctx, func() { ch.Break(context.Cause(l.ctx)) })()
	p.channel.Store(ch)
	if err := t.handler.PeerUp(member); err != nil {
		p.channel.Store(nil)
		t.refused.Add(1)
		err = refuse("member %d refuses: %v", l.self.Number, err)
		tellRefusal(conn, err)
		return 0, err
	}
	began := time.Now()
	if _, err = conn.Write(appendGreeting(nil, greetReady, nil)); err == nil {
		var others sync.WaitGroup
		others.Go(func() {
			ch.Write()
			t.interrupt(member)
		})
		ch.Open()
		if err = p.ready(ch, l, dialled); err == nil {
			if how.end != nil {
				others.Go(ch.watchLifeLine)
			}
			err = ch.Read(t.handler)
		}
		ch.Break(err)
		others.Wait()
	}
	p.channel.Store(nil)
	ch.Break(err)
	_ = conn.Close() // the peer need not wait for our handler to learn of it
	if err = ch.Cause(); l.ctx.Err() != nil {
		err = context.Cause(l.ctx)
	}
	t.handler.PeerDown(member, err)
	return time.Since(began), err
}

// ready waits until the peer has accepted the channel.
func (p *tcpPeer) ready(ch *liveChannel, l *listing, dialled bool) error {
	if dialled {
		// The listener tells its handler only now that we are ready, and may yet refuse.
		if _, err := expectGreeting(ch.conn, greetReady); err != nil {
			return err
		}
	}
	p.stats.connects.Add(1)
	p.say(l, nil)
	event := p.transport.log.Info().Uint8("peer", p.number).Uint64("incarnation", ch.member.Incarnation).
		Str("address", ch.conn.RemoteAddr().String()).Str("transport", ch.path)
	if ch.why != "" {
		event = event.Str("transport_reason", ch.why)
	}
	event.Msg("replication: connected")
	return nil
}

func (p *tcpPeer) setCurrent(ch *liveChannel) {
	p.transport.mu.Lock()
	p.current = ch
	p.transport.mu.Unlock()
}

// say logs why there is no channel with the peer, unless that was the last thing logged of it; nil: there is one.
func (p *tcpPeer) say(l *listing, err error) {
	text := ""
	if err != nil {
		text = plainError(err)
	}
	p.transport.mu.Lock()
	news := text != p.said
	p.said = text
	p.transport.mu.Unlock()
	if news && err != nil {
		p.transport.log.Warn().Uint8("peer", p.number).Uint64("incarnation", l.Incarnation).Str("address", l.Address).Str("reason", text).
			Msg("replication: not connected; trying again")
	}
}

// sayOnce calls log unless it has been called with the same text before. It forgets when much has been said.
func (t *TCP) sayOnce(text string, log func()) {
	const remembered = 256
	t.mu.Lock()
	_, known := t.said[text]
	if !known {
		if len(t.said) >= remembered {
			clear(t.said)
		}
		t.said[text] = struct{}{}
	}
	t.mu.Unlock()
	if !known {
		log()
	}
}

// plainError is err's text without the ports of this connection, which differ from one try to the next.
func plainError(err error) string {
	var op *net.OpError
	var call *os.SyscallError
	errors.As(err, &op)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "it did not finish the handshake in time"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "it closed the connection"
	case errors.As(err, &call) && (op == nil || op.Op != "dial"):
		return call.Error()
	case op != nil && op.Op != "dial":
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}

// prepare sets a fresh connection's options, and the time by which its handshake must be done.
func (t *TCP) prepare(conn *net.TCPConn) error {
	// Probes after half of PeerTimeout of silence; the user timeout ends the connection once they have
	// gone unanswered for all of it. The kernel takes whole seconds here.
	probe := net.KeepAliveConfig{Enable: true, Idle: max(t.cfg.PeerTimeout/2, time.Second),
		Interval: max(t.cfg.PeerTimeout/8, time.Second), Count: 4}
	return errors.Join(conn.SetNoDelay(true), conn.SetKeepAliveConfig(probe), setUserTimeout(conn, t.cfg.PeerTimeout),
		conn.SetDeadline(time.Now().Add(t.cfg.HandshakeTimeout)))
}
