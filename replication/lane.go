package replication

import (
	"math/bits"

	"hermesd/table"
)

// Env is what the engine needs of the world around it. All calls are made with the lane's lock held.
type Env interface {
	// Send enqueues m for a member. The slices of m are good only during the call. It must not call back.
	Send(to uint8, m *Message)
	// Done takes an operation that has finished after its Submit had returned false. It must not call back into
	// the lane.
	Done(op *Op)
	// Admit asks for room, here and at every other member, for an item of the given key and value lengths in bytes. If there
	// is none now, the operation waits for AdmitAgain.
	Admit(keyLen, valueLen int) bool
	// Unique returns a 56-bit number that this member, in all its lives, never gets twice.
	Unique() uint64
	// Now is the time by which operations are late, in a unit that the driver chooses, which is also that of Timing.Timeout and of RefuseRoom. It never
	// falls. It is not counted in ticks: those come late where the process is kept from running, and a client's patience does not.
	Now() uint64
}

// Items is the store of one lane: *table.Lane, or the explorer's copyable one.
type Items interface {
	Find(hash uint64, key []byte, it *table.Item) bool
	AppendValue(dst []byte, it *table.Item) []byte
	Put(hash uint64, key []byte, it *table.Item, value []byte) error
	Update(it *table.Item) error
	Remove(it *table.Item)
	// Walk visits items from cursor (0: the beginning) on; visit may Update or Remove the item that it is given, and returns false to end the
	// walk soon. Every item that stays in the store from cursor 0 to done is visited, whatever happens between the calls.
	Walk(cursor uint64, steps int, visit func(key []byte, it *table.Item) bool) (next uint64, done bool)
}

// Limits says which items may be stored.
type Limits interface {
	Fits(keyLen, valueLen int, flags uint32) bool
}

// Timing is in ticks, whose length the driver chooses, but for Timeout.
type Timing struct {
	Probe   uint64 // wait on an invalid key before its finisher is asked
	Yield   uint64 // wait for a member that lost a read-modify-write before running one's own next
	Clock   uint64 // between two requests for the others' clocks
	Timeout uint64 // in the unit of Env.Now: an operation not finished by then is answered Unavailable at the next tick; 0: never
}

// Lane is the engine for one lane of keys: the whole protocol of design section 4 as a state machine. It is not safe
// for concurrent use: its owner holds the lane's lock around every call.
//
// Inputs are Submit, Receive, PeerUp, PeerDown and Tick; outputs go to Env. The state of keys is in Items; operation
// records are apart from it, and live until they are answered whatever becomes of the key.
type Lane struct {
	number uint8
	self   uint8
	env    Env
	items  Items
	limits Limits
	timing Timing

	epoch   uint64
	members [MaxMember + 1]Member // by number; Number 0: not in the view
	peers   uint64                // the view's other members
	serving uint64                // those of them that are not catching up
	open    uint64                // peers whose channel takes messages of this lane

	clock     uint64                // greatest version seen in the lane
	heard     [MaxMember + 1]uint64 // clock last received from each peer, where it counts
	unmarked  uint64                // peers whose clocks do not count until their MARK
	dropped   table.Timestamp       // D: greatest time stamp of a tombstone dropped; it never falls
	floor     floor                 // F
	tick      uint64
	lastAsked uint64 // tick of the last CLOCKASK

	catching bool // this member is catching up
	join     join
	scan     scan

	flight flight
	queues queues
	tombs  tombs

	refuse  bool     // there is no memory for the value of the NACK that is being received
	found   found    // reused for items
	steps   *stepLog // nil: not traced
	out     Message  // reused for sending
	scratch []byte   // reused for values read from the table
}

