package replication

// Peer is another member of the view, as SetPeers lists it.
type Peer struct {
	// Member is the life of a replica that is meant. Incarnation 0 stands for any incarnation of the number: static groups and
	// tests, which learn incarnations only when members connect, list their peers so. A later life then takes the place of the one
	// before it, and an older one is refused.
	Member
	// Address is where it listens, host:port. Only the member with the higher number of a pair dials.
	Address string
}

// Transport carries messages between the members of a group. Between two members it is reliable and
// ordered per lane for as long as one channel lives; when a channel breaks, what was under way may be lost, and the
// transport sets up a new one by itself. TCP is in this package, RDMA in package rdma; the simulator has its own.
//
// Start, SetPeers and Reset are called by one goroutine at a time; all other methods at any time from any.
type Transport interface {
	// Start begins to listen and to connect, and delivers events to h until Close. It returns at once.
	Start(h Handler) error
	// SetPeers says who the other members of the view are; before the first call, there are none. A channel with a peer that is
	// not listed any more, or with another incarnation or address, ends at once; with who is listed and has no
	// channel one is set up at once, without waiting for a retry interval. What has not changed goes on. A member that connects
	// and is not listed is held for a moment, in case the view that lists it is on its way, and then refused in words.
	//
	// It does not wait for handler calls: PeerDown of a channel that ends follows soon, and the channel with the next incarnation comes
	// after that; a PeerUp that had been decided before may still come, and PeerDown follows it. It may be called before Start. The
	// entry with this member's own number, if there is one, is ignored, and so is a call after Close. The slice stays the caller's.
	SetPeers(peers []Peer)
	// Reset ends all channels and returns when no handler call is running or will come. From then on the transport is self, whose incarnation
	// must not be 0, and has no peers until SetPeers. Like Close it must not be called from inside a handler call.
	Reset(self Member)
	// Send enqueues m for member `to`, which must be up; it encodes before it returns, never blocks, and starts no system call.
	// Calls for one lane are sent in the order in which they were made. Messages for a member that is not up are dropped.
	Send(to uint8, m *Message)
	// Flush sends what was enqueued for all members. It is called once at the end of a pass of work, from any goroutine.
	Flush()
	// Stats calls f with each counter of the transport: bytes, messages, batches, system calls, reconnects, by member. Those of a member
	// count all its incarnations, and go on where they were if it is listed again.
	Stats(f func(name string, value uint64))
	// Close ends all channels and returns when no handler call is running or will come.
	Close() error
}

// Handler is what a Transport tells of its channels. For one peer, which is a number here whatever its incarnation, the calls come one
// after the other: PeerUp, then Receive and EndBatch many times, then PeerDown; calls for different peers may be concurrent.
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

// Interrupter is implemented by a Handler whose Receive may wait for something that others bring: it must give up when the channel that it
// waits on has ended, or Reset and Close would wait for it, and so would the peer's next channel.
type Interrupter interface {
	// Interrupt says that the channel with the peer, which PeerUp has accepted, has ended: broken, no longer listed, or by Reset or Close.
	// It is called as soon as the transport knows, while Receive or EndBatch of that channel may be running, at most once for each
	// channel and never after PeerDown has begun. A Receive that waits must return soon; what it and those that may yet begin before
	// PeerDown were given is dropped, as if it had been lost under way. It may send and take locks, for it is never called inside a
	// method of the transport; PeerDown waits until it has returned.
	//
	// A transport that hands over messages does not read meanwhile. So a break that shows only in the network is noticed during Receive when
	// the peer connects anew, or when something that is sent to it cannot be written.
	Interrupt(peer Member)
}
