package replication

import (
	"fmt"
	"math/bits"

	"hermesd/replication/views"
)

// simServer is the control plane in one process of the simulated group: the real views.Leader over a consensus made of votes, terms and a log
// that a majority holds. It is as much of raft as leases and views depend on: who leads, whether that is still so, and what is committed.
type simServer struct {
	s     *sim
	index int

	// On disk: kept by a process that is started again.
	term    uint64
	voted   int // index of the candidate voted for in the term, -1: none
	log     []simEntry
	logTerm uint64 // of the leader whose log it is

	// In memory.
	up        bool
	life      uint64 // counts starts: what was sent to an earlier one is lost
	role      simRole
	votes     uint64 // by index
	heard     uint64 // step at which a leader or candidate was last heard
	patience  uint64 // steps of silence before it stands for election
	known     int    // index of the leader that heartbeats go to, -1: none
	committed int    // entries of the log
	applied   int
	group     views.Group
	leader    *views.Leader
	elected   bool  // and the barrier of its term is applied
	barrier   int   // entries that have to be applied before
	matched   []int // by index: entries that the server is known to hold
	round     uint64
	asserted  uint64 // servers that have confirmed the round
	ticked    uint64 // step of the leader's last tick
}

type simRole uint8

const (
	simFollower simRole = iota
	simCandidate
	simLeads
)

// simEntry is an entry of the log. nil is the barrier with which a leader begins.
type simEntry struct {
	term    uint64
	command *views.Command
}

func (s *sim) newServers() {
	form := views.Form{ID: "simulated"}
	for i := range s.processes() {
		form.Slots = append(form.Slots, views.Slot{Number: uint8(i + 1), Address: simAddress(i), Server: simServerName(i), Witness: i >= s.cfg.replicas})
	}
	for i := range s.processes() {
		v := &simServer{s: s, index: i, voted: -1}
		if err := v.group.Apply(views.Command{Form: &form}); err != nil {
			panic(err)
		}
		s.servers = append(s.servers, v)
		v.start()
	}
}

// processes is the number of processes that vote: replicas, and perhaps a witness.
func (s *sim) processes() int { return s.cfg.replicas + b2i(s.cfg.witness) }

func simAddress(i int) string    { return fmt.Sprintf("10.0.0.%d:11300", i+1) }
func simServerName(i int) string { return fmt.Sprintf("server-%d", i+1) }

// start begins the life of a process.
func (v *simServer) start() {
	v.up, v.life = true, v.life+1
	v.role, v.elected, v.known = simFollower, false, -1
	v.committed, v.applied = 0, 0
	group := views.Group{}
	form := views.Form{ID: v.group.ID}
	for _, slot := range v.group.Slots {
		form.Slots = append(form.Slots, views.Slot{Number: slot.Number, Address: slot.Address, Server: slot.Server, Witness: slot.Witness})
	}
	if err := group.Apply(views.Command{Form: &form}); err != nil {
		panic(err)
	}
	v.group = group
	v.leader = views.NewLeader(v.s.leaderTiming())
	v.wait()
	v.later()
}

// stop ends it.
func (v *simServer) stop() { v.up = false }

// wait sets the timer of an election anew.
func (v *simServer) wait() {
	e := v.s.cfg.steps(v.s.cfg.views.Election)
	v.heard, v.patience = v.s.now, e+v.s.random.Uint64N(e+1)
}

// later ticks, for as long as this life lasts.
func (v *simServer) later() {
	life := v.life
	every := max(1, v.s.cfg.steps(v.s.cfg.views.Heartbeat)/4)
	v.s.after(every, v.index, func() {
		if v.up && v.life == life {
			v.tick()
			v.later()
		}
	})
}

func (v *simServer) tick() {
	if v.role != simLeads {
		if v.s.now-v.heard > v.patience {
			v.stand()
		}
		return
	}
	v.spread()
	if v.elected {
		v.leader.Tick(v.s.local(v.index))
		v.carryOut()
	}
}

// send has something happen at another server, after a while, unless it is lost.
func (v *simServer) send(to int, f func(at *simServer)) {
	s := v.s
	if to == v.index {
		f(v)
		return
	}
	at := s.servers[to]
	if s.cutOff(v.index, to) || !at.up {
		return
	}
	life := at.life
	s.after(1+s.around(s.cfg.delay), to, func() {
		if at.up && at.life == life {
			f(at)
		}
	})
}

func (v *simServer) toAll(f func(at *simServer)) {
	for i := range v.s.servers {
		if i != v.index {
			v.send(i, f)
		}
	}
}

// majority reports whether so many servers, by index, are one.
func (v *simServer) majority(set uint64) bool { return 2*bits.OnesCount64(set) > len(v.s.servers) }

// meet takes note of another server's term: a newer one ends whatever this server was.
func (v *simServer) meet(term uint64) {
	if term <= v.term {
		return
	}
	v.term, v.voted = term, -1
	v.stepDown()
}

func (v *simServer) stepDown() {
	was := v.role
	v.role = simFollower
	if was == simLeads {
		v.s.say("server %d leads no more", v.index+1)
	}
	if v.elected {
		v.elected = false
		v.leader.Deposed()
		v.carryOut()
	}
}

// stand stands for election.
func (v *simServer) stand() {
	v.term++
	v.voted, v.role, v.votes = v.index, simCandidate, 1<<v.index
	v.wait()
	term, last, length := v.term, v.lastTerm(), len(v.log)
	v.toAll(func(at *simServer) { at.onVote(v, term, last, length) })
	v.count()
}

func (v *simServer) lastTerm() uint64 {
	if len(v.log) == 0 {
		return 0
	}
	return v.log[len(v.log)-1].term
}

