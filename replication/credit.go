package replication

import (
	"fmt"
	"math/bits"
	"sync/atomic"
)

// credit bounds what members send each other by what the receiver has memory for, so that a follower never waits for memory
// (design section 4, "Eviction"). Each member grants every other a window of bytes, and keeps as much free. A
// channel begins with nothing granted; both sides count from its beginning, updates sent again included.
type credit struct {
	window int64 // bytes granted ahead to each peer
	peers  [MaxMember + 1]peerCredit
}

type peerCredit struct {
	sent, limit       atomic.Int64 // as a coordinator: cost of INVs sent, and how far the peer lets this member go
	received, granted atomic.Int64 // as a follower
	_                 [32]byte
}

// recordCost is what an item costs besides its key and value, in bytes: header, index entry and padding, rounded up.
const recordCost = 64

func itemCost(keyLen, valueLen int) int64 { return int64(recordCost + keyLen + valueLen) }

func invCost(m *Message) int64 { return itemCost(len(m.Key), len(m.Value)) }

// reset begins anew with a peer's new channel.
func (c *credit) reset(peer uint8) {
	p := &c.peers[peer]
	p.sent.Store(0)
	p.limit.Store(0)
	p.received.Store(0)
	p.granted.Store(0)
}

func (c *credit) spend(to uint8, m *Message) { c.peers[to].sent.Add(invCost(m)) }

func (c *credit) receive(from uint8, m *Message) { c.peers[from].received.Add(invCost(m)) }

// admits reports whether every peer of the set has granted so much more. Several lanes may ask at once and overdraw by an
// item each, which the window's own margin covers.
func (c *credit) admits(peers uint64, cost int64) bool {
	for ; peers != 0; peers &= peers - 1 {
		p := &c.peers[lowest(peers)]
		if p.sent.Load()+cost > p.limit.Load() {
			return false
		}
	}
	return true
}

// reserve is the memory, in bytes, that has to be free here for what the peers may send at any moment: what was granted, and as
// much again for updates that come a second time after a break.
func (c *credit) reserve(peers uint64) int64 { return 2 * c.window * int64(bits.OnesCount64(peers)) }

// init chooses the window: two of the largest items, or a 64th of the memory where that is more.
func (c *credit) init(memory uint64, itemSizeMax uint32, peers uint64) error {
	c.window = max(2*int64(itemSizeMax), int64(memory/64))
	c.window = min(c.window, max(2*int64(itemSizeMax), 16<<20))
	if r := c.reserve(peers); r > int64(memory/2) {
		return fmt.Errorf("a group of %d with items of up to %d bytes keeps %d bytes free for updates under way, more than half of the memory of %d bytes: raise the memory limit or lower the item size",
			bits.OnesCount64(peers)+1, itemSizeMax, r, memory)
	}
	return nil
}

// grant lets a peer go on, if it has used up half of its window and there is memory for more.
func (n *Node) grant(peer uint8) {
	p := &n.credit.peers[peer]
	received, granted := p.received.Load(), p.granted.Load()
	if granted-received > n.credit.window/2 || int64(n.table.FreeBytes()) < n.credit.window {
		return
	}
	p.granted.Store(received + n.credit.window)
	n.transport.Send(peer, &Message{Kind: CREDIT, From: n.self, Epoch: 1, ID: uint64(received + n.credit.window)})
}

// creditCame takes a peer's grant, and lets the operations go on that waited for it.
func (n *Node) creditCame(from uint8, limit uint64) {
	n.credit.peers[from].limit.Store(int64(limit))
	n.admitAgain(&n.membership.passes[from])
}

func (n *Node) admitAgain(pass *pass) {
	for i := range n.lanes {
		nl := &n.lanes[i]
		if !nl.busy.Load() {
			continue
		}
		nl.lock()
		if nl.lane.WaitsForRoom() {
			nl.lane.AdmitAgain()
		}
		nl.unlock(pass)
	}
}

// admit is the lanes' Env.Admit in a group of several: the peers have granted it, and it leaves free here what the peers were
// granted.
func (n *Node) admit(cost int64) bool {
	return n.credit.admits(n.membership.expected, cost) && int64(n.table.FreeBytes())-cost >= n.credit.reserve(n.membership.expected)/2
}
