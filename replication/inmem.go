package replication

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// InmemNetwork joins Transports of one process, for tests with real goroutines. It goes through the codec, so it
// shows what would not survive the wire; it shows a forgotten Flush, because nothing is delivered without; and it spoils the
// buffers that it has handed over, which shows who keeps slices of them. Break, Cut, and Hold are its faults.
type InmemNetwork struct {
	// OutLimit is TCPConfig.OutLimit, which here has no ValueMax to be taken from: NewInmemNetwork sets it for values up to
	// 1 MiB. It is changed before the first transport is started.
	OutLimit int

	mu    sync.Mutex
	pairs map[[2]uint8]*inmemPair
	taken map[uint8]bool // numbers that have a transport that is started and not closed
}

// NewInmemNetwork returns a network that connects whoever starts.
func NewInmemNetwork() *InmemNetwork {
	return &InmemNetwork{OutLimit: OutLimitFor(1 << 20), pairs: make(map[[2]uint8]*inmemPair), taken: make(map[uint8]bool)}
}

// inmemPair is what lies between two members: at most one link at a time, and the faults that a test has ordered.
// Ends are indexed 0 for the lower number and 1 for the higher.
type inmemPair struct {
	mu      sync.Mutex
	changed sync.Cond
	waiting [2]*inmemListing // ends whose last link has ended, PeerDown included
	cut     bool
	held    [2]bool    // what end i has flushed is not delivered
	link    *inmemLink // the present one, or the last
}

// inmemLink is one channel's life. The pair's lock guards it.
type inmemLink struct {
	ends   [2]Member
	broken error
	done   chan struct{} // closed: broken
	pipes  [2]inmemPipe  // pipes[i] is what end i sends
}

type inmemPipe struct {
	enqueued []byte // since the last Flush
	flushed  []byte
	messages uint64
}

// Inmem is a Transport of an InmemNetwork. It needs no addresses, but ends a channel, as it must, when an address changes.
type Inmem struct {
	network   *InmemNetwork
	handler   Handler
	interrupt func(peer Member)
	peers     [MaxMember + 1]atomic.Pointer[inmemPeer] // by number; nil: never listed
	wg        sync.WaitGroup

	mu      sync.Mutex
	self    Member
	started bool
	closed  bool
}

// inmemPeer is what lasts of another member, whatever its incarnation: one end of a pair.
type inmemPeer struct {
	transport *Inmem
	number    uint8 // the peer's
	pair      *inmemPair
	end       int           // our index in the pair
	turn      chan struct{} // held by the listing that handler calls are made for
	listing   *inmemListing // nil: not among the peers; guarded by the transport's mu
	sending   *inmemLink    // what Send uses: from just before PeerUp; guarded by the pair's

	messagesSent, messagesReceived, bytesSent, bytesReceived, batchesReceived, connects, dropped atomic.Uint64
}

// inmemListing is a peer as one SetPeers listed it.
type inmemListing struct {
	Peer
	peer *inmemPeer
	self Member
	over chan struct{} // closed: ended
	// Guarded by the pair's mu.
	ended error      // why
	link  *inmemLink // from the moment that both ends are ready
}

// NewTransport returns a transport for self that has no peers until SetPeers.
func (n *InmemNetwork) NewTransport(self Member) *Inmem {
	if err := checkSelf(self); err != nil {
		panic(err)
	}
	return &Inmem{network: n, self: self, interrupt: func(Member) {}}
}

func (n *InmemNetwork) pair(a, b uint8) *inmemPair {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := [2]uint8{min(a, b), max(a, b)}
	p := n.pairs[key]
	if p == nil {
		p = new(inmemPair)
		p.changed.L = &p.mu
		n.pairs[key] = p
	}
	return p
}

// Break ends the present channel between a and b, if there is one. What was sent and not delivered is lost. The two connect again.
func (n *InmemNetwork) Break(a, b uint8) {
	n.pair(a, b).change(func(p *inmemPair) { p.breakLink(errors.New("broken by the test")) })
}

// Cut breaks the channel between a and b and lets none come about until Heal.
func (n *InmemNetwork) Cut(a, b uint8) {
	n.pair(a, b).change(func(p *inmemPair) {
		p.cut = true
		p.breakLink(errors.New("cut by the test"))
	})
}

// Heal ends Cut.
func (n *InmemNetwork) Heal(a, b uint8) {
	n.pair(a, b).change(func(p *inmemPair) {
		p.cut = false
		p.connect()
	})
}

// Hold keeps back what from sends to to, in this channel and later ones, until Release. A handler call that has begun goes on.
func (n *InmemNetwork) Hold(from, to uint8) { n.hold(from, to, true) }

// Release ends Hold: what was kept back is delivered in order.
func (n *InmemNetwork) Release(from, to uint8) { n.hold(from, to, false) }

func (n *InmemNetwork) hold(from, to uint8, held bool) {
	n.pair(from, to).change(func(p *inmemPair) {
		end := 0
		if from > to {
			end = 1
		}
		p.held[end] = held
	})
}

