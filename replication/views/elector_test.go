package views

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// electorate is a group of Electors in virtual time, over as much of raft as decides who leads: terms, votes, and logs of some length. Messages and disks take some
// milliseconds, and a network breaks between two servers in either of two ways.
type electorate struct {
	rng       *rand.Rand
	timing    Timing
	now       int64
	events    events
	order     int
	servers   []*elector
	broken    map[[2]uint8]failure
	elections int // won
	stands    int
	log       []string
}

type elector struct {
	w      *electorate
	number uint8
	e      *Elector
	beats  bool // it sends heartbeats: it is no witness
	down   bool
	length uint64 // of the log
	term   uint64
	votes  int // in term, as a candidate
	leads  bool
	knows  *elector // who leads
	beat   int64    // when the next heartbeat is due
	wakes  int64
}

func newElectorate(seed uint64, n int, witness bool) *electorate {
	w := &electorate{rng: rand.New(rand.NewPCG(seed, 7)), timing: DefaultTiming, broken: map[[2]uint8]failure{}}
	for i := range n {
		v := &elector{w: w, number: uint8(i + 1), beats: !witness || i < n-1, length: 1}
		v.e = NewElector(w.timing, v.name())
		w.servers = append(w.servers, v)
		w.after(w.rng.Int64N(int64(20*time.Millisecond)), v.pump)
	}
	return w
}

func (v *elector) name() string { return fmt.Sprint(v.number) }

func (w *electorate) after(d int64, do func()) {
	w.order++
	heap.Push(&w.events, event{at: w.now + max(d, 0), order: w.order, do: do})
}

// until runs the world until something is so, for no longer than d; it returns how long it took, and whether it is so.
func (w *electorate) until(d time.Duration, so func() bool) (time.Duration, bool) {
	began := w.now
	for !so() && len(w.events) > 0 && w.events[0].at <= began+int64(d) {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
	}
	return time.Duration(w.now - began), so()
}

func (w *electorate) run(d time.Duration) { w.until(d, func() bool { return false }) }

func (w *electorate) leader() *elector {
	var leader *elector
	for _, v := range w.servers {
		if v.leads && !v.down && (leader == nil || v.term > leader.term) {
			leader = v
		}
	}
	return leader
}

// reach has f run at another server, and done told what it answered: nothing, at once, if the connection is broken; never, if nothing arrives.
func reach[A any](v, to *elector, f func(reply func(A)), done func(A, bool)) {
	w := v.w
	how := w.broken[pair(v.number, to.number)]
	if how == lineMute {
		return
	}
	if to.down || how == lineCut {
		w.after(100_000, func() {
			var none A
			done(none, false)
		})
		return
	}
	travel := func() int64 { return 100_000 + w.rng.Int64N(2_000_000) }
	w.after(travel(), func() {
		if to.down {
			return
		}
		f(func(a A) {
			w.after(travel(), func() {
				if !v.down && w.broken[pair(v.number, to.number)] == lineWhole {
					done(a, true)
				}
			})
		})
	})
}

func (v *elector) address() string {
	if v.knows == nil || v.leads {
		return ""
	}
	return v.knows.name()
}

// pump is what Driver.elect and Driver.beat do.
func (v *elector) pump() {
	w := v.w
	if v.down {
		return
	}
	v.e.Follow(w.now, v.address(), v.leads)
	leader := v.knows
	if v.beats && leader != nil && !v.leads && w.now >= v.beat {
		v.beat = w.now + int64(w.timing.Heartbeat)
		v.ask(leader, time.Hour, func() {})
	}
	if v.e.Doubts(w.now) {
		v.ask(leader, time.Hour, func() {})
	}
	if v.e.Wants(w.now) {
		c := v.candidacy()
		attempt, ask, stand := v.e.Stand(w.now, c)
		if ask {
			v.canvass(attempt, c)
		}
		if stand {
			v.stand(c.Term)
		}
		v.withdraw()
	}
	due := v.e.Due(w.now)
	if v.beats && leader != nil && !v.leads {
		due = min(due, v.beat)
	}
	v.wakes++
	wake := v.wakes
	w.after(max(due-w.now, 1), func() {
		if v.wakes == wake {
			v.pump()
		}
	})
}

