package replication

import (
	"math/bits"
	"sync/atomic"

	"hermesd/table"
)

// room makes memory free ahead of need, by reclaiming in the lanes that hold the most. In a group an item is given up by all
// replicas together: eviction is a delete that goes through the protocol, begun by the one member that evicts in the item's lane.
type room struct {
	low     atomic.Int64  // free memory, in bytes, below which the node evicts: for the others, and for what comes next
	own     atomic.Uint64 // lanes that this member evicts in
	wanted  atomic.Int64  // bytes that a member which may not evict has asked for (NEEDROOM)
	evicts  atomic.Bool   // it may: it is a serving member
	pending atomic.Int64
	at      atomic.Uint32 // 1 + the lane in which a segment is being collected; 0: none, as far as known
	hand    atomic.Uint32 // of compactOthers
	now     atomic.Uint32 // Unix seconds, as of the last keepRoom
}

// How much one call of makeSomeRoom may do, in steps of Collect, which are some tens of microseconds each: little where somebody waits for
// the caller.
const (
	stepsOfSubmit = 8
	stepsOfBatch  = 32
	stepsOfTick   = 128
	stepsOfClock  = 4096
	stepsNoLimit  = 1 << 30
)

// aheadSegments is how many segments a group of one keeps free, and a group beyond what a large update needs.
const aheadSegments = 8

// setLow decides how much memory is kept free in a group with so many peers.
func (r *room) setLow(n *Node, peers uint64) {
	low := int64(aheadSegments * n.table.SegmentBytes())
	if !n.alone {
		low += n.credit.low(bits.OnesCount64(peers))
	}
	r.low.Store(low)
}

// setOwners divides the lanes among the members that serve: each has one that begins evictions.
func (r *room) setOwners(members uint64, self uint8, serving bool) {
	var numbers []uint8
	for set := members; set != 0; set &= set - 1 {
		numbers = append(numbers, lowest(set))
	}
	own := uint64(0)
	for lane := range table.Lanes {
		if serving && numbers[lane%len(numbers)] == self {
			own |= 1 << lane
		}
	}
	r.own.Store(own)
	r.evicts.Store(serving)
}

// makeRoomFor makes room for what op may write, before its lane is locked. A group of one has it then, if it can be had; in a group
// the operation waits for it, if need be (Env.Admit).
func (n *Node) makeRoomFor(op *Op) {
	low := n.room.low.Load()
	need := low
	if int64(n.table.FreeBytes()) >= need+int64(n.table.NeedBytes(len(op.Key), int(n.cfg.ItemSizeMax))) {
		return
	}
	if size := n.sizeOf(op); size > n.table.SegmentBytes() {
		need += int64(n.table.NeedBytes(len(op.Key), size))
	}
	if n.membership.peers.Load() == 0 {
		n.makeRoom(need, op.Now, nil)
	} else {
		n.makeSomeRoom(need, stepsOfSubmit+int(need-low)/n.table.SegmentBytes(), op.Now, nil)
	}
}

// sizeOf is how long a value op may write, in bytes. Most read-modify-writes write again what is stored.
func (n *Node) sizeOf(op *Op) int {
	size := len(op.Value)
	switch op.Kind {
	case OpAppend, OpPrepend, OpTouch, OpGat:
		nl := &n.lanes[laneOf(op.Hash)]
		var it table.Item
		nl.lock()
		if nl.items.Find(op.Hash, op.Key, &it) {
			size += it.ValueLen
		}
		nl.unlock(nil)
	}
	return size
}

// hasRoom reports whether so many bytes are free, or will be when the evictions under way are done.
func (n *Node) hasRoom(need int64) bool {
	return int64(n.table.FreeBytes())+n.room.pending.Load() >= need
}

// makeRoom reclaims until there is so much room, or nothing more is to be had.
func (n *Node) makeRoom(need int64, now uint32, pass *pass) {
	n.makeSomeRoom(need, stepsNoLimit, now, pass)
}

// makeSomeRoom is makeRoom with a limit to the work, which is done in steps. A lane that has nothing to give is
// left alone for the rest of the call: Collect says so once in each round through the lane, and then begins another.
func (n *Node) makeSomeRoom(need int64, steps int, now uint32, pass *pass) {
	if n.cfg.DisableEvictions || !n.room.evicts.Load() {
		n.compactAll(need, steps, now, pass)
		return
	}
	for spent := uint64(0); steps > 0 && !n.hasRoom(need); {
		steps -= n.compactOthers(now, pass)
		lane, all, ok := n.chooseLane(spent)
		if !ok {
			return
		}
		made, more := n.reclaim(lane, steps, now, all, pass)
		steps -= made
		if !more {
			spent |= 1 << lane
		}
	}
}

// chooseLane chooses where to reclaim: in the fullest of this member's own lanes; in another's, all, where that holds an eighth more, since
// its member evicts too slowly then and a group must not stop. A segment that has been begun is done first: until it is, it costs memory.
func (n *Node) chooseLane(spent uint64) (lane int, all, ok bool) {
	if at := n.room.at.Load(); at != 0 && spent&(1<<(at-1)) == 0 {
		return int(at - 1), n.room.own.Load()&(1<<(at-1)) == 0, true
	}
	mine, most := n.table.FullestOf(n.room.own.Load() &^ spent)
	lane, segments := n.table.FullestOf(^spent)
	switch {
	case segments < 0:
		return 0, false, false
	case most >= 0 && segments <= most+most/8+1:
		return mine, false, true
	}
	return lane, n.room.own.Load()&(1<<lane) == 0, true
}

