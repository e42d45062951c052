package replication

import (
	"hermesd/bench/history"
	"hermesd/table"
)

// startFaults sets going those kinds of faults that the configuration has. Each fault arranges for its own end, so that a calm group heals.
func (s *sim) startFaults() {
	s.repeat(s.cfg.breaks, s.breakOne)
	s.repeat(s.cfg.pauses, s.pauseOne)
	s.repeat(s.cfg.refusals, s.refuseOne)
	s.repeat(s.cfg.evictions, s.evictOne)
	s.repeat(s.cfg.crashes, s.crashOne)
	s.repeat(s.cfg.partitions, s.partitionSome)
	s.repeat(s.cfg.leaves, s.leaveOne)
}

// repeat makes something happen again and again, until the group is to come to rest.
func (s *sim) repeat(mean uint64, happen func()) {
	if mean == 0 {
		return
	}
	s.after(1+s.around(mean), -1, func() {
		if s.calm {
			return
		}
		happen()
		s.repeat(mean, happen)
	})
}

// breakOne breaks a connection, at any time of its life.
func (s *sim) breakOne() {
	a := s.random.IntN(len(s.replicas))
	b := s.random.IntN(len(s.replicas))
	if a == b {
		return
	}
	l := s.link(a, b)
	if l == nil || l.broken {
		return
	}
	s.mix(7, uint64(a), uint64(b))
	s.say("the connection of %s and %s breaks", l.members[0].name(), l.members[1].name())
	s.cut(l)
}

// pauseOne stops a replica for a while: what happens to it meanwhile waits.
func (s *sim) pauseOne() {
	i := s.random.IntN(len(s.paused))
	s.counts.pauses++
	mean := s.cfg.delay * 10
	if s.cfg.longPauses && s.chance(2) {
		mean = 2 * s.cfg.steps(s.cfg.views.Lease)
	}
	s.paused[i] = max(s.paused[i], s.now+s.around(mean)) // a shorter pause must not let what comes now pass what waits
	s.mix(8, uint64(i), s.paused[i])
	s.say("%s pauses until step %d", memberName(uint8(i+1)), s.paused[i])
}

// refuseOne has a replica's Admit refuse for a while.
func (s *sim) refuseOne() {
	r := s.replicas[s.random.IntN(len(s.replicas))]
	if r.refuse {
		return
	}
	r.refuse = true
	s.mix(9, uint64(r.index))
	s.say("%s has no room", r.name())
	s.after(s.around(s.cfg.delay*10), r.index, func() {
		r.refuse = false
		if r.dead {
			return
		}
		s.mix(10, uint64(r.index))
		s.say("%s has room again", r.name())
		if s.chance(2) { // otherwise with the next tick
			for _, v := range r.lanes {
				v.lane.AdmitAgain()
			}
			s.acted(r, -1, "")
		}
	})
}

// evictOne has a replica evict a key, if it is stored there.
func (s *sim) evictOne() {
	who := s.random.IntN(len(s.replicas))
	k := &s.keys[s.random.IntN(len(s.keys))]
	s.after(0, who, func() {
		r := s.replicas[who]
		if !r.serving() {
			return
		}
		r.drive.locked(k.lane, func() { s.evict(r, k) })
		s.acted(r, k.lane, k.name)
	})
}

// evictor is the number of the client in whose name the group evicts: an eviction that took effect is a delete.
const evictor = -1

func (s *sim) evict(r *simReplica, k *simKey) {
	v := r.viewOf(k)
	key := []byte(k.name)
	var it table.Item
	if !v.items.Find(k.hash, key, &it) {
		return
	}
	if s.hooks.evictAlone && it.State == 0 {
		v.items.Remove(&it)
		return
	}
	o := s.begin(nil, evictor, r, history.Input{Kind: history.Delete, Key: k.name})
	o.expired = it.Expired(simNow)
	op := r.drive.newOp()
	op.Now, op.Tag = simNow, o.tag
	verdict := v.lane.Evict(op, k.hash, key, &it)
	s.mix(11, uint64(r.index), uint64(verdict))
	s.say("%s: evict %s: verdict %d", r.name(), k.name, verdict)
	if d, is := r.drive.(*simNode); is && verdict == table.Drop {
		delete(d.lanes[k.lane].held, k.hash) // told of here
	}
	spoil(key)
	switch {
	case verdict == table.Pending:
		return
	case verdict == table.Keep:
		o.history.Discard(o.id)
	case v.lane.Flushed(&it) || o.expired:
		o.history.Discard(o.id)
		v.items.Remove(&it) // as the table does
	default:
		if v.lane.peers != 0 {
			s.fail("%s gives %s up without asking", r.name(), k.name)
		}
		o.history.Return(o.id, history.Output{Status: history.Deleted})
		v.items.Remove(&it)
	}
	o.over = true
	r.drive.freeOp(op)
}

