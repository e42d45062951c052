package rdma

import (
	"testing"
	"time"

	"hermesd/replication"
	"hermesd/replication/transporttest"
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
				return &breaking{Network: transporttest.NewTCPNetwork(t, o, func(testing.TB, uint8) replication.Path { return newFakePath(f, c.o) }), pairs: f.breakAll}
			})
		})
	}
}

// breaking is a network that breaks a channel's connection, its life line, and the next time its queue pairs, in turn: both must end it, and neither may lose
// or reorder what the next channel carries.
type breaking struct {
	transporttest.Network
	pairs  func() // breaks them
	breaks int
}

func (n *breaking) Break(a, b uint8) {
	if n.breaks++; n.breaks%2 == 1 {
		n.Network.Break(a, b)
	} else {
		n.pairs()
	}
}

// breakAll breaks all queue pairs, each of which says so when something is sent.
func (f *fabric) breakAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.wires {
		w.broken = true
	}
}