// reclaim has one lane give back some memory: until the segment in hand is done, or the steps are. It returns the steps made, and whether
// there may be more to gain.
func (n *Node) reclaim(lane, steps int, now uint32, all bool, pass *pass) (made int, more bool) {
	nl := &n.lanes[lane]
	for more = true; more && made < steps; made++ {
		nl.lock()
		more = nl.items.Collect(now, func(key []byte, hash uint64, it *table.Item) table.Verdict {
			return nl.verdict(key, hash, it, now, all)
		})
		done := !nl.items.Collecting()
		nl.unlock(pass)
		if done {
			n.room.at.Store(0)
			return made + 1, more
		}
	}
	n.room.at.Store(uint32(lane + 1))
	return max(made, 1), more
}

// Where others evict, the deletes leave garbage here: parts of segments, which come back when what still lives there is moved. othersAtOnce is
// how many such lanes are looked at before each segment that is collected for its items.
const othersAtOnce = 2

// compactOthers gives back garbage in lanes that others evict in, and returns the steps made.
func (n *Node) compactOthers(now uint32, pass *pass) (made int) {
	if n.room.own.Load() == ^uint64(0) {
		return 0
	}
	for looked := 0; looked < othersAtOnce; looked++ {
		lane := int(n.room.hand.Add(1) % table.Lanes)
		for n.room.own.Load()&(1<<lane) == 0 && n.compact(lane, garbageShare, now, pass) {
			made++
		}
	}
	return made
}

// Segments of which one part in so many is garbage are worth being emptied: with evictions, and where there is no other way to
// come by memory.
const (
	garbageShare      = 4
	garbageShareNoGet = 16
)

// compactAll gives back garbage in all lanes, where nothing may be evicted.
func (n *Node) compactAll(need int64, steps int, now uint32, pass *pass) {
	for looked := 0; looked < table.Lanes && steps > 0 && !n.hasRoom(need); looked++ {
		lane := int(n.room.hand.Add(1) % table.Lanes)
		for steps > 0 && n.compact(lane, garbageShareNoGet, now, pass) {
			steps--
		}
	}
}

// compact makes one step of giving back garbage in a lane; false: there is not enough of it.
func (n *Node) compact(lane, share int, now uint32, pass *pass) (progress bool) {
	nl := &n.lanes[lane]
	nl.lock()
	progress = nl.items.Compact(share, now, func(key []byte, hash uint64, it *table.Item) table.Verdict {
		return nl.verdict(key, hash, it, now, false)
	})
	nl.unlock(pass)
	return progress
}

// verdict decides on an item that the table would like to be rid of.
func (nl *nodeLane) verdict(key []byte, hash uint64, it *table.Item, now uint32, all bool) table.Verdict {
	n := nl.node
	expired := now != 0 && it.Expired(now)
	switch {
	case nl.lane.Flushed(it):
		return table.Drop
	case n.cfg.DisableEvictions && !expired, !n.room.evicts.Load(), !all && n.room.own.Load()&(1<<nl.lane.number) == 0:
		return table.Keep
	}
	op := n.NewOp()
	valueLen := it.ValueLen
	verdict := nl.lane.Evict(op, hash, key, it)
	if verdict == table.Pending {
		op.Delta = uint64(itemCost(len(key), valueLen))
		if expired {
			op.Flags = evictExpired
		}
		n.room.pending.Add(int64(op.Delta))
		return verdict
	}
	n.FreeOp(op)
	if verdict == table.Drop {
		n.counters.gone(expired)
	}
	return verdict
}

// evictExpired, in the Flags of an eviction, says that the item had expired.
const evictExpired = 1

// evicted is told of every eviction that has ended.
func (n *Node) evicted(op *Op) {
	n.room.pending.Add(-int64(op.Delta))
	if op.Result.Status == Deleted {
		n.counters.gone(op.Flags == evictExpired)
	}
}

// sweepRecords bounds how many records of a lane one sweep for expired items looks at.
const sweepRecords = 256

// keepRoom is called by the clock: it gives back expired items that nobody reads, and makes room before it is needed.
func (n *Node) keepRoom(now uint32, pass *pass) {
	n.room.now.Store(now)
	for i := range n.lanes {
		nl := &n.lanes[i]
		nl.lock()
		nl.items.Sweep(now, sweepRecords, func(key []byte, hash uint64, it *table.Item) table.Verdict {
			return nl.verdict(key, hash, it, now, false)
		})
		nl.unlock(pass)
	}
	if bytes := n.room.wanted.Swap(0); bytes != 0 && n.room.evicts.Load() {
		n.makeSomeRoom(int64(n.table.FreeBytes())+n.room.pending.Load()+bytes, stepsOfClock, now, pass)
	}
	n.moreRoom(stepsOfClock, pass)
	n.askForRoom()
}

// moreRoom makes room where it is short, and lets go on who waited for it, here and at the peers.
func (n *Node) moreRoom(steps int, pass *pass) {
	if low := n.room.low.Load(); !n.hasRoom(low) {
		n.makeSomeRoom(low, steps, n.room.now.Load(), pass)
	}
	if n.alone {
		return
	}
	n.unstallAll(pass)
	n.grantAll()
	n.admitAgain(pass)
}

// counters are the node's own, for stats.
type counters struct {
	evictions atomic.Uint64
	reclaimed atomic.Uint64
	stalled   atomic.Uint64
}

func (c *counters) gone(expired bool) {
	if expired {
		c.reclaimed.Add(1)
	} else {
		c.evictions.Add(1)
	}
}
