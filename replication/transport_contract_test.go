package replication_test

import (
	"net"
	"testing"

	"github.com/rs/zerolog"

	"hermesd/replication"
	"hermesd/replication/transporttest"
	"hermesd/replication/transporttest/proxy"
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
	proxies map[uint8]*proxy.Proxy
}

func newTCPNetwork(t testing.TB, o transporttest.Options) transporttest.Network {
	n := &tcpNetwork{o: o, group: make(map[uint8]string), proxies: make(map[uint8]*proxy.Proxy)}
	for number := 1; number <= o.Members; number++ {
		p := proxy.New(t)
		n.proxies[uint8(number)], n.group[uint8(number)] = p, p.Address()
	}
	return n
}

func (n *tcpNetwork) Transport(t testing.TB, self replication.Member) replication.Transport {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.proxies[self.Number].Serve(listener.Addr().String())
	tcp, err := replication.NewTCP(replication.TCPConfig{Self: self, Group: n.group, Listener: listener,
		Logger: zerolog.Nop(), ValueMax: n.o.ValueMax, OutLimit: n.o.OutLimit})
	if err != nil {
		t.Fatal(err)
	}
	return tcp
}

func (n *tcpNetwork) Break(a, b uint8) { n.proxies[min(a, b)].Break(max(a, b)) }
