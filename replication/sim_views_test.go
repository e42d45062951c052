package replication

import (
	"math/rand/v2"
	"time"

	"hermesd/bench/history"
	"hermesd/replication/views"
	"hermesd/table"
)

// Groups whose views change: replicas are lives of processes, which may end and be followed by others; the real views.Leader and
// views.Holder decide who is in the group and who may serve. What Node does around its lanes is done here: it enters views, has channels with the members
// of its view alone, holds back what is of a newer view, refuses clients without a lease, catches up.

// simStep is a step of virtual time.
const simStep = time.Millisecond

// steps is a time of the control plane in steps.
func (c *simConfig) steps(d time.Duration) uint64 { return uint64(d / simStep) }

// drawViews makes the configuration one whose views change.
func (c *simConfig) drawViews(random *rand.Rand) {
	c.dynamic = true
	c.replicas = pick(random, 1, 2, 2, 3, 3, 3, 3, 3, 4, 5)
	c.witness = c.replicas == 2 && random.IntN(3) > 0 || random.IntN(12) == 0
	c.delay = pick(random, uint64(2), 5, 10)
	c.tick = pick(random, c.delay/2+1, c.delay*2)
	c.keys = c.lanes + random.IntN(8)
	c.gentle = random.IntN(4) > 0
	c.clients = 1 + random.IntN(min(3, simClientsMax/c.replicas))
	c.ops = (80 + random.IntN(160)) / (c.replicas * c.clients)
	c.think = pick(random, c.delay, c.delay*3, c.delay*10)
	c.drift = pick(random, 0, 10, 100, 300)
	t := &c.views
	t.Drift = float64(c.drift) / 1000
	t.Heartbeat = max(5, time.Duration(c.delay)*pick(random, time.Duration(3), 6)) * simStep
	t.Lease = t.Heartbeat * time.Duration(3+random.IntN(3))
	t.SuspectAfter = t.LeaseBound() + t.Heartbeat/2 + t.Heartbeat*time.Duration(random.IntN(2))
	t.Election = max(10*simStep, min(t.SuspectAfter, t.Heartbeat*pick(random, time.Duration(2), 4)))
	t.Unreachable = t.SuspectAfter * pick(random, time.Duration(1), 2)
	lease := c.steps(t.Lease)
	some := func(means ...uint64) uint64 {
		if random.IntN(3) == 0 {
			return 0
		}
		return pick(random, means...) * lease
	}
	c.crashes = some(3, 6, 15)
	c.partitions = some(3, 6, 15)
	c.leaves = some(10, 30)
	c.pauses = some(2, 5, 15)
	c.longPauses = random.IntN(2) == 0
	c.chunk = pick(random, uint32(1), 1, 100, 1<<16)
	c.fickle = pick(random, 2, 4, 20)
	c.entering = random.IntN(2) == 0
	if c.timing.Timeout != 0 {
		c.timing.Timeout *= 4
	}
	c.unknown = false
	switch random.IntN(6) {
	case 0:
		c.makeDuels(random)
	case 1:
		c.keys = 6 + random.IntN(10)
		c.chunk = 1
	}
}

// makeDuels has read-modify-writes meet on one key while their replicas crash: what NACK, replay and gathering anew are for.
func (c *simConfig) makeDuels(random *rand.Rand) {
	c.replicas = pick(random, 3, 3, 4, 5)
	c.lanes, c.keys, c.clients = 1, 1, 2
	c.ops = 200 / (c.replicas * c.clients)
	c.numbers, c.uneven, c.tail = true, true, pick(random, 0, 5)
	c.think = c.delay
	c.timing.Timeout, c.full, c.refusals, c.evictions = 0, 0, 0, 0
	c.crashes = pick(random, uint64(1), 2, 4) * c.steps(c.views.Lease)
	c.weights = [simKinds]int{}
	c.weights[history.Incr], c.weights[history.Set], c.weights[history.Gets] = 10, random.IntN(2)+1, 3
	if random.IntN(3) == 0 {
		c.weights[history.Add], c.weights[history.Delete] = 2, 1
	}
}

// local is a process's clock, in nanoseconds: none of two runs faster than the other by more than Drift, unless a mutant wants that.
func (s *sim) local(index int) int64 {
	return (int64(s.now)*int64(1000+s.rates[index]) + int64(index+1)*1_000_000) * int64(simStep) / 1000
}

func (s *sim) drawRates() {
	for range s.processes() {
		s.rates = append(s.rates, s.random.IntN(s.cfg.drift+1))
	}
	if s.hooks.skew {
		s.rates[0] = -600 // its leases last far longer than the others think
	}
}

