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
	waiting [2]*inmemPeer // those whose last link has ended, PeerDown included
	link    *inmemLink    // the present one, or the last
	cut     bool
	held    [2]bool // what end i has flushed is not delivered
}

// inmemLink is one channel's life. The pair's lock guards it.
type inmemLink struct {
	ends   [2]Member
	broken error
	pipes  [2]inmemPipe // pipes[i] is what end i sends
}

type inmemPipe struct {
	enqueued []byte // since the last Flush
	flushed  []byte
	messages uint64
}

// Inmem is a Transport of an InmemNetwork.
type Inmem struct {
	network *InmemNetwork
	self    Member
	handler Handler
	peers   [MaxMember + 1]*inmemPeer
	done    chan struct{}
	closing sync.Once
	wg      sync.WaitGroup

	mu      sync.Mutex
	started bool
	closed  bool
}

// inmemPeer is one end of a pair.
type inmemPeer struct {
	transport *Inmem
	number    uint8 // the peer's
	pair      *inmemPair
	end       int        // our index in the pair
	link      *inmemLink // from the moment that both ends are ready
	sending   *inmemLink // what Send uses: from just before PeerUp
	closed    bool

	messagesSent, messagesReceived, bytesSent, bytesReceived, batchesReceived, connects, dropped atomic.Uint64
}

// NewTransport returns a transport for self in a group of these numbers; self may be among them.
func (n *InmemNetwork) NewTransport(self Member, group ...uint8) *Inmem {
	t := &Inmem{network: n, self: self, done: make(chan struct{})}
	for _, number := range group {
		if number != self.Number {
			p := &inmemPeer{transport: t, number: number, pair: n.pair(self.Number, number)}
			if self.Number > number {
				p.end = 1
			}
			t.peers[number] = p
		}
	}
	return t
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

// connect makes a link if both ends wait for one.
func (p *inmemPair) connect() {
	a, b := p.waiting[0], p.waiting[1]
	if a == nil || b == nil || p.cut {
		return
	}
	p.link = &inmemLink{ends: [2]Member{a.transport.self, b.transport.self}}
	a.link, b.link = p.link, p.link
	p.waiting = [2]*inmemPeer{}
}

func (p *inmemPair) breakLink(reason error) {
	if p.link != nil && p.link.broken == nil {
		p.link.broken = reason
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
	for _, p := range t.peers {
		if p != nil {
			t.wg.Go(p.run)
		}
	}
	return nil
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

// run serves one link after the other.
func (p *inmemPeer) run() {
	for {
		link := p.awaitLink()
		if link == nil {
			return
		}
		peer := link.ends[1-p.end]
		p.pair.change(func(*inmemPair) { p.sending = link })
		if err := p.transport.handler.PeerUp(peer); err != nil {
			p.pair.change(func(pair *inmemPair) {
				p.link, p.sending = nil, nil
				pair.breakLink(fmt.Errorf("member %d refuses: %w", p.transport.self.Number, err))
			})
			select { // not at once: a peer that is refused will be refused again
			case <-p.transport.done:
			case <-time.After(time.Millisecond):
			}
			continue
		}
		p.connects.Add(1)
		err := p.serve(link, peer)
		p.transport.handler.PeerDown(peer, err)
	}
}

// awaitLink returns the next link, or nil when the transport is closed.
func (p *inmemPeer) awaitLink() *inmemLink {
	pair := p.pair
	pair.mu.Lock()
	defer pair.mu.Unlock()
	pair.waiting[p.end] = p
	pair.connect()
	pair.changed.Broadcast()
	for p.link == nil && !p.closed {
		pair.changed.Wait()
	}
	if p.closed {
		if pair.waiting[p.end] == p {
			pair.waiting[p.end] = nil
		}
		if p.link != nil {
			pair.breakLink(errTransportClosed)
			pair.changed.Broadcast()
		}
		return nil
	}
	return p.link
}

// serve hands over what comes until the link breaks, and returns why it did.
func (p *inmemPeer) serve(link *inmemLink, peer Member) error {
	pair, in := p.pair, &link.pipes[1-p.end]
	m := Message{From: peer}
	var spare []byte
	for {
		pair.mu.Lock()
		for link.broken == nil && (len(in.flushed) == 0 || pair.held[1-p.end]) {
			pair.changed.Wait()
		}
		if link.broken != nil {
			p.link, p.sending = nil, nil
			pair.mu.Unlock()
			return link.broken
		}
		batch := in.flushed
		in.flushed = spare[:0]
		pair.mu.Unlock()

		p.bytesReceived.Add(uint64(len(batch)))
		p.batchesReceived.Add(1)
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
		}
		p.transport.handler.EndBatch(peer)
		spare = batch
	}
}

// Send implements Transport.
func (t *Inmem) Send(to uint8, m *Message) {
	if int(to) >= len(t.peers) || t.peers[to] == nil {
		return
	}
	p := t.peers[to]
	p.pair.mu.Lock()
	defer p.pair.mu.Unlock()
	if p.sending == nil || p.sending.broken != nil {
		p.dropped.Add(1)
		return
	}
	out := &p.sending.pipes[p.end]
	if limit := t.network.OutLimit; len(out.enqueued)+len(out.flushed) >= limit {
		p.pair.breakLink(errOverflow)
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
	for _, p := range t.peers {
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

// Stats implements Transport: peer:NUMBER:NAME for each member.
func (t *Inmem) Stats(f func(name string, value uint64)) {
	for _, p := range t.peers {
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
	started := t.started && !t.closed
	t.closed = true
	t.mu.Unlock()
	t.closing.Do(func() {
		close(t.done)
		for _, p := range t.peers {
			if p != nil {
				p.pair.change(func(pair *inmemPair) {
					p.closed = true
					if p.link != nil {
						pair.breakLink(errTransportClosed)
					}
				})
			}
		}
	})
	t.wg.Wait()
	if started {
		t.network.mu.Lock()
		delete(t.network.taken, t.self.Number)
		t.network.mu.Unlock()
	}
	return nil
}
