package views

import (
	"math"
	"slices"
	"time"
)

// Leader is what the leader of the control plane does. It is told of everything with the time of one clock, which never goes back
// (nanoseconds of any beginning), and after each call whoever drives it carries out what Take returns. It is safe as long as what it is told is true:
// that it was the leader when a round that it began has succeeded, and that Elected came after every command of leaders before it
// had been applied.
//
// Four rules make leases safe; each has a test that fails without it.
//   - A heartbeat is answered with a lease only when it is known that a majority had not elected another leader before the heartbeat was sent. A later leader begins
//     after that, and its wait (below) covers the lease. It is known by a quorum round that began after the heartbeat arrived, or by what heartbeats say (see vouches and
//     agree).
//   - Only a member of the committed view gets a lease, and none for whom there is a reason to be removed.
//   - A member is removed when Timing.LeaseBound has passed since the last heartbeat for which it was given a lease, and since the leader's own election.
//   - While a command is under way nothing else is decided, and nobody whom it removes gets a lease.
type Leader struct {
	timing  Timing
	group   Group
	elected bool
	term    uint64 // of raft, in which it was elected
	since   int64  // elected, or it has been found that this process had not been running: nobody is taken for silent from before
	waited  int64  // elected: leases of leaders before this one run from no later than this
	last    int64  // of the last call
	peers   map[Member]*peer

	round    uint64           // number of the last one that began
	rounds   int64            // when that was
	wanted   bool             // something waits for a new round
	wantedAt int64            // with wanted: when the first that waits for it arrived
	news     bool             // the view has changed since the last one began, which carried it to everybody
	cycle    int64            // when the next heartbeats are to come
	vouched  int64            // when heartbeats of other voters last vouched for this leader; 0: none have
	echoes   map[string]int64 // of voters: the latest answer of this leader that one had when it knew of no later term
	pending  []pending        // heartbeats that wait for a round, or for those of others, in the order of arrival
	proposed *proposal        // under way
	requests []Request        // of operators, in the order of arrival
	asked    int64            // when the first replica has asked to join a view without members; 0: none has

	out Output
}

// peer is what the leader knows of an incarnation.
type peer struct {
	beat    Heartbeat // the newest by when it was sent
	arrived int64     // when beat did
	heard   int64     // when the last one arrived
	granted int64     // when the last one arrived from which a lease has been counted
	leased  bool      // there has been one
	own     bool      // of this process
}

type pending struct {
	from    Member
	sent    int64
	arrived int64
	round   uint64 // the first that began later
	own     bool   // of this process
	server  string // raft's name of the process if it knew of no later term; empty: it did, or is none of raft's
	before  moment // of the heartbeat before it
}

// moment is when a heartbeat was sent, by its sender's clock, and when it arrived; the zero one: there was none.
type moment struct{ sent, arrived int64 }

// Mandate is what raft says of this server, read when a heartbeat has arrived.
type Mandate struct {
	Others []string // names of the voters of raft's latest configuration but this server
	Voter  bool     // the sender of the heartbeat is one of them
	Own    bool     // the sender is this server
	Leads  bool     // this server is still the leader of the term in which it was elected, and a voter itself; to be read last
}

// fewOthers is of how many voters beside the leader one is enough for a majority.
const fewOthers = 2

// enough is how many voters beside the leader make a majority with it.
func (m Mandate) enough() int { return (len(m.Others) + 1) / 2 }

type proposal struct {
	command Command
	request uint64 // 0: the leader's own
}

func (p *proposal) removes(m Member) bool { return p.command.View != nil && !p.command.View.Has(m) }

// Output is what the driver has to do, in this order.
type Output struct {
	Answers []Answer // send each to Answer.To
	Results []Result // tell the operator
	Propose *Command // to raft; its fate is told by Committed, Refused or Deposed
	Round   uint64   // not 0: ask a majority, itself included, whether this is still the leader, and tell RoundDone
}

// Request is an operator's; ID is the driver's, not 0, and comes back in the Result.
type Request struct {
	ID      uint64
	Add     *Slot  // Number, Address, Witness
	Remove  uint8  // number
	Force   bool   // with Remove: also the last that serves
	Replace uint8  // number
	Address string // with Replace
	Admit   *Slot  // Number, Address, Witness, Server: a process that is to fill its slot
}

// Result says what became of a Request: it has been committed, or why not. What has been committed may take its time: a replica to
// be removed leaves the view first.
type Result struct {
	ID  uint64
	Err string
}

// NewLeader returns a Leader that has not been elected.
func NewLeader(t Timing) *Leader { return &Leader{timing: t, peers: map[Member]*peer{}} }