func (s *sim) leaderTiming() views.Timing {
	t := s.cfg.views
	if s.hooks.noWait {
		t.Lease, t.SuspectAfter = t.Heartbeat, 2*t.Heartbeat
	}
	return t
}

// alive reports whether this life of the replica has not ended.
func (r *simReplica) alive() bool { return !r.dead }

// serving reports whether the replica may answer clients: it serves in the view that it has entered, and its lease has not run out.
func (r *simReplica) serving() bool {
	if !r.s.cfg.dynamic {
		return true
	}
	me, in := r.view.Find(r.self.Number)
	return r.alive() && in && me.Serving && me.Incarnation == r.self.Incarnation && (r.s.local(r.index) < r.until || r.s.hooks.noLeases)
}

// live are the replicas that are running.
func (s *sim) live() (rs []*simReplica) {
	for _, r := range s.replicas {
		if r.alive() {
			rs = append(rs, r)
		}
	}
	return rs
}

// birth begins a new life of a replica. holder is nil if its process is a new one.
func (s *sim) birth(index int, holder *views.Holder, above uint64) {
	s.incarnations = max(s.incarnations, above) + 1
	self := Member{Number: uint8(index + 1), Incarnation: s.incarnations}
	r := s.newReplica(index, self, holder != nil)
	s.replicas[index] = r
	if holder == nil {
		holder = views.NewHolder(s.cfg.views, simServerName(index), self)
	} else {
		holder.Begin(self)
	}
	r.holder = holder
	s.mix(20, uint64(index), self.Incarnation)
	s.say("%s begins as %v", r.name(), self)
	s.after(s.random.Uint64N(s.cfg.steps(s.cfg.views.Heartbeat)+1), index, r.beat)
}

// end ends the life of a replica: it forgets everything, and whoever waits for it will never know.
func (s *sim) end(r *simReplica, why string) {
	if r.dead {
		return
	}
	r.dead = true
	s.mix(21, uint64(r.index))
	s.say("%s %s", r.name(), why)
	for _, other := range s.live() {
		for _, v := range other.lanes {
			if v.lane.Fetching() && v.lane.join.streamer == r.self {
				s.counts.streamersLost++
				break
			}
		}
	}
	for _, o := range s.ops {
		if o.replica == r && !o.over {
			o.lose()
		}
	}
	for i := range s.replicas {
		if l := s.link(r.index, i); i != r.index && l != nil && l.members[l.side(r)] == r {
			s.drop(l, l.side(r))
			s.cut(l)
		}
	}
}

// lose ends an operation whose replica is gone. What has only waited there has not happened.
func (o *simOp) lose() {
	s := o.s
	o.over, o.lost = true, true
	s.counts.abandoned++
	for _, v := range o.replica.lanes {
		for _, op := range v.lane.flight.slots {
			if op != nil && op.Tag == o.tag {
				o.attempt(op)
			}
		}
	}
	o.unsure = true
	if o.client != nil {
		o.client.later()
	}
}

// attempt notes a time stamp under which an operation may take effect.
func (o *simOp) attempt(op *Op) {
	for _, ts := range o.attempts {
		if ts == op.ts {
			return
		}
	}
	o.attempts = append(o.attempts, op.ts)
}

// settleUnsure decides on the operations of which no client has been told what became of them. An update that was never valid anywhere has had no
// effect that anybody can have seen, and is taken out. The others remain without an answer.
func (s *sim) settleUnsure() {
	for _, o := range s.ops {
		if !o.unsure || o.in.Kind == history.Flush {
			continue
		}
		happened := false
		for _, ts := range o.attempts {
			happened = happened || s.valid[simUpdate{o.in.Key, ts}]
		}
		s.counts.unsure[b2i(happened)]++
		if !happened {
			o.history.Discard(o.id)
		}
	}
}

// simUpdate names an update.
type simUpdate struct {
	key string
	ts  table.Timestamp
}

// beat sends heartbeats, for as long as the life lasts.
func (r *simReplica) beat() {
	s := r.s
	if !r.alive() {
		return
	}
	now := s.local(r.index)
	server := s.servers[r.index]
	if now >= r.holder.Due() {
		h := r.heartbeat(now)
		if server.known >= 0 {
			server.send(server.known, func(at *simServer) { at.arrives(server, h) })
		}
	}
	s.after(max(1, s.cfg.steps(s.cfg.views.Heartbeat)/3), r.index, r.beat)
}

func (r *simReplica) heartbeat(now int64) views.Heartbeat {
	h := r.holder.Beat(now, r.status(now), r.reachable())
	h.Term = r.s.servers[r.index].term
	return h
}

