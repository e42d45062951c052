package views

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/raft"
)

// This file is the driver's side of Elector: pre-votes, probes, and how raft is told to stand.

// raftPatience is raft's own timeout of leaders and candidates: what happens if the Elector does not see to it, and for how long a leader without a majority believes in
// itself, which hurts nobody. Its heartbeats go every tenth to fifth of the HeartbeatTimeout of the leader, which is three times as long (see led).
func (t Timing) raftPatience() time.Duration { return max(2*time.Second, 5*t.Election) }

// leaderAddress is where heartbeats go: to raft's leader, or to whom another server has named, if raft knows of none since its next message is yet to come.
// Empty: there is none, or it is this server. With the state locked.
func (d *Driver) leaderAddress() string {
	address, _ := d.raft.LeaderWithID()
	if address != "" {
		d.named = ""
	}
	if to := plain(address); to != "" && to != d.cfg.Address {
		return to
	}
	return d.named
}

// elect does what the Elector wants, and returns when to look again.
func (d *Driver) elect(now int64) int64 {
	e := d.elector
	leader := d.leaderAddress()
	e.Follow(now, leader, d.raft.State() == raft.Leader)
	if e.Doubts(now) {
		d.probe(now, leader, d.timing.Election, func() {})
	}
	if e.Wants(now) {
		c := d.candidacy(leader)
		attempt, ask, stand := e.Stand(now, c)
		if ask {
			d.canvass(now, attempt, c, leader)
		}
		if stand {
			d.stand(c.Term)
		}
		d.withdraw()
	}
	return e.Due(now)
}

// leaderAnswered is told what has become of a call to the leader at an address, sent when sent was: leads, it has said that it leads.
func (d *Driver) leaderAnswered(address string, sent int64, leads bool) {
	if address != d.leaderAddress() {
		return
	}
	if leads {
		d.elector.Heard(sent)
		return
	}
	d.elector.Broke()
	if address == d.named {
		d.named = ""
	}
}

// probe asks the leader whether it leads, and calls done, with the state locked, when it has answered or patience is over.
func (d *Driver) probe(now int64, leader string, patience time.Duration, done func()) {
	d.elector.Sent(now)
	ended := false
	end := func(leads bool) {
		if ended && !leads {
			return
		}
		d.leaderAnswered(leader, now, leads) // also if it comes late
		if !ended {
			ended = true
			done()
		}
	}
	reply := new(ProbeAnswer)
	timer := time.AfterFunc(patience, func() { d.mail.post(func() { end(false) }) })
	d.link(leader).call(methodProbe, Probe{}, reply, func(err error) {
		timer.Stop()
		d.mail.post(func() { end(err == nil && reply.Leads) })
	})
}

// candidacy is what an election depends on; leader is who is lost.
func (d *Driver) candidacy(leader string) Candidacy {
	own := d.cfg.Store.Server()
	c := Candidacy{Term: d.raft.CurrentTerm()}
	for _, s := range d.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		c.Voters = append(c.Voters, string(s.ID))
		switch {
		case string(s.Address) == leader:
			c.Lost = string(s.ID)
		case string(s.ID) < own:
			c.Rank++
		}
	}
	c.LastTerm, c.LastIndex = d.lastEntry()
	return c
}

// lastEntry is the end of raft's log, which may lie in a snapshot.
func (d *Driver) lastEntry() (term, index uint64) {
	stats := d.raft.Stats()
	number := func(name string) uint64 {
		n, err := strconv.ParseUint(stats[name], 10, 64)
		if err != nil {
			panic(fmt.Sprintf("raft's statistics have no number %s: %q", name, stats[name]))
		}
		return n
	}
	if log, snap := number("last_log_index"), number("last_snapshot_index"); log >= snap {
		return number("last_log_term"), log
	} else {
		return number("last_snapshot_term"), snap
	}
}

