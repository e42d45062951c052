package server

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"hermesd/replication"
	"hermesd/textproto"
)

const (
	// maxLoad bounds the operations of one connection that wait for the Store or for their turn to be answered, in bytes of memory
	// that they hold (opCost, and the values that they have brought). With more, its input waits.
	maxLoad = 1 << 20
	// maxHeld bounds the replies of one connection, in bytes, that are held back behind an operation that waits. With more, its
	// input waits.
	maxHeld = 256 << 10
	// keptInput bounds the memory that a connection keeps for beginnings of requests.
	keptInput = 1 << 10
)

// conn is the connection of one client. It outlives its socket for as long as operations of it are in flight.
//
// Three kinds of goroutine come to a connection: the poller with input, whoever completes its operations (Done, Flush), and its
// keeper if it is in trouble. Most of the state is guarded by mu, which a pass holds from beginning to end. Whoever only brings
// something never waits for mu: it leaves that in the state guarded by side and, if mu is held, goes away: the holder looks
// there after releasing it (unlock).
type conn struct {
	s       *Server
	ctx     connContext
	peer    net.Addr
	started time.Time

	thread atomic.Int32 // of its poller, or so we think: set whenever the socket is given to netpoll

	mu     sync.Mutex
	fd     int  // -1 once closed
	gone   bool // netpoll has let go of the socket for good: the client has closed, or half-closed
	broken bool // the socket failed: no output any more

	closing  bool // no more requests are taken; when everything is answered the socket is shut down
	shutDown bool // it has been

	parser   textproto.Parser
	in       []byte // input that has not been run: the beginning of a request, or more if runnable
	runnable bool   // in holds input that was not looked at, since the connection was in trouble
	readPos  int    // where in its buffer netpoll's next read will begin, see socketHasMore

	queue  queue
	load   int    // cost of the operations that are not answered
	unsent []byte // output that the socket did not take; blocked is true then
	// blocked: the socket takes no output, and the keeper is about to wait for it. New output is put behind unsent.
	blocked bool
	barrier bool // a flush_all waits until what was asked before it is done
	yielded bool // the poller has done enough for this client, the keeper shall go on

	// A get that fails at one key says so in place of it, and nothing more.
	silenced bool // of the get whose reply is being sent: what is held back is passed over until its end
	skipping bool // of the get whose line is being run: the keys are passed over until its end
	inSlots  bool // that get has taken slots

	lastCommand uint32 // Unix seconds
	lastOp      textproto.Command

	// trouble: there is a keeper. Set with mu held, cleared with mu and side held.
	trouble atomic.Bool
	// dirty: completed may not be empty.
	dirty atomic.Bool

	side      sync.Mutex // guards what follows; held for moments only
	completed []*replication.Op
	spare     []*replication.Op // memory for the next completed
	arrived   []byte            // input that came while in trouble
	detaching bool              // the socket is being taken out of netpoll
	detached  bool              // it is out, and in the care of the keeper
	wake      chan struct{}     // of the keeper: something has changed
	left      chan struct{}     // of the poller: the socket is out
}

// connContext carries a conn through netpoll, which knows connections by their context.
type connContext struct {
	context.Context
	c *conn
}

func connOf(ctx context.Context) *conn { return ctx.(*connContext).c }

func newConn(s *Server, fd int, peer net.Addr) *conn {
	c := &conn{s: s, fd: fd, peer: peer, started: time.Now()}
	c.ctx = connContext{context.Background(), c}
	c.parser.ItemSizeMax = s.cfg.ItemSizeMax
	c.lastCommand = uint32(c.started.Unix())
	return c
}

// Done takes back an operation that has completed (replication.Client).
func (c *conn) Done(op *replication.Op) replication.Flusher {
	c.side.Lock()
	c.completed = append(c.completed, op)
	c.side.Unlock()
	if c.dirty.Swap(true) {
		return nil // whoever was here before us will flush, and has not begun to
	}
	return c
}

// Flush answers what has completed, unless somebody else is at work for the connection, who will
// (replication.Flusher).
func (c *conn) Flush() {
	if c.dirty.Load() && c.mu.TryLock() {
		c.complete()
		c.unlock()
	}
}

// complete is the pass of operations that have completed. mu is held.
func (c *conn) complete() {
	w := c.s.worker(int(c.thread.Load()))
	c.finish(w)
	c.s.release(w)
}

// unlock releases mu, and stays for what was left on the side meanwhile.
func (c *conn) unlock() {
	for {
		c.mu.Unlock()
		if !c.dirty.Load() || !c.mu.TryLock() {
			return
		}
		c.complete()
	}
}

// finish ends a pass: it takes what has completed meanwhile, sends what there is to send, and sees what is to become of the connection.
func (c *conn) finish(w *worker) {
	if w.submitted { // not by a pass on a poller, which has the flusher do it
		w.submitted = false
		c.s.store.Flush()
	}
	if c.dirty.Load() {
		c.takeCompleted(w)
	}
	c.write(w)
	c.settle()
}

// settle decides, after anything has changed, whether the connection needs a keeper, or has come to its end.
func (c *conn) settle() {
	if c.blocked || c.runnable || c.yielded {
		c.startKeeper()
		return
	}
	if !c.closing && !c.gone || c.queue.waiting > 0 || c.trouble.Load() {
		return
	}
	if c.gone {
		c.closeSocket()
	} else if !c.shutDown {
		// Not a close: netpoll has the socket. It will read the end of the stream now, and let go of it.
		c.shutDown = true
		shutdownSocket(c.fd)
	}
}

// closeSocket is the end of a connection that netpoll does not have any more.
func (c *conn) closeSocket() {
	if c.fd < 0 {
		return
	}
	_ = syscall.Close(c.fd)
	c.fd = -1
	c.in, c.unsent, c.queue.held = nil, nil, nil
	c.s.forget(c)
}

// fail gives up a socket that does not work any more.
func (c *conn) fail() {
	c.broken, c.closing, c.blocked = true, true, false
	c.unsent, c.in, c.runnable = nil, nil, false
}

// mustPause reports whether no further request may be run now.
func (c *conn) mustPause() bool {
	return c.blocked || c.yielded || c.barrier && c.queue.waiting > 0 || c.load > maxLoad || c.queue.heldBytes() > maxHeld
}
