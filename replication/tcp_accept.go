package replication

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// arrival is a connection that has said HELLO and is not served yet. A later one of the same member sends it away: who dials again has given
// up the connection before.
type arrival struct {
	from Member
	gone chan struct{} // closed: sent away
	once sync.Once
}

func (a *arrival) sendAway() { a.once.Do(func() { close(a.gone) }) }

var errOvertaken = errors.New("overtaken by a newer connection")

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
	h, l, err := t.greet(conn)
	t.strangers.Add(-1)
	if err != nil {
		t.turnAway(conn, &h, err)
		return
	}
	p := t.peers[h.from.Number].Load()
	defer func() { <-p.turn }()
	defer context.AfterFunc(l.ctx, func() { _ = conn.Close() })()
	_ = conn.SetDeadline(time.Now().Add(t.cfg.HandshakeTimeout)) // being held and waiting for the turn took some of it
	if _, err = conn.Write(t.hello(l.self, h.from)); err == nil {
		err = p.accepted(conn, l, &h)
	}
	if l.ctx.Err() == nil {
		p.say(l, err)
	}
}

// accepted serves a connection whose HELLO has been answered.
func (p *tcpPeer) accepted(conn *net.TCPConn, l *listing, h *hello) error {
	how, err := p.choosePath(conn, l, h, false)
	if err != nil {
		tellRefusal(conn, err)
		return err
	}
	if _, err = expectGreeting(conn, greetReady); err != nil {
		if how.end != nil {
			how.end.Close()
		}
		return err
	}
	_, err = p.serve(conn, l, h.from, how, false)
	return err
}

// greet reads the HELLO of a fresh connection, waits until its sender is listed, and takes the turn for it.
func (t *TCP) greet(conn *net.TCPConn) (h hello, l *listing, err error) {
	if err = t.prepare(conn); err != nil {
		return h, nil, err
	}
	if h, err = readHello(conn); err != nil {
		return h, nil, err
	}
	a := t.arrive(h.from)
	defer t.depart(a)
	timeout := time.NewTimer(t.cfg.HoldTimeout)
	defer timeout.Stop()
	for {
		var changed <-chan struct{}
		if l, changed, err = t.judge(&h); err == nil {
			err = t.peers[h.from.Number].Load().takeTurn(l, a)
			if err == nil || l.ctx.Err() == nil {
				return h, l, err
			}
			continue // it was listed otherwise meanwhile, or not any more
		}
		if !isNotYet(err) {
			return h, nil, err
		}
		select {
		case <-changed:
		case <-timeout.C:
			return h, nil, err
		case <-a.gone:
			return h, nil, errOvertaken
		case <-t.ctx.Done():
			return h, nil, errTransportClosed
		}
	}
}

// arrive notes that a member has connected anew, and sends away its connection before.
func (t *TCP) arrive(from Member) *arrival {
	a := &arrival{from: from, gone: make(chan struct{})}
	t.mu.Lock()
	defer t.mu.Unlock()
	if before := t.arrivals[from]; before != nil {
		before.sendAway()
	}
	t.arrivals[from] = a
	return a
}

func (t *TCP) depart(a *arrival) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.arrivals[a.from] == a {
		delete(t.arrivals, a.from)
	}
}

// judge says under which listing a member that has connected may have a channel, or why it may not. If that is for now, there is reason to
// ask again when changed is closed.
func (t *TCP) judge(h *hello) (l *listing, changed <-chan struct{}, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, nil, errTransportClosed
	}
	self := t.self
	if err := t.checkHello(h, self.Number); err != nil {
		return nil, nil, err
	}
	if h.from.Number < self.Number {
		return nil, nil, refuse("member %d is dialled by member %d, not the other way round", h.from.Number, self.Number)
	}
	p := t.peers[h.from.Number].Load()
	switch {
	case h.to.Incarnation != self.Incarnation && h.to.Incarnation != 0:
		err = refuseYet("member %d looks for incarnation %d of member %d, which is incarnation %d", h.from.Number, h.to.Incarnation,
			self.Number, self.Incarnation)
	case p == nil || p.listing == nil:
		err = refuseYet("member %d (incarnation %d) is not in the view of member %d", h.from.Number, h.from.Incarnation, self.Number)
	case !p.listing.means(h.from):
		err = refuseYet("member %d (incarnation %d) is not in the view of member %d, which has incarnation %d of it", h.from.Number,
			h.from.Incarnation, self.Number, p.listing.Incarnation)
	default:
		return p.listing, nil, nil
	}
	return nil, t.changed, err
}

// turnAway refuses a connection before it has become a channel.
func (t *TCP) turnAway(conn *net.TCPConn, h *hello, err error) {
	if t.ctx.Err() != nil {
		return
	}
	t.refused.Add(1)
	host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
	reason := plainError(err)
	if errors.Is(err, errOvertaken) { // it has dialled again
		return
	}
	t.sayOnce(host+": "+reason, func() {
		t.log.Warn().Str("from", host).Uint8("peer", h.from.Number).Str("reason", reason).Msg("replication: connection refused")
	})
	tellRefusal(conn, err)
}

// takeTurn waits until nothing of the peer's earlier channel can be delivered any more, having broken that channel: that the
// peer dials again says that it has given it up. Where any incarnation is listed, two processes with the same number would break each
// other's channel for ever: there, only a life that is not older than the one connected is believed.
func (p *tcpPeer) takeTurn(l *listing, a *arrival) error {
	t := p.transport
	t.mu.Lock()
	if p.current != nil {
		if connected := p.current.member.Incarnation; l.Incarnation == 0 && a.from.Incarnation < connected {
			t.mu.Unlock()
			return refuse("a later life of member %d is connected (incarnation %d, this is %d): is another replica running with the same number?",
				a.from.Number, connected, a.from.Incarnation)
		}
		p.current.Break(fmt.Errorf("replaced by a new connection of incarnation %d", a.from.Incarnation))
	}
	if p.next != nil && p.next != a {
		p.next.sendAway()
	}
	p.next = a
	t.mu.Unlock()

	timeout := time.NewTimer(t.cfg.HandshakeTimeout)
	defer timeout.Stop()
	taken := false
	var err error
	select {
	case p.turn <- struct{}{}:
		taken = true
	case <-a.gone:
		err = errOvertaken
	case <-l.ctx.Done():
		err = context.Cause(l.ctx)
	case <-timeout.C:
		err = refuse("the last channel with member %d has not come to its end", a.from.Number)
	}
	t.mu.Lock()
	if p.next == a {
		p.next = nil
	} else if err == nil {
		err = errOvertaken
	}
	t.mu.Unlock()
	if err == nil && l.ctx.Err() != nil {
		err = context.Cause(l.ctx)
	}
	if err != nil && taken {
		<-p.turn
	}
	return err
}
