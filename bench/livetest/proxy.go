package livetest

import (
	"io"
	"net"
	"slices"
	"sync"
	"testing"
)

// proxy forwards connections to one address, until it is told to break one.
type proxy struct {
	listener net.Listener
	backend  string
	running  sync.WaitGroup

	mu     sync.Mutex
	links  []*link
	closed bool
}

// link is a connection that is forwarded.
type link struct{ front, back *net.TCPConn }

func newProxy(t testing.TB, backend string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, backend: backend}
	p.running.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *proxy) port() int { return p.listener.Addr().(*net.TCPAddr).Port }

func (p *proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	for _, l := range p.links {
		l.reset()
	}
	p.mu.Unlock()
	p.running.Wait()
}

// cut breaks one of the connections, drawn.
func (p *proxy) cut(draw func(n int) int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.links) == 0 {
		return false
	}
	i := draw(len(p.links))
	p.links[i].reset()
	p.links = slices.Delete(p.links, i, i+1)
	return true
}

// reset closes both ends so that the kernel sends a reset and drops what it has not delivered.
func (l *link) reset() {
	for _, end := range []*net.TCPConn{l.front, l.back} {
		_ = end.SetLinger(0)
		_ = end.Close()
	}
}

func (p *proxy) accept() {
	for {
		front, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.running.Go(func() { p.forward(front.(*net.TCPConn)) })
	}
}

func (p *proxy) forward(front *net.TCPConn) {
	defer front.Close()
	conn, err := net.Dial("tcp", p.backend)
	if err != nil {
		return // the replica is not there: who has dialled learns it by the close
	}
	l := &link{front, conn.(*net.TCPConn)}
	defer l.back.Close()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.links = append(p.links, l)
	p.mu.Unlock()
	var backwards sync.WaitGroup
	backwards.Go(func() {
		_, _ = io.Copy(l.front, l.back)
		_ = l.front.CloseWrite()
	})
	_, _ = io.Copy(l.back, l.front)
	_ = l.back.CloseWrite()
	backwards.Wait()
	p.mu.Lock()
	p.links = slices.DeleteFunc(p.links, func(other *link) bool { return other == l })
	p.mu.Unlock()
}
