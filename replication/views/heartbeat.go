package views

// Heartbeat is what a replica says to the leader of the control plane every Timing.Heartbeat. Its clock is its own: the leader
// only gives Sent back.
type Heartbeat struct {
	From    Member
	Server  string // raft's name of the process
	Sent    int64  // by the sender's clock, ns
	Alike   string // Config.Alike
	Bound   int64  // Timing.LeaseBound, ns
	Leaving bool   // the replica has given up its lease for good
	Leased  bool   // it had a lease when it sent this; only for people who wait until it serves
	Status
	// Reachable is of a replica that is in no view: the members of the view of epoch Seen that have just answered it, as bits.
	Reachable uint64
	Seen      uint64
	// Term is raft's at the sender, read after the clock for Sent and after the answer with the Echo was there: it had voted for no leader of a later one.
	Term uint64
	Echo Echo // of the last answer
}

// changing answers a heartbeat to a server whose reign has not begun, or is over.
func (h *Heartbeat) changing() Answer {
	return Answer{To: h.From, Sent: h.Sent, Why: "the leader of the control plane is changing"}
}

// Echo names a moment of a leader: of each answer, which the next heartbeat gives back. Term 0: none.
type Echo struct {
	Term  uint64 // in which it leads
	Stamp int64  // by its clock, ns; the answer was given no earlier
}

// Answer is the leader's answer to a heartbeat, or (To.Number 0) the news of a view, which concern everybody.
type Answer struct {
	To   Member
	Sent int64 // of the heartbeat
	// Lease is the epoch of the view in which the sender may serve, for Timing.Lease from Since. 0: it may not, for what this answer says.
	Lease uint64
	Since int64  // when it sent this heartbeat or one before, by its clock
	View  View   // of epoch 0 if it is the one that the sender has entered
	Used  uint64 // the greatest incarnation of To's number that has been in a view: tells one that has left from one that is to come
	Echo  Echo
	After int64  // ns; not 0: the next heartbeat is wanted after that time, so that those of all come to the leader together
	Why   string // the sender is not in the view, in words
	Leads bool   // who answers is raft's leader, or was when it answered
}
