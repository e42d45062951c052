package replication

import (
	"strconv"

	"hermesd/replication/views"
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
	v := n.CurrentView()
	count("generation", v.Generation)
	count("epoch", v.Epoch)
	count("members", uint64(members))
	count("connected", uint64(connected))
	state := n.state(&v)
	f("state", state)
	if state != "serving" {
		f("reason", n.Reason())
	}
	if until := n.membership.lease.Load(); !n.alone {
		count("lease_left_ms", uint64(max(0, until-views.Now())/1e6))
		s := n.Status()
		f("settled", yesNo(s.Settled))
		f("caught_up", yesNo(s.CaughtUp))
	}
	for _, r := range v.Members {
		if r.Number != self.Number {
			f("member:"+strconv.Itoa(int(r.Number)), memberState(&r))
		}
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
	for _, ch := range n.Channels() {
		prefix := "peer:" + strconv.Itoa(int(ch.Peer)) + ":transport"
		f(prefix, ch.Transport)
		if ch.Reason != "" {
			f(prefix+"_reason", ch.Reason)
		}
	}
}

// Channels are those with other members, as far as the transport can say how their messages go.
func (n *Node) Channels() []views.Channel {
	if t, ok := n.transport.(interface{ Channels() []views.Channel }); ok {
		return t.Channels()
	}
	return nil
}

// state is what the replica is doing, in a word or two.
func (n *Node) state(v *views.View) string {
	r, in := v.Find(n.cfg.Self.Number)
	switch {
	case n.Serves():
		return "serving"
	case !in:
		return "joining"
	case !r.Serving:
		return "catching up"
	}
	return "without lease"
}

func memberState(r *views.Replica) string {
	if r.Serving {
		return "serving"
	}
	return "catching up"
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
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
