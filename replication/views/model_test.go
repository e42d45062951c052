package views

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// world is a group in virtual time: the pure parts, a network that loses and delays, clocks that run at different rates, processes that stop and
// start again, and a raft that is no more than what the leases rely on: voters with terms, a log that majorities agree on. The world knows the true time, and looks at each
// commit whether a lease of somebody who is not in the view is still alive.
type world struct {
	rng      *rand.Rand
	timing   Timing
	now      int64 // true time, ns
	events   events
	order    int
	machines []*machine
	group    Group
	barrier  uint64 // the latest term in which a leader has committed something: what those before it had not committed is void
	calm     bool   // faults are over
	log      []string
	broken   string
	lie      lie
	commits  int
	renewals int
	removals int
	served   int // generations
}

// lie is a rule that is broken, to see that the test notices.
type lie int

const (
	honest        lie = iota
	noRound           // heartbeats are answered without a quorum round
	staleRound        // a round counts answers that were on their way when it began
	noWait            // a new leader does not wait for the leases of the one before
	shortBound        // the leader takes leases for shorter than they are
	fromReceipt       // the holder counts the lease from when the answer came
	driftingClock     // clocks differ by more than Timing.Drift
	termBefore        // a heartbeat's term was read before the time that the lease counts from
	manyVoters        // two of five are taken for a majority
	anyTerm           // the term of a heartbeat is not compared with the leader's
	staleMandate      // a leader that gets a heartbeat does not look whether it leads yet
	echoOfNow         // a heartbeat is taken to give back the leader's present time
	fromAnswered      // the holder counts the lease from the heartbeat that is answered, always
)

type machine struct {
	w      *world
	number uint8
	rate   float64
	offset int64
	term   uint64 // raft's, durable

	life      int // of the process; 0 bits of an earlier one count
	up        bool
	pausedTo  int64
	held      []func()
	holder    *Holder
	status    Status
	unique    uint64
	cut       uint64 // machines that messages of this one do not reach
	leader    *Leader
	leads     uint64 // term in which it believes to lead; 0: it does not
	elected   bool
	roundsOf  map[uint64]uint64 // votes as bits
	lastReply map[uint8]uint64  // term in the last answer of each voter: for staleRound
	said      uint64            // the term in the heartbeat before: for termBefore
}

type event struct {
	at    int64
	order int
	do    func()
}
type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any     { x := (*e)[len(*e)-1]; *e = (*e)[:len(*e)-1]; return x }

func newWorld(seed uint64, lie lie) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 1)), timing: DefaultTiming, lie: lie}
	if w.rng.IntN(3) == 0 {
		w.timing = TunedTiming
	}
	w.timing.Drift = 0.02
	form := &Form{ID: "model"}
	spread := 0.019
	if lie == driftingClock {
		spread = 0.4
	}
	for n := range 3 + w.rng.IntN(3) {
		m := &machine{w: w, number: uint8(n + 1), rate: 1 + spread*(w.rng.Float64()-0.5), offset: w.rng.Int64N(int64(time.Hour))}
		if lie == driftingClock && n > 0 {
			m.rate = 1 - spread/2
		}
		w.machines = append(w.machines, m)
		form.Slots = append(form.Slots, Slot{Number: m.number, Address: fmt.Sprintf("h%d:1", m.number), Server: m.name()})
	}
	if err := w.group.Apply(Command{Form: form}); err != nil {
		panic(err)
	}
	for _, m := range w.machines {
		m.start()
	}
	return w
}

func (w *world) after(d int64, do func()) {
	w.order++
	heap.Push(&w.events, event{at: w.now + max(d, 0), order: w.order, do: do})
}

func (w *world) run(until time.Duration) {
	for len(w.events) > 0 && w.events[0].at < int64(until) && w.broken == "" {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
	}
	w.now = max(w.now, int64(until))
}

func (w *world) note(format string, args ...any) {
	w.log = append(w.log, fmt.Sprintf("%12v ", time.Duration(w.now))+fmt.Sprintf(format, args...))
}

func (w *world) fail(format string, args ...any) {
	if w.broken == "" {
		w.broken = fmt.Sprintf(format, args...)
		w.note("%s", w.broken)
	}
}

func (w *world) majority(set uint64) bool {
	n := 0
	for _, m := range w.machines {
		if set&bit(m.number) != 0 {
			n++
		}
	}
	return n > len(w.machines)/2
}

func (m *machine) clock() int64 { return m.offset + int64(float64(m.w.now)*m.rate) }

// truth is the true time at which the machine's clock shows local.
func (m *machine) truth(local int64) int64 { return int64(float64(local-m.offset) / m.rate) }

