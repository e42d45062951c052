package replication

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"hermesd/table"
)

// simMarks are what must never fall in a lane, as they were last seen.
type simMarks struct {
	clock, stable uint64
	top           uint64 // the greatest stable: it falls when a view is entered
	dropped       table.Timestamp
	floor         table.Timestamp
	keys          map[int]table.Timestamp // greatest time stamp that the key has had here
}

// acted is called after every input of a replica: whatever the input did is visible now, and must be right. lane is the lane that the
// input was for, -1: any; key likewise.
func (s *sim) acted(r *simReplica, lane int, key string) {
	r.drive.acted()
	if s.wrong != "" || s.hooks.clientsOnly {
		return
	}
	for i, v := range r.lanes {
		if lane >= 0 && i != lane || len(v.keys) == 0 {
			continue
		}
		if wrong := s.checkLane(r, v); wrong != "" {
			s.fail("%s: %s", r.name(), wrong)
			return
		}
		for _, k := range v.keys {
			if key == "" || key == s.keys[k].name {
				s.checkKey(r, v, k)
			}
		}
	}
}

// checkLane checks what must hold in a lane at any time.
func (s *sim) checkLane(r *simReplica, v *simView) string {
	l, was := v.lane, &v.marks
	if l.clock < was.clock || l.stable() < was.stable || l.dropped.Less(was.dropped) || l.floor.ts.Less(was.floor) {
		return fmt.Sprintf("the clock (%d, now %d), stable (%d, now %d), D (%s, now %s) or F (%s, now %s) has fallen", was.clock, l.clock, was.stable, l.stable(),
			showTS(was.dropped), showTS(l.dropped), showTS(was.floor), showTS(l.floor.ts))
	}
	was.clock, was.stable, was.dropped, was.floor = l.clock, l.stable(), l.dropped, l.floor.ts
	was.top = max(was.top, l.stable())
	if l.dropped.Version() > was.top {
		return fmt.Sprintf("a tombstone of version %d has been dropped, but stable is %d", l.dropped.Version(), was.top)
	}
	return l.consistent()
}

// checkKey checks that the time stamp of a key has not fallen at a replica, and that the replicas at which the key can be read agree: anything
// else would let two reads, one after the other, go back in time.
func (s *sim) checkKey(r *simReplica, v *simView, k int) {
	name := s.keys[k].name
	it, _ := v.peek(name)
	if v.marks.keys == nil {
		v.marks.keys = make(map[int]table.Timestamp)
	}
	if was := v.marks.keys[k]; !it.TS.IsZero() {
		if it.TS.Less(was) && !v.lane.incomplete() { // who catches up has dropped tombstones, and D is not in force: what is sent again is stored, and asked about
			s.fail("%s: the time stamp of %s has fallen from %s to %s", r.name(), name, showTS(was), showTS(it.TS))
		}
		v.marks.keys[k] = it.TS
	}
	var first *simReplica
	for _, r := range s.replicas {
		if !s.matters(r) {
			continue
		}
		if ts := s.answered[name]; s.cfg.dynamic && r.serving() && !r.viewOf(&s.keys[k]).knows(name, ts) {
			s.fail("%s serves, and holds nothing of %s as new as %s, which has been answered", r.name(), name, showTS(ts))
		}
		own := &r.held
		v := r.viewOf(&s.keys[k])
		v.read(name, own)
		if own.state == keyInvalid || own.state == keyAbsent && v.lane.incomplete() {
			continue
		}
		if first == nil {
			first = r
		} else if !own.equal(&first.held) {
			s.fail("%s is readable at %s: %s and at %s: %s", name, first.name(), &first.held, r.name(), own)
		}
	}
}

// matters reports whether what can be read at the replica has to agree with the others: it is in the newest view, so that nothing is complete without
// it, or has a lease yet.
func (s *sim) matters(r *simReplica) bool {
	return !s.cfg.dynamic || r.serving() || r.alive() && s.newest.Has(r.self) && r.view.Epoch > 0
}

