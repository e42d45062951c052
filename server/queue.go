package server

import (
	"hermesd/replication"
	"hermesd/textproto"
)

// Replies leave in the order of the requests, though operations complete in any order. While all are answered at once,
// replies go straight into the output of the pass. An operation that must wait takes a slot in the
// connection's queue, and from then on, until the queue is empty again, everything is held back behind the last slot.

// slotKind says what is to be answered when the turn of a slot comes.
type slotKind uint8

const (
	slotUpdate   slotKind = iota // the outcome of the operation
	slotTooLarge                 // the set was too large; the operation deletes the old item
	slotValue                    // get, gat: the item
	slotValueCAS                 // gets, gats: the item with its cas unique
	slotEnd                      // no operation: END of a get that has slots
	slotNoEnd                    // no operation: where such a get ends, after an error
)

// slot is one reply, or part of one, that could not be given at once.
type slot struct {
	op     *replication.Op // when done, until answered
	behind uint64          // where in the stream of held bytes those that follow the slot begin
	kind   slotKind
	done   bool
}

// queue is the replies of a connection that wait. Its zero value is empty, and has no memory.
type queue struct {
	slots      []slot // ring, a power of two long
	head, tail uint32 // running numbers of the first slot and of the next
	waiting    int    // operations that the Store has, also those without a slot

	held     []byte // bytes of the stream from heldFrom on
	heldFrom uint64 // how many bytes of the stream came before
	heldOff  int    // how much of held has been answered
}

const (
	minSlots      = 16
	keptSlots     = 256
	keptHeldBytes = 4 << 10
)

func (q *queue) empty() bool            { return q.head == q.tail }
func (q *queue) at(number uint32) *slot { return &q.slots[number&uint32(len(q.slots)-1)] }
func (q *queue) heldBytes() int         { return len(q.held) - q.heldOff }

// push takes a slot for the next reply. Its number is what tail was.
func (q *queue) push(kind slotKind, done bool) {
	if int(q.tail-q.head) == len(q.slots) {
		q.grow()
	}
	*q.at(q.tail) = slot{kind: kind, done: done, behind: q.heldFrom + uint64(len(q.held))}
	q.tail++
}

func (q *queue) grow() {
	old := *q
	q.slots = make([]slot, max(minSlots, 2*len(old.slots)))
	for i := old.head; i != old.tail; i++ {
		*q.at(i) = *old.at(i)
	}
}

// takeHeld moves the held bytes before position end of the stream to dst.
func (q *queue) takeHeld(dst []byte, end uint64) []byte {
	n := int(end-q.heldFrom) - q.heldOff
	dst = append(dst, q.held[q.heldOff:q.heldOff+n]...)
	q.dropHeld(end)
	return dst
}

// dropHeld forgets the held bytes before position end of the stream.
func (q *queue) dropHeld(end uint64) {
	q.heldOff = int(end - q.heldFrom)
	if q.heldOff == len(q.held) || q.heldOff > keptHeldBytes && q.heldOff > len(q.held)/2 {
		q.held = append(q.held[:0], q.held[q.heldOff:]...)
		q.heldFrom, q.heldOff = end, 0
	}
}

// reset makes an empty queue as cheap as it was.
func (q *queue) reset() {
	q.heldFrom += uint64(len(q.held))
	q.held, q.heldOff = q.held[:0], 0
	if cap(q.held) > keptHeldBytes {
		q.held = nil
	}
	if len(q.slots) > keptSlots {
		q.slots = nil
	}
}

// Tag of an Op: its cost, and the number of its slot. An op whose reply nobody wants has no slot.
const (
	tagNoSlot    = 1 << 32
	tagCostShift = 33
)

// opCost is the memory in bytes that an operation is taken to hold until it is answered. What a read will bring is not known
// before; 32 KiB makes 32 of them the most that can be under way, and what they have brought then counts as it is.
func opCost(op *replication.Op) int {
	cost := 512 + len(op.Key) + len(op.Value)
	if op.Kind == replication.OpGet || op.Kind == replication.OpGat {
		cost += 32 << 10
	}
	return cost
}

// submit runs w.op, for which everything is filled in but Client, Tag and Now. If it is done, the result is in w.op and
// submit returns true. Otherwise a slot was taken for its reply, or none if noreply, and w.op is another.
func (c *conn) submit(w *worker, kind slotKind, noreply bool) (done bool) {
	op := w.op
	op.Client, op.Now = c, w.now
	cost := opCost(op)
	op.Tag = uint64(cost)<<tagCostShift | uint64(c.queue.tail)
	if noreply {
		op.Tag |= tagNoSlot
	}
	if !w.serves {
		op.Result = replication.Result{Status: replication.Unavailable, Err: c.s.store.Reason(), Value: op.Result.Value[:0]}
		return true
	}
	if op.Kind == replication.OpFlush {
		done = c.s.store.FlushAll(op)
	} else {
		done = c.s.store.Submit(op)
	}
	if done {
		return true
	}
	w.submitted = true
	w.op = c.s.store.NewOp()
	w.add(waited, 1)
	c.load += cost
	c.queue.waiting++
	if !noreply {
		c.queue.push(kind, false)
	}
	return false
}

