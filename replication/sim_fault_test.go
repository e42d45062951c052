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
	if l.broken {
		return
	}
	s.mix(7, uint64(a), uint64(b))
	s.say("the connection of %s and %s breaks", l.members[0].name(), l.members[1].name())
	s.cut(l)
}

// pauseOne stops a replica for a while: what happens to it meanwhile waits.
func (s *sim) pauseOne() {
	r := s.replicas[s.random.IntN(len(s.replicas))]
	s.counts.pauses++
	r.pausedUntil = max(r.pausedUntil, s.now+s.around(s.cfg.delay*10)) // a shorter pause must not let what comes now pass what waits
	s.mix(8, uint64(r.index), r.pausedUntil)
	s.say("%s pauses until step %d", r.name(), r.pausedUntil)
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
	spoil(key)
	switch {
	case verdict == table.Pending:
		return
	case verdict == table.Keep:
		s.history.Discard(o.id)
	case v.lane.Flushed(&it) || o.expired:
		s.history.Discard(o.id)
		v.items.Remove(&it) // as the table does
	default:
		if v.lane.peers != 0 {
			s.fail("%s gives %s up without asking", r.name(), k.name)
		}
		s.history.Return(o.id, history.Output{Status: history.Deleted})
		v.items.Remove(&it)
	}
	o.over = true
	r.drive.freeOp(op)
}
