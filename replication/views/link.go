package views

import (
	"errors"
	"net"
	"net/rpc"
	"sync"
	"time"
)

// link is a connection for calls to one server. It is made when it is needed. Calls do not wait for each other.
type link struct {
	address string
	dialer  dialer
	kind    linkKind
	timeout time.Duration // of dialling, and of the oldest call under way: then the connection is taken for dead

	mu      sync.Mutex
	client  caller
	dialing bool
	closed  bool
	waiting []*call            // for the connection
	calls   map[*call]struct{} // under way
}

// caller is one connection of a link.
type caller interface {
	// begin sends a call, and has link.finished called once.
	begin(c *call)
	Close() error // fails the calls that are under way
}

// linkKind is for what a link is: what its connections begin with, and how they work.
type linkKind struct {
	hello byte
	make  func(l *link, conn net.Conn) caller
}

var calls = linkKind{forCalls, func(l *link, conn net.Conn) caller { return &rpcCaller{l, rpc.NewClient(conn)} }}

type call struct {
	method      string // of forCalls
	args, reply any
	done        func(error) // once, from any goroutine; must not block
	began       time.Time
}

var (
	errLinkClosed = errors.New("the connection is closed")
	errLinkStuck  = errors.New("no answer in time")
)

// waitingMax bounds the calls that wait for a connection.
const waitingMax = 64

func newLink(address string, kind linkKind, timeout time.Duration, d dialer) *link {
	return &link{address: address, kind: kind, dialer: d, timeout: timeout, calls: map[*call]struct{}{}}
}

// call begins a call; reply is written before done(nil).
func (l *link) call(method string, args, reply any, done func(error)) {
	c := &call{method: method, args: args, reply: reply, done: done, began: time.Now()}
	l.mu.Lock()
	l.dropIfStuck(c.began)
	if l.closed || len(l.waiting) >= waitingMax {
		l.mu.Unlock()
		done(errLinkClosed)
		return
	}
	if l.client == nil {
		l.waiting = append(l.waiting, c)
		if !l.dialing {
			l.dialing = true
			go l.dial()
		}
		l.mu.Unlock()
		return
	}
	client := l.client
	l.calls[c] = struct{}{}
	l.mu.Unlock()
	client.begin(c)
}

func (l *link) dial() {
	conn, err := l.dialer.open(l.address, string(l.kind.hello), l.timeout)
	l.mu.Lock()
	l.dialing = false
	waiting := l.waiting
	l.waiting = nil
	if err == nil && l.closed {
		conn.Close()
		err = errLinkClosed
	}
	if err != nil {
		l.mu.Unlock()
		for _, c := range waiting {
			c.done(err)
		}
		return
	}
	client := l.kind.make(l, conn)
	l.client = client
	for _, c := range waiting {
		l.calls[c] = struct{}{}
	}
	l.mu.Unlock()
	for _, c := range waiting {
		client.begin(c)
	}
}

// finished is told of the end of a call. After an error that is not an answer the connection is not used any more. The caller holds no lock.
func (l *link) finished(client caller, c *call, err error) {
	l.mu.Lock()
	delete(l.calls, c)
	var refused rpc.ServerError
	broken := err != nil && !errors.As(err, &refused) && l.client == client
	if broken {
		l.client = nil
	}
	l.mu.Unlock()
	if broken {
		client.Close()
	}
	c.done(err)
}

// rpcCaller is a connection of net/rpc.
type rpcCaller struct {
	link *link
	*rpc.Client
}

func (r *rpcCaller) begin(c *call) {
	pending := r.Go(c.method, c.args, c.reply, make(chan *rpc.Call, 1))
	go func() {
		<-pending.Done
		r.link.finished(r, c, pending.Error)
	}()
}

// dropIfStuck ends a connection that gives no answers; l.mu is held. The calls on it fail.
func (l *link) dropIfStuck(now time.Time) {
	if l.client == nil {
		return
	}
	for c := range l.calls {
		if now.Sub(c.began) > l.timeout {
			client := l.client
			l.client = nil
			go client.Close()
			return
		}
	}
}

func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.client != nil {
		client := l.client
		l.client = nil
		go client.Close()
	}
}

// wait makes the call and returns when it is done, or timeout has passed.
func (l *link) wait(method string, args, reply any, timeout time.Duration) error {
	done := make(chan error, 1)
	l.call(method, args, reply, func(err error) { done <- err })
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case err := <-done:
		return err
	case <-t.C:
		return errLinkStuck
	}
}
