// Package rdma carries the messages between replicas by RDMA: it is the replication.Path that lets a channel of TCP's send by verbs
// (libibverbs) what its connection would. It needs cgo and the build tag rdma; without, New says so, and the rest, which calls no verbs,
// is there to be tested anywhere.
//
// # How a batch gets there
//
// Each channel has a reliable connected queue pair, and at each end two rings of the same size in memory mapped outside Go's heap and
// registered once: one to send from, one that the peer writes to. Send encodes a message into the open frame of the ring to send from, and
// Flush closes the frame and posts it, as one RDMA WRITE WITH IMMEDIATE from an offset of one ring to the same offset of the other. So there is no copy
// and no address to agree on, and the receiver, who knows the length from the completion and the place from the frame before, is told by the immediate
// value only what it cannot know: whether the frame begins at the ring's start, whether it is a part of something larger, and how many frames of the
// other direction have been used up. That is the credit, and it costs nothing while there is traffic in both directions, as there is in Hermes: an
// INV is answered. A receiver that has nothing to say writes a quarter of a ring's worth of credit as an immediate value alone.
//
// What the ring has no room for gathers in ordinary memory, up to OutLimit, and is copied into the ring as credit comes; what is larger than a
// quarter of the ring goes that way in pieces. (ring.go, channel.go, receive.go; verbs.c for the calls.)
//
// # Completions
//
// One request in many is signalled, by number and by bytes (sendRing.post). A receiver polls for as long as a sleep and a wake-up would cost, then
// arms the completion channel, polls once more, since arming a queue that holds something brings no event, and waits in Go's own poller. An idle
// replica uses no processor, but for an empty write in each direction now and then, which shows that the path is alive: silence is not health.
//
// # Damage
//
// Every frame has a CRC-32C over its bytes and its immediate value. RoCE's packets have one end to end (ICRC), which TCP's segments do not, but
// that begins and ends in the network cards: it does not see what happens on the way to and from memory, nor a ring that is written to
// before it was read, which is the mistake that a program like this one makes. At 0.1 ns a byte it is kept.
package rdma