// canvass asks all other voters whether they would vote for this server.
func (d *Driver) canvass(now int64, attempt uint64, c Candidacy, leader string) {
	d.log.Debug().Str("leader", leader).Msg("the leader of the control plane is silent, or there is none: the others are asked")
	own := d.cfg.Store.Server()
	for _, s := range d.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage != raft.Voter || string(s.ID) == own {
			continue
		}
		voter, answer := string(s.ID), new(PreVoteAnswer)
		q := PreVote{Server: voter, Candidate: own, LastTerm: c.LastTerm, LastIndex: c.LastIndex}
		d.link(string(s.Address)).call(methodPreVote, q, answer, func(err error) {
			if err == nil {
				d.mail.post(func() { d.told(attempt, voter, *answer) })
			}
		})
	}
	if leader != "" {
		d.probe(now, leader, d.timing.Election, func() {})
	}
}

func (d *Driver) told(attempt uint64, voter string, a PreVoteAnswer) {
	if a.Leader != "" && a.Leader != d.cfg.Address && d.leaderAddress() == "" && d.raft.State() != raft.Leader {
		d.named = a.Leader
		d.holderHurry()
	}
	now := Now()
	d.elector.Follow(now, d.leaderAddress(), d.raft.State() == raft.Leader)
	if term, stand := d.elector.Told(now, attempt, voter, a); stand {
		d.stand(term)
	}
	d.withdraw()
}

// withdraw tells those who have promised their votes in vain.
func (d *Driver) withdraw() {
	freed := d.elector.Freed()
	if len(freed) == 0 {
		return
	}
	for _, s := range d.raft.GetConfiguration().Configuration().Servers {
		if slices.Contains(freed, string(s.ID)) {
			q := PreVote{Server: string(s.ID), Candidate: d.cfg.Store.Server(), Withdrawn: true}
			d.link(string(s.Address)).call(methodPreVote, q, new(PreVoteAnswer), func(error) {})
		}
	}
}

// asked answers another server's PreVote; reply is called once, with the state locked.
func (d *Driver) asked(q PreVote, reply func(PreVoteAnswer)) {
	now, leader := Now(), d.leaderAddress()
	d.elector.Follow(now, leader, d.raft.State() == raft.Leader)
	c := d.candidacy(leader)
	verdict := d.elector.Asked(now, q, c)
	d.withdraw()
	switch verdict {
	case AskLeader:
		d.probe(now, leader, d.timing.Election/2, func() {
			now := Now()
			d.elector.Follow(now, d.leaderAddress(), d.raft.State() == raft.Leader)
			a := PreVoteAnswer{Term: c.Term}
			switch d.elector.Asked(now, q, d.candidacy(leader)) {
			case Promise:
				a.Yes = true
			case AskLeader:
				a.Leader = d.leaderAddress()
			}
			d.withdraw()
			reply(a)
		})
	case Promise:
		reply(PreVoteAnswer{Yes: true, Term: c.Term})
	default:
		a := PreVoteAnswer{Term: c.Term}
		if d.raft.State() == raft.Leader {
			a.Leader = d.cfg.Address
		}
		reply(a)
	}
}

// stand makes raft a candidate of a term after the given one, by a message that it otherwise gets from a leader that hands over to it: voters then grant their votes though
// they have a leader, and do not ask each other first, for they have been. A candidate would not listen to that message, and has to be a follower before;
// nor would voters of a later term to its request.
func (d *Driver) stand(term uint64) {
	own := d.raft.CurrentTerm()
	candidate := d.raft.State() == raft.Candidate
	d.log.Debug().Uint64("after", max(own, term)).Msg("this server stands for election")
	go func() {
		if d.raft.State() == raft.Leader { // elected meanwhile: the message would depose it
			return
		}
		if candidate {
			term = max(term, own+1)
		}
		if term > own {
			d.transport.raise(term)
		}
		d.transport.timeoutNow()
	}()
}