// ask asks the leader, by a heartbeat or a probe.
func (v *elector) ask(leader *elector, patience time.Duration, done func()) {
	sent, ended := v.w.now, false
	v.e.Sent(sent)
	end := func(leads bool) {
		if v.down || ended && !leads {
			return
		}
		if v.knows == leader && !v.leads {
			if leads {
				v.e.Heard(sent)
			} else {
				v.e.Broke()
			}
		}
		if !ended {
			ended = true
			done()
		}
		v.pump()
	}
	v.w.after(int64(patience), func() { end(false) })
	reach(v, leader, func(reply func(bool)) { reply(leader.leads) }, func(leads, ok bool) { end(ok && leads) })
}

func (v *elector) candidacy() Candidacy {
	c := Candidacy{Term: v.term, LastTerm: 1, LastIndex: v.length}
	for _, o := range v.w.servers {
		c.Voters = append(c.Voters, o.name())
		switch {
		case o == v.knows:
			c.Lost = o.name()
		case o.number < v.number:
			c.Rank++
		}
	}
	return c
}

func (v *elector) canvass(attempt uint64, c Candidacy) {
	q := PreVote{Candidate: v.name(), LastTerm: c.LastTerm, LastIndex: c.LastIndex}
	for _, o := range v.w.servers {
		if o == v {
			continue
		}
		reach(v, o, func(reply func(PreVoteAnswer)) { o.asked(q, reply) }, func(a PreVoteAnswer, ok bool) {
			if !ok {
				return
			}
			v.e.Follow(v.w.now, v.address(), v.leads)
			if term, stand := v.e.Told(v.w.now, attempt, o.name(), a); stand {
				v.stand(term)
			}
			v.withdraw()
			v.pump()
		})
	}
	if v.knows != nil {
		v.ask(v.knows, v.w.timing.Election, func() {})
	}
}

func (v *elector) withdraw() {
	for _, name := range v.e.Freed() {
		o := v.w.servers[name[0]-'1']
		reach(v, o, func(func(bool)) { o.asked(PreVote{Candidate: v.name(), Withdrawn: true}, func(PreVoteAnswer) {}) }, func(bool, bool) {})
	}
}

func (v *elector) asked(q PreVote, reply func(PreVoteAnswer)) {
	v.e.Follow(v.w.now, v.address(), v.leads)
	a := PreVoteAnswer{Term: v.term}
	verdict := v.e.Asked(v.w.now, q, v.candidacy())
	v.withdraw()
	switch verdict {
	case Promise:
		a.Yes = true
	case AskLeader:
		v.ask(v.knows, v.w.timing.Election/2, func() {
			v.e.Follow(v.w.now, v.address(), v.leads)
			a.Yes = v.e.Asked(v.w.now, q, v.candidacy()) == Promise
			v.withdraw()
			reply(a)
		})
		return
	}
	reply(a)
	v.pump()
}

// stand is what raft does when it is told to.
func (v *elector) stand(after uint64) {
	w := v.w
	w.stands++
	v.meet(max(after, v.term) + 1)
	v.votes = 1
	term, length := v.term, v.length
	w.log = append(w.log, fmt.Sprintf("%v: %d stands in term %d", time.Duration(w.now), v.number, term))
	for _, o := range w.servers {
		if o == v {
			continue
		}
		reach(v, o, func(reply func(bool)) {
			grant := term > o.term && length >= o.length
			if term > o.term {
				o.meet(term)
			}
			w.after(w.rng.Int64N(8_000_000), func() { reply(grant) }) // its disk
		}, func(granted, ok bool) {
			if !granted || v.term != term || v.leads {
				return
			}
			if v.votes++; v.votes > len(w.servers)/2 {
				v.win()
			}
		})
	}
	v.pump()
}

// meet: a later term ends whatever was.
func (v *elector) meet(term uint64) {
	v.term, v.leads, v.knows = term, false, nil
	v.pump()
}

func (v *elector) win() {
	w := v.w
	v.leads, v.knows = true, v
	w.elections++
	w.log = append(w.log, fmt.Sprintf("%v: %d leads in term %d", time.Duration(w.now), v.number, v.term))
	term := v.term
	for _, o := range w.servers {
		if o == v {
			continue
		}
		reach(v, o, func(reply func(bool)) {
			if term >= o.term {
				o.term, o.leads, o.knows, o.length = term, false, v, max(o.length, v.length)
				o.pump()
			}
		}, func(bool, bool) {})
	}
	v.pump()
}

