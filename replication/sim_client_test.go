package replication

import (
	"bytes"
	"fmt"
	"strings"

	"hermesd/bench/history"
	"hermesd/table"
)

// simClient is a client of one replica: it asks, waits for the answer, thinks, and asks again.
type simClient struct {
	s      *sim
	number int
	slot   int // index of the replica that it talks to, in whatever life
	left   int // operations
}

// simOp is an operation of a client, or an eviction, from its call to the last that is heard of it.
type simOp struct {
	s       *sim
	tag     uint64
	id      int // in the history
	in      history.Input
	client  *simClient // nil: an eviction
	replica *simReplica
	parts   int  // Ops that have not been answered
	failed  bool // one of them, at least
	over    bool // answered
	lost    bool // its replica is gone: what is heard of it yet is nobody's
	late    bool // answered without telling what happened, which is still to be found out
	expired bool // an eviction of an item whose exptime has come: nobody can tell the difference

	history  *history.History
	attempts []table.Timestamp // under which it has been sent to others
	unsure   bool              // nobody has been told what became of it, and the engine will not say
}

// simUnknowns bounds the updates of a run whose outcome is kept from the checker, which takes long over them.
const simUnknowns = 6

func (s *sim) startClients() {
	for i := range s.replicas {
		for range s.cfg.clients {
			c := &simClient{s: s, number: len(s.clients), slot: i, left: s.cfg.ops}
			s.clients = append(s.clients, c)
			s.active++
			c.later()
		}
	}
}

func (c *simClient) later() {
	c.s.after(c.s.around(c.s.cfg.think), c.slot, c.next)
}

func (c *simClient) next() {
	if c.left == 0 || c.s.calm {
		c.left = 0
		c.s.active--
		return
	}
	if !c.s.replicas[c.slot].serving() {
		c.s.counts.turnedAway++
		c.s.after(1+c.s.around(c.s.cfg.delay*5), c.slot, c.next)
		return
	}
	c.left--
	c.ask(c.draw())
}

// begin notes the call of an operation.
func (s *sim) begin(client *simClient, number int, r *simReplica, in history.Input) *simOp {
	o := &simOp{s: s, tag: uint64(len(s.ops)), in: in, client: client, replica: r, parts: 1}
	s.ops = append(s.ops, o)
	o.history = s.historyOf(r)
	o.id = o.history.Call(number, in)
	return o
}

// ask gives an operation to the client's replica.
func (c *simClient) ask(in history.Input) {
	s, r := c.s, c.s.replicas[c.slot]
	o := s.begin(c, c.number, r, in)
	s.mix(4, uint64(r.index), uint64(in.Kind), uint64(c.number))
	s.say("%s: client %d asks %s %s %q", r.name(), c.number, in.Kind, in.Key, simShort(in.Value))
	if in.Kind == history.Flush {
		r.drive.flush(o)
		s.acted(r, -1, "")
		return
	}
	op := r.drive.newOp()
	k := s.keyNamed(in.Key)
	key, value := []byte(in.Key), []byte(in.Value)
	op.Kind, op.Hash, op.Key, op.Value = simOpKinds[in.Kind], k.hash, key, value
	op.Flags, op.CAS, op.Delta = in.Flags, in.CAS, in.Delta
	op.Exptime, op.Now, op.Client, op.Tag = s.drawExptime(in), simNow, o, o.tag
	if op.Kind == OpGet && r.drive.read(op) || r.drive.submit(op) {
		o.Done(op)
	} else {
		s.counts.waited++
	}
	// The buffers were the engine's during the call only.
	spoil(key)
	spoil(value)
	s.acted(r, k.lane, in.Key)
}

func spoil(b []byte) { copy(b, bytes.Repeat([]byte{0xDB}, len(b))) }

// simNow is the time of day, which does not change: items expire at once or never, since history's model knows no other.
const simNow = 1_000_000

func (s *sim) drawExptime(in history.Input) uint32 {
	switch {
	case in.Expired:
		return simNow - s.random.Uint32N(2)
	case s.random.IntN(2) == 0:
		return 0
	}
	return simNow + 1 + s.random.Uint32N(3)
}

