package replication

import (
	"context"
	"errors"
	"fmt"
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

// tcpPeer is another member, whatever its incarnation.
type tcpPeer struct {
	transport *TCP
	number    uint8
	address   string
	channel   atomic.Pointer[tcpChannel] // what Send uses; nil: not up
	stats     tcpStats

	// turn is held by the one connection that may be between PeerUp and PeerDown.
	turn chan struct{}

	mu      sync.Mutex
	current *tcpChannel   // has the turn
	next    chan struct{} // closed to send away the connection that waits for the turn; nil: none waits
	said    string        // what was logged last, so that it is not said again at every try
}

func newTCPPeer(t *TCP, number uint8, address string) *tcpPeer {
	return &tcpPeer{transport: t, number: number, address: address, turn: make(chan struct{}, 1)}
}

// dialLoop keeps a channel with a member of a lower number.
func (p *tcpPeer) dialLoop() {
	t := p.transport
	for wait := redialMin; ; {
		before := p.stats.connects.Load()
		up, err := p.dial()
		if t.ctx.Err() != nil {
			return
		}
		p.say(err)
		if up > steadyAfter {
			wait = redialMin
		} else if p.stats.connects.Load() != before {
			wait = min(wait, redialAgain)
		}
		if !t.sleep(wait/2 + rand.N(wait/2)) {
			return
		}
		wait = min(2*wait, redialMax)
	}
}

// dial sets up one channel and serves it until it ends; up is how long it was a channel.
func (p *tcpPeer) dial() (up time.Duration, err error) {
	t := p.transport
	ctx, cancel := context.WithTimeout(t.ctx, dialTimeout)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", p.address)
	if err != nil {
		return 0, err
	}
	if !t.track(c) {
		return 0, errTransportClosed
	}
	defer t.release(c)
	conn := c.(*net.TCPConn)
	if err := t.prepare(conn); err != nil {
		return 0, err
	}
	if _, err := conn.Write(t.hello(p.number)); err != nil {
		return 0, err
	}
	h, err := t.readHello(conn)
	if err == nil && h.from.Number != p.number {
		err = refuse("member %d answers at the address of member %d", h.from.Number, p.number)
	}
	if err != nil {
		tellRefusal(conn, err)
		return 0, err
	}
	p.turn <- struct{}{} // free: only this goroutine takes it
	defer func() { <-p.turn }()
	return p.serve(conn, h.from, true)
}

// accept takes connections from members of higher numbers.
func (t *TCP) accept() {
	for {
		c, err := t.cfg.Listener.Accept()
		if t.ctx.Err() != nil {
			if err == nil {
				_ = c.Close()
			}
			return
		}
		if err != nil {
			// Out of file descriptors, most likely: others may be given back meanwhile.
			t.sayOnce("accept: "+err.Error(), func() { t.log.Error().Err(err).Msg("replication: cannot accept connections; trying again") })
			t.sleep(redialMax)
			continue
		}
		if t.strangers.Add(1) > strangersMax {
			t.strangers.Add(-1)
			t.refused.Add(1)
			_ = c.Close()
			continue
		}
		conn, ok := c.(*net.TCPConn)
		if !ok || !t.track(conn) {
			t.strangers.Add(-1)
			_ = c.Close()
			continue
		}
		t.wg.Go(func() {
			defer t.release(conn)
			t.welcome(conn)
		})
	}
}

// welcome finds out who has connected, and serves the channel until it ends.
func (t *TCP) welcome(conn *net.TCPConn) {
	stranger := true
	leave := func() {
		if stranger {
			t.strangers.Add(-1)
			stranger = false
		}
	}
	defer leave()
	err := t.prepare(conn)
	if err != nil {
		return
	}
	h, err := t.readHello(conn)
	if err == nil && h.from.Number < t.cfg.Self.Number {
		err = refuse("member %d is dialled by member %d, not the other way round", h.from.Number, t.cfg.Self.Number)
	}
	var p *tcpPeer
	if err == nil {
		p = t.peers[h.from.Number]
		err = p.takeTurn(h.from)
	}
	if err != nil {
		t.turnAway(conn, &h, err)
		return
	}
	defer func() { <-p.turn }()
	leave()
	_ = conn.SetDeadline(time.Now().Add(t.cfg.HandshakeTimeout)) // waiting for the turn took some of it
	if _, err = conn.Write(t.hello(h.from.Number)); err == nil {
		_, err = expectGreeting(conn, greetReady)
	}
	if err == nil {
		_, err = p.serve(conn, h.from, false)
	}
	if t.ctx.Err() == nil {
		p.say(err)
	}
}

// turnAway refuses a connection before it has become a channel.
func (t *TCP) turnAway(conn *net.TCPConn, h *hello, err error) {
	if t.ctx.Err() != nil {
		return
	}
	t.refused.Add(1)
	host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
	reason := plainError(err)
	t.sayOnce(host+": "+reason, func() {
		t.log.Warn().Str("from", host).Uint8("peer", h.from.Number).Str("reason", reason).Msg("replication: connection refused")
	})
	tellRefusal(conn, err)
}

// takeTurn waits until nothing of the peer's earlier channel can be delivered any more, having broken that channel: that the
// peer dials again says that it has given it up. Two processes with the same number would break each other's channel for ever:
// only a life that is not older than the one connected is believed.
func (p *tcpPeer) takeTurn(from Member) error {
	gone := make(chan struct{})
	p.mu.Lock()
	if p.current != nil {
		if connected := p.current.member.Incarnation; from.Incarnation < connected {
			p.mu.Unlock()
			return refuse("a later life of member %d is connected (incarnation %d, this is %d): is another replica running with the same number?",
				from.Number, connected, from.Incarnation)
		}
		p.current.breakWith(fmt.Errorf("replaced by a new connection of incarnation %d", from.Incarnation))
	}
	if p.next != nil {
		close(p.next)
	}
	p.next = gone
	p.mu.Unlock()

	timeout := time.NewTimer(p.transport.cfg.HandshakeTimeout)
	defer timeout.Stop()
	var err error
	select {
	case p.turn <- struct{}{}:
	case <-gone:
		return errors.New("overtaken by a newer connection")
	case <-p.transport.ctx.Done():
		err = errTransportClosed
	case <-timeout.C:
		err = refuse("the last channel with member %d has not come to its end", from.Number)
	}
	p.mu.Lock()
	overtaken := p.next != gone
	if !overtaken {
		p.next = nil
	}
	p.mu.Unlock()
	if err == nil && overtaken {
		<-p.turn
		err = errors.New("overtaken by a newer connection")
	}
	return err
}

// serve makes a channel of a connection whose HELLOs are exchanged, and returns why it ended and how long it was up.
// The caller has the turn.
func (p *tcpPeer) serve(conn *net.TCPConn, member Member, dialled bool) (up time.Duration, err error) {
	t := p.transport
	// Before anybody can break the channel, which is done by setting a deadline.
	_ = conn.SetDeadline(time.Time{})
	ch, err := newTCPChannel(p, member, conn)
	if err != nil {
		return 0, err
	}
	p.setCurrent(ch)
	defer p.setCurrent(nil)
	p.channel.Store(ch)
	if err := t.handler.PeerUp(member); err != nil {
		p.channel.Store(nil)
		t.refused.Add(1)
		err = refuse("member %d refuses: %v", t.cfg.Self.Number, err)
		tellRefusal(conn, err)
		return 0, err
	}
	began := time.Now()
	if _, err = conn.Write(appendGreeting(nil, greetReady, nil)); err == nil {
		var writer sync.WaitGroup
		writer.Go(ch.writer)
		ch.open()
		err = p.receive(ch, dialled)
		ch.breakWith(err)
		writer.Wait()
	}
	p.channel.Store(nil)
	ch.breakWith(err)
	_ = conn.Close() // the peer need not wait for our handler to learn of it
	if err = ch.cause(); t.ctx.Err() != nil {
		err = errTransportClosed
	}
	t.handler.PeerDown(member, err)
	return time.Since(began), err
}

// receive reads from the channel until it ends.
func (p *tcpPeer) receive(ch *tcpChannel, dialled bool) error {
	if dialled {
		// The listener tells its handler only now that we are ready, and may yet refuse.
		if _, err := expectGreeting(ch.conn, greetReady); err != nil {
			return err
		}
	}
	p.stats.connects.Add(1)
	p.say(nil)
	p.transport.log.Info().Uint8("peer", p.number).Uint64("incarnation", ch.member.Incarnation).
		Str("address", ch.conn.RemoteAddr().String()).Msg("replication: connected")
	return ch.read(p.transport.handler)
}

func (p *tcpPeer) setCurrent(ch *tcpChannel) {
	p.mu.Lock()
	p.current = ch
	p.mu.Unlock()
}

// say logs why there is no channel with the peer, unless that was the last thing logged of it; nil: there is one.
func (p *tcpPeer) say(err error) {
	text := ""
	if err != nil {
		text = plainError(err)
	}
	p.mu.Lock()
	news := text != p.said
	p.said = text
	p.mu.Unlock()
	if news && err != nil {
		p.transport.log.Warn().Uint8("peer", p.number).Str("address", p.address).Str("reason", text).
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
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "it did not finish the handshake in time"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "it closed the connection"
	case errors.As(err, &op) && op.Op != "dial":
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
