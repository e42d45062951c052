// Package views is the control plane of a group of replicas: who is in the view, and until when each of them may serve. Nothing of a
// client's request passes through it.
//
// The pure parts read no clock, start no goroutine and draw no random number; the driver and the simulation give them the same inputs:
//
//	Group    what the servers agree on: slots (who may be in the group) and the view (who is). Raft's replicated state machine.
//	Leader   what the leader of the control plane decides: leases, removals, joiners, generations.
//	Holder   the replica's side: heartbeats, its lease, what a view means for this incarnation.
//	Elector  when this server stands for election: heartbeats stay unanswered, for a majority of the servers.
//	Timing   the times, and the relations between them that must hold.
//
// The Driver runs them on hashicorp/raft. It looks after a Host, which is replication.Node, or nothing on a witness. What a process must remember lies in its Store,
// the data directory. An operator talks to any server with a Client.
//
// # Leases
//
// A replica sends a heartbeat every Timing.Heartbeat. The leader answers when a majority has said, after the heartbeat came, that it knows
// of no newer leader; or when there are at most three voters and the sender's own term says so; or, with more, when the heartbeats of a majority say so of a time after the
// heartbeat before had come. The answer lets the replica serve until Timing.Lease after it SENT the heartbeat, or in the last case that before it, by its own clock.
// A view without a member is committed only when Timing.LeaseBound has passed, by the leader's clock, since the last heartbeat of it from which a lease has been counted, and
// since the leader was elected. Why that is enough:
//
//   - The leader that grants sees the heartbeat arrive after it was sent, so its count begins later than the holder's and is longer by the drift.
//   - A later leader L2 counts from its election. Had L2 been elected before a heartbeat was sent, then of the majority that confirmed the older leader
//     afterwards at least one had voted for L2 and would have named its term. So the heartbeat was sent before, and L2's count covers its lease.
//   - The sender that says its term, read after it took the time, and the leader that looks at its own when that arrives are a majority of two or three voters: the same holds.
//   - Of more voters a majority is gathered from heartbeats. One that gives back an answer of this leader, and no later term, says that its sender knew of none after that answer: so after all
//     heartbeats that had arrived before it. Only what comes a heartbeat later can say that, so a lease counts from the heartbeat before the one that is answered; of its sender that one says enough.
//   - Voters are those of raft's latest configuration as the leader reads it then. A later leader whom the leaders between do not explain was elected by that one or a neighbour of it,
//     with one voter more or less: raft changes the next only when the last is committed. Majorities of neighbours have a voter in common.
//
// # Raft's servers and the group's slots
//
// A process names itself to raft with a random name that it keeps in its data directory. One that has lost the directory has another
// name, and raft's connections name the server that they want, so that it never votes for what it has forgotten. It asks the leader for the place of its
// number; the leader notes the new name in the slot, and then makes raft's configuration that of the slots, one server at a time.
package views
