package replication_test

import (
	"fmt"
	"testing"

	"hermesd/replication"
	"hermesd/replication/transporttest"
)

func TestTCPContract(t *testing.T) {
	transporttest.Run(t, func(t testing.TB, o transporttest.Options) transporttest.Network {
		return transporttest.NewTCPNetwork(t, o, nil)
	})
}

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