// simHeld is what is stored under a key.
type simHeld struct {
	state keyState // a tombstone is absent
	item  table.Item
	value []byte
}

func (v *simView) read(key string, h *simHeld) {
	h.item, h.state = v.peek(key)
	h.value = h.value[:0]
	switch h.state {
	case keyValid:
		h.value = v.items.AppendValue(h.value, &h.item)
	case keyTombstone:
		h.state = keyAbsent
	}
}

func (h *simHeld) equal(g *simHeld) bool {
	a, b := &h.item, &g.item
	return h.state == g.state && (h.state != keyValid || a.TS == b.TS && a.CAS == b.CAS && a.Flags == b.Flags && a.Exptime == b.Exptime && a.State == b.State &&
		bytes.Equal(h.value, g.value))
}

func (h *simHeld) String() string {
	if h.state != keyValid {
		return [...]string{keyAbsent: "absent", keyInvalid: "invalid"}[h.state]
	}
	it := &h.item
	value := string(h.value)
	if len(value) > 200 {
		value = fmt.Sprintf("%s... (%d bytes, hash %x)", value[:40], len(value), table.Hash(h.value))
	}
	return fmt.Sprintf("%s %q cas=%d flags=%d exptime=%d state=%d", showTS(it.TS), value, it.CAS, it.Flags, it.Exptime, it.State)
}

// peek says what is stored, without changing anything: a key at or below the floor is as the floor is.
func (v *simView) peek(key string) (it table.Item, st keyState) {
	var buf [32]byte
	name := append(buf[:0], key...)
	f := &v.lane.floor
	switch stored := v.items.Find(table.Hash(name), name, &it); {
	case (!stored || it.TS.Compare(f.ts) <= 0) && f.invalid:
		return table.Item{}, keyInvalid
	case !stored || it.TS.Compare(f.ts) <= 0:
		return table.Item{}, keyAbsent
	case it.State&table.Invalid != 0:
		return it, keyInvalid
	case it.State&table.Tombstone != 0:
		return it, keyTombstone
	}
	return it, keyValid
}

// checkDurable checks that an update that is answered is in every replica's memory, or that something newer is.
func (s *sim) checkDurable(o *simOp, op *Op) {
	switch op.Result.Status {
	case Stored, Number, Deleted, Touched, Flushed:
	default:
		return
	}
	if op.ts.IsZero() || s.hooks.clientsOnly {
		return
	}
	if op.Kind != OpFlush && op.Kind != OpTouch && op.Kind != OpGat {
		if s.answered[o.in.Key].Less(op.ts) {
			s.answered[o.in.Key] = op.ts
		}
	}
	for _, r := range s.replicas {
		if r.dead || s.cfg.dynamic && !o.replica.view.Has(r.self) {
			continue
		}
		for _, v := range r.lanes {
			if unchanged := op.Kind == OpTouch || op.Kind == OpGat; unchanged && (v.lane.incomplete() || v.lane.epoch == 0) {
				continue // it may have found the exptime as it wants it, in its last run
			}
			if op.Kind != OpFlush && v == r.viewOf(s.keyNamed(o.in.Key)) && !v.knows(o.in.Key, op.ts) {
				s.fail("%v %s is answered, but %s holds nothing as new as %s", o.in.Kind, o.in.Key, r.name(), showTS(op.ts))
			}
		}
	}
}

// knows reports whether the replica has the update, or something newer.
func (v *simView) knows(key string, ts table.Timestamp) bool {
	it, _ := v.peek(key)
	l := v.lane
	dropped := l.dropped
	if l.incomplete() && dropped.Less(l.join.deleted) {
		dropped = l.join.deleted // not in force yet, and what has been dropped here
	}
	return !it.TS.Less(ts) || !l.floor.ts.Less(ts) || dropped.Version() >= ts.Version()
}