// arrives gives a heartbeat to the leader here; as in the driver, one of its own process that is due soon goes before another's.
func (v *simServer) arrives(from *simServer, h views.Heartbeat) {
	now := v.s.local(v.index)
	if from != v && v.elected && v.index < len(v.s.replicas) {
		if own := v.s.replicas[v.index]; own.alive() && own.holder.Due()-now <= int64(v.s.cfg.views.Heartbeat/2) {
			v.arrives(v, own.heartbeat(now))
		}
	}
	m := views.Mandate{Voter: from != v, Own: from == v, Leads: v.elected && v.role == simLeads}
	for _, other := range v.s.servers {
		if other != v {
			m.Others = append(m.Others, simServerName(other.index))
		}
	}
	if v.s.hooks.noRounds {
		m.Leads, m.Others, h.Term = true, m.Others[:min(len(m.Others), 2)], 0
	}
	v.leader.Heartbeat(now, h, m)
	v.carryOut()
}

// status is what Node tells the leader.
func (r *simReplica) status(now int64) views.Status {
	st := views.Status{Epoch: r.view.Epoch, Settled: true}
	me, _ := r.view.Find(r.self.Number)
	st.CaughtUp = r.view.Has(r.self) && !me.Serving
	if d, is := r.drive.(*simNode); is {
		node := d.node.Status()
		st.Settled, st.CaughtUp, st.Unreachable = node.Settled, st.CaughtUp && node.CaughtUp, node.Unreachable
	}
	for _, v := range r.lanes {
		st.Settled = st.Settled && v.lane.Settled()
		st.CaughtUp = st.CaughtUp && v.lane.CaughtUp()
	}
	if r.s.hooks.ignoreSettled {
		st.Settled = true
	}
	if r.s.hooks.servedSoon {
		st.CaughtUp = r.view.Has(r.self) && !me.Serving
	}
	for _, m := range r.view.Members {
		if since, down := r.downSince[m.Number]; down && !r.s.cfg.nodes && now-since > int64(r.s.cfg.views.Unreachable) {
			st.Unreachable |= bit(m.Number)
		}
	}
	return st
}

// reachable are the members of the view, as far as the control plane here knows, that a replica that wants to join it can talk to.
func (r *simReplica) reachable() (set uint64) {
	for _, m := range r.holder.View().Members {
		i := int(m.Number) - 1
		if peer := r.s.replicas[i]; i != r.index && peer.alive() && peer.self == m.Member && !r.s.cutOff(r.index, i) && !r.s.cutOff(i, r.index) {
			set |= bit(m.Number)
		}
	}
	return set
}

// effect does what the holder says.
func (s *sim) effect(r *simReplica, e views.Effect) {
	if e.Restart != 0 {
		s.counts.restarts++
		s.end(r, "is not in the view any more")
		if r.leaving {
			s.crashed(r)
			return
		}
		s.birth(r.index, r.holder, e.Restart)
		return
	}
	if e.Enter != nil {
		v := *e.Enter
		wait := uint64(0)
		if s.cfg.entering && s.chance(2) {
			wait = s.around(5 * s.cfg.delay)
		}
		at := max(s.now+wait, r.entersAt) // one after the other
		if r.entersAt = at; wait == 0 && at == s.now {
			r.enter(v)
		} else {
			s.at(at, r.index, func() { r.enter(v) })
		}
	}
	if e.Renew != 0 {
		r.until = e.Renew
	}
}

// enter has the replica enter a view.
func (r *simReplica) enter(v views.View) {
	s := r.s
	if !r.alive() || v.Epoch <= r.view.Epoch {
		return
	}
	s.mix(22, uint64(r.index), v.Epoch)
	s.say("%s: enters %v", r.name(), v)
	s.counts.entered++
	if was, in := r.view.Find(r.self.Number); in && !was.Serving {
		is, _ := v.Find(r.self.Number)
		s.counts.rejoined += b2i(is.Serving)
	}
	r.view = v
	now := s.local(r.index)
	down := make(map[uint8]int64)
	for _, m := range v.Members {
		if m.Number == r.self.Number {
			continue
		}
		if l := s.link(r.index, int(m.Number)-1); l == nil || !l.between(r, m.Member) || l.ends[l.side(r)] != simUp {
			down[m.Number] = now
			if since, was := r.downSince[m.Number]; was {
				down[m.Number] = since
			}
		}
	}
	r.downSince = down
	for i := range s.replicas {
		l := s.link(r.index, i)
		if i == r.index || l == nil || l.members[l.side(r)] != r || v.Has(l.members[1-l.side(r)].self) {
			continue
		}
		s.cut(l) // with who is not in the view
	}
	r.drive.enter(v)
	for _, lane := range r.lanes {
		lane.marks.stable = 0 // the clocks of those who are new have not been heard
	}
	s.acted(r, -1, "")
	s.wire(r)
	for i := range s.replicas {
		if l := s.link(r.index, i); i != r.index && l != nil && l.members[l.side(r)] == r {
			s.unstall(l, l.side(r))
		}
	}
}