// found holds the item that each function looks at or writes, under the function's name. They are here since what is passed through an
// interface escapes: as local variables each would be an allocation for each message. None of these functions is running twice at one time.
type found struct {
	attempt, put, commitAlone, complete, onINV, apply, onNACK, adopt, refused, revalidate, onVAL, onPROBE, onSTATE, onSTATENext, dropTombs, probe,
	pursue, rescue, onENTRY table.Item
}

// NewLane returns the engine for lane `number` with an empty store, in no view: SetView gives it its group.
func NewLane(number uint8, env Env, items Items, limits Limits, timing Timing) *Lane {
	l := &Lane{number: number, env: env, items: items, limits: limits, timing: timing}
	l.queues.byHash = make(map[uint64]*keyQueue)
	return l
}

func bit(member uint8) uint64 { return 1 << member }

// Idle reports whether Tick has nothing to do.
func (l *Lane) Idle() bool {
	return l.queues.waiting == 0 && l.flight.count == 0 && len(l.tombs.pending) == 0 && len(l.queues.byHash) == 0 &&
		!l.scan.active && !(l.catching && l.join.complete && !l.join.done)
}

// Submit runs op. It reports whether op is finished; if not, Env.Done will be called with it, and the op is the engine's
// until then.
func (l *Lane) Submit(op *Op) (done bool) {
	op.losses, op.minimum = 0, 0
	op.Result = Result{Value: op.Result.Value[:0]}
	if l.outside() {
		op.Result.Status, op.Result.Err = Unavailable, notServing
		return true
	}
	if op.Kind == OpFlush {
		return l.startFlush(op)
	}
	if l.queues.any() {
		if q := l.queues.find(op.Hash, op.Key); q != nil && q.blocks(op) && op.Kind != opEvict {
			l.enqueue(op, false)
			return false
		}
	}
	switch l.attempt(op) {
	case finished:
		return true
	case launched:
		return false
	}
	if op.Kind == opEvict {
		op.Result.Status = NotFound
		return true
	}
	l.enqueue(op, false)
	return false
}

// outside reports whether the lane is in no view, or catching up: nothing may be begun, and nothing answered. An operation can come here from
// a moment at which that was different: it was on its way through an earlier life of the replica.
func (l *Lane) outside() bool { return l.epoch == 0 || l.catching }

const notServing = "this replica does not serve"

// progress is what came of an attempt to run an operation.
type progress uint8

const (
	finished progress = iota // op.Result is final
	launched                 // an update is in flight
	blocked                  // nothing done: the key is invalid, the lane's clocks are behind, or there is no room
)

// attempt runs op on the key's present state, if that allows it.
func (l *Lane) attempt(op *Op) progress {
	it := &l.found.attempt
	state := l.find(op.Hash, op.Key, it)
	if state == keyInvalid && l.gone(it.Finisher) {
		l.rescue(op.Hash, op.Key, it)
		state = l.find(op.Hash, op.Key, it)
	}
	if op.Kind == OpSet {
		if state == keyInvalid && l.ownRMW(it) {
			return blocked // it was submitted before, perhaps by the same client
		}
		l.compute(op, nil)
		version := l.clock
		if state != keyAbsent && it.TS.Version() > version {
			version = it.TS.Version()
		}
		return l.launch(op, table.Timestamp{Write: (version+1)<<8 | uint64(l.self)})
	}
	switch state {
	case keyInvalid:
		return blocked
	case keyValid:
		cur := it
		if it.Expired(op.Now) {
			cur = nil
		}
		if op.Kind == opEvict && it.TS != op.ts {
			op.Result.Status = NotFound // used or changed since it was chosen
			return finished
		}
		if op.Kind == opEvict {
			cur = it
		}
		if !l.compute(op, cur) {
			return finished
		}
		return l.launch(op, l.stepOn(it.TS))
	}
	if !l.compute(op, nil) {
		return finished
	}
	return l.launchOnAbsent(op, it, state)
}