// beCalm ends all faults: what is broken heals.
func (s *sim) beCalm() {
	s.calm = true
	clear(s.blocked)
}

// loseForGood ends processes of a group at rest that are not started again, as long as a majority is left.
func (s *sim) loseForGood() {
	first := s.random.IntN(len(s.replicas))
	for left := len(s.servers) - 1; 2*left > len(s.servers); left-- {
		r := s.replicas[(first+left)%len(s.replicas)]
		if r.dead || s.lastToServe(r) {
			continue
		}
		s.counts.crashes++
		s.end(r, "crashes for good")
		s.servers[r.index].stop()
	}
}

// crashOne ends a process, with all that it has in memory, and starts it again some time later.
func (s *sim) crashOne() {
	r := s.replicas[s.random.IntN(len(s.replicas))]
	if r.dead || s.unknowns > simUnknowns || s.needs(r) {
		return
	}
	s.counts.crashes++
	s.end(r, "crashes")
	s.crashed(r)
}

// needs reports whether nobody would be left who holds what the group has stored.
func (s *sim) needs(r *simReplica) bool {
	return s.cfg.gentle && s.lastToServe(r)
}

func (s *sim) lastToServe(r *simReplica) bool {
	for _, m := range s.newest.Members {
		if other := s.replicas[m.Number-1]; m.Serving && other != r && other.self == m.Member && other.alive() && !other.leaving {
			return false
		}
	}
	return true
}

// crashed has the process of a replica whose life is over start again, at once or after the group has noticed.
func (s *sim) crashed(r *simReplica) {
	i := r.index
	s.servers[i].stop()
	wait := 1 + s.around(s.cfg.steps(s.cfg.views.SuspectAfter)*pick(s.random, uint64(1), 4, 16)/4)
	s.after(wait, i, func() {
		s.servers[i].start()
		s.birth(i, nil, 0)
	})
}

// leaveOne has a replica leave in good order, as a process does that is told to end.
func (s *sim) leaveOne() {
	who := s.random.IntN(len(s.replicas))
	s.after(0, who, func() {
		r := s.replicas[who]
		if r.dead || r.leaving || r.holder.Left() || s.needs(r) {
			return
		}
		s.counts.leaves++
		s.say("%s leaves", r.name())
		r.leaving, r.until = true, 0
		r.holder.Leave(s.local(who))
	})
}

// partitionSome cuts processes off from each other for a while: one from all others, two from each other, or in one direction only.
func (s *sim) partitionSome() {
	n := s.processes()
	if n < 2 {
		return
	}
	a := s.random.IntN(n)
	b := (a + 1 + s.random.IntN(n-1)) % n
	until := s.now + s.around(2*s.cfg.steps(s.cfg.views.SuspectAfter))
	kind := s.random.IntN(5)
	s.counts.partitions[kind]++
	s.mix(12, uint64(a), uint64(b), uint64(kind))
	s.say("%s is cut off until step %d (from %s if not from all), kind %d", memberName(uint8(a+1)), until, memberName(uint8(b+1)), kind)
	for i := range n {
		switch {
		case i == a:
		case kind == 0:
			s.block(a, i, until)
			s.block(i, a, until)
		case kind == 1:
			s.block(a, i, until)
		case kind == 2:
			s.block(i, a, until)
		}
	}
	if kind >= 3 {
		s.block(a, b, until)
	}
	if kind == 3 {
		s.block(b, a, until)
	}
}

// block lets nothing come from one process to another. A connection between them breaks, as both ends find in time.
func (s *sim) block(from, to int, until uint64) {
	s.blocked[[2]int{from, to}] = max(until, s.blocked[[2]int{from, to}])
	if max(from, to) >= len(s.replicas) {
		return
	}
	if l := s.link(from, to); l != nil {
		s.cutWithin(l, 10*s.cfg.delay, from > to, from < to)
	}
}
