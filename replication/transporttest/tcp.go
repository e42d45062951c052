package transporttest

import (
	"net"
	"testing"

	"github.com/rs/zerolog"

	"hermesd/replication"
	"hermesd/replication/transporttest/proxy"
)

// tcpNetwork makes TCP transports that reach each other through proxies, which can cut a connection anywhere.
type tcpNetwork struct {
	o        Options
	path     func(t testing.TB, number uint8) replication.Path
	backends map[uint8]string       // where the members listen
	proxies  map[uint8]*proxy.Proxy // where the others are told to dial
}

// NewTCPNetwork is the Network of replication.NewTCP's transports. path makes the path of a member's channels, which then use nothing else: one that
// fell back to TCP would show nothing of it; nil: none has a path.
func NewTCPNetwork(t testing.TB, o Options, path func(t testing.TB, number uint8) replication.Path) Network {
	n := &tcpNetwork{o: o, path: path, backends: make(map[uint8]string), proxies: make(map[uint8]*proxy.Proxy)}
	for number := 1; number <= o.Members; number++ {
		n.proxies[uint8(number)] = proxy.New(t)
	}
	return n
}

func (n *tcpNetwork) Transport(t testing.TB, self replication.Member) replication.Transport {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.backends[self.Number] = listener.Addr().String()
	n.proxies[self.Number].Serve(n.backends[self.Number])
	cfg := replication.TCPConfig{Self: self, Listener: listener, Logger: zerolog.Nop(), ValueMax: n.o.ValueMax, OutLimit: n.o.OutLimit}
	if n.path != nil {
		cfg.Path, cfg.PathOnly = n.path(t, self.Number), true
	}
	tcp, err := replication.NewTCP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return tcp
}

func (n *tcpNetwork) Address(number uint8) string { return n.proxies[number].Address() }

func (n *tcpNetwork) Move(t testing.TB, number uint8) (closeOld func()) {
	old := n.proxies[number]
	n.proxies[number] = proxy.New(t)
	n.proxies[number].Serve(n.backends[number])
	return func() {
		for other := 1; other <= n.o.Members; other++ {
			old.Cut(uint8(other))
		}
	}
}

func (n *tcpNetwork) Break(a, b uint8) { n.proxies[min(a, b)].Break(max(a, b)) }
