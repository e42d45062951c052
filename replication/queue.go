package replication

import "bytes"

// queues are the first-in-first-out queues of operations that wait for a key. A queue exists while an operation waits in it or the key
// is held for a member that lost. They are kept in a list too, in order of creation, so that
// walking them is the same in every run.
type queues struct {
	byHash      map[uint64]*keyQueue // chained where hashes are equal
	first, last *keyQueue
	free        *keyQueue
	waiting     int      // operations in queues
	await       [3]int32 // queues by wait
}

// wait is what the head of a queue waits for.
type wait uint8

const (
	untilValid  wait = iota // the key's update to be validated, or others to have had their turn
	untilClocks             // the lane's clocks to rise
	untilRoom               // Env.Admit to grant it
)

type keyQueue struct {
	hash       uint64
	key        []byte
	head, tail *Op
	since      uint64 // tick at which the head began to wait, or its key's finisher was last asked
	wait       wait
	yield      uint64 // members whose read-modify-writes lost here: own updates wait for theirs
	yieldUntil uint64 // tick
	chain      *keyQueue
	prev, next *keyQueue
}

func (qs *queues) any() bool { return qs.first != nil }

func (qs *queues) find(hash uint64, key []byte) *keyQueue {
	if qs.first == nil {
		return nil
	}
	for q := qs.byHash[hash]; q != nil; q = q.chain {
		if bytes.Equal(q.key, key) {
			return q
		}
	}
	return nil
}

// get returns the key's queue, made if need be.
func (qs *queues) get(hash uint64, key []byte) *keyQueue {
	if q := qs.find(hash, key); q != nil {
		return q
	}
	q := qs.free
	if q != nil {
		qs.free = q.next
	} else {
		q = new(keyQueue)
	}
	*q = keyQueue{hash: hash, key: append(q.key[:0], key...), chain: qs.byHash[hash], prev: qs.last}
	qs.byHash[hash] = q
	qs.await[untilValid]++
	if qs.last != nil {
		qs.last.next = q
	} else {
		qs.first = q
	}
	qs.last = q
	return q
}

// awaits notes what the head of q waits for.
func (qs *queues) awaits(q *keyQueue, w wait) {
	qs.await[q.wait]--
	qs.await[w]++
	q.wait = w
}

// release takes an empty queue out.
func (qs *queues) release(q *keyQueue) {
	qs.await[q.wait]--
	if q.prev != nil {
		q.prev.next = q.next
	} else {
		qs.first = q.next
	}
	if q.next != nil {
		q.next.prev = q.prev
	} else {
		qs.last = q.prev
	}
	if c := qs.byHash[q.hash]; c != q {
		for c.chain != q {
			c = c.chain
		}
		c.chain = q.chain
	} else if q.chain != nil {
		qs.byHash[q.hash] = q.chain
	} else {
		delete(qs.byHash, q.hash)
	}
	q.chain, q.prev = nil, nil
	q.next = qs.free
	qs.free = q
}

func (q *keyQueue) push(op *Op) {
	op.next = nil
	if q.tail == nil {
		q.head = op
	} else {
		q.tail.next = op
	}
	q.tail = op
}

func (q *keyQueue) pushFront(op *Op) {
	op.next = q.head
	q.head = op
	if q.tail == nil {
		q.tail = op
	}
}

func (q *keyQueue) pop() *Op {
	op := q.head
	q.head = op.next
	if q.head == nil {
		q.tail = nil
	}
	op.next = nil
	return op
}

// blocks reports whether a newly submitted op has to wait in the queue whatever the state of the key.
func (q *keyQueue) blocks(op *Op) bool {
	return q.head != nil || q.yield != 0 && op.Kind != OpGet
}

// yieldTo holds back the own updates of the key until the member's has come through, or the tick has.
func (q *keyQueue) yieldTo(member uint8, until uint64) {
	q.yield |= bit(member)
	q.yieldUntil = until
}

// enqueue makes op wait for its key: at the front if it has waited before.
func (l *Lane) enqueue(op *Op, front bool) *keyQueue {
	if op.phase == idle {
		l.begin(op)
	}
	op.phase = queued
	q := l.queues.get(op.Hash, op.Key)
	if q.head == nil {
		q.since = l.tick
	}
	if front {
		q.pushFront(op)
	} else {
		q.push(op)
	}
	l.queues.waiting++
	return q
}

// drain runs what waits for a key, in order, until something has to wait again.
func (l *Lane) drain(q *keyQueue) {
	l.queues.awaits(q, untilValid)
	for q.head != nil && (q.yield == 0 || q.head.Kind == OpGet) {
		op := q.pop()
		l.queues.waiting--
		switch l.attempt(op) {
		case blocked:
			q.pushFront(op)
			l.queues.waiting++
			return
		case finished:
			l.finish(op)
		}
		q.since = l.tick
	}
	if q.head == nil && q.yield == 0 {
		l.queues.release(q)
	}
}

