package replication

// Transport carries messages between the members of a group. Between two members it is reliable and
// ordered per lane for as long as one channel lives; when a channel breaks, what was under way may be lost, and the
// transport sets up a new one by itself. TCP is in this package, RDMA in package rdma; the simulator has its own.
type Transport interface {
	// Start begins to listen and to connect, and delivers events to h until Close. It returns at once.
	Start(h Handler) error
	// Send enqueues m for member `to`, which must be up; it encodes before it returns, never blocks, and starts no system call.
	// Calls for one lane are sent in the order in which they were made. Messages for a member that is not up are dropped.
	Send(to uint8, m *Message)
	// Flush sends what was enqueued for all members. It is called once at the end of a pass of work, from any goroutine.
	Flush()
	// Stats calls f with each counter of the transport: bytes, messages, batches, system calls, reconnects, by member.
	Stats(f func(name string, value uint64))
	// Close ends all channels and returns when no handler call is running or will come.
	Close() error
}

// Handler is what a Transport tells of its channels. For one peer the calls come one after the other:
// PeerUp, then Receive and EndBatch many times, then PeerDown; calls for different peers may be concurrent.
type Handler interface {
	// PeerUp says that a new channel with the peer is ready, and that nothing of an earlier one can still be
	// delivered. Send to the peer works from here on, also within the call. An error refuses the peer: the channel is closed, the
	// error is told to the peer and logged by both.
	PeerUp(peer Member) error
	// Receive hands over one message; its slices are good only during the call.
	Receive(m *Message)
	// EndBatch ends a batch of Receive calls: what could be read at once has been handed over.
	EndBatch(peer Member)
	// PeerDown says that the channel is gone. Nothing of it will be delivered after this call.
	PeerDown(peer Member, err error)
}
