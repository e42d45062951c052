package views

import (
	"slices"
	"time"
)

// Elector decides when this server stands for election as raft's leader. raft's own timer would need a message to each server every few milliseconds, to notice
// a lost leader as fast as a group wants to; the heartbeats of the replicas (see Holder) are answered anyway, so silence is noticed by them. Like Leader and
// Holder it is pure, and nothing that is safe rests on it: raft elects one leader for a term whoever stands, and leases rest on terms.
//
// A server has lost its leader when the connection to it breaks, or it says that it does not lead, or a heartbeat has stayed without an answer for
// Timing.Election, and so has a probe for half of that: the answer to a heartbeat may have to wait for a quorum round, or this process was kept from running. It then
// asks the other voters (PreVote), and stands only when a majority, itself included, has lost the leader too: raft makes who stands the leader although
// the voters have one, so a server that alone has lost it must not. Who is asked and has not noticed anything probes the leader first.
//
// A voter that has said yes does not say yes to another server, or stand, for one and a half Timing.Election, so that votes are not shared. Of two servers that ask each other
// the one with the longer log goes on, or with equal logs the one that has been promised a vote, or else the one whose name comes first.
type Elector struct {
	timing Timing
	name   string // raft's name of this server

	leader  string // address of who leads; empty: nobody is known to
	leads   bool   // this server does
	changed int64  // when that was last so no more
	oldest  int64  // when the oldest heartbeat or probe was sent that the leader has not answered; 0: none
	newest  int64  // and the newest of those; 0: none
	probed  int64  // when the probe was sent; 0: none was since the leader was last heard
	broken  bool   // the connection broke, or the leader has said that it does not lead

	promised string // who may count on this server's vote
	until    int64  // of that promise

	attempt  uint64 // number of the last one
	open     bool   // answers to it are awaited: never when the leader has been heard since, or is another
	asked    int64  // when it began
	yes      []string
	voters   int
	awaited  int    // of those who have not answered, how many may yet: not who is lost
	lostOne  string // the leader that is lost, while it is awaited by nobody
	rank     int
	freed    []string // who has said yes in vain
	term     uint64   // the highest that was heard of in it
	stood    int64    // when this server last stood; 0: it did not in this doubt
	failures int
	next     int64 // the next attempt begins no earlier
}

// PreVote asks a voter whether it has lost its leader too, and would vote for the server that asks.
type PreVote struct {
	Server    string // raft's name of who is asked
	Candidate string // and of who asks
	LastTerm  uint64 // of the last entry of the candidate's log
	LastIndex uint64
	Withdrawn bool // nothing is asked: a yes of before is void
}

// PreVoteAnswer is the voter's.
type PreVoteAnswer struct {
	Yes    bool
	Term   uint64 // the voter's
	Leader string // address of the leader, which has just answered; empty: that is not why
}

// Probe asks a server whether it leads.
type Probe struct{}

// ProbeAnswer is given by the goroutine that answers heartbeats.
type ProbeAnswer struct{ Leads bool }

// Candidacy is what an election depends on, as raft says at one moment.
type Candidacy struct {
	Voters    []string // raft's names, in its latest configuration; none: this server is in no group yet
	Lost      string   // the one of them that is this server's leader, if any
	Rank      int      // how many of the voters that may be left come before this server
	Term      uint64
	LastTerm  uint64 // of the log
	LastIndex uint64
}

// Verdict is what a voter makes of a PreVote.
type Verdict uint8

const (
	Refuse  Verdict = iota
	Promise         // and nobody else is promised anything for a while
	AskLeader
)

// NewElector returns that of the raft server called name.
func NewElector(t Timing, name string) *Elector { return &Elector{timing: t, name: name} }

// Follow is told who leads, or is believed to, before anything else is asked at a time: an address, empty if nobody is known, and whether it is this server.
func (e *Elector) Follow(now int64, leader string, leads bool) {
	if leader == e.leader && leads == e.leads && e.changed != 0 {
		return
	}
	if leader != "" || leads {
		e.failures, e.next, e.stood = 0, 0, 0
		e.promised = ""
	}
	e.leader, e.leads, e.changed, e.open = leader, leads, now, false
	e.heard()
}

// Sent is told of each heartbeat or probe to the leader.
func (e *Elector) Sent(now int64) {
	e.newest = now
	if e.oldest == 0 {
		e.oldest = now
	}
}

// Heard is told of each answer by which the leader says that it leads; sent is when the question was.
func (e *Elector) Heard(sent int64) {
	newest := e.newest
	e.heard()
	if sent < newest { // which may have met a leader that is lost
		e.oldest, e.newest = newest, newest
	}
	e.open, e.failures, e.next = false, 0, 0
}

func (e *Elector) heard() { e.oldest, e.newest, e.probed, e.broken = 0, 0, 0, false }

// Broke is told when a call to the leader has failed, or was answered by a server that does not lead.
func (e *Elector) Broke() { e.broken = true }

// Doubts reports that the leader is to be probed now, which is Sent.
func (e *Elector) Doubts(now int64) bool {
	if e.oldest == 0 || e.probed != 0 || e.broken || now-e.oldest < e.half() {
		return false
	}
	e.probed = now
	return true
}

func (e *Elector) half() int64 { return int64(e.timing.Election / 2) }

// Lost: this server, by itself, has no leader, as far as it knows.
func (e *Elector) Lost(now int64) bool {
	switch {
	case e.leads:
		return false
	case e.leader == "" || e.broken:
		return true
	}
	return e.probed != 0 && now-e.probed >= e.half() // the probe was sent when half of Timing.Election was over
}

