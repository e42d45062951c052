package replication

import (
	"sync/atomic"

	"hermesd/table"
)

// room makes memory free ahead of need, by reclaiming in the lanes that hold the most. In a group an item is given up by all
// replicas together: eviction is a delete that goes through the protocol, begun by the one member that evicts in the item's lane.
type room struct {
	low     int64 // bytes kept free for others and for what comes next
	pending atomic.Int64
	evictor [table.Lanes]bool // lanes that this member evicts in
	hand    atomic.Uint32
}

// aheadSegments is how many segments a node keeps free beyond what is promised to others.
const aheadSegments = 8

func (r *room) init(n *Node) {
	r.low = int64(aheadSegments * n.table.SegmentBytes())
	if !n.alone {
		r.low += n.credit.reserve(n.membership.expected)
	}
	var numbers []uint8
	for set := n.membership.expected | bit(n.self.Number); set != 0; set &= set - 1 {
		numbers = append(numbers, lowest(set))
	}
	for i := range r.evictor {
		r.evictor[i] = numbers[i%len(numbers)] == n.self.Number
	}
}

// makeRoomFor makes room for what op may write, before its lane is locked.
func (n *Node) makeRoomFor(op *Op) {
	free := int64(n.table.FreeBytes())
	need := n.room.low
	if size := len(op.Key) + len(op.Value); size > n.table.SegmentBytes() || op.Kind == OpAppend || op.Kind == OpPrepend {
		need += int64(n.table.NeedBytes(len(op.Key), len(op.Value)))
	}
	if free < need {
		n.makeRoom(need, op.Now, nil)
	}
}

// roomForINV makes room for a follower's update. Its sender has credit, so that this finds work only when the group evicts too slowly.
func (n *Node) roomForINV(m *Message) {
	need := int64(n.table.NeedBytes(len(m.Key), len(m.Value)))
	if int64(n.table.FreeBytes()) < need {
		n.makeRoom(need, 0, &n.membership.passes[m.From.Number])
	}
}

// makeRoom reclaims until so many bytes are free, or will be when the evictions under way are done, or nothing more is to be
// had. A lane that has nothing to give is left alone for the rest of the call: Collect says so once in each round through the lane, and then
// begins another, so that lanes which all of them keep what they have would send the caller round for ever.
func (n *Node) makeRoom(need int64, now uint32, pass *pass) {
	enough := func() bool { return int64(n.table.FreeBytes())+n.room.pending.Load() >= need }
	// First where this member is the evictor, then everywhere: a group that evicts too slowly must not stop.
	for _, all := range [2]bool{false, true} {
		var spent [table.Lanes]bool
		for left := table.Lanes; left > 0 && !enough(); {
			i := int(n.room.hand.Add(1) % table.Lanes)
			if !spent[i] && !n.reclaim(i, now, all, pass) {
				spent[i] = true
				left--
			}
		}
	}
}

// reclaim has one lane give back some memory, and reports whether there was any.
func (n *Node) reclaim(lane int, now uint32, all bool, pass *pass) (progress bool) {
	nl := &n.lanes[lane]
	nl.lock()
	progress = nl.items.Collect(now, func(key []byte, hash uint64, it *table.Item) table.Verdict {
		return nl.verdict(key, hash, it, now, all)
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
	case n.cfg.DisableEvictions && !expired, !all && !n.room.evictor[nl.lane.number]:
		return table.Keep
	}
	op := n.NewOp()
	valueLen := it.ValueLen
	verdict := nl.lane.Evict(op, hash, key, it)
	if verdict == table.Pending {
		op.Delta = uint64(itemCost(len(key), valueLen))
		n.room.pending.Add(int64(op.Delta))
		return verdict
	}
	n.FreeOp(op)
	if verdict == table.Drop {
		n.counters.gone(expired)
	}
	return verdict
}

// evicted is told of every eviction that has ended.
func (n *Node) evicted(op *Op) {
	n.room.pending.Add(-int64(op.Delta))
	if op.Result.Status == Deleted {
		n.counters.gone(false)
	}
}

// sweepRecords bounds how many records of a lane one sweep for expired items looks at.
const sweepRecords = 256

// keepRoom is called by the clock: it gives back expired items that nobody reads, and makes room before it is needed.
func (n *Node) keepRoom(now uint32, pass *pass) {
	for i := range n.lanes {
		nl := &n.lanes[i]
		nl.lock()
		nl.items.Sweep(now, sweepRecords, func(key []byte, hash uint64, it *table.Item) table.Verdict {
			return nl.verdict(key, hash, it, now, false)
		})
		nl.unlock(pass)
	}
	if int64(n.table.FreeBytes()) < n.room.low {
		n.makeRoom(n.room.low, now, pass)
	}
	if n.alone {
		return
	}
	for set := n.membership.expected; set != 0; set &= set - 1 {
		n.grant(lowest(set))
	}
	n.admitAgain(pass)
}

// counters are the node's own, for stats.
type counters struct {
	evictions atomic.Uint64
	reclaimed atomic.Uint64
}

func (c *counters) gone(expired bool) {
	if expired {
		c.reclaimed.Add(1)
	} else {
		c.evictions.Add(1)
	}
}