// simOpKinds are the engine's names.
var simOpKinds = [simKinds]OpKind{history.Get: OpGet, history.Gets: OpGet, history.Gat: OpGat, history.Gats: OpGat, history.Set: OpSet, history.Add: OpAdd,
	history.Replace: OpReplace, history.Append: OpAppend, history.Prepend: OpPrepend, history.CAS: OpCAS, history.Incr: OpIncr, history.Decr: OpDecr,
	history.Touch: OpTouch, history.Delete: OpDelete, history.Flush: OpFlush}

// draw draws an input.
func (c *simClient) draw() history.Input {
	s := c.s
	k := &s.keys[s.random.IntN(len(s.keys))]
	in := history.Input{Kind: s.drawKind(), Key: k.name}
	if in.Kind == history.CAS && k.unique == 0 {
		in.Kind = history.Gets
	}
	rarely := func() bool { return s.random.IntN(12) == 0 && !s.cfg.rareExpiry }
	switch in.Kind {
	case history.Flush:
		in.Key = ""
	case history.Set, history.Add, history.Replace, history.CAS:
		in.Value, in.Flags, in.Expired = s.drawValue(c), s.random.Uint32N(3), rarely()
		if in.Kind == history.CAS {
			in.CAS = k.unique
		}
	case history.Append, history.Prepend:
		in.Value = s.drawText(c)
	case history.Incr, history.Decr:
		in.Delta = 1 + s.random.Uint64N(9)
	case history.Gat, history.Gats, history.Touch:
		in.Expired = s.random.IntN(4) == 0 && (!s.cfg.rareExpiry || s.chance(8))
	}
	return in
}

func (s *sim) drawKind() history.Kind {
	total := 0
	for _, w := range s.cfg.weights {
		total += w
	}
	n := s.random.IntN(total)
	for kind, w := range s.cfg.weights {
		if n -= w; n < 0 {
			return history.Kind(kind)
		}
	}
	panic("unreachable")
}

// drawValue draws a number or a text. Numbers are small, so that decr comes to 0 and incr to another length.
func (s *sim) drawValue(c *simClient) string {
	if s.cfg.numbers || s.random.IntN(2) == 0 {
		return fmt.Sprint(s.random.IntN(110))
	}
	text := s.drawText(c)
	if s.cfg.valueBytes > 0 {
		text += strings.Repeat("-", s.random.IntN(s.cfg.valueBytes))
	}
	return text
}

// drawText draws a text that nobody else writes.
func (s *sim) drawText(c *simClient) string {
	s.written++
	return fmt.Sprintf("%d.%d,", c.number, s.written)
}

// Done implements Client.
func (o *simOp) Done(op *Op) Flusher {
	s, r := o.s, op.Result
	if o.lost {
		o.replica.drive.freeOp(op)
		return nil
	}
	out := simOutput(o.in.Kind, r)
	s.counts.answered[r.Status]++
	failed := r.Status == Unavailable || r.Status == OutOfMemory
	s.mix(5, o.tag, uint64(r.Status), r.CAS, r.Number)
	s.mixBytes(r.Value)
	if !failed {
		s.checkDurable(o, op)
	}
	never := failed && !o.flying(op)
	if never && s.cfg.dynamic && op.losses > 0 {
		never, o.unsure = false, true // others may hold an attempt of it, and replay that
	}
	o.failed = o.failed || failed
	o.parts--
	if o.parts == 0 {
		o.over = true
		if s.trace != nil {
			s.say("%s: client %d is answered %s", o.replica.name(), o.client.number, simAnswer(o.in.Kind, r))
		}
		o.record(out, never)
		o.client.later()
	} else if o.parts < 0 {
		s.fail("operation %d (%v %s) is answered twice", o.tag, o.in.Kind, o.in.Key)
	}
	o.replica.drive.freeOp(op)
	return nil
}

// flying reports whether an operation that is answered without telling what happened is in flight still. The others, which
// waited, have not happened and never will: that is the engine's promise (expireWaits), and is held to it.
func (o *simOp) flying(op *Op) bool {
	if o.in.Kind == history.Flush {
		return true // some lane of it, or not
	}
	k := o.s.keyNamed(o.in.Key)
	return o.replica.viewOf(k).lane.flight.get(op.id) != nil
}