// simUndecided bounds the checking of a history. No history of a run needs anything near it.
const simUndecided = time.Minute

// checkEnd checks the group at rest, and what its clients have seen.
func (s *sim) checkEnd() {
	for _, o := range s.ops {
		if !o.over {
			s.fail("%v %s at %s is not answered", o.in.Kind, o.in.Key, o.replica.name())
		}
	}
	if !s.hooks.clientsOnly {
		s.checkConverged()
		s.checkCredit()
	}
	s.settleUnsure()
	for _, h := range s.histories {
		if err := h.Check(simUndecided); err != nil && s.wrong == "" {
			s.wrong = err.Error()
		}
	}
}

// checkConverged checks that all replicas hold the same and nothing else.
func (s *sim) checkConverged() {
	live := s.live()
	for lane := range live[0].lanes {
		var first []string
		for i, r := range live {
			v := r.lanes[lane]
			held, wrong := v.contents()
			if l := v.lane; wrong == "" && (l.flight.count != 0 || l.queues.any() || len(l.tombs.pending) != 0) {
				wrong = fmt.Sprintf("%d updates in flight, %d operations wait, %d tombstones", l.flight.count, l.queues.waiting, len(l.tombs.pending))
			}
			if wrong != "" {
				s.fail("at the end, lane %d of %s: %s", lane, r.name(), wrong)
				return
			}
			if i == 0 {
				first = held
			} else if !slices.Equal(first, held) {
				only := func(a, b []string) string {
					a = slices.DeleteFunc(slices.Clone(a), func(item string) bool { return slices.Contains(b, item) })
					return strings.Join(a, "\n  ")
				}
				s.fail("at the end, lane %d of %s alone holds\n  %s\nand of %s\n  %s", lane, live[0].name(), only(first, held), r.name(), only(held, first))
				return
			}
		}
	}
}

// contents lists what a lane holds that is not below the floor, by key. wrong says what should not be there at rest.
func (v *simView) contents() (held []string, wrong string) {
	v.each(func(key string, it *table.Item) {
		if v.lane.governed(it) {
			if v.lane.floor.invalid {
				wrong = "the flush is not over"
			}
			return
		}
		if it.State != 0 {
			wrong = fmt.Sprintf("%s is in state %d with %s", key, it.State, showTS(it.TS))
		}
		var h simHeld
		v.read(key, &h)
		held = append(held, key+" "+h.String())
	})
	slices.Sort(held)
	return held, wrong
}

// each calls f for what is stored, in the same order in every execution.
func (v *simView) each(f func(key string, it *table.Item)) {
	switch items := v.items.(type) {
	case *fakeStore:
		for i := range items.recs {
			f(items.recs[i].key, &items.recs[i].item)
		}
	case *table.Lane:
		items.Each(func(key []byte, it *table.Item) bool {
			f(string(key), it)
			return true
		})
	}
}

// readInvalid reads what is stored and invalid: where a VAL was lost, a key stays so until somebody wants to know.
func (s *sim) readInvalid() {
	for _, r := range s.live() {
		for _, v := range r.lanes {
			var keys []string
			v.each(func(key string, it *table.Item) {
				if it.State&table.Invalid != 0 || v.lane.governed(it) && v.lane.floor.invalid {
					keys = append(keys, key)
				}
			})
			for _, key := range keys {
				op := &Op{Kind: OpGet, Key: []byte(key), Hash: table.Hash([]byte(key)), Now: simNow, Client: simNobody{}}
				r.drive.submit(op)
			}
		}
		s.acted(r, -1, "")
	}
}

// simNobody is a client that does not care about the answer.
type simNobody struct{}

func (simNobody) Done(*Op) Flusher { return nil }

// laneName is the lane in a trace, where there are several.
func (s *sim) laneName(lane uint8) string {
	if s.cfg.lanes == 1 {
		return ""
	}
	return fmt.Sprintf("(lane %d) ", lane)
}