// change calls f with the pair locked, and wakes all who wait for a change.
func (p *inmemPair) change(f func(p *inmemPair)) {
	p.mu.Lock()
	f(p)
	p.mu.Unlock()
	p.changed.Broadcast()
}

// connect makes a link if both ends wait for one, with each other.
func (p *inmemPair) connect() {
	a, b := p.waiting[0], p.waiting[1]
	if a == nil || b == nil || p.cut || !a.means(b.self) || !b.means(a.self) {
		return
	}
	p.link = &inmemLink{ends: [2]Member{a.self, b.self}, done: make(chan struct{})}
	a.link, b.link = p.link, p.link
	p.waiting = [2]*inmemListing{}
}

// means reports whether the listing is of this life of its number.
func (l *inmemListing) means(m Member) bool {
	return l.Incarnation == m.Incarnation || l.Incarnation == 0
}

func (p *inmemPair) breakLink(reason error) { p.link.breakWith(reason) }

func (link *inmemLink) breakWith(reason error) {
	if link != nil && link.broken == nil {
		link.broken = reason
		close(link.done)
	}
}

// Start implements Transport. The number must not be in use by a transport that has not been closed.
func (t *Inmem) Start(h Handler) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return errTransportClosed
	case t.started:
		return errStartedBefore
	case !t.network.claim(t.self.Number):
		return fmt.Errorf("replication: member %d has been started and not closed", t.self.Number)
	}
	t.started, t.handler = true, h
	if i, ok := h.(Interrupter); ok {
		t.interrupt = i.Interrupt
	}
	for i := range t.peers {
		if p := t.peers[i].Load(); p != nil && p.listing != nil {
			t.wg.Go(p.listing.run)
		}
	}
	return nil
}

// SetPeers implements Transport.
func (t *Inmem) SetPeers(peers []Peer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	var wanted [MaxMember + 1]Peer
	for _, peer := range peers {
		if peer.Number >= 1 && peer.Number <= MaxMember && peer.Number != t.self.Number {
			wanted[peer.Number] = peer
		}
	}
	for number := range wanted {
		t.list(uint8(number), wanted[number])
	}
}

// list makes want, whose number is 0 if there is none, the listing of a number. t.mu is held.
func (t *Inmem) list(number uint8, want Peer) {
	p := t.peers[number].Load()
	if p == nil {
		if want.Number == 0 {
			return
		}
		p = &inmemPeer{transport: t, number: number, turn: make(chan struct{}, 1)}
		p.join(t.self.Number)
		t.peers[number].Store(p)
	}
	if l := p.listing; l != nil {
		if l.Peer == want {
			return
		}
		p.listing = nil
		l.end(unlisted(l.Peer, want))
	}
	if want.Number != 0 {
		p.listing = &inmemListing{Peer: want, peer: p, self: t.self, over: make(chan struct{})}
		if t.started {
			t.wg.Go(p.listing.run)
		}
	}
}

// join makes the peer the end of a pair that has this number.
func (p *inmemPeer) join(self uint8) {
	p.pair = p.transport.network.pair(self, p.number)
	if self > p.number {
		p.end = 1
	}
}

// Reset implements Transport. The number stays.
func (t *Inmem) Reset(self Member) {
	if err := checkSelf(self); err != nil {
		panic(err)
	}
	t.mu.Lock()
	if self.Number != t.self.Number {
		t.mu.Unlock()
		panic(fmt.Sprintf("replication: member %d cannot become member %d", t.self.Number, self.Number))
	}
	t.self = self
	t.endAll(errReset)
	t.mu.Unlock()
	for i := range t.peers {
		if p := t.peers[i].Load(); p != nil {
			p.turn <- struct{}{} // whoever takes it after this finds its listing ended
			<-p.turn
		}
	}
}

// endAll ends what there is with all peers. t.mu is held.
func (t *Inmem) endAll(reason error) {
	for i := range t.peers {
		if p := t.peers[i].Load(); p != nil && p.listing != nil {
			p.listing.end(reason)
			p.listing = nil
		}
	}
}

// claim makes the number the caller's; false: another transport has it.
func (n *InmemNetwork) claim(number uint8) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.taken[number] {
		return false
	}
	n.taken[number] = true
	return true
}

// end ends the listing, and its channel.
func (l *inmemListing) end(reason error) {
	l.peer.pair.change(func(pair *inmemPair) {
		l.ended = reason
		close(l.over)
		if pair.waiting[l.peer.end] == l {
			pair.waiting[l.peer.end] = nil
		}
		l.link.breakWith(reason)
	})
}

// run serves one link after the other until the listing ends.
func (l *inmemListing) run() {
	p := l.peer
	t := p.transport
	p.turn <- struct{}{}
	defer func() { <-p.turn }()
	for {
		link := l.awaitLink()
		if link == nil {
			return
		}
		peer := link.ends[1-p.end]
		if err := t.handler.PeerUp(peer); err != nil {
			p.pair.change(func(*inmemPair) {
				l.link, p.sending = nil, nil
				link.breakWith(fmt.Errorf("member %d refuses: %w", l.self.Number, err))
			})
			select { // not at once: a peer that is refused will be refused again
			case <-l.over:
			case <-time.After(time.Millisecond):
			}
			continue
		}
		p.connects.Add(1)
		var watch sync.WaitGroup
		watch.Go(func() {
			<-link.done
			t.interrupt(peer)
		})
		err := l.serve(link, peer)
		watch.Wait()
		t.handler.PeerDown(peer, err)
	}
}

