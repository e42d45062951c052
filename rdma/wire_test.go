package rdma

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"testing"

	"hermesd/replication"
)

// fabric joins fake wires of one process, which do what verbs promise and no more: a request's bytes arrive with it, in order; one with an immediate
// value uses up a receive request, and breaks both ends if there is none; a completion is an event only if the queue had been armed before it came, and
// arming holds for one; only signalled requests complete; and bytes, except inlined ones, are read from the ring some time after they were posted, so that who
// writes to them before is found out.
type fabric struct {
	mu    sync.Mutex
	wires map[uint64]*fakeWire
	last  uint64
	open  int // wires that have not been closed
}

type fakeWire struct {
	fabric     *fabric
	id         uint64
	send, recv []byte
	inline     int
	onPost     func(first uint64, requests []request) error // a test's; nil: what verbs do
	silent     bool                                         // nothing completes any more

	// Guarded by the fabric's mu.
	peer     *fakeWire
	receives int
	slots    int
	cq       []completion
	armed    bool
	event    bool
	woken    bool
	closed   bool
	broken   bool
	changed  sync.Cond
	held     []heldSend // posted, and not sent yet
}

type heldSend struct {
	request
	id     uint64
	inline []byte
}

func newFabric() *fabric { return &fabric{wires: make(map[uint64]*fakeWire)} }

func (f *fabric) newWire(o *Options) *fakeWire {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last++
	f.open++
	w := &fakeWire{fabric: f, id: f.last, send: make([]byte, o.RingBytes), recv: make([]byte, o.RingBytes), inline: 128,
		receives: o.Depth + reservedReceives + pollMax, slots: o.Depth + reservedSends}
	w.changed.L = &f.mu
	f.wires[w.id] = w
	return w
}

func (w *fakeWire) rings() (send, recv []byte) { return w.send, w.recv }
func (w *fakeWire) inlineMax() int             { return w.inline }

func (w *fakeWire) post(first uint64, requests []request) error {
	if w.onPost != nil {
		return w.onPost(first, requests)
	}
	return w.postNow(first, requests)
}

func (w *fakeWire) postNow(first uint64, requests []request) error {
	w.fabric.mu.Lock()
	defer w.fabric.mu.Unlock()
	if len(requests) > postMax || len(w.held)+len(requests) > w.slots {
		return errors.New("the send queue is full")
	}
	for i, q := range requests {
		if q.flags&requestInline != 0 && int(q.length) > w.inline {
			return errors.New("too long to be inlined")
		}
		h := heldSend{request: q, id: first + uint64(i)}
		if q.flags&requestInline != 0 {
			h.inline = append(h.inline, w.send[q.offset:q.offset+q.length]...)
		}
		w.held = append(w.held, h)
	}
	// The device reads the bytes later, in its own time.
	go func() {
		w.fabric.mu.Lock()
		defer w.fabric.mu.Unlock()
		w.transmit(len(w.held))
	}()
	return nil
}

// transmit sends the first n of what was posted.
func (w *fakeWire) transmit(n int) {
	for ; n > 0; n-- {
		q := w.held[0]
		w.held = w.held[1:]
		p := w.peer
		switch {
		case w.broken || p.broken || p.closed || q.flags&requestImmediate != 0 && p.receives == 0:
			w.broken, p.broken = true, true
			w.complete(completion{id: q.id, status: 12})
			continue
		case w.silent:
			continue
		}
		bytes := w.send[q.offset : q.offset+q.length]
		if q.flags&requestInline != 0 {
			bytes = q.inline
		}
		copy(p.recv[q.offset:], bytes)
		if q.flags&requestImmediate != 0 {
			p.receives--
			p.complete(completion{receive: 1, imm: q.imm, length: q.length})
		}
		if q.flags&requestSignalled != 0 {
			w.complete(completion{id: q.id})
		}
	}
}

func (w *fakeWire) complete(c completion) {
	w.cq = append(w.cq, c)
	if w.armed {
		w.armed, w.event = false, true
		w.changed.Broadcast()
	}
}

func (w *fakeWire) poll(receives int, arm bool, out []completion) (int, error) {
	w.fabric.mu.Lock()
	defer w.fabric.mu.Unlock()
	w.receives += receives
	if arm {
		w.armed = true
	}
	n := copy(out, w.cq)
	w.cq = w.cq[n:]
	return n, nil
}

func (w *fakeWire) wait() error {
	w.fabric.mu.Lock()
	defer w.fabric.mu.Unlock()
	for !w.event && !w.woken {
		w.changed.Wait()
	}
	if w.event = false; w.woken {
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (w *fakeWire) wake() {
	w.fabric.mu.Lock()
	defer w.fabric.mu.Unlock()
	w.woken = true
	w.changed.Broadcast()
}

func (w *fakeWire) why(c *completion) error { return fmt.Errorf("status %d", c.status) }

func (w *fakeWire) close() {
	w.fabric.mu.Lock()
	defer w.fabric.mu.Unlock()
	if w.closed {
		panic("a wire closed twice")
	}
	w.closed = true
	w.fabric.open--
	delete(w.fabric.wires, w.id)
	clear(w.recv) // who reads on shows
}

// fakePath is a replication.Path of fake wires.
type fakePath struct {
	fabric   *fabric
	options  Options
	counters [replication.MaxMember + 1]Counters
	clock    clock
	each     func(w *fakeWire) // a test's, of every wire; nil: nothing
	revived  chan struct{}

	mu        sync.Mutex
	failOpen  error
	failProbe error
}

func newFakePath(f *fabric, o Options) *fakePath {
	if err := o.complete(); err != nil {
		panic(err)
	}
	p := &fakePath{fabric: f, options: o, revived: make(chan struct{})}
	p.clock.start(o.Silence)
	return p
}

func (p *fakePath) Name() string                                    { return "rdma" }
func (p *fakePath) Revived() <-chan struct{}                        { return p.revived }
func (p *fakePath) Stats(peer uint8, f func(name string, v uint64)) { p.counters[peer].each(f) }
func (p *fakePath) Close() error                                    { p.clock.stop(); return nil }

func (p *fakePath) Open(peer uint8, _ netip.Addr) (replication.PathEnd, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failOpen != nil {
		return nil, p.failOpen
	}
	w := p.fabric.newWire(&p.options)
	if p.each != nil {
		p.each(w)
	}
	return &fakeEnd{path: p, peer: peer, wire: w}, nil
}

type fakeEnd struct {
	path *fakePath
	peer uint8
	wire *fakeWire
}

func (e *fakeEnd) Offer() []byte { return binary.LittleEndian.AppendUint64(nil, e.wire.id) }

func (e *fakeEnd) Connect(offer []byte) error {
	f := e.path.fabric
	f.mu.Lock()
	defer f.mu.Unlock()
	peer := f.wires[binary.LittleEndian.Uint64(offer)]
	if peer == nil {
		return errors.New("no such wire")
	}
	e.wire.peer = peer
	return nil
}

func (p *fakePath) setFailOpen(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failOpen = err
}

func (e *fakeEnd) Probe(context.Context) error { return e.path.failProbe }
func (e *fakeEnd) Close()                      { e.wire.close() }

func (e *fakeEnd) Channel(cfg replication.ChannelConfig) replication.Channel {
	e.path.counters[e.peer].channels.Add(1)
	return e.path.clock.watch(newChannel(e.wire, &e.path.options, &e.path.counters[e.peer], 0, cfg))
}

// requireClosed fails if wires are left.
func (f *fabric) requireClosed(t testing.TB) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open != 0 {
		t.Errorf("%d queue pairs are left", f.open)
	}
}
