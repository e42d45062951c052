package views

import (
	"errors"
	"net/rpc"
	"sync"
	"time"
)

// link is the connection for calls to one server. It is made when it is needed. Calls do not wait for each other.
type link struct {
	address string
	dialer  dialer
	timeout time.Duration // of dialling, and of the oldest call under way: then the connection is taken for dead

	mu      sync.Mutex
	client  *rpc.Client
	dialing bool
	closed  bool
	waiting []*call            // for the connection
	calls   map[*call]struct{} // under way
}

type call struct {
	method      string
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

func newLink(address string, timeout time.Duration, d dialer) *link {
	return &link{address: address, dialer: d, timeout: timeout, calls: map[*call]struct{}{}}
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
	l.send(client, c)
}

func (l *link) dial() {
	conn, err := l.dialer.open(l.address, string(forCalls), l.timeout)
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
	client := rpc.NewClient(conn)
	l.client = client
	for _, c := range waiting {
		l.calls[c] = struct{}{}
	}
	l.mu.Unlock()
	for _, c := range waiting {
		l.send(client, c)
	}
}

func (l *link) send(client *rpc.Client, c *call) {
	pending := client.Go(c.method, c.args, c.reply, make(chan *rpc.Call, 1))
	go func() {
		<-pending.Done
		l.mu.Lock()
		delete(l.calls, c)
		var refused rpc.ServerError
		if pending.Error != nil && !errors.As(pending.Error, &refused) && l.client == client {
			l.client = nil
			client.Close()
		}
		l.mu.Unlock()
		c.done(pending.Error)
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
