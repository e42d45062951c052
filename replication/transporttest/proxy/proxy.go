// Package proxy forwards the TCP connections between the members of a group, and breaks them where a test wants it. One Proxy stands before
// one member: the others are given its address. It reads no more of the protocol than who has dialled.
package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
)

// Proxy forwards connections to the present address of one member.
type Proxy struct {
	listener net.Listener
	wg       sync.WaitGroup

	mu      sync.Mutex
	backend string
	dialled map[uint8][2]*net.TCPConn // by number of the member that dialled
	cut     map[uint8]bool
	closed  bool
}

// New returns a proxy that listens, and ends with the test.
func New(t testing.TB) *Proxy {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: listener, dialled: make(map[uint8][2]*net.TCPConn), cut: make(map[uint8]bool)}
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Address is where the proxy listens, host:port.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Serve says where the member listens; it may change with each life of it.
func (p *Proxy) Serve(backend string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.backend = backend
}

// Break ends the present connection that a member has dialled with resets, so that bytes under way are lost.
func (p *Proxy) Break(number uint8) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.breakNow(number)
}

func (p *Proxy) breakNow(number uint8) {
	for _, end := range p.dialled[number] {
		if end != nil {
			_ = end.SetLinger(0)
			_ = end.Close()
		}
	}
}

// Cut is Break, after which the member does not get through until Heal.
func (p *Proxy) Cut(number uint8) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut[number] = true
	p.breakNow(number)
}

// Heal ends Cut.
func (p *Proxy) Heal(number uint8) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut[number] = false
}

func (p *Proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	for number := range p.dialled {
		p.breakNow(number)
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *Proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() {
			defer conn.Close()
			_ = p.forward(conn.(*net.TCPConn))
		})
	}
}

func (p *Proxy) forward(front *net.TCPConn) error {
	var head [17]byte // of HELLO: its last byte is the number
	if _, err := io.ReadFull(front, head[:]); err != nil {
		return err
	}
	p.mu.Lock()
	address := p.backend
	p.mu.Unlock()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return fmt.Errorf("the member is not there: %w", err)
	}
	defer conn.Close()
	back := conn.(*net.TCPConn)
	if err := p.register(head[16], front, back); err != nil {
		return err
	}
	if _, err := back.Write(head[:]); err != nil {
		return err
	}
	var back2front sync.WaitGroup
	back2front.Go(func() {
		_, _ = io.Copy(front, back)
		_ = front.CloseWrite()
	})
	_, _ = io.Copy(back, front)
	_ = back.CloseWrite()
	back2front.Wait()
	return nil
}

func (p *Proxy) register(number uint8, front, back *net.TCPConn) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.cut[number] {
		return errors.New("cut off")
	}
	p.dialled[number] = [2]*net.TCPConn{front, back}
	return nil
}