// Wants reports that Stand is to be called.
func (e *Elector) Wants(now int64) bool {
	if e.open {
		return now >= e.expiry()
	}
	return e.Lost(now) && now >= e.earliest()
}

// earliest is when this server may ask the others, if it has lost its leader. That nobody leads for a moment is part of every election.
func (e *Elector) earliest() int64 {
	at := e.next
	if e.leader == "" {
		at = max(at, e.changed+int64(e.timing.Election))
	}
	if e.promised != "" {
		at = max(at, e.until)
	}
	if e.stood != 0 {
		at = max(at, e.stood+4*int64(e.timing.Election))
	}
	return at
}

func (e *Elector) expiry() int64 { return e.asked + e.bound() }

// bound is for how long an attempt, and a promise, lasts: who is asked may have to wait for the leader.
func (e *Elector) bound() int64 { return int64(e.timing.Election * 3 / 2) }

// Due is when Doubts or Wants has to be asked again at the latest.
func (e *Elector) Due(now int64) int64 {
	switch {
	case e.leads:
		return now + int64(time.Second)
	case e.open:
		return e.expiry()
	case e.Lost(now):
		return e.earliest()
	case e.oldest == 0:
		return now + int64(time.Second)
	case e.probed == 0:
		return e.oldest + e.half()
	}
	return e.probed + e.half()
}

// Stand begins an attempt, or ends one that has taken too long. ask: all other voters are to be asked, and Told of their answers with this number. stand: nobody has to be.
func (e *Elector) Stand(now int64, c Candidacy) (attempt uint64, ask, stand bool) {
	if e.open {
		e.fail(now)
		return 0, false, false
	}
	if !slices.Contains(c.Voters, e.name) {
		e.next = now + int64(outsideInterval)
		return 0, false, false
	}
	if e.next == 0 && c.Rank > 0 { // who comes first is likely to have been elected by then
		e.next = now + int64(c.Rank)*int64(e.timing.Election/10)
		return 0, false, false
	}
	e.attempt++
	e.open, e.asked = true, now
	e.yes, e.voters, e.awaited, e.lostOne, e.rank, e.term = []string{e.name}, len(c.Voters), len(c.Voters)-1, c.Lost, c.Rank, c.Term
	if c.Lost != "" {
		e.awaited--
	}
	if e.won() {
		e.stand(now)
		return 0, false, true
	}
	return e.attempt, true, false
}

// outsideInterval is after which a server that is not a voter looks whether it has become one.
const outsideInterval = 100 * time.Millisecond

func (e *Elector) won() bool { return len(e.yes) > e.voters/2 }

func (e *Elector) stand(now int64) { e.open, e.stood = false, now }

// fail ends an attempt. The next is later each time: the leader may be well, and only this server cut off from it. If two have kept the votes from each other, the one that
// comes first asks again before the other.
func (e *Elector) fail(now int64) {
	e.giveUp()
	e.next = now + e.half()<<min(e.failures, 4) + int64(e.rank)*e.half()/2
	e.failures++
}

// giveUp ends an attempt for which others may have promised their votes.
func (e *Elector) giveUp() {
	e.open = false
	e.freed = e.yes[1:]
}

// Freed are the servers to be told, by a PreVote that is Withdrawn, that their promise is void. It is to be asked for after Stand, Told and Asked.
func (e *Elector) Freed() []string {
	freed := e.freed
	e.freed = nil
	return freed
}

// Told takes a voter's answer. It reports whether this server is to stand now, in a term after the given one.
func (e *Elector) Told(now int64, attempt uint64, from string, a PreVoteAnswer) (term uint64, stand bool) {
	if !e.open || attempt != e.attempt || slices.Contains(e.yes, from) {
		return 0, false
	}
	if from != e.lostOne {
		e.awaited--
	}
	e.term = max(e.term, a.Term)
	if a.Yes {
		e.yes = append(e.yes, from)
	}
	switch {
	case e.won():
		e.stand(now)
		return e.term, true
	case len(e.yes)+e.awaited <= e.voters/2:
		e.fail(now)
	}
	return 0, false
}

// Asked is what this server answers to another. AskLeader: probe the leader, which is Sent; if it does not answer within half of Timing.Election, on top of what the other one
// has waited, that is Broke; then ask again.
func (e *Elector) Asked(now int64, q PreVote, c Candidacy) Verdict {
	if q.Withdrawn {
		if e.promised == q.Candidate {
			e.promised = ""
		}
		return Refuse
	}
	switch {
	case e.leads, len(c.Voters) > 0 && !slices.Contains(c.Voters, q.Candidate):
		return Refuse
	case e.promised != "" && e.promised != q.Candidate && now < e.until,
		e.stood != 0 && now < e.stood+2*int64(e.timing.Election):
		return Refuse
	case !e.Lost(now):
		return AskLeader
	case q.LastTerm < c.LastTerm || q.LastTerm == c.LastTerm && q.LastIndex < c.LastIndex:
		return Refuse // raft would; but it is known here now that the leader is lost
	case e.open && q.LastTerm == c.LastTerm && q.LastIndex == c.LastIndex && (len(e.yes) > 1 || e.name < q.Candidate):
		return Refuse // that one will say yes to this, or who has said yes to this would be lost to both
	}
	if e.open { // with a longer log, that one needs the votes which have been promised to this one
		e.giveUp()
	}
	e.promised, e.until = q.Candidate, now+e.bound()
	return Promise
}