// awaitLink returns the next link, on which Send works from then on, or nil when the listing has ended.
func (l *inmemListing) awaitLink() *inmemLink {
	p, pair := l.peer, l.peer.pair
	pair.mu.Lock()
	defer pair.mu.Unlock()
	if l.ended == nil {
		pair.waiting[p.end] = l
		pair.connect()
		pair.changed.Broadcast()
	}
	for l.link == nil && l.ended == nil {
		pair.changed.Wait()
	}
	if l.ended != nil {
		l.link = nil // end has broken it
		return nil
	}
	p.sending = l.link
	return l.link
}

// serve hands over what comes until the link breaks, and returns why it did.
func (l *inmemListing) serve(link *inmemLink, peer Member) error {
	p, pair := l.peer, l.peer.pair
	in := &link.pipes[1-p.end]
	var spare []byte
	for {
		pair.mu.Lock()
		for link.broken == nil && (len(in.flushed) == 0 || pair.held[1-p.end]) {
			pair.changed.Wait()
		}
		if link.broken != nil {
			l.link, p.sending = nil, nil
			pair.mu.Unlock()
			return link.broken
		}
		batch := in.flushed
		in.flushed = spare[:0]
		pair.mu.Unlock()

		p.bytesReceived.Add(uint64(len(batch)))
		p.batchesReceived.Add(1)
		p.deliver(link, batch, peer)
		p.transport.handler.EndBatch(peer)
		spare = batch
	}
}

// deliver hands over the messages of a batch, as long as the link lives.
func (p *inmemPeer) deliver(link *inmemLink, batch []byte, peer Member) {
	m := Message{From: peer}
	for rest := batch; len(rest) > 0; {
		n, err := DecodeMessage(rest, &m)
		if err != nil {
			panic(err) // AppendMessage made it
		}
		p.messagesReceived.Add(1)
		p.transport.handler.Receive(&m)
		for i := range rest[:n] {
			rest[i] = 0xdb
		}
		rest = rest[n:]
		select {
		case <-link.done:
			return
		default:
		}
	}
}

// Send implements Transport.
func (t *Inmem) Send(to uint8, m *Message) {
	if int(to) >= len(t.peers) {
		return
	}
	p := t.peers[to].Load()
	if p == nil {
		return
	}
	p.pair.mu.Lock()
	defer p.pair.mu.Unlock()
	if p.sending == nil || p.sending.broken != nil {
		p.dropped.Add(1)
		return
	}
	out := &p.sending.pipes[p.end]
	if limit := t.network.OutLimit; len(out.enqueued)+len(out.flushed) >= limit {
		p.sending.breakWith(errOverflow)
		p.pair.changed.Broadcast()
		return
	}
	before := len(out.enqueued)
	out.enqueued = AppendMessage(out.enqueued, m)
	p.bytesSent.Add(uint64(len(out.enqueued) - before))
	p.messagesSent.Add(1)
}

// Flush implements Transport.
func (t *Inmem) Flush() {
	for i := range t.peers {
		p := t.peers[i].Load()
		if p == nil {
			continue
		}
		p.pair.mu.Lock()
		if p.sending != nil {
			if out := &p.sending.pipes[p.end]; len(out.enqueued) > 0 {
				out.flushed = append(out.flushed, out.enqueued...)
				out.enqueued = out.enqueued[:0]
				p.pair.changed.Broadcast()
			}
		}
		p.pair.mu.Unlock()
	}
}

// Stats implements Transport: peer:NUMBER:NAME for each member that has been listed.
func (t *Inmem) Stats(f func(name string, value uint64)) {
	for i := range t.peers {
		p := t.peers[i].Load()
		if p == nil {
			continue
		}
		prefix := "peer:" + strconv.Itoa(int(p.number)) + ":"
		f(prefix+"bytes_sent", p.bytesSent.Load())
		f(prefix+"messages_sent", p.messagesSent.Load())
		f(prefix+"bytes_received", p.bytesReceived.Load())
		f(prefix+"messages_received", p.messagesReceived.Load())
		f(prefix+"batches_received", p.batchesReceived.Load())
		f(prefix+"connects", p.connects.Load())
		f(prefix+"dropped", p.dropped.Load())
	}
}

// Close implements Transport.
func (t *Inmem) Close() error {
	t.mu.Lock()
	release, number := t.started && !t.closed, t.self.Number
	t.closed = true
	t.endAll(errTransportClosed)
	t.mu.Unlock()
	t.wg.Wait()
	if release {
		t.network.mu.Lock()
		delete(t.network.taken, number)
		t.network.mu.Unlock()
	}
	return nil
}
