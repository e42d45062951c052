package replication

// simNodeMutants are broken nodes: what they do with memory when views change. All of them are caught by states, not by what clients have seen: who loses
// credit or room does not answer wrongly, but one day not at all.
var simNodeMutants = []simMutant{
	{name: "what a member that left was promised is kept for ever", views: true, long: true, why: "a view change gives credit back", mutate: func() simHooks {
		return simHooks{housekeeping: func(d *simNode) { d.node.membership.left.Store(0) }, config: func(c *simConfig) {
			c.onlyNodesInViews()
			c.lasting, c.replicas = true, 3
		}}
	}},
	{name: "what a member was promised is counted for its next life too", views: true, long: true, why: "a promise is given once to a number", mutate: func() simHooks {
		return simHooks{config: (*simConfig).onlyNodesInViews, entering: func(d *simNode) {
			for number := range d.node.credit.peers {
				if p := &d.node.credit.peers[number]; d.node.membership.left.Load()&bit(uint8(number)) != 0 {
					p.granted, p.promised = 0, 0 // and the sum stays
				}
			}
		}}
	}},
	{name: "a new life goes on with the credit of the old one", views: true, long: true, why: "a channel begins with nothing granted", mutate: func() simHooks {
		return simHooks{config: (*simConfig).onlyNodesInViews, peerUp: func(d *simNode, peer Member) func() {
			c := &d.node.credit
			limit := c.limit[peer.Number]
			return func() { c.came(peer.Number, limit) }
		}}
	}},
	{name: "a channel with something of a newer view is not held, and that is dropped", views: true, long: true, why: "it stalls its channel", mutate: func() simHooks {
		return simHooks{dropNewer: true, config: (*simConfig).onlyNodesInViews}
	}},
	{name: "what waits for memory is dropped when a view is entered", views: true, long: true, why: "what has come is counted, whatever view it is of", mutate: func() simHooks {
		return simHooks{config: (*simConfig).shrinkingNodesInViews, entering: func(d *simNode) {
			for number := range d.node.membership.stalls {
				d.node.membership.stalls[number].clear()
			}
		}}
	}},
	{name: "NEEDROOM is ignored", views: true, long: true, why: "a joiner that may not evict has others do it", mutate: func() simHooks {
		return simHooks{config: (*simConfig).shrinkingNodesInViews, receive: func(_ *sim, _ *simReplica, m *Message) bool { return m.Kind == NEEDROOM }}
	}},
	{name: "a joiner fills its memory with entries", views: true, long: true, why: "entries come without credit: what others were promised is not for them", mutate: func() simHooks {
		return simHooks{config: (*simConfig).shrinkingNodesInViews, receive: func(_ *sim, at *simReplica, m *Message) bool {
			if m.Kind != ENTRY {
				return false
			}
			d := at.drive.(*simNode)
			d.node.deliver(m, &d.pass)
			return true
		}}
	}},
}

// fullNodesInViews makes every configuration one of nodes whose memory is in demand.
func (c *simConfig) fullNodesInViews() {
	c.onlyNodesInViews()
	c.fill()
}

// shrinkingNodesInViews makes every configuration one in which later processes have less memory.
func (c *simConfig) shrinkingNodesInViews() {
	c.onlyNodesInViews()
	c.noEvict, c.memory, c.shrinks = false, simMemory*3/2, true
}
