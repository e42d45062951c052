package views

import (
	"context"
	"math/bits"
	"sync"
	"time"
)

// GroupStatus is what an operator wants to know of a group.
type GroupStatus struct {
	Group      string // name; empty: not formed
	Leader     uint8  // of the control plane; 0: none, and then only what the asked server remembers follows
	Term       uint64
	Version    uint64
	Generation uint64
	Epoch      uint64
	Note       string // what is wrong with the whole, in words
	Slots      []SlotStatus
}

// SlotStatus is that of one replica or witness.
type SlotStatus struct {
	Number      uint8
	Address     string
	Witness     bool
	Server      string        // raft's name; empty: no process has come yet
	State       string        // serving, catching up, joining, absent, witness, unknown
	Incarnation uint64        // in the view, or that asks to join; 0: neither
	Why         string        // it is not serving, or is about to leave; in words
	Heard       time.Duration // since its last heartbeat; -1: none
	Reached     time.Duration // since the leader's last question to it was answered; -1: not since the election
	Entered     uint64        // epoch
	Settled     bool
	CaughtUp    bool
	Leased      bool    // it had a lease when it sent its last heartbeat
	Unreachable []uint8 // members that it cannot reach
	Removing    bool
	Next        string    // it is being moved there
	Channels    []Channel // it has said itself (LearnChannels)
}

// Channel is how a replica's messages to another one go.
type Channel struct {
	Peer      uint8  // number
	Transport string // rdma, tcp
	Reason    string // it is not what was wanted most, as tcp where rdma was wanted too; in words
}

// LearnChannels asks the replicas themselves, all at one time, what the leader does not know: their Channels. Who does not answer until ctx ends has none.
func (s *GroupStatus) LearnChannels(ctx context.Context) {
	var asked sync.WaitGroup
	for i := range s.Slots {
		slot := &s.Slots[i]
		if slot.Witness || slot.Incarnation == 0 {
			continue
		}
		asked.Go(func() {
			c, err := Dial(ctx, slot.Address)
			if err != nil {
				return
			}
			defer c.Close()
			slot.Channels, _ = c.Channels(ctx)
		})
	}
	asked.Wait()
}

const noProcess = "no process has come to fill its place yet"

// Slot returns that of a number.
func (s *GroupStatus) Slot(number uint8) (SlotStatus, bool) {
	for _, slot := range s.Slots {
		if slot.Number == number {
			return slot, true
		}
	}
	return SlotStatus{}, false
}

// Status is what the leader knows.
func (l *Leader) Status(now int64) GroupStatus {
	g := &l.group
	s := GroupStatus{Group: g.ID, Version: g.Version, Generation: g.View.Generation, Epoch: g.View.Epoch}
	leavers, victims := l.leavers(now), l.victims(now)
	for _, slot := range g.Slots {
		t := SlotStatus{Number: slot.Number, Address: slot.Address, Witness: slot.Witness, Server: slot.Server, Removing: slot.Removing,
			Next: slot.Next, Heard: -1, Reached: -1, State: "absent"}
		m := l.speaker(slot.Number)
		r, in := g.View.Find(slot.Number)
		switch {
		case slot.Witness:
			t.State = "witness"
			if slot.Server == "" {
				t.Why = noProcess
			}
		case in:
			m = r.Member
			t.State = "catching up"
			if r.Serving {
				t.State = "serving"
			}
			t.Why = reasonWords[l.reason(now, r, victims)]
			if t.Why != "" && leavers&bit(r.Number) == 0 {
				t.Why += "; it stays, for no other replica serves"
			}
		case m.Incarnation != 0 && l.fresh(now, l.peers[m]):
			t.State = "joining"
			t.Why = l.whyOut(now, m, l.peers[m])
		case slot.Server == "":
			t.Why = noProcess
		default:
			t.Why = reasonWords[silent]
		}
		t.Incarnation = m.Incarnation
		if p := l.peers[m]; p != nil {
			t.Heard = time.Duration(now - p.heard)
			t.Entered, t.Settled, t.CaughtUp, t.Leased = p.beat.Epoch, p.beat.Settled, p.beat.CaughtUp, p.beat.Leased
			for set := p.beat.Unreachable; set != 0; set &= set - 1 {
				t.Unreachable = append(t.Unreachable, uint8(bits.TrailingZeros64(set)))
			}
		}
		s.Slots = append(s.Slots, t)
	}
	return s
}

// Entered is the epoch that the replica of that number has said it is in; 0: it has said nothing.
func (l *Leader) Entered(number uint8) uint64 {
	if p := l.peers[l.speaker(number)]; p != nil {
		return p.beat.Epoch
	}
	return 0
}

// Hears reports whether a process of that server has lately sent a heartbeat.
func (l *Leader) Hears(now int64, server string) bool {
	for _, p := range l.peers {
		if p.beat.Server == server && l.fresh(now, p) {
			return true
		}
	}
	return false
}

// speaker is the latest incarnation of a number that has been heard.
func (l *Leader) speaker(number uint8) (m Member) {
	for other := range l.peers {
		if other.Number == number && other.Incarnation > m.Incarnation {
			m = other
		}
	}
	return m
}

// status is the leader's, with the state locked.
func (d *Driver) status() GroupStatus {
	now := Now()
	s := d.leader.Status(now)
	s.Leader, s.Term = d.cfg.Number, d.term
	for i := range s.Slots {
		t := &s.Slots[i]
		if at, ok := d.voters[t.Server]; ok {
			t.Reached = time.Duration(now - at)
		}
		if t.Server == d.cfg.Store.Server() {
			t.Reached = 0
		}
		if t.Witness && t.Server != "" && (t.Reached < 0 || t.Reached > d.callTimeout()) {
			t.Why = "it does not answer"
			if now-d.acceded <= int64(d.callTimeout()) {
				t.Why = "it has not answered the new leader yet"
			}
		}
	}
	return s
}

// ownStatus is what a server without a leader remembers.
func (d *Driver) ownStatus() GroupStatus {
	g := d.fsm.get()
	s := GroupStatus{Group: g.ID, Version: g.Version, Generation: g.View.Generation, Epoch: g.View.Epoch, Term: d.raft.CurrentTerm(),
		Note: d.leaderless()}
	for _, slot := range g.Slots {
		t := SlotStatus{Number: slot.Number, Address: slot.Address, Witness: slot.Witness, Server: slot.Server, Removing: slot.Removing,
			Next: slot.Next, Heard: -1, Reached: -1, State: "unknown"}
		if r, in := g.View.Find(slot.Number); in {
			t.Incarnation = r.Incarnation
		}
		s.Slots = append(s.Slots, t)
	}
	return s
}

// Status is how the group is, as this server knows or learns from the leader.
func (d *Driver) Status() (GroupStatus, error) {
	var out Outcome
	err := (&service{d}).Operate(Operation{Status: true}, &out)
	return out.Status, err
}