// Take returns what is to be done and forgets it.
func (l *Leader) Take() Output {
	o := l.out
	l.out = Output{}
	return o
}

// Elected begins a reign, in a term of raft. All that had been committed before has been applied to group.
func (l *Leader) Elected(now int64, group Group, term uint64) {
	*l = Leader{timing: l.timing, group: group, elected: true, term: term, since: now, waited: now, last: now,
		peers: map[Member]*peer{}, echoes: map[string]int64{}, round: l.round, out: l.out}
	l.step(now)
}

// Deposed ends it. What was under way may be committed yet.
func (l *Leader) Deposed() {
	for _, p := range l.pending {
		l.answer(p.from, p.sent, 0, "the leader of the control plane has changed")
	}
	if l.proposed != nil && l.proposed.request != 0 {
		l.result(l.proposed.request, "the leader has changed meanwhile: look whether it was done (hermesd group status), else ask again")
	}
	for _, r := range l.requests {
		l.result(r.ID, "the leader has changed meanwhile: ask again")
	}
	answers, results := l.out.Answers, l.out.Results
	*l = Leader{timing: l.timing, peers: map[Member]*peer{}, round: l.round, out: Output{Answers: answers, Results: results}}
}

// Heartbeat is told of each that arrives, and what raft says then. It is answered once, now or later.
func (l *Leader) Heartbeat(now int64, h Heartbeat, m Mandate) {
	if !l.elected {
		l.answer(h.From, h.Sent, 0, "the leader of the control plane is changing")
		return
	}
	l.awake(now)
	if why := l.stranger(h); why != "" {
		l.answer(h.From, h.Sent, 0, why)
		return
	}
	p := l.peers[h.From]
	if p == nil {
		p = &peer{beat: h, own: m.Own}
		l.peers[h.From] = p
	}
	p.heard = now
	var before moment
	if h.Sent > p.beat.Sent {
		before = moment{p.beat.Sent, p.arrived}
	}
	if h.Sent >= p.beat.Sent {
		leaving := p.beat.Leaving // there is no way back
		p.beat, p.arrived = h, now
		p.beat.Leaving = leaving || h.Leaving
	}
	waits := pending{from: h.From, sent: h.Sent, arrived: now, round: l.round + 1, own: m.Own, before: before}
	vouches := l.vouches(h, m)
	if vouches {
		waits.server = h.Server
		if h.Echo.Term == l.term {
			l.echoes[h.Server] = max(l.echoes[h.Server], h.Echo.Stamp)
		}
	}
	if !m.Own {
		l.together(now)
	}
	atOnce := vouches && len(m.Others) <= fewOthers
	if atOnce {
		l.vouched = now
		l.agree(now, m)
	}
	if !l.group.View.Has(h.From) || p.beat.Leaving {
		l.step(now)
		l.answer(h.From, h.Sent, 0, l.whyOut(now, h.From, p))
		return
	}
	if atOnce {
		l.step(now)
		l.decide(now, waits, moment{h.Sent, now}, true)
		return
	}
	l.pending = append(l.pending, waits)
	if l.gathered() {
		l.agree(now, m)
	}
	if l.waits(h.From) && (!m.Own || !l.relies(now)) {
		l.want(now)
	}
	l.step(now)
}

// vouches reports whether the heartbeat shows that its sender, a voter, had not voted in a term after Term when it read that, after Sent; this server has not now, in its own
// term, which is not below. Of at most three voters these two are a majority, so no leader of a later term had been elected when the heartbeat was sent, and it is answered
// at once. A configuration of raft that is about to take the place of the latest one, or that it took the place of, has one voter more or less, and without a majority of
// this one no majority either.
func (l *Leader) vouches(h Heartbeat, m Mandate) bool {
	return m.Leads && m.Voter && !m.Own && h.Term <= l.term
}

// agree answers heartbeats by those of others, without a round. Each of these says which answer of this leader its sender had when it still knew of no later term. If enough
// voters had answers that were given after some heartbeat had arrived, no other leader had been elected when that was sent, and a lease may count from then. It is the
// heartbeat before the one that is answered: answers to that one were on their way to all when they sent those that have now come. A heartbeat of this process is
// answered itself, a round of heartbeats later.
func (l *Leader) agree(now int64, m Mandate) {
	if !m.Leads {
		return
	}
	waiting, answered := l.pending[:0], false
	for _, p := range l.pending {
		base := p.before
		if p.own {
			base = moment{p.sent, p.arrived}
		}
		stale := !p.own && (base == moment{} || now-base.arrived > int64(l.timing.Heartbeat*3/2)) // a round gives a longer lease
		if !p.own && p.server == "" || stale || l.supporters(p, base.arrived, m) < m.enough() {
			waiting = append(waiting, p)
			continue
		}
		answered, l.vouched = true, now
		l.decide(now, p, base, true)
	}
	l.pending = waiting
	if answered && !l.news {
		l.wanted = l.wanted && slices.ContainsFunc(l.pending, func(p pending) bool { return !p.own && l.unasked(p) })
	}
}

