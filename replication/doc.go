// Package replication keeps the replicas of a group linearizable, key by key, with the Hermes protocol (Katsarakis et al., ASPLOS
// 2020): reads are answered from a replica's own memory, an update takes one round trip from any replica to all others, and there is
// no leader. A single server is a group of one: the same path, with nobody to wait for.
//
// # The engine
//
// Lane is the protocol for one lane of keys as a state machine. It opens no socket, starts no goroutine, reads no clock and draws no random
// number. What goes in:
//
//	Submit(op)            an operation of a client
//	Receive(message)      a message of another member
//	PeerUp, PeerDown      a channel to a member has been set up, or is gone
//	Tick                  a tick of time
//
// and what comes out, through Env:
//
//	Send(to, message)     a message for a member
//	Done(op)              an operation that had to wait has been finished
//
// Its files: lane.go (what goes in, and running an operation), compute.go (what memcached's operations do to a value), update.go
// (the coordinator), follower.go (the follower), queue.go (waiting), absent.go (keys that are not stored: clocks, D, tombstones),
// flush.go, evict.go, channel.go (sending again). Message kinds are in message.go, under the paper's names.
//
// # The node
//
// Node drives the engines of all lanes: it holds their locks, connects them to a Transport (tcp.go; package rdma has another), to the clock
// and to the memory that the table has left (room.go, credit.go), and answers reads without a lock (read.go).
//
//	client request -> Node.View            read: no lock, no message
//	               -> Node.Submit -> Lane  update: INV to all, ACK from all, answer, VAL to all
//	transport      -> Node.Receive -> Lane
//
// What it is not: it knows nothing of memcached's text (package textproto) or of connections (package server), and keys and values
// live in package table.
package replication
