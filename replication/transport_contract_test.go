package replication_test

import (
	"fmt"
	"net"
	"testing"

	"github.com/rs/zerolog"

	"hermesd/replication"
	"hermesd/replication/transporttest"
	"hermesd/replication/transporttest/proxy"
)

func TestTCPContract(t *testing.T) { transporttest.Run(t, newTCPNetwork) }

func TestInmemContract(t *testing.T) { transporttest.Run(t, newInmemNetwork) }

// inmemNetwork makes the in-memory transports of a group. Their addresses are only names.
type inmemNetwork struct {
	*replication.InmemNetwork
	moves [replication.MaxMember + 1]int
}

func newInmemNetwork(_ testing.TB, o transporttest.Options) transporttest.Network {
	n := &inmemNetwork{InmemNetwork: replication.NewInmemNetwork()}
	if n.OutLimit = o.OutLimit; n.OutLimit == 0 {
		n.OutLimit = replication.OutLimitFor(o.ValueMax)
	}
	return n
}

func (n *inmemNetwork) Transport(_ testing.TB, self replication.Member) replication.Transport {
	return n.NewTransport(self)
}

func (n *inmemNetwork) Address(number uint8) string {
	return fmt.Sprintf("%d.%d", number, n.moves[number])
}

func (n *inmemNetwork) Move(_ testing.TB, number uint8) (closeOld func()) {
	n.moves[number]++
	return func() {}
}

// tcpNetwork makes TCP transports that reach each other through proxies, which can cut a connection anywhere.
type tcpNetwork struct {
	o        transporttest.Options
	backends map[uint8]string       // where the members listen
	proxies  map[uint8]*proxy.Proxy // where the others are told to dial
}

func newTCPNetwork(t testing.TB, o transporttest.Options) transporttest.Network {
	n := &tcpNetwork{o: o, backends: make(map[uint8]string), proxies: make(map[uint8]*proxy.Proxy)}
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
	tcp, err := replication.NewTCP(replication.TCPConfig{Self: self, Listener: listener, Logger: zerolog.Nop(),
		ValueMax: n.o.ValueMax, OutLimit: n.o.OutLimit})
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