// between reports whether the link joins r and that life of a peer.
func (l *simLink) between(r *simReplica, peer Member) bool {
	side := l.side(r)
	return l.members[side] == r && l.members[1-side].self == peer
}

// wire sets up those of the replica's channels that are not there and may be.
func (s *sim) wire(r *simReplica) {
	for i, peer := range s.replicas {
		if i == r.index || !r.alive() || !peer.alive() || !r.view.Has(peer.self) || !peer.view.Has(r.self) || s.cutOff(i, r.index) || s.cutOff(r.index, i) {
			continue
		}
		if l := s.link(r.index, i); l == nil || l.ends == [2]simEnd{simClosed, simClosed} {
			s.connect(r.index, i)
		}
	}
}

// cutOff reports whether nothing gets from one process to another.
func (s *sim) cutOff(from, to int) bool { return s.blocked[[2]int{from, to}] > s.now }

// catchUp asks for what a lane misses.
func (bl *simBareLane) catchUp() {
	b, l := bl.b, bl.lane
	if l.Complete() || l.Fetching() {
		return
	}
	s := b.r.s
	var from []uint8
	for _, m := range b.r.view.Members {
		if m.Serving && m.Number != b.r.self.Number && l.open&bit(m.Number) != 0 {
			from = append(from, m.Number)
		}
	}
	if len(from) == 0 {
		return
	}
	chunk := s.cfg.chunk
	if s.calm {
		chunk = 1 << 16 // over the slowest channels entries one by one would take for ever
	}
	streamer := l.join.streamer.Number
	if l.open&bit(streamer) == 0 || !s.calm && s.chance(s.cfg.fickle) {
		streamer = from[s.random.IntN(len(from))]
	}
	for _, n := range from {
		if n == streamer {
			l.Fetch(streamer, chunk)
			return
		}
	}
	l.Fetch(from[0], chunk)
}

// committedView is told of every view that is committed, by everybody who hears of it.
func (s *sim) committedView(v views.View) {
	if v.Epoch <= s.newest.Epoch {
		return
	}
	if v.Generation > s.newest.Generation {
		s.counts.generations++
		clear(s.answered)
		for i := range s.keys {
			s.keys[i].unique = 0
		}
	}
	s.counts.views++
	s.newest = v
	s.say("committed: %v", v)
}

// historyOf is the history that the operations of a replica belong to: each generation begins with empty tables.
func (s *sim) historyOf(r *simReplica) *history.History {
	g := int(r.view.Generation)
	for len(s.histories) <= g {
		s.histories = append(s.histories, history.New(nil))
	}
	return s.histories[g]
}

// whole reports whether everybody who lives is in the view, has entered it and serves, with a channel to each other.
func (s *sim) whole() bool {
	live := s.live()
	if len(live) == 0 || len(s.newest.Members) != len(live) {
		return false
	}
	for _, r := range live {
		if !s.newest.Has(r.self) || r.view.Epoch != s.newest.Epoch || !r.serving() {
			return false
		}
	}
	return s.connected()
}

// onlyViews makes every configuration one whose views change, of replicas that crash: it is for what only such groups can show.
func (c *simConfig) onlyViews() {
	if c.dynamic && c.replicas > 1 {
		return
	}
	*c = drawDynamic(c.seed)
}

// drawDynamic draws from a seed like drawSimConfig, until what comes is a group whose views change.
func drawDynamic(seed uint64) simConfig {
	random := rand.New(rand.NewPCG(seed, 2))
	for {
		c := drawSimConfig(seed, random)
		if c.dynamic && c.replicas > 1 {
			return c
		}
	}
}

// onlyDuels makes every configuration one of duels.
func (c *simConfig) onlyDuels() {
	*c = drawDynamic(c.seed)
	c.makeDuels(rand.New(rand.NewPCG(c.seed, 3)))
}

// strained makes every configuration one in which replicas and leaders are cut off and pause all the time.
func (c *simConfig) strained() {
	c.onlyViews()
	lease := c.steps(c.views.Lease)
	c.replicas, c.witness = max(3, c.replicas), false
	c.partitions, c.pauses, c.longPauses, c.crashes, c.think = 3*lease, 3*lease, true, 0, c.delay
	c.keys, c.clients, c.ops = 2, 2, 40
}