// on runs f on the machine as soon as its process runs; not at all if it is another life by then.
func (m *machine) on(f func()) {
	life := m.life
	switch {
	case !m.up:
	case m.w.now < m.pausedTo:
		m.held = append(m.held, func() {
			if m.life == life {
				f()
			}
		})
	default:
		f()
	}
}

// send delivers to another machine, late, or not at all.
func (m *machine) send(to *machine, f func()) {
	w := m.w
	if m.cut&bit(to.number) != 0 || !w.calm && w.rng.IntN(30) == 0 {
		return
	}
	delay := int64(100_000 + w.rng.IntN(3_000_000))
	if !w.calm && w.rng.IntN(20) == 0 {
		delay = w.rng.Int64N(int64(2 * w.timing.Lease))
	}
	life := to.life
	w.after(delay, func() {
		if to.life == life {
			to.on(f)
		}
	})
}

func (m *machine) start() {
	m.life++
	m.up, m.held, m.pausedTo = true, nil, 0
	m.leader, m.leads, m.elected = NewLeader(m.w.timing), 0, false
	m.roundsOf, m.lastReply = map[uint64]uint64{}, map[uint8]uint64{}
	m.begin(m.w.group.Used[m.number])
	m.beat(m.life)
	m.tick(m.life)
}

func (m *machine) name() string { return fmt.Sprint("server", m.number) }

func (m *machine) begin(above uint64) {
	m.unique = max(m.unique, above) + 1
	m.status = Status{}
	self := Member{Number: m.number, Incarnation: m.unique}
	if m.holder == nil || m.holder.self.Incarnation == 0 || m.holder.until != -1 {
		m.holder = NewHolder(m.w.timing, m.name(), self)
	}
}

func (m *machine) beat(life int) {
	if m.life != life || !m.up {
		return
	}
	m.on(func() {
		b := m.heartbeat()
		for _, to := range m.w.machines {
			if to.leads != 0 && to.leads >= m.term || to.leads != 0 && m.w.rng.IntN(2) == 0 {
				if to == m {
					to.arrives(m, b)
				} else {
					m.send(to, func() { to.arrives(m, b) })
				}
			}
		}
	})
	m.w.after(max(1e6, min(m.holder.Due()-m.clock(), int64(m.w.timing.Heartbeat))), func() { m.beatDue(life) })
}

func (m *machine) heartbeat() Heartbeat {
	b := m.holder.Beat(m.clock(), m.status, ^uint64(0))
	b.Term = m.term
	if m.w.lie == termBefore {
		b.Term = m.said
		if m.w.rng.IntN(8) == 0 {
			m.said = m.term
		}
	}
	return b
}

// beatDue sends the next heartbeat when it is due, which answers put off.
func (m *machine) beatDue(life int) {
	if wait := m.holder.Due() - m.clock(); m.life == life && wait > 0 {
		m.w.after(wait, func() { m.beatDue(life) })
		return
	}
	m.beat(life)
}

func (m *machine) arrives(from *machine, b Heartbeat) {
	if m.leads != 0 && from != m && m.holder.Due()-m.clock() <= int64(m.w.timing.Heartbeat/2) {
		m.arrives(m, m.heartbeat()) // as the driver does
	}
	mandate := Mandate{Voter: from != m, Own: from == m, Leads: m.leads != 0 && m.term == m.leads}
	for _, o := range m.w.machines {
		if o != m {
			mandate.Others = append(mandate.Others, o.name())
		}
	}
	switch m.w.lie {
	case manyVoters:
		mandate.Others = mandate.Others[:2]
	case anyTerm:
		b.Term = 0
	case staleMandate:
		mandate.Leads = true
	case echoOfNow:
		b.Echo = Echo{Term: m.leads, Stamp: m.clock()}
	}
	m.leader.Heartbeat(m.clock(), b, mandate)
	m.carryOut()
}

func (m *machine) tick(life int) {
	if m.life != life || !m.up {
		return
	}
	m.on(func() {
		m.leader.Tick(m.clock())
		m.carryOut()
	})
	m.w.after(int64(m.w.timing.Heartbeat/5), func() { m.tick(life) })
}

func (m *machine) carryOut() {
	for range 10 {
		o := m.leader.Take()
		for _, a := range o.Answers {
			to := m.w.machines[a.To.Number-1]
			if to == m {
				to.answered(a)
			} else {
				m.send(to, func() { to.answered(a) })
			}
		}
		if o.Propose != nil {
			c, term, life := *o.Propose, m.leads, m.life
			m.w.after(int64(m.w.rng.IntN(10_000_000)), func() { m.commit(c, term, life, 0) })
		}
		if o.Round == 0 {
			return
		}
		m.round(o.Round)
	}
}