// onVote is asked to vote for a candidate, whose log must not be behind its own.
func (v *simServer) onVote(from *simServer, term, last uint64, length int) {
	v.meet(term)
	if term < v.term || v.voted >= 0 && v.voted != from.index || last < v.lastTerm() || last == v.lastTerm() && length < len(v.log) {
		return
	}
	v.voted = from.index
	v.wait()
	voter := v.index
	v.send(from.index, func(at *simServer) {
		if at.role == simCandidate && at.term == term {
			at.votes |= 1 << voter
			at.count()
		}
	})
}

func (v *simServer) count() {
	if !v.majority(v.votes) {
		return
	}
	v.s.counts.elections++
	v.s.say("server %d leads in term %d", v.index+1, v.term)
	v.role, v.elected, v.known = simLeads, false, v.index
	v.matched = make([]int, len(v.s.servers))
	v.logTerm = v.term
	v.log = append(v.log[:len(v.log):len(v.log)], simEntry{term: v.term})
	v.barrier = len(v.log)
	v.spread()
	v.commit()
}

// spread sends the leader's log to everybody, which also tells them that it leads.
func (v *simServer) spread() {
	term, log, committed := v.term, v.log[:len(v.log):len(v.log)], v.committed
	v.toAll(func(at *simServer) { at.onLog(v.index, term, log, committed) })
}

func (v *simServer) onLog(from int, term uint64, log []simEntry, committed int) {
	v.meet(term)
	if term < v.term {
		newer := v.term
		v.send(from, func(at *simServer) { at.meet(newer) })
		return
	}
	v.role, v.known = simFollower, from
	v.wait()
	if v.logTerm != term || len(log) > len(v.log) {
		v.log, v.logTerm = log, term
	}
	v.committed = max(v.committed, min(committed, len(v.log)))
	v.apply()
	voter, length := v.index, len(log)
	v.send(from, func(at *simServer) {
		if at.role == simLeads && at.term == term {
			at.matched[voter] = max(at.matched[voter], length)
			at.commit()
		}
	})
}

// commit commits what a majority holds.
func (v *simServer) commit() {
	v.matched[v.index] = len(v.log)
	for n := len(v.log); n > v.committed && v.log[n-1].term == v.term; n-- {
		var have uint64
		for i, m := range v.matched {
			if m >= n {
				have |= 1 << i
			}
		}
		if v.majority(have) {
			v.committed = n
			v.apply()
			v.spread()
			return
		}
	}
}

// apply applies what is committed.
func (v *simServer) apply() {
	for v.applied < v.committed {
		entry := v.log[v.applied]
		v.applied++
		if entry.command == nil {
			if v.role == simLeads && v.applied == v.barrier {
				v.elected = true
				v.leader.Elected(v.s.local(v.index), v.group, v.term)
			}
			continue
		}
		err := v.group.Apply(*entry.command)
		switch {
		case err == nil:
			v.s.committedView(v.group.View)
			if v.elected {
				v.leader.Committed(v.s.local(v.index), v.group)
			}
		case v.elected && entry.term == v.term:
			v.leader.Refused(v.s.local(v.index), err.Error())
		}
		if v.index < len(v.s.replicas) && v.s.replicas[v.index].alive() {
			r := v.s.replicas[v.index]
			v.s.effect(r, r.holder.Adopt(v.group.View, v.group.Used[v.index+1]))
		}
	}
	v.carryOut()
}

// carryOut does what the leader wants done.
func (v *simServer) carryOut() {
	out := v.leader.Take()
	for _, a := range out.Answers {
		if a.To.Number != 0 {
			v.answer(int(a.To.Number)-1, a)
		}
	}
	if out.Propose != nil {
		if v.role != simLeads {
			v.leader.Refused(v.s.local(v.index), "not the leader")
			return
		}
		v.log = append(v.log[:len(v.log):len(v.log)], simEntry{term: v.term, command: out.Propose})
		v.spread()
		v.commit()
	}
	if out.Round != 0 {
		v.assert(out.Round)
	}
}

// answer sends the answer to a heartbeat.
func (v *simServer) answer(to int, a views.Answer) {
	v.send(to, func(at *simServer) {
		r := at.s.replicas[at.index]
		if !r.alive() {
			return
		}
		if at.s.hooks.leaseFromReceipt {
			a.Since = at.s.local(at.index)
		}
		at.s.effect(r, r.holder.Answer(at.s.local(at.index), a))
	})
}

// assert asks a majority whether this is still the leader.
func (v *simServer) assert(round uint64) {
	v.round, v.asserted = round, 1<<v.index
	term := v.term
	if v.s.hooks.noRounds || v.majority(v.asserted) {
		v.assured(round)
		return
	}
	v.toAll(func(at *simServer) {
		at.meet(term)
		newer := at.term
		if newer == term {
			at.wait()
		}
		voter := at.index
		at.send(v.index, func(at *simServer) {
			at.meet(newer)
			if newer == term && at.term == term && at.round == round {
				at.asserted |= 1 << voter
				if at.majority(at.asserted) {
					at.assured(round)
				}
			}
		})
	})
	life := v.life
	v.s.after(2*v.s.cfg.steps(v.s.cfg.views.Election), v.index, func() {
		if v.up && v.life == life && v.elected && v.term == term && v.round == round {
			v.round = 0
			v.leader.RoundDone(v.s.local(v.index), round, false)
			v.carryOut()
		}
	})
}

func (v *simServer) assured(round uint64) {
	v.round = 0
	if !v.elected {
		return
	}
	v.leader.RoundDone(v.s.local(v.index), round, true)
	v.carryOut()
}
