package views

import (
	"errors"
	"fmt"
	"time"
)

// Timing is how fast a group notices that a replica is gone, and how long a replica may serve on what it last heard. All
// servers of a group must have the same. The arithmetic, for a replica that is killed:
//
//	not the leader of the control plane:  SuspectAfter after its last heartbeat, and a commit (two fsyncs at one time)
//	the leader:                           its connections break, and another one is elected (two commits), then SuspectAfter
//
// A leader that hangs, or that the network does not reach any more, is missed when a heartbeat, which is due in Heartbeat at most, has not been answered for
// Election; another server that is asked then, and has not noticed anything, waits for its own answer for half of that. So with the default that is at most
// 0.075 + 0.068 + 0.305 = 0.448 s, and some milliseconds of disk (0.305 s if it is killed); with Tuned 0.02 + 0.03 + 0.115 = 0.165 s (0.115 s).
//
// So that replicas do not stop to serve while a leader is found, the lease outlasts that too: with three voters it is Heartbeat old when the next heartbeat is sent, with
// more, where it is counted from the heartbeat before the one that was answered, 2*Heartbeat, as is the leader's own with any number (see Leader.agree). Then come the
// election and the first round, which waits Heartbeat/10 for the heartbeats of all. 75 + 68 and 150 + 68 ms are less than 260 (20 + 30 and 40 + 30 less than 100), which leaves
// 42 ms (30) for those at worst.
type Timing struct {
	Heartbeat    time.Duration // between the heartbeats of a replica; at least 5 ms, at most a third of Lease
	Lease        time.Duration // for how long after a heartbeat was sent its answer lets the sender serve
	SuspectAfter time.Duration // a replica that has been silent for so long is removed from the view
	Election     time.Duration // silence of the leader after which a server asks the others whether they have lost it too, to stand for election then
	Unreachable  time.Duration // the same between two replicas that both reach the leader: one is removed; not less than SuspectAfter
	Drift        float64       // bound of the difference in rate of any two clocks of the group: 0.01 is a hundredth
}

// DefaultTiming makes writes stall for less than 500 ms when a replica is killed.
var DefaultTiming = Timing{Heartbeat: 75 * time.Millisecond, Lease: 260 * time.Millisecond, SuspectAfter: 305 * time.Millisecond,
	Election: 45 * time.Millisecond, Unreachable: time.Second, Drift: 0.01}

// TunedTiming makes writes stall for less than 200 ms, on machines whose processes are not kept from running for as long.
var TunedTiming = Timing{Heartbeat: 20 * time.Millisecond, Lease: 100 * time.Millisecond, SuspectAfter: 115 * time.Millisecond,
	Election: 20 * time.Millisecond, Unreachable: 500 * time.Millisecond, Drift: 0.01}

// LeaseBound is the time in which a lease has surely run out by the clock of somebody else.
func (t Timing) LeaseBound() time.Duration {
	return t.Lease + time.Duration(float64(t.Lease)*t.Drift) + 1
}

// margin is what must lie between the end of the last lease and the suspicion, so that a replica whose heartbeats are slow for a moment is not removed.
func (t Timing) margin() time.Duration { return t.Heartbeat / 2 }

// late is when, after a heartbeat, the next is so late that the leader does without it what it would have done with it.
func (t Timing) late() time.Duration { return t.Heartbeat * 5 / 4 }

// gather is for how long the leader waits, after a heartbeat, for those of others before it begins a round.
func (t Timing) gather() time.Duration { return t.Heartbeat / 10 }

// roundGap is the least time from one round to the next.
func (t Timing) roundGap() time.Duration { return t.Heartbeat * 9 / 10 }

// formation is for how long the leader waits for all replicas to ask to join, before it makes a generation of those who have.
func (t Timing) formation() time.Duration { return max(time.Second, 4*t.SuspectAfter) }

// Validate says which relation between the times does not hold, in words for who has set them.
func (t Timing) Validate() error {
	switch {
	case t.Heartbeat < 5*time.Millisecond:
		return fmt.Errorf("the heartbeat interval (%v) is below 5ms", t.Heartbeat)
	case t.Drift < 0 || t.Drift > 0.5:
		return fmt.Errorf("the clock drift (%v) is not between 0 and 0.5", t.Drift)
	case t.Heartbeat > t.Lease/3:
		return fmt.Errorf("the heartbeat interval (%v) is more than a third of the lease (%v): two lost heartbeats would cost the lease; at most %v",
			t.Heartbeat, t.Lease, t.Lease/3)
	case t.SuspectAfter < t.LeaseBound()+t.margin():
		return fmt.Errorf("a replica would be suspected (after %v) before its lease (%v) has surely run out: suspect-after must be at least %v, "+
			"that is the lease, %g%% of clock drift and half a heartbeat interval (%v)",
			t.SuspectAfter, t.Lease, roundUp(t.LeaseBound()+t.margin()), t.Drift*100, t.margin())
	case t.Unreachable < t.SuspectAfter:
		return fmt.Errorf("unreachable-after (%v) is less than suspect-after (%v): a dead replica would be taken for one that is cut off; at least %v",
			t.Unreachable, t.SuspectAfter, t.SuspectAfter)
	case t.Election < 10*time.Millisecond:
		return fmt.Errorf("the election timeout (%v) is below 10ms", t.Election)
	case t.Election > t.SuspectAfter:
		return errors.New("the election timeout (" + t.Election.String() + ") is more than suspect-after (" + t.SuspectAfter.String() +
			"): a lost leader would be noticed later than any other replica")
	}
	return nil
}

func roundUp(d time.Duration) time.Duration {
	return (d + time.Millisecond - 1).Truncate(time.Millisecond)
}