// round asks all voters for their term.
func (m *machine) round(number uint64) {
	term := m.leads
	m.roundsOf[number] = bit(m.number)
	view := m.leader.Group().View
	for _, to := range m.w.machines {
		if to == m {
			continue
		}
		if m.w.lie == staleRound && m.lastReply[to.number] == term {
			m.vote(number, term, to.number, term)
		}
		used := m.leader.Group().Used[to.number]
		m.send(to, func() {
			said := to.term
			to.effect(to.holder.Adopt(view, used))
			to.send(m, func() {
				m.lastReply[to.number] = said
				m.vote(number, term, to.number, said)
			})
		})
	}
	if m.w.lie == noRound {
		m.leader.RoundDone(m.clock(), number, true)
	}
}

func (m *machine) vote(number, term uint64, from uint8, said uint64) {
	votes, ok := m.roundsOf[number]
	if !ok || said != term || m.leads != term || m.term != term {
		return
	}
	m.roundsOf[number] = votes | bit(from)
	if m.w.majority(votes | bit(from)) {
		delete(m.roundsOf, number)
		m.leader.RoundDone(m.clock(), number, true)
		m.carryOut()
	}
}

// commit: raft goes on until a majority has the command, or has another leader.
func (m *machine) commit(c Command, term uint64, life, tries int) {
	w := m.w
	if m.life != life || m.leads != term {
		if w.barrier <= term && w.rng.IntN(3) == 0 {
			w.apply(c) // the next leader had it in its log
		}
		return
	}
	if w.now < m.pausedTo || !w.majority(m.follow(term)) {
		w.after(5_000_000, func() { m.commit(c, term, life, tries+1) })
		return
	}
	if !w.apply(c) {
		m.on(func() { m.leader.Refused(m.clock(), "refused") })
	}
	group := w.group
	m.on(func() {
		if m.leads == term {
			m.leader.Committed(m.clock(), group)
			m.carryOut()
		}
	})
}

// follow makes those that the machine reaches, and that know of no later term, take what it has as leader of term.
func (m *machine) follow(term uint64) (set uint64) {
	for _, v := range m.w.machines {
		if v.term <= term && (v == m || m.reaches(v)) {
			v.term = term
			set |= bit(v.number)
		}
	}
	return set
}

// reaches: both run, and messages pass both ways.
func (m *machine) reaches(v *machine) bool {
	return v.up && m.w.now >= v.pausedTo && m.cut&bit(v.number) == 0 && v.cut&bit(m.number) == 0
}

// apply is the moment in which a command is committed.
func (w *world) apply(c Command) bool {
	if w.group.Apply(c) != nil {
		return false
	}
	w.commits++
	w.note("committed %v", w.group.View)
	for _, m := range w.machines {
		if m.holder != nil && m.up && !w.group.View.Has(m.holder.self) {
			if w.group.WasMember(m.holder.self) {
				w.removals++
			}
			w.alive(m, "when a view without it was committed")
		}
	}
	return true
}

func (w *world) alive(m *machine, when string) {
	if u := m.holder.until; u != 0 && m.truth(u) > w.now {
		w.fail("the lease of replica %v lives for another %v %s", m.holder.self, time.Duration(m.truth(u)-w.now), when)
	}
}

func (m *machine) answered(a Answer) {
	switch m.w.lie {
	case fromReceipt:
		a.Since = m.clock()
	case fromAnswered:
		a.Since = a.Sent
	}
	m.effect(m.holder.Answer(m.clock(), a))
}

func (m *machine) effect(e Effect) {
	w := m.w
	if e.Renew != 0 {
		w.renewals++
		if !w.group.View.Has(m.holder.self) {
			w.alive(m, "though it is not in the view, and was renewed just now")
		}
	}
	if e.Restart != 0 {
		w.note("%v restarts", m.holder.self)
		view := m.holder.view
		m.holder.until = 0
		m.begin(e.Restart)
		m.holder.Adopt(view, 0)
	}
	if e.Enter != nil {
		v, life, self := *e.Enter, m.life, m.holder.self
		m.later(life, self, 20, func() {
			if v.Epoch > m.status.Epoch {
				m.status = Status{Epoch: v.Epoch}
			}
		})
		m.later(life, self, 60, func() { m.status.Settled = m.status.Settled || m.status.Epoch == v.Epoch })
		m.later(life, self, 300, func() { m.status.CaughtUp = m.status.CaughtUp || m.status.Epoch == v.Epoch })
	}
}

