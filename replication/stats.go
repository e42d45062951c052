package replication

import (
	"strconv"

	"hermesd/table"
)

// ItemStats counts the items of all lanes. It takes the lock of each lane in turn, and so is of no one moment.
func (n *Node) ItemStats() (items table.Stats, evictions, reclaimed uint64) {
	for i := range n.lanes {
		nl := &n.lanes[i]
		nl.lock()
		items.Add(nl.items.Stats())
		nl.unlock(nil)
	}
	return items, n.counters.evictions.Load(), n.counters.reclaimed.Load()
}

// Stats calls f with each figure of replication: who this is and whether it serves, what is under way, and, in a group of
// several, the credit of each peer and the counters of the transport.
func (n *Node) Stats(f func(name, value string)) {
	count := func(name string, value uint64) { f(name, strconv.FormatUint(value, 10)) }
	members, connected := n.Members()
	self := n.Self()
	count("replica", uint64(self.Number))
	count("incarnation", self.Incarnation)
	count("epoch", n.membership.epoch.Load())
	count("members", uint64(members))
	count("connected", uint64(connected))
	if n.Serves() {
		f("state", "serving")
	} else {
		f("state", "waiting")
		f("reason", n.Reason())
	}
	n.laneStats(count)
	if n.alone {
		return
	}
	count("credit_window_bytes", uint64(n.credit.window))
	for set := n.membership.peers.Load(); set != 0; set &= set - 1 {
		peer := lowest(set)
		count("peer:"+strconv.Itoa(int(peer))+":credit_left_bytes", uint64(n.credit.left(peer)))
	}
	n.transport.Stats(count)
}

// laneStats are sums over the lanes.
func (n *Node) laneStats(count func(name string, value uint64)) {
	var items table.Stats
	var inFlight, waiting, tombstones int
	for i := range n.lanes {
		nl := &n.lanes[i]
		nl.lock()
		inFlight += nl.lane.flight.count
		waiting += nl.lane.queues.waiting
		tombstones += len(nl.lane.tombs.pending)
		items.Add(nl.items.Stats())
		nl.unlock(nil)
	}
	count("updates_in_flight", uint64(inFlight))
	count("operations_waiting", uint64(waiting))
	count("tombstones", uint64(tombstones))
	count("table_live_bytes", items.LiveBytes)
	count("table_log_bytes", items.LogBytes)
	count("table_index_bytes", items.IndexBytes)
	count("table_free_bytes", n.table.FreeBytes())
	count("table_items_moved", items.Moved)
}