// connectionsBreak: the others notice at once that a process is gone.
func (w *electorate) connectionsBreak(gone *elector) {
	for _, v := range w.servers {
		w.after(w.rng.Int64N(1_000_000), func() {
			if v.knows == gone && v != gone && v.beats {
				v.e.Follow(w.now, v.address(), v.leads)
				v.e.Broke()
				v.pump()
			}
		})
	}
}

func eachElectorate(t *testing.T, f func(t *testing.T, w *electorate)) {
	for _, c := range []struct {
		n       int
		witness bool
	}{{2, false}, {3, false}, {3, true}, {5, false}} {
		for seed := *modelSeed; seed < *modelSeed+uint64(*modelRuns); seed++ {
			w := newElectorate(seed, c.n, c.witness)
			f(t, w)
			if t.Failed() {
				t.Fatalf("%d servers, witness %v, seed %d (repeat with -views.seed=%d -views.runs=1):\n%s", c.n, c.witness, seed, seed, tail(w.log))
			}
		}
	}
}

// electionTakes is an election when it has begun: the servers ask each other, one after the other, and write their votes.
const electionTakes = 60 * time.Millisecond

func TestLostLeaderIsReplacedByOneElection(t *testing.T) {
	lost := 0
	eachElectorate(t, func(t *testing.T, w *electorate) {
		if took, ok := w.until(w.timing.Election+electionTakes, func() bool { return w.leader() != nil }); !ok || w.stands != 1 {
			t.Errorf("at the beginning: after %v and %d candidacies: a leader %v", took, w.stands, ok)
			return
		}
		w.run(time.Second)
		if len(w.servers) == 2 {
			return
		}
		old := w.leader()
		bound := electionTakes
		if w.rng.IntN(2) == 0 {
			old.down = true
			w.connectionsBreak(old)
		} else {
			for _, v := range w.servers {
				w.broken[pair(old.number, v.number)] = lineMute
			}
			old.leads = false
			bound += w.timing.Heartbeat + w.timing.Election*3/2
			if len(w.servers) > 3 { // of four that notice it at different times, two may have been promised a vote, and neither gets a third
				bound += 2 * w.timing.Election
			}
		}
		began := w.stands
		took, ok := w.until(bound, func() bool { return w.leader() != nil && w.leader() != old })
		if !ok {
			t.Errorf("no leader after %v and %d candidacies", took, w.stands-began)
		}
		if w.stands-began > 1 {
			lost++
		}
		w.run(time.Second)
		if elections := w.elections; elections != 2 {
			t.Errorf("%d elections", elections)
		}
	})
	if lost > 0 {
		t.Errorf("votes were shared %d times", lost)
	}
}

// TestPartialPartitionDeposesNobody: any two servers that do not reach each other leave the leader in place.
func TestPartialPartitionDeposesNobody(t *testing.T) {
	eachElectorate(t, func(t *testing.T, w *electorate) {
		w.run(time.Second)
		leader, term := w.leader(), w.leader().term
		if len(w.servers) > 2 {
			a := w.servers[w.rng.IntN(len(w.servers))]
			if a == leader || w.rng.IntN(2) == 0 {
				a = w.servers[int(leader.number)%len(w.servers)]
			}
			w.broken[pair(leader.number, a.number)] = failure(1 + w.rng.IntN(2))
			if a.beats && w.broken[pair(leader.number, a.number)] == lineCut {
				a.e.Broke()
				a.pump()
			}
		}
		w.run(10 * time.Second)
		if w.leader() != leader || leader.term != term || w.elections != 1 {
			t.Errorf("%d elections; server %d led in term %d", w.elections, leader.number, term)
		}
	})
}

// TestLongerLogWins: who lacks what has been committed is not elected, and does not keep others from it.
func TestLongerLogWins(t *testing.T) {
	eachElectorate(t, func(t *testing.T, w *electorate) {
		w.run(time.Second)
		old := w.leader()
		if len(w.servers) == 2 {
			return
		}
		for i, v := range w.servers { // the last ones have it, a majority with the leader
			if v == old || i >= len(w.servers)/2 {
				v.length = 2
			}
		}
		old.down = true
		w.connectionsBreak(old)
		if took, ok := w.until(time.Second, func() bool { return w.leader() != nil }); !ok || w.leader().length != 2 {
			t.Errorf("after %v: a leader %v", took, ok)
		}
	})
}
