package rdma

import (
	"net"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"hermesd/replication"
	"hermesd/replication/transporttest"
	"hermesd/replication/transporttest/proxy"
)

// TestContractOverFakeVerbs runs the contract of all transports with everything of this package but the calls of verbs, whose place a fake takes: so it
// runs anywhere, and under the race detector. TestContract (build tag rdma) runs it over verbs.
func TestContractOverFakeVerbs(t *testing.T) {
	for _, c := range []struct {
		name string
		o    Options
	}{
		{"usual rings", Options{Silence: time.Hour}}, // the watch must not be what keeps messages going
		{"small rings", Options{RingBytes: 64 << 10, Depth: 16, Spin: -1, Silence: time.Hour}},
	} {
		t.Run(c.name, func(t *testing.T) {
			transporttest.Run(t, func(t testing.TB, o transporttest.Options) transporttest.Network {
				f := newFabric()
				t.Cleanup(func() { f.requireClosed(t) })
				return newNetwork(t, o, func(testing.TB, uint8) replication.Path { return newFakePath(f, c.o) })
			})
		})
	}
}

// network makes transports with a path, whose connections go through proxies, which can cut them.
type network struct {
	o        transporttest.Options
	path     func(t testing.TB, number uint8) replication.Path
	backends map[uint8]string       // where the members listen
	proxies  map[uint8]*proxy.Proxy // where the others are told to dial
}

func newNetwork(t testing.TB, o transporttest.Options, path func(t testing.TB, number uint8) replication.Path) *network {
	n := &network{o: o, path: path, backends: make(map[uint8]string), proxies: make(map[uint8]*proxy.Proxy)}
	for number := 1; number <= o.Members; number++ {
		n.proxies[uint8(number)] = proxy.New(t)
	}
	return n
}

func (n *network) Transport(t testing.TB, self replication.Member) replication.Transport {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.backends[self.Number] = listener.Addr().String()
	n.proxies[self.Number].Serve(n.backends[self.Number])
	// PathOnly: a channel that went over TCP would show nothing.
	tcp, err := replication.NewTCP(replication.TCPConfig{Self: self, Listener: listener, Logger: zerolog.Nop(),
		ValueMax: n.o.ValueMax, OutLimit: n.o.OutLimit, Path: n.path(t, self.Number), PathOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	return tcp
}

func (n *network) Address(number uint8) string { return n.proxies[number].Address() }

func (n *network) Move(t testing.TB, number uint8) (closeOld func()) {
	old := n.proxies[number]
	n.proxies[number] = proxy.New(t)
	n.proxies[number].Serve(n.backends[number])
	return func() {
		for other := 1; other <= n.o.Members; other++ {
			old.Cut(uint8(other))
		}
	}
}

func (n *network) Break(a, b uint8) { n.proxies[min(a, b)].Break(max(a, b)) }
