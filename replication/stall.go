package replication

import (
	"sync"
	"sync/atomic"

	"hermesd/table"
)

// stall keeps what a peer has sent for lanes that have no memory for it, until they have. Credit sees to it that this does not happen, but for
// rounding (credit.init): a lane may need a whole segment for the first byte. A lane stalls for one peer only, and evictions go on, also in the
// lane itself, which brings the segment. What a peer sends for a stalled lane waits behind, in order, but for answers and for deletes of
// what is stored. It is bounded by the peer's credit, and beyond that by what the peer asks at the pace of its ticks.
type stall struct {
	lanes atomic.Uint64 // bit i: messages for lane i wait

	mu    sync.Mutex // held while messages are delivered from here: later ones must not pass them
	from  Member
	queue []byte // encoded messages
}

// enqueue keeps m if its lane is stalled already, or force is set.
func (s *stall) enqueue(m *Message, force bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lanes.Load()&bit(m.Lane) == 0 && !force {
		return false
	}
	s.from = m.From
	s.queue = AppendMessage(s.queue, m)
	s.lanes.Or(bit(m.Lane))
	return true
}

// clear forgets everything: the channel is gone, and what counts is sent again.
func (s *stall) clear() {
	s.mu.Lock()
	s.queue = nil
	s.lanes.Store(0)
	s.mu.Unlock()
}

// receive delivers a message of a peer, or keeps it.
func (n *Node) receive(m *Message, pass *pass) {
	s := &n.membership.stalls[m.From.Number]
	if s.lanes.Load()&bit(m.Lane) != 0 {
		if mayPass(m) || n.deletesStored(m) {
			m.Clock = 0 // says nothing of updates that have not arrived, and some have not
		} else if s.enqueue(m, false) {
			return
		}
	}
	if !n.hasMemoryFor(m) {
		need := n.needFor(m)
		n.makeSomeRoom(need, stepsOfBatch+int(need)/n.table.SegmentBytes(), n.room.now.Load(), pass)
		if !n.hasMemoryFor(m) {
			n.counters.stalled.Add(1)
			s.enqueue(m, true)
			return
		}
	}
	n.deliver(m, pass)
}

// mayPass reports whether m may be delivered before updates that its sender has sent earlier. What answers this member's own updates may,
// or what makes earlier ones valid: it speaks of one time stamp of one key. It must, for evictions wait for it, and the updates for these.
func mayPass(m *Message) bool {
	return m.Kind == ACK || m.Kind == NACK || m.Kind == VAL || m.Kind == STATE
}

// deletesStored reports whether m deletes an item that is stored here, which takes no memory and gives some back. It may pass what waits in its lane,
// or two full members would wait for each other: each evicts, and neither could acknowledge the other's deletes. An update of the same key that
// waits comes later then, and is outranked; the tombstone is kept for it, since no clock that is heard meanwhile says that it has come.
func (n *Node) deletesStored(m *Message) bool {
	if m.Kind != INV || m.Bits&(BitTombstone|BitFlush) != BitTombstone {
		return false
	}
	var it table.Item
	nl := &n.lanes[m.Lane]
	nl.lock()
	defer nl.unlock(nil)
	return nl.items.Find(table.Hash(m.Key), m.Key, &it)
}

// storesValue reports whether m brings a value.
func storesValue(m *Message) bool {
	return (m.Kind == INV || m.Kind == ENTRY) && m.Bits&(BitTombstone|BitFlush) == 0
}

// needFor is the memory, in bytes, that has to be free for storing the message's value to be sure of success, whatever other lanes take at the
// same moment.
func (n *Node) needFor(m *Message) int64 {
	return int64(n.table.NeedBytes(len(m.Key), len(m.Value))) + n.aheadBytes(n.peerCount())
}

// aheadBytes is what other lanes may take at the same moment, with so many peers.
func (n *Node) aheadBytes(peers int) int64 {
	return int64((aheadSegments + 2*peers) * n.table.SegmentBytes())
}

// hasMemoryFor reports whether there is memory for what m may store. A delete takes some only where its key is not stored: then it is the
// tombstone's.
func (n *Node) hasMemoryFor(m *Message) bool {
	if m.Kind != INV && m.Kind != ENTRY || m.Bits&BitFlush != 0 {
		return true
	}
	need := n.needFor(m)
	if m.Kind == ENTRY { // it comes without credit: what is promised to others is not for it
		need += n.credit.promised.Load()
	}
	return int64(n.table.FreeBytes()) >= need || n.deletesStored(m)
}

// deliver hands a message to its lane.
func (n *Node) deliver(m *Message, pass *pass) {
	nl := &n.lanes[m.Lane]
	// The values of NACK and STATE come without credit: they may take only what is promised to nobody.
	spare := int64(0)
	if (m.Kind == NACK || m.Kind == STATE) && len(m.Value) > 0 {
		spare = itemCost(MaxKey, len(m.Value))
		taken := n.credit.taken.Add(spare)
		defer n.credit.taken.Add(-spare)
		if int64(n.table.FreeBytes()) < n.credit.slack+n.credit.promised.Load()+taken {
			if m.Kind == STATE {
				return // it will be asked for again
			}
			spare = 0
		}
	}
	nl.lock()
	nl.lane.refuse = m.Kind == NACK && len(m.Value) > 0 && spare == 0
	nl.lane.Receive(m)
	nl.lane.refuse = false
	nl.unlock(pass)
	switch m.Kind {
	case INV:
		n.credit.stored(m.From.Number, m)
	case FETCHED:
		n.catchUp.wake()
	}
}

// unstall delivers what a peer's lanes have memory for by now.
func (n *Node) unstall(peer uint8, pass *pass) {
	s := &n.membership.stalls[peer]
	if s.lanes.Load() == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := Message{From: s.from}
	still := uint64(0)
	kept := s.queue[:0]
	for rest := s.queue; len(rest) > 0; {
		size, err := DecodeMessage(rest, &m)
		if err != nil {
			panic(err) // AppendMessage made it
		}
		if still&bit(m.Lane) == 0 && n.hasMemoryFor(&m) {
			n.deliver(&m, pass)
		} else {
			still |= bit(m.Lane)
			kept = append(kept, rest[:size]...) // at or before where it lies
		}
		rest = rest[size:]
	}
	if s.queue = kept; len(kept) == 0 {
		s.queue = nil
	}
	s.lanes.Store(still)
}

func (n *Node) unstallAll(pass *pass) {
	for set := n.membership.peers.Load(); set != 0; set &= set - 1 {
		n.unstall(lowest(set), pass)
	}
}
