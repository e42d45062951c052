package views

import (
	"fmt"
	"math/bits"
	"strings"
)

// MaxMember is the greatest member number; sets of members are 64-bit masks, and 0 is nobody's number.
const MaxMember = 63

// Member is one life of a replica: its number in the group (1..MaxMember) and the incarnation, which no two
// lives of the same number share.
type Member struct {
	Number      uint8
	Incarnation uint64
}

func (m Member) String() string { return fmt.Sprintf("%d/%d", m.Number, m.Incarnation) }

// Replica is a member of a view.
type Replica struct {
	Member
	Address string // host:port, of the channels and the control plane
	Serving bool   // false: catching up
}

// View is who is in the group from one epoch on. Epoch 0: there has been none yet.
type View struct {
	Epoch      uint64
	Generation uint64    // grows when the group begins anew, empty, because no replica that served was left
	Members    []Replica // by number
}

// Find returns the replica of that number, whatever its incarnation.
func (v *View) Find(number uint8) (Replica, bool) {
	for _, r := range v.Members {
		if r.Number == number {
			return r, true
		}
	}
	return Replica{}, false
}

// Has reports whether this incarnation is in the view.
func (v *View) Has(m Member) bool {
	r, ok := v.Find(m.Number)
	return ok && r.Incarnation == m.Incarnation
}

// Numbers is the set of the members' numbers, as bits.
func (v *View) Numbers() (set uint64) {
	for _, r := range v.Members {
		set |= bit(r.Number)
	}
	return set
}

// Serving is the set of the numbers of the members that serve, as bits.
func (v *View) Serving() (set uint64) {
	for _, r := range v.Members {
		if r.Serving {
			set |= bit(r.Number)
		}
	}
	return set
}

func (v View) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "epoch %d, generation %d:", v.Epoch, v.Generation)
	for _, r := range v.Members {
		fmt.Fprintf(&b, " %v", r.Member)
		if !r.Serving {
			b.WriteString(" (catching up)")
		}
	}
	return b.String()
}

// Status is what a replica says of itself in each heartbeat.
type Status struct {
	Epoch       uint64 // entered
	Settled     bool   // in this epoch no update of a member that has left is unvalidated here
	CaughtUp    bool   // catching up, and the stream is complete
	Unreachable uint64 // bit n: no channel with member n of the view for longer than Timing.Unreachable
	Memory      Memory
}

// Memory is that of a replica, in bytes. Total 0: it says nothing of it.
type Memory struct {
	Total    uint64 // memcached's -m
	Taken    uint64 // by items and their index
	Kept     uint64 // what it keeps free for updates under way in a group of two; one that has less free refuses updates, or evicts
	KeptEach uint64 // and more of it for each further replica
	KeepsAll bool   // memcached's -M: it evicts nothing
}

// tooLittle reports whether nothing could be stored any more in a group of so many replicas once a replica with memory m had joined it that holds all that one
// with memory other does. Where there are evictions they make room; as much memory as the other has is never too little.
func (m Memory) tooLittle(other Memory, replicas int) bool {
	if !m.KeepsAll && !other.KeepsAll || m.Total == 0 || m.Total >= other.Total {
		return false
	}
	return m.Total < m.keptIn(replicas)+other.Taken
}

func (m Memory) keptIn(replicas int) uint64 { return m.Kept + m.KeptEach*uint64(max(replicas-2, 0)) }

// Host is the replica that the control plane looks after: replication.Node, or the simulator's. No two calls run at one time,
// except those of Renew and Status, which must not wait for the others.
type Host interface {
	// Enter is told of a committed view that lists this incarnation. Epochs grow. It returns when the view is entered.
	Enter(v View)
	// Renew is the lease: the replica may serve until then, in nanoseconds of Now. 0 ends it at once.
	Renew(until int64)
	// Restart says that the incarnation was in a view and is not any more, or that a generation began without it: the host
	// forgets everything and is self, which is in no view yet.
	Restart(self Member)
	// Status is asked for each heartbeat and must be cheap.
	Status() Status
}

func bit(number uint8) uint64 { return 1 << (number & 63) }

func lowest(set uint64) uint8 { return uint8(bits.TrailingZeros64(set)) }