// stepOn is the time stamp of this member's next read-modify-write on top of ts.
func (l *Lane) stepOn(ts table.Timestamp) table.Timestamp {
	return table.Timestamp{Write: ts.Write, Step: (ts.Step>>8+1)<<8 | uint64(l.self)}
}

// ownRMW reports whether the invalid item is this member's own read-modify-write in flight.
func (l *Lane) ownRMW(it *table.Item) bool {
	return it.Finisher == l.self && it.TS.Step != 0
}

// keyState is what a key is, after the lane's floor and D have had their say.
type keyState uint8

const (
	keyAbsent    keyState = iota // not stored
	keyTombstone                 // stored as a valid tombstone: absent too
	keyValid
	keyInvalid
)

// find looks the key up. What is at or below the floor is governed by it: invalid while the flush is, gone after it. That holds for keys that
// are not stored too: a set that the flush has overtaken here may be valid elsewhere, where the flush has not come yet.
func (l *Lane) find(hash uint64, key []byte, it *table.Item) keyState {
	if !l.items.Find(hash, key, it) {
		*it = table.Item{}
		if l.floor.invalid {
			it.State = table.Invalid | table.Tombstone
			it.TS, it.Finisher = l.floor.ts, l.floor.finisher
			return keyInvalid
		}
		return keyAbsent
	}
	if it.TS.Compare(l.floor.ts) <= 0 {
		if l.floor.invalid {
			it.State |= table.Invalid | table.Tombstone
			it.TS, it.Finisher = l.floor.ts, l.floor.finisher
			return keyInvalid
		}
		l.items.Remove(it)
		*it = table.Item{}
		return keyAbsent
	}
	switch {
	case it.State&table.Invalid != 0:
		return keyInvalid
	case it.State&table.Tombstone != 0:
		return keyTombstone
	}
	return keyValid
}

// send sends the lane's message in l.out to one member.
func (l *Lane) send(to uint8) {
	if l.open&bit(to) == 0 {
		return // what matters of it is sent again when the channel is back
	}
	m := &l.out
	m.Lane, m.From, m.Epoch, m.Clock = l.number, l.members[l.self], l.epoch, l.clock
	l.env.Send(to, m)
	if l.steps != nil {
		l.steps.noteSent(to, m)
	}
}

// broadcast sends l.out to a set of members.
func (l *Lane) broadcast(to uint64) {
	for ; to != 0; to &= to - 1 {
		l.send(uint8(bits.TrailingZeros64(to)))
	}
}

// Receive takes a message from a peer.
func (l *Lane) Receive(m *Message) {
	from := m.From.Number
	if from > MaxMember || l.peers&bit(from) == 0 || l.members[from] != m.From || m.Epoch != l.epoch {
		return // void: not of this view
	}
	l.hear(m)
	switch m.Kind {
	case INV:
		if m.Bits&BitFlush != 0 {
			l.onFlushINV(m)
		} else {
			l.onINV(m)
			if l.steps != nil {
				l.traceReceived(StepINV, table.Hash(m.Key), m.Key, m)
			}
		}
	case ACK:
		l.onACK(m)
	case NACK:
		l.onNACK(m)
	case VAL:
		if m.Bits&BitFlush != 0 {
			l.onFlushVAL(m)
		} else {
			l.onVAL(m)
		}
	case PROBE:
		l.onPROBE(m)
	case STATE:
		l.onSTATE(m)
	case CLOCKASK:
		l.out = Message{Kind: CLOCK}
		l.send(from)
	case FETCH:
		l.onFETCH(m)
	case ENTRY:
		l.onENTRY(m)
	case FETCHED:
		l.onFETCHED(m)
	case MARK, CLOCK:
	}
	l.clocksMoved()
}

// letGo gives up what the lane refers to only until its next message, and buffers that have grown for a large value: there are many lanes.
func (l *Lane) letGo() {
	l.out.Key, l.out.Value = nil, nil
	if cap(l.scratch) > keptBuffer {
		l.scratch = nil
	}
}