// takeCompleted sorts the operations that have completed into their slots, and releases the replies whose turn has come.
func (c *conn) takeCompleted(w *worker) {
	c.dirty.Store(false)
	c.side.Lock()
	done := c.completed
	c.completed, c.spare = c.spare, nil
	c.side.Unlock()
	for i, op := range done {
		done[i] = nil
		c.queue.waiting--
		if op.Tag&tagNoSlot != 0 {
			c.load -= int(op.Tag >> tagCostShift)
			w.countResult(op)
			c.s.store.FreeOp(op)
			continue
		}
		s := c.queue.at(uint32(op.Tag))
		s.op, s.done = op, true
		c.load += len(op.Result.Value) // held until its turn comes: see answer
	}
	c.side.Lock()
	c.spare = done[:0]
	c.side.Unlock()
	c.answer(w)
	c.wakeKeeper()
}

// answer releases the replies at the head of the queue. A socket that takes none gets none: the results
// wait in their slots.
func (c *conn) answer(w *worker) {
	q := &c.queue
	if q.empty() {
		return
	}
	for !q.empty() && q.at(q.head).done && !c.blocked {
		s := q.at(q.head)
		q.head++
		end := q.heldFrom + uint64(len(q.held))
		if !q.empty() {
			end = q.at(q.head).behind
		}
		w.out = c.appendSlot(w, w.out, s)
		if c.silenced {
			q.dropHeld(end)
		} else {
			w.out = q.takeHeld(w.out, end)
		}
		if s.op != nil {
			c.load -= int(s.op.Tag>>tagCostShift) + len(s.op.Result.Value)
			c.s.store.FreeOp(s.op)
			s.op = nil
		}
		if len(w.out) >= outputBytes {
			c.write(w)
		}
	}
	if q.empty() {
		q.reset()
	}
}

// appendSlot appends the reply of a slot that is done. A get of which a key could not be read says so in place of that
// key, and ends there: what was held back of it, END too, is passed over.
func (c *conn) appendSlot(w *worker, dst []byte, s *slot) []byte {
	switch s.kind {
	case slotEnd, slotNoEnd:
		if !c.silenced && s.kind == slotEnd {
			dst = append(dst, textproto.ReplyEnd...)
		}
		c.silenced = false
		return dst
	case slotTooLarge:
		return append(dst, textproto.ReplyTooLarge...)
	}
	if !c.silenced {
		w.countResult(s.op)
		if s.kind == slotUpdate {
			return appendResult(dst, s.op)
		}
		dst, c.silenced = appendItem(dst, s.op, s.kind == slotValueCAS)
	}
	return dst
}

// appendItem appends the part of a get's reply that op is. failed: op could not be run, and that is all of the reply.
func appendItem(dst []byte, op *replication.Op, withCAS bool) (_ []byte, failed bool) {
	switch r := &op.Result; r.Status {
	case replication.Hit:
		if withCAS {
			dst = textproto.AppendValueHeaderCAS(dst, op.Key, r.Flags, len(r.Value), r.CAS)
		} else {
			dst = textproto.AppendValueHeader(dst, op.Key, r.Flags, len(r.Value))
		}
		dst = append(dst, r.Value...)
		return append(dst, textproto.EndOfValue...), false
	case replication.Miss:
		return dst, false
	}
	return appendResult(dst, op), true
}

// appendResult appends the reply to an update.
func appendResult(dst []byte, op *replication.Op) []byte {
	switch op.Result.Status {
	case replication.Stored:
		return append(dst, textproto.ReplyStored...)
	case replication.NotStored:
		return append(dst, textproto.ReplyNotStored...)
	case replication.Exists:
		return append(dst, textproto.ReplyExists...)
	case replication.NotFound:
		return append(dst, textproto.ReplyNotFound...)
	case replication.Deleted:
		return append(dst, textproto.ReplyDeleted...)
	case replication.Touched:
		return append(dst, textproto.ReplyTouched...)
	case replication.Number:
		return textproto.AppendNumber(dst, op.Result.Number)
	case replication.NonNumeric:
		return append(dst, textproto.ReplyNonNumeric...)
	case replication.Flushed:
		return append(dst, textproto.ReplyOK...)
	case replication.OutOfMemory:
		if op.Kind == replication.OpIncr || op.Kind == replication.OpDecr {
			return append(dst, textproto.ReplyOutOfMemoryDelta...)
		}
		return append(dst, textproto.ReplyOutOfMemory...)
	}
	return textproto.AppendServerError(dst, op.Result.Err)
}