// supporters counts the voters beside this server that knew of no later term at some time after since.
func (l *Leader) supporters(p pending, since int64, m Mandate) (n int) {
	for _, server := range m.Others {
		if stamp, ok := l.echoes[server]; ok && stamp >= since || server == p.server {
			n++
		}
	}
	return n
}

// gathered: the heartbeats of all members have come, so that they are answered together.
func (l *Leader) gathered() bool {
	for _, r := range l.group.View.Members {
		if p := l.peers[r.Member]; p == nil || !p.own && !l.waits(r.Member) {
			return false
		}
	}
	return true
}

// waits: a heartbeat of m has not been answered.
func (l *Leader) waits(m Member) bool {
	return slices.ContainsFunc(l.pending, func(p pending) bool { return p.from == m })
}

// together keeps the heartbeats of all together: to be woken twice costs this process twice as much, whatever it then has to do. The first to come in a cycle says when
// the next one begins; one that is a little too early belongs to it already.
func (l *Leader) together(now int64) {
	if now >= l.cycle-int64(l.timing.Heartbeat/8) {
		l.cycle = now + int64(l.timing.Heartbeat)
	}
}

// after is after which time the sender of a heartbeat that is answered now is to send the next one.
func (l *Leader) after(now int64) int64 {
	if l.cycle <= now {
		l.cycle = now + int64(l.timing.Heartbeat)
	}
	return l.cycle - now
}

// relies: heartbeats of another voter come and vouch for this leader, so that its own need no round, or only when they have waited for too long.
func (l *Leader) relies(now int64) bool {
	return l.vouched != 0 && now-l.vouched < int64(2*l.timing.Heartbeat)
}

// unasked: no round under way will answer the heartbeat.
func (l *Leader) unasked(p pending) bool { return p.round > l.round }

// want begins a round, in a moment.
func (l *Leader) want(now int64) {
	if !l.wanted {
		l.wanted, l.wantedAt = true, now
	}
}

// missed is when an own heartbeat that is not echoed needs a round after all; none waits: never.
func (l *Leader) missed() int64 {
	for _, p := range l.pending {
		if p.own && l.unasked(p) {
			return p.arrived + int64(l.timing.Heartbeat*3/2)
		}
	}
	return math.MaxInt64
}

// RoundDone: a majority has said, after the round began, that it knows of no newer leader; or (not ok) it has not said so in time.
func (l *Leader) RoundDone(now int64, round uint64, ok bool) {
	if !l.elected {
		return
	}
	l.awake(now)
	waiting := l.pending[:0]
	for _, p := range l.pending {
		if p.round > round {
			waiting = append(waiting, p)
			continue
		}
		l.decide(now, p, moment{p.sent, p.arrived}, ok)
	}
	l.pending = waiting
	l.step(now)
}

// decide answers a heartbeat when a majority has agreed (ok) that no other leader had been elected at base, its own time or an earlier one's; or when none has.
func (l *Leader) decide(now int64, p pending, base moment, ok bool) {
	m := l.peers[p.from]
	switch {
	case !ok:
		l.answer(p.from, p.sent, 0, "the leader of the control plane has no majority")
	case m == nil || !l.group.View.Has(p.from):
		l.answer(p.from, p.sent, 0, "the replica is not in the view any more")
	case l.leavers(now)&bit(p.from.Number) != 0 || l.proposed != nil && l.proposed.removes(p.from):
		l.answer(p.from, p.sent, 0, "the replica is being removed from the view")
	default:
		m.granted, m.leased = max(m.granted, base.arrived), true
		l.answer(p.from, p.sent, l.group.View.Epoch, "")
		a := &l.out.Answers[len(l.out.Answers)-1]
		a.Since = base.sent
		if !p.own {
			a.After = l.after(now)
		}
	}
}

