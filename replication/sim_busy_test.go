package replication

import (
	"fmt"
	"strings"

	"hermesd/table"
)

// simBusybody is a client of a node that fills its memory with what nobody asks for: it has many operations under way at once, on keys of all
// lanes. They are in no history, as there would be too many for the checker, but they have to be answered, and all replicas have to agree on them.
type simBusybody struct {
	s    *sim
	slot int
}

// simBusyKeys is the number of keys that busybodies use.
const simBusyKeys = 400

func (s *sim) startBusybodies() {
	for i := range s.replicas {
		if s.cfg.busy > 0 {
			b := &simBusybody{s: s, slot: i}
			b.later()
		}
	}
}

func (b *simBusybody) later() { b.s.after(1+b.s.around(b.s.cfg.delay), b.slot, b.next) }

func (b *simBusybody) next() {
	s, r := b.s, b.s.replicas[b.slot]
	if s.calm {
		return
	}
	if d, is := r.drive.(*simNode); is && r.serving() {
		for n := s.random.IntN(4); n > 0 && d.busy < s.cfg.busy; n-- {
			b.ask(d)
		}
		s.acted(r, -1, "")
	}
	b.later()
}

var simBusyKinds = []OpKind{OpSet, OpSet, OpSet, OpSet, OpSet, OpAdd, OpAppend, OpDelete, OpGet}

func (b *simBusybody) ask(d *simNode) {
	s := b.s
	op := d.newOp()
	key := fmt.Appendf(nil, "busy%d", s.random.IntN(simBusyKeys))
	value := []byte(strings.Repeat("b", s.random.IntN(1+s.random.IntN(s.cfg.valueBytes))))
	op.Kind, op.Hash, op.Key, op.Value = pick(s.random, simBusyKinds...), table.Hash(key), key, value
	op.Now, op.Client = simNow, &simBusyOp{d, d.r}
	s.mix(13, uint64(b.slot), op.Hash, uint64(op.Kind), uint64(len(value)))
	d.busy++
	if d.submit(op) {
		op.Client.Done(op)
	}
	spoil(key)
	spoil(value)
}

// simBusyOp is one operation.
type simBusyOp struct {
	d    *simNode
	life *simReplica
}

// Done implements Client.
func (o *simBusyOp) Done(op *Op) Flusher {
	if o.d.r == o.life {
		o.d.busy--
	}
	o.d.freeOp(op)
	return nil
}
