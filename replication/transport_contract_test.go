package replication_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"hermesd/replication"
	"hermesd/replication/transporttest"
)

func TestTCPContract(t *testing.T) { transporttest.Run(t, newTCPNetwork) }

func TestInmemContract(t *testing.T) { transporttest.Run(t, newInmemNetwork) }

// inmemNetwork makes the in-memory transports of a group.
type inmemNetwork struct {
	*replication.InmemNetwork
	group []uint8
}

func newInmemNetwork(_ testing.TB, o transporttest.Options) transporttest.Network {
	n := &inmemNetwork{InmemNetwork: replication.NewInmemNetwork()}
	for number := 1; number <= o.Members; number++ {
		n.group = append(n.group, uint8(number))
	}
	if n.OutLimit = o.OutLimit; n.OutLimit == 0 {
		n.OutLimit = replication.OutLimitFor(o.ValueMax)
	}
	return n
}

func (n *inmemNetwork) Transport(_ testing.TB, self replication.Member) replication.Transport {
	return n.NewTransport(self, n.group...)
}

// tcpNetwork makes TCP transports that reach each other through proxies, which can cut a connection anywhere.
type tcpNetwork struct {
	o       transporttest.Options
	group   map[uint8]string
	proxies map[uint8]*proxy
}

func newTCPNetwork(t testing.TB, o transporttest.Options) transporttest.Network {
	n := &tcpNetwork{o: o, group: make(map[uint8]string), proxies: make(map[uint8]*proxy)}
	for number := 1; number <= o.Members; number++ {
		p := newProxy(t)
		n.proxies[uint8(number)], n.group[uint8(number)] = p, p.listener.Addr().String()
	}
	return n
}

func (n *tcpNetwork) Transport(t testing.TB, self replication.Member) replication.Transport {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.proxies[self.Number].serve(listener.Addr().String())
	tcp, err := replication.NewTCP(replication.TCPConfig{Self: self, Group: n.group, Listener: listener,
		Logger: zerolog.Nop(), ValueMax: n.o.ValueMax, OutLimit: n.o.OutLimit})
	if err != nil {
		t.Fatal(err)
	}
	return tcp
}

func (n *tcpNetwork) Break(a, b uint8) { n.proxies[min(a, b)].cut(max(a, b)) }

// proxy forwards connections to the present address of one member.
type proxy struct {
	listener net.Listener
	wg       sync.WaitGroup

	mu      sync.Mutex
	backend string
	dialled map[uint8][2]*net.TCPConn // by number of the member that dialled
	closed  bool
}

func newProxy(t testing.TB) *proxy {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, dialled: make(map[uint8][2]*net.TCPConn)}
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	for _, ends := range p.dialled {
		_, _ = ends[0].Close(), ends[1].Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *proxy) serve(backend string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.backend = backend
}

// cut ends the present connection of the member with resets, so that bytes under way are lost.
func (p *proxy) cut(number uint8) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, end := range p.dialled[number] {
		if end != nil {
			_ = end.SetLinger(0)
			_ = end.Close()
		}
	}
}

func (p *proxy) accept() {
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

func (p *proxy) forward(front *net.TCPConn) error {
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
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return errors.New("closed")
	}
	p.dialled[head[16]] = [2]*net.TCPConn{front, back}
	p.mu.Unlock()
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