// drainAll runs what waits for any key of the lane.
func (l *Lane) drainAll() {
	for q := l.queues.first; q != nil; {
		next := q.next
		l.drain(q)
		q = next
	}
}

// AdmitAgain says that Env.Admit may grant now what it has refused. What has waited longest comes first; when it is refused again, the
// others wait on.
func (l *Lane) AdmitAgain() {
	for q := l.queues.first; q != nil && l.queues.await[untilRoom] > 0; {
		next := q.next
		if q.wait == untilRoom {
			if l.drain(q); q.wait == untilRoom {
				return
			}
		}
		q = next
	}
}

// WaitsForRoom reports whether an operation waits for Env.Admit.
func (l *Lane) WaitsForRoom() bool { return l.queues.await[untilRoom] > 0 }

// Tick tells the lane that a tick of time has passed: old waits are probed, given up, and let go.
func (l *Lane) Tick() {
	l.tick++
	var now uint64
	if l.timing.Timeout != 0 && (l.flight.count != 0 || l.queues.waiting != 0) {
		now = l.env.Now()
	}
	for q := l.queues.first; q != nil; {
		next := q.next
		l.tickQueue(q, now)
		q = next
	}
	if l.timing.Timeout != 0 && l.flight.count != 0 && passed(l.flight.oldest, now) > l.timing.Timeout {
		l.expireFlight(now)
	}
	l.Scan(scanSteps)
	if (len(l.tombs.pending) != 0 || l.queues.await[untilClocks] > 0 || l.join.complete && !l.CaughtUp()) && l.tick-l.lastAsked >= l.timing.Clock {
		l.askClocks()
	}
}

// late reports whether op has not been finished in time. now is Env.Now's at the beginning of the tick.
func (l *Lane) late(op *Op, now uint64) bool {
	return l.timing.Timeout != 0 && passed(op.started, now) > l.timing.Timeout
}

// passed is the time from since to now, two of Env.Now's: none, where what has begun since the tick is looked at in it.
func passed(since, now uint64) uint64 { return max(now, since) - since }

// begin makes op outlive Submit: it has to wait, and from now on its time runs.
func (l *Lane) begin(op *Op) {
	op.own()
	op.started = l.env.Now()
}

func (l *Lane) tickQueue(q *keyQueue, now uint64) {
	if l.timing.Timeout != 0 && l.expireWaits(q, now) {
		l.drain(q) // who is first now may not have to wait
		return
	}
	if q.yield != 0 && l.tick >= q.yieldUntil {
		q.yield = 0
		l.drain(q)
		return
	}
	if q.head == nil {
		if q.yield == 0 {
			l.queues.release(q)
		}
		return
	}
	if l.tick-q.since >= l.timing.Probe {
		q.since = l.tick
		l.probe(q)
	}
}

// timedOut is what a client is told that has waited for longer than Timing.Timeout.
const timedOut = "timed out waiting for the other replicas"

// expireWaits answers the operations that have waited too long. None of them has happened or will. It reports whether the head was one of them.
func (l *Lane) expireWaits(q *keyQueue, now uint64) (head bool) {
	var prev *Op
	for op := q.head; op != nil; {
		next := op.next
		if !l.late(op, now) {
			prev, op = op, next
			continue
		}
		if prev == nil {
			q.head, head = next, true
		} else {
			prev.next = next
		}
		if next == nil {
			q.tail = prev
		}
		op.next = nil
		l.queues.waiting--
		op.Result = Result{Status: Unavailable, Err: timedOut, Value: op.Result.Value}
		if q.wait == untilRoom && op.Kind != OpGet {
			op.Result.Status = OutOfMemory
		}
		l.finish(op)
		op = next
	}
	return head
}

// expireFlight answers the clients whose updates have been in flight for too long.
func (l *Lane) expireFlight(now uint64) {
	oldest := now
	for _, op := range l.flight.slots {
		switch {
		case op == nil || op.phase != inFlight || op.Client == nil:
		case l.late(op, now):
			l.answerLate(op)
		default:
			oldest = min(oldest, op.started)
		}
	}
	l.flight.oldest = oldest
}

// answerLate tells the client of an update in flight that its outcome is unknown. The update goes on: it may have been
// seen.
func (l *Lane) answerLate(op *Op) {
	rec := new(Op)
	*rec = *op
	rec.Client, rec.phase = nil, answered
	rec.Result.Value = nil
	l.flight.replace(op, rec)
	op.owned, op.built = nil, nil
	op.Result = Result{Status: Unavailable, Err: timedOut, Value: op.Result.Value}
	l.finish(op)
}

// probe asks the finisher of the update that the queue's key waits for what became of it.
func (l *Lane) probe(q *keyQueue) {
	it := &l.found.probe
	if l.find(q.hash, q.key, it) != keyInvalid || it.Finisher == l.self {
		return
	}
	l.out = Message{Kind: PROBE, TS: it.TS, Key: q.key, Bits: stateBits(it.State) & BitTombstone}
	if it.TS == l.floor.ts {
		l.out.Bits, l.out.Key = BitFlush, nil
	}
	l.send(it.Finisher)
}