// record notes the answer in the history.
func (o *simOp) record(out history.Output, never bool) {
	s, k := o.s, o.s.keyNamed(o.in.Key)
	switch {
	case !o.failed:
		o.history.Return(o.id, out)
		if k != nil && out.CAS != 0 {
			k.unique = out.CAS
		}
		return
	case o.in.Kind == history.Flush || s.cfg.unknown && s.unknowns < simUnknowns:
		s.unknowns++
		o.history.Return(o.id, history.Output{})
	case never:
		o.history.Discard(o.id)
	case o.unsure:
	default:
		o.late = true
	}
}

// over is told of operations without a client that have ended: evictions, and updates whose client has been answered
// before it was known what became of them. The checker is told what did, which is more than the client knows.
func (s *sim) over(op *Op) {
	o := s.ops[op.Tag]
	status := op.Result.Status
	if o.replica == nil || o.lost {
		return // not a client's, or its replica is gone
	}
	s.mix(6, o.tag, uint64(status))
	if s.trace != nil {
		s.say("%s: %v of %s is over: %s", o.replica.name(), o.in.Kind, o.in.Key, simAnswer(o.in.Kind, op.Result))
	}
	switch {
	case o.client == nil:
		o.over = true
		s.counts.evictions[b2i(status == Deleted)]++
		s.counts.expired += b2i(status == Deleted && o.expired)
		switch {
		case o.expired && status == Deleted, status != Deleted && !(s.cfg.dynamic && op.losses > 0):
			o.history.Discard(o.id)
			return
		case status != Deleted:
			o.unsure = true
			return
		}
		s.checkDurable(o, op)
		o.history.Return(o.id, history.Output{Status: history.Deleted})
	case !o.late:
	case status == Unavailable: // its replica begins anew, and others decide
		o.late, o.unsure = false, true
	case op.ts.IsZero(), status == NotFound:
		o.late = false
		s.counts.late[0]++
		if s.cfg.dynamic {
			o.unsure = true
			return
		}
		o.history.Discard(o.id) // outranked: it did not happen, and never will
	case status == Hit: // the value that was read is not kept
		o.history.Return(o.id, history.Output{})
	default:
		o.late = false
		s.counts.late[1]++
		s.checkDurable(o, op)
		o.history.Return(o.id, simOutput(o.in.Kind, op.Result))
	}
}

// simStatuses are history's names. Unavailable and OutOfMemory have none.
var simStatuses = map[Status]history.Status{Hit: history.Hit, Miss: history.Miss, Stored: history.Stored, NotStored: history.NotStored,
	Exists: history.Exists, NotFound: history.NotFound, Deleted: history.Deleted, Touched: history.Touched, Number: history.Number,
	NonNumeric: history.NonNumeric, Flushed: history.OK}

func simOutput(kind history.Kind, r Result) history.Output {
	out := history.Output{Status: simStatuses[r.Status]}
	switch r.Status {
	case Hit:
		out.Value, out.Flags, out.CAS = string(r.Value), r.Flags, r.CAS
	case Number:
		out.Number = r.Number
	}
	return out
}

func simAnswer(kind history.Kind, r Result) string {
	switch r.Status {
	case Unavailable:
		return "unavailable: " + r.Err
	case OutOfMemory:
		return "out of memory"
	case Number:
		return fmt.Sprint(r.Number)
	case Hit:
		return fmt.Sprintf("%q flags=%d cas=%d", simShort(string(r.Value)), r.Flags, r.CAS)
	}
	return simStatuses[r.Status].String()
}

func simShort(value string) string {
	if len(value) > 40 {
		return fmt.Sprintf("%s... (%d bytes)", value[:20], len(value))
	}
	return value
}

func (s *sim) keyNamed(name string) *simKey {
	for i := range s.keys {
		if s.keys[i].name == name {
			return &s.keys[i]
		}
	}
	return nil
}

// readAll lets a client of every replica read every key.
func (s *sim) readAll() {
	s.say("the last reads")
	for _, r := range s.live() {
		for i := range s.keys {
			c := &simClient{s: s, number: len(s.clients), slot: r.index}
			s.clients = append(s.clients, c)
			s.active++
			s.after(0, r.index, func() { c.ask(history.Input{Kind: history.Gets, Key: s.keys[i].name}) })
		}
	}
}