// Committed is told of each change of the group.
func (l *Leader) Committed(now int64, group Group) {
	if !l.elected || group.Version <= l.group.Version {
		return
	}
	l.awake(now)
	if p := l.proposed; p != nil && group.Version > p.command.After {
		if p.request != 0 {
			l.result(p.request, "")
		}
		l.proposed = nil
	}
	if group.View.Epoch != l.group.View.Epoch {
		l.wanted, l.news = true, true
		l.asked = 0
	}
	l.group = group
	l.step(now)
}

// Refused: the command that was to be proposed will never be committed.
func (l *Leader) Refused(now int64, why string) {
	if p := l.proposed; l.elected && p != nil {
		if p.request != 0 {
			l.result(p.request, why)
		}
		l.proposed = nil
		l.awake(now) // no step: the next call tries again, not this one, for ever
	}
}

// Request takes an operator's wish. Its Result comes later.
func (l *Leader) Request(now int64, r Request) {
	if !l.elected {
		l.result(r.ID, "this server is not the leader of the control plane")
		return
	}
	l.awake(now)
	l.requests = append(l.requests, r)
	l.step(now)
}

// Tick lets time pass; see Wake.
func (l *Leader) Tick(now int64) {
	if l.elected {
		l.awake(now)
		l.step(now)
	}
}

// awake notices that this process had been kept from running, for instance with the whole machine: what others have sent meanwhile is yet to be
// read, and nobody is taken for silent before it could be.
func (l *Leader) awake(now int64) {
	if now-l.last > int64(3*l.timing.Heartbeat) {
		l.since = now
	}
	l.last = max(l.last, now)
}

// step does what is due.
func (l *Leader) step(now int64) {
	l.expire(now)
	if now >= l.missed() {
		l.want(now)
	}
	if l.proposed == nil && l.group.ID != "" {
		l.next(now)
	}
	if l.wanted && now >= l.roundDue() {
		l.wanted, l.news = false, false
		l.round++
		l.rounds = now
		l.out.Round = l.round
	}
}

// roundDue is when the next round begins, if something waits for it. Rounds are most of what leases cost. Who is answered by one round sends the next
// heartbeat at about one time, so that soon one round does for all: each waits a little for the others, and rounds keep a distance.
func (l *Leader) roundDue() int64 {
	if l.news {
		return l.last
	}
	return max(l.wantedAt+int64(l.timing.gather()), l.rounds+int64(l.timing.roundGap()))
}

// Wake is when Tick is to be called at the latest: often as long as somebody is missed; and while nobody is, not when the next heartbeat comes, which wakes the leader
// anyway.
func (l *Leader) Wake() int64 {
	if !l.elected {
		return l.last + int64(time.Second)
	}
	often := l.proposed != nil || len(l.requests) > 0 || len(l.group.View.Members) == 0
	wake := l.last + int64(l.timing.late())
	for _, r := range l.group.View.Members {
		left := int64(2*l.timing.Heartbeat) - l.silentSince(l.last, r.Member)
		often = often || !r.Serving || left < 0
		wake = min(wake, l.last+left+1)
	}
	if often {
		wake = l.last + int64(l.timing.Heartbeat/10)
	}
	if l.wanted {
		wake = min(wake, l.roundDue())
	} else {
		wake = min(wake, l.missed())
	}
	return wake
}

// expire answers heartbeats that have waited for longer than their lease is long, and forgets who has not been heard for long.
func (l *Leader) expire(now int64) {
	for len(l.pending) > 0 && now-l.pending[0].arrived > int64(l.timing.Lease) {
		l.answer(l.pending[0].from, l.pending[0].sent, 0, "the leader of the control plane had no majority in time")
		l.pending = l.pending[1:]
	}
	for m, p := range l.peers {
		if !l.group.View.Has(m) && now-p.heard > int64(10*l.timing.SuspectAfter) {
			delete(l.peers, m)
		}
	}
}

func (l *Leader) answer(to Member, sent int64, lease uint64, why string) {
	l.out.Answers = append(l.out.Answers, Answer{To: to, Sent: sent, Lease: lease, View: l.group.View, Used: l.group.Used[to.Number&63], Why: why,
		Echo: Echo{Term: l.term, Stamp: l.last}})
}

func (l *Leader) result(id uint64, why string) {
	l.out.Results = append(l.out.Results, Result{ID: id, Err: why})
}

func (l *Leader) propose(c Command, request uint64) {
	c.After = l.group.Version
	l.proposed = &proposal{command: c, request: request}
	l.out.Propose = &c
}

// Group is the state as of the last change that the leader was told of.
func (l *Leader) Group() Group { return l.group }

func (l *Leader) fresh(now int64, p *peer) bool {
	return p != nil && now-p.heard < int64(l.timing.SuspectAfter)
}
