package replication

import (
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"

	"hermesd/table"
)

// credit bounds what members send each other by what the receiver has memory for, so that a follower never waits for memory
// (design section 4, "Eviction"). Each member lets every other send a window of bytes ahead, and has the memory for it.
//
// What has to be kept free here is at all times
//
//	slack + promised + taken
//
// promised is what the peers may still send, taken what own updates have been admitted for and have not stored yet. A grant raises promised,
// and is given only if the sum, with it, is free; an INV that is stored lowers it by as much as it used. Own updates are admitted only
// if the windows of all peers are free besides, so that a member that is busy itself does not starve the others.
//
// A channel begins with nothing granted, and both ends count from its beginning, updates sent again included. What the old channel had
// promised and not received may still come (the updates in flight are sent again before any credit): it stays promised until the first grant.
type credit struct {
	window int64 // bytes granted ahead to each peer
	slack  int64 // bytes that are lost to rounding: see init
	peers  [MaxMember + 1]peerCredit

	// As a follower.
	promised atomic.Int64 // the sum over the peers
	taken    atomic.Int64
	short    atomic.Bool // a grant had to be put off for want of memory

	// As a coordinator. An update takes from every peer at once or from none.
	mu    sync.Mutex
	sent  [MaxMember + 1]int64 // cost of INVs sent in the present channel
	limit [MaxMember + 1]int64 // how far the peer lets this member go
	claim claim
}

// peerCredit is what this member has granted one peer.
type peerCredit struct {
	mu       sync.Mutex
	up       bool  // there is a channel
	received int64 // cost of INVs received in the present channel
	granted  int64 // 0: nothing yet
	promised int64
	message  Message // of the last grant; here, so that it is not allocated
	_        [64]byte
}

// claim is the oldest update that found no room. Until it has, others leave it what it needs, or small updates would take what comes back
// before it is ever enough for a large one.
type claim struct {
	lane uint8
	cost int64 // 0: there is none
}

// recordCost is what an item costs besides its key and value, in bytes: the longest header, a share of the index, padding.
const recordCost = 80

// itemCost is the memory, in bytes, that storing an item may take; an eighth is for what is left empty at the ends of segments.
func itemCost(keyLen, valueLen int) int64 { return recordCost + int64(keyLen+valueLen)*9/8 }

func invCost(m *Message) int64 { return itemCost(len(m.Key), len(m.Value)) }

// begin makes a member that is new in the view one that has granted nothing.
func (c *credit) begin(peer uint8) {
	c.mu.Lock()
	c.sent[peer], c.limit[peer] = 0, 0
	c.mu.Unlock()
}

// forget ends what a member that has left the view was promised: nothing of it can come any more, not by others either.
func (c *credit) forget(peer uint8) {
	p := &c.peers[peer]
	p.mu.Lock()
	c.promise(p, 0)
	p.granted, p.received = 0, 0
	p.mu.Unlock()
}

// clear begins a new life, which has promised nothing and was promised nothing.
func (c *credit) clear() {
	for peer := range c.peers {
		c.begin(uint8(peer))
		c.forget(uint8(peer))
	}
	c.mu.Lock()
	c.claim = claim{}
	c.mu.Unlock()
}

// init chooses the window: two of the largest items, or a 64th of the memory where that is more, but at most 16 MiB then.
//
// Slack is for what cost cannot say: memory is taken in whole segments, and each lane may begin two of them, one for its log and one for its
// index, for the first byte of what was granted. In the smallest tables that would be too much; there a lane that has no
// segment left waits for one (stall.go).
func (c *credit) init(memory uint64, segment int, itemSizeMax uint32, peers int) error {
	largest := itemCost(0, int(itemSizeMax))
	c.window = max(2*largest, min(int64(memory/64), 16<<20))
	c.slack = min(2*table.Lanes*int64(segment), int64(memory/16))
	if low := c.low(peers); low > int64(memory/2) {
		return fmt.Errorf("a group of %d with items of up to %d bytes keeps %d bytes free for updates under way, more than half of the memory of %d bytes: raise the memory limit to %d megabytes or lower the item size limit",
			peers+1, itemSizeMax, low, memory, (2*low+1<<20-1)>>20)
	}
	return nil
}

// reserve is the memory, in bytes, that own updates leave free.
func (c *credit) reserve(peers int) int64 { return c.slack + c.window*int64(peers) }

// low is the free memory, in bytes, below which a member evicts: the reserve, and another window, so that grants need not
// wait for evictions.
func (c *credit) low(peers int) int64 { return c.reserve(peers) + c.window }

