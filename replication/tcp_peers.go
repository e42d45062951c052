package replication

import (
	"context"
	"fmt"
	"time"
)

// listing is a peer as one SetPeers listed it, until a later one or Reset ends it. Whatever is done with the peer, dialling, handshake or
// channel, is done under a listing and ends with it.
type listing struct {
	Peer
	self Member          // who this replica was then
	ctx  context.Context // done: ended; its cause says why
	end  context.CancelCauseFunc
	kick chan struct{} // dial now
}

// means reports whether the listing is of this life of its number.
func (l *listing) means(m Member) bool {
	return l.Number == m.Number && (l.Incarnation == m.Incarnation || l.Incarnation == 0)
}

// sleep waits for d, or until there is a reason to dial at once; false: the listing has ended.
func (l *listing) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.kick:
	case <-l.ctx.Done():
	}
	return l.ctx.Err() == nil
}

// SetPeers implements Transport.
func (t *TCP) SetPeers(peers []Peer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	var wanted [MaxMember + 1]Peer
	for _, peer := range peers {
		switch {
		case peer.Number < 1 || peer.Number > MaxMember:
			t.log.Error().Uint8("peer", peer.Number).Msg("replication: a member of that number is ignored: numbers are 1 to 63")
		case peer.Number != t.self.Number:
			wanted[peer.Number] = peer
		}
	}
	for number := range wanted {
		t.list(uint8(number), wanted[number])
	}
	t.judgeAgain()
}

// list makes want, whose number is 0 if there is none, the listing of a number. t.mu is held.
func (t *TCP) list(number uint8, want Peer) {
	p := t.peers[number].Load()
	if p == nil {
		if want.Number == 0 {
			return
		}
		p = newTCPPeer(t, number)
		t.peers[number].Store(p)
	}
	if l := p.listing; l != nil {
		if l.Peer == want {
			select {
			case l.kick <- struct{}{}:
			default: // it knows
			}
			return
		}
		p.listing = nil
		l.end(unlisted(l.Peer, want))
	}
	if want.Number == 0 {
		return
	}
	l := &listing{Peer: want, self: t.self, kick: make(chan struct{}, 1)}
	l.ctx, l.end = context.WithCancelCause(t.ctx)
	p.listing = l
	if t.started {
		t.attend(p)
	}
}

// unlisted says why the listing `was` has ended.
func unlisted(was, now Peer) error {
	switch {
	case now.Number == 0:
		return fmt.Errorf("member %d (incarnation %d) is not in the view any more", was.Number, was.Incarnation)
	case now.Incarnation != was.Incarnation:
		return fmt.Errorf("incarnation %d of member %d takes the place of incarnation %d", now.Incarnation, was.Number, was.Incarnation)
	}
	return fmt.Errorf("the address of member %d changes from %s to %s", was.Number, was.Address, now.Address)
}

// attend has a peer that is listed dialled, if that is this member's part. t.mu is held.
func (t *TCP) attend(p *tcpPeer) {
	if l := p.listing; p.number < l.self.Number {
		t.wg.Go(func() { p.dialLoop(l) })
	}
}

// judgeAgain lets those who are held in the handshake be judged by the peers as they are now. t.mu is held.
func (t *TCP) judgeAgain() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// Reset implements Transport. A self that no replica can be is a mistake of the caller's, and panics.
func (t *TCP) Reset(self Member) {
	if err := checkSelf(self); err != nil {
		panic(err)
	}
	t.mu.Lock()
	t.self = self
	for i := range t.peers {
		if p := t.peers[i].Load(); p != nil && p.listing != nil {
			p.listing.end(errReset)
			p.listing = nil
		}
	}
	t.judgeAgain()
	t.mu.Unlock()
	// Whoever takes a turn after this finds its listing ended, and calls nobody.
	for i := range t.peers {
		if p := t.peers[i].Load(); p != nil {
			p.turn <- struct{}{}
			<-p.turn
		}
	}
}
