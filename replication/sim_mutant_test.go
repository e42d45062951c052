package replication

// simHooks are the places at which a mutant changes the world. The zero value changes nothing.
type simHooks struct {
	config       func(cfg *simConfig)
	send         func(s *sim, from *simReplica, to int, m *Message) []*Message // what goes on the wire instead of m, which is the hook's
	receive      func(s *sim, at *simReplica, m *Message) (swallowed bool)
	items        func(*fakeStore) Items
	unique       func() uint64
	unordered    bool // messages of a lane overtake each other on a connection
	lateDelivery bool // messages come after their connection has been replaced
	clientsOnly  bool // nothing is checked but what clients have seen
}