func (m *machine) later(life int, self Member, ms int, f func()) {
	m.w.after(int64(ms/2+m.w.rng.IntN(ms))*1e6, func() {
		if m.life == life && m.holder.self == self {
			f()
		}
	})
}

// elect makes a machine the leader of a new term, if a majority votes for it. A leader before it may learn of it much later.
func (w *world) elect(m *machine) bool {
	var votes uint64
	term := m.term
	for _, v := range w.machines {
		term = max(term, v.term)
	}
	term++
	for _, i := range w.rng.Perm(len(w.machines)) {
		v := w.machines[i]
		if v == m || m.reaches(v) && !w.majority(votes) {
			votes |= bit(v.number)
		}
	}
	if !w.majority(votes) {
		return false
	}
	for _, v := range w.machines {
		if votes&bit(v.number) != 0 {
			v.term = term
		}
	}
	w.note("machine %d is elected in term %d", m.number, term)
	for _, old := range w.machines {
		if old.leads != 0 && old != m {
			was, life := old.leads, old.life
			w.after(w.rng.Int64N(int64(time.Second)), func() {
				if old.life == life && old.leads == was {
					old.on(old.depose)
				}
			})
		}
	}
	if m.leads != 0 {
		m.depose()
	}
	m.leads, m.roundsOf = term, map[uint64]uint64{}
	life := m.life
	w.after(int64(w.rng.IntN(20_000_000)), func() {
		if m.life != life || m.leads != term {
			return
		}
		m.on(func() {
			if m.leads != term || m.term != term || w.barrier > term || !w.majority(m.follow(term)) {
				return
			}
			w.barrier = term
			m.leader.Elected(m.clock(), w.group, term)
			switch w.lie {
			case noWait:
				m.leader.waited = -1 << 60
				m.leader.since = -1 << 60
			case shortBound:
				m.leader.timing.Lease = w.timing.Lease / 4
				m.leader.timing.SuspectAfter = w.timing.SuspectAfter / 3
			}
			m.carryOut()
		})
	})
	return true
}

func (m *machine) depose() {
	m.leads = 0
	m.leader.Deposed()
	m.carryOut()
}

// trouble does something bad now and then.
func (w *world) trouble() {
	if w.calm {
		return
	}
	m := w.machines[w.rng.IntN(len(w.machines))]
	switch w.rng.IntN(9) {
	case 0:
		if m.up {
			w.note("machine %d is killed", m.number)
			m.up, m.leads = false, 0
			m.life++
			w.after(w.rng.Int64N(int64(2*time.Second)), func() {
				if !m.up {
					m.start()
				}
			})
		}
	case 1:
		if m.up && w.now >= m.pausedTo {
			m.pause(w.rng.Int64N(int64(time.Second)))
		}
	case 2:
		m.cut = w.rng.Uint64()
		w.note("machine %d does not reach %b", m.number, m.cut&0b111110)
		w.after(w.rng.Int64N(int64(time.Second)), func() { m.cut = 0 })
	case 3:
		m.status.Unreachable = w.rng.Uint64() & w.rng.Uint64()
		w.after(w.rng.Int64N(int64(time.Second)), func() { m.status.Unreachable = 0 })
	default:
		if m.up && w.now >= m.pausedTo {
			w.elect(m)
		}
	}
	w.after(w.rng.Int64N(int64(500*time.Millisecond)), w.trouble)
}

func (m *machine) pause(d int64) {
	w, life := m.w, m.life
	w.note("machine %d stops for %v", m.number, time.Duration(d))
	m.pausedTo = w.now + d
	w.after(d, func() {
		if m.life != life {
			return
		}
		held := m.held
		m.held = nil
		w.rng.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
		for _, f := range held {
			f()
		}
	})
}

// heal ends all faults and lets the world come to rest.
func (w *world) heal() {
	w.calm = true
	for _, m := range w.machines {
		m.cut, m.status.Unreachable = 0, 0
		if !m.up {
			m.start()
		}
	}
	w.after(int64(2*time.Second), func() { w.elect(w.machines[0]) })
}

// unhealed says what is missing when the world should have healed; empty: nothing.
func (w *world) unhealed() string {
	var missing []string
	for _, m := range w.machines {
		r, in := w.group.View.Find(m.number)
		if !in || !r.Serving || r.Member != m.holder.self {
			missing = append(missing, fmt.Sprintf("replica %v does not serve in %v", m.holder.self, w.group.View))
		} else if m.holder.until <= m.clock() {
			missing = append(missing, fmt.Sprintf("replica %v has no lease", m.holder.self))
		}
	}
	return strings.Join(missing, "; ")
}