// reset begins anew with a peer's new channel.
func (c *credit) reset(peer uint8) {
	c.mu.Lock()
	c.sent[peer], c.limit[peer] = 0, 0
	c.mu.Unlock()
	p := &c.peers[peer]
	p.mu.Lock()
	p.up, p.received, p.granted = true, 0, 0
	p.mu.Unlock()
}

// down ends a peer's channel: grants would go into the next one, where they count from another beginning.
func (c *credit) down(peer uint8) {
	p := &c.peers[peer]
	p.mu.Lock()
	p.up = false
	p.mu.Unlock()
}

// spend counts an INV that is sent without having been admitted: one that is sent again, or a delete.
func (c *credit) spend(to uint8, m *Message) {
	c.mu.Lock()
	c.sent[to] += invCost(m)
	c.mu.Unlock()
}

// stored counts an INV that the peer has sent, after it has used its memory.
func (c *credit) stored(from uint8, m *Message) {
	p := &c.peers[from]
	p.mu.Lock()
	p.received += invCost(m)
	if p.granted != 0 {
		c.promise(p, max(0, p.granted-p.received))
	}
	p.mu.Unlock()
}

func (c *credit) promise(p *peerCredit, bytes int64) {
	c.promised.Add(bytes - p.promised)
	p.promised = bytes
}

// admit takes credit for an update of this member, from every peer of the set, and memory here, of which free bytes there are. The
// caller gives the memory back with taken, once it is used.
func (c *credit) admit(peers uint64, lane uint8, cost, free int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	others := int64(0)
	if c.claim.lane != lane {
		others = c.claim.cost
	}
	ok := free-c.reserve(bits.OnesCount64(peers))-c.taken.Load() >= cost+others
	for set := peers; set != 0 && ok; set &= set - 1 {
		peer := lowest(set)
		ok = c.sent[peer]+cost+others <= c.limit[peer]
	}
	if !ok {
		if c.claim.cost == 0 {
			c.claim = claim{lane, cost}
		}
		return false
	}
	for set := peers; set != 0; set &= set - 1 {
		c.sent[lowest(set)] += cost
	}
	c.taken.Add(cost)
	if c.claim.lane == lane && cost >= c.claim.cost {
		c.claim = claim{}
	}
	return true
}

// refund takes back what was admitted and not sent.
func (c *credit) refund(peers uint64, cost int64) {
	c.mu.Lock()
	for ; peers != 0; peers &= peers - 1 {
		c.sent[lowest(peers)] -= cost
	}
	c.mu.Unlock()
}

// came takes a peer's grant.
func (c *credit) came(from uint8, limit int64) {
	c.mu.Lock()
	c.limit[from] = max(c.limit[from], limit)
	c.mu.Unlock()
}

// first is the lane that is to be asked first who may go on now.
func (c *credit) first() uint8 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.claim.lane
}

// waive ends the claim of a lane in which nothing waits for room any more.
func (c *credit) waive(lane uint8) {
	c.mu.Lock()
	if c.claim.lane == lane {
		c.claim = claim{}
	}
	c.mu.Unlock()
}

// grant lets a peer go on, if it has used up half of its window and there is memory for more. The message is sent under the lock, since a
// later grant must not overtake an earlier one.
func (n *Node) grant(peer uint8) {
	c := &n.credit
	p := &c.peers[peer]
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.up || p.granted-p.received > c.window/2 {
		return
	}
	before := p.promised
	c.promise(p, c.window)
	if int64(n.table.FreeBytes()) < c.slack+c.promised.Load()+c.taken.Load() {
		c.promise(p, before)
		c.short.Store(true)
		return
	}
	p.granted = p.received + c.window
	p.message = Message{Kind: CREDIT, ID: uint64(p.granted)}
	n.transport.Send(peer, &p.message)
}

func (n *Node) grantAll() {
	for set := n.membership.peers.Load(); set != 0; set &= set - 1 {
		n.grant(lowest(set))
	}
}

// admitAgain lets the operations go on that waited for room and have it now.
func (n *Node) admitAgain(pass *pass) {
	first := int(n.credit.first())
	for i := range n.lanes {
		nl := &n.lanes[(first+i)%len(n.lanes)]
		if !nl.starved.Load() {
			continue
		}
		nl.lock()
		nl.admitAgain()
		nl.unlock(pass)
	}
}

// admitAgain lets the lane's operations go on that waited for room; the lock is held.
func (nl *nodeLane) admitAgain() {
	nl.lane.AdmitAgain()
	if !nl.lane.WaitsForRoom() {
		nl.starved.Store(false)
		nl.node.credit.waive(nl.lane.number)
	}
}

// left is how much more a peer lets this member send, in bytes of cost.
func (c *credit) left(peer uint8) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(0, c.limit[peer]-c.sent[peer])
}
