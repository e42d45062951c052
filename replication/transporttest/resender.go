package transporttest

import (
	"sync"
	"time"

	"hermesd/replication"
	"hermesd/table"
)

// resender keeps updates of one member to member 1 in flight, as the engine does: each is sent when it is launched, and again at the beginning
// of every channel until it is acknowledged.
type resender struct {
	n   *node
	max int

	mu      sync.Mutex
	changed sync.Cond
	flight  []replication.Message
	sentAs  map[[2]uint64]uint64 // version, by channel and number in lane 0
}

func newResender(n *node, inFlight int) *resender {
	s := &resender{n: n, max: inFlight, sentAs: make(map[[2]uint64]uint64)}
	s.changed.L = &s.mu
	return s
}

// send sends an update, with s.mu held, which keeps the order of launches and of sending again.
func (s *resender) send(m replication.Message) {
	if channel, number, ok := s.n.send(1, 0, m); ok {
		s.sentAs[[2]uint64{channel, number}] = m.TS.Version()
	}
}

// launch sends an update once there are fewer than max in flight; false: it waited in vain.
func (s *resender) launch(version uint64, m replication.Message) bool {
	if !s.await(func() bool { return len(s.flight) < s.max }) {
		return false
	}
	m.TS = table.Timestamp{Write: version<<8 | 1}
	s.mu.Lock()
	s.flight = append(s.flight, m)
	s.send(m)
	s.mu.Unlock()
	s.n.transport.Flush()
	return true
}

// drained waits until nothing is in flight.
func (s *resender) drained() bool { return s.await(func() bool { return len(s.flight) == 0 }) }

func (s *resender) await(done func() bool) bool {
	deadline := time.Now().Add(patience)
	alarm := time.AfterFunc(patience, s.changed.Broadcast)
	defer alarm.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !done() {
		if time.Now().After(deadline) {
			return false
		}
		s.changed.Wait()
	}
	return true
}

// sendAgain is called within PeerUp.
func (s *resender) sendAgain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.flight {
		s.send(m)
	}
}

// acknowledged takes an echo: its version is the number after that of the message that it echoes.
func (s *resender) acknowledged(m *replication.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	version := s.sentAs[[2]uint64{s.n.peers[1].channelNow(), m.TS.Version() - 1}]
	for i := range s.flight {
		if s.flight[i].TS.Version() == version {
			s.flight = append(s.flight[:i], s.flight[i+1:]...)
			break
		}
	}
	s.changed.Broadcast()
}
