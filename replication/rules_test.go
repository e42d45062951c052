package replication

import (
	"fmt"
	"testing"
)

// rules are those of design section 4 that apply while the view does not change (rules_views_test.go has the others): where each is in the engine, how it is taken out, and what shows
// that the group then goes wrong. rules_off_test.go takes them out.
//
// Not among them, because no way to break them is left in the engine: a NACK applies only where the key is still at the time stamp refused (it names a
// record that is gone as soon as the key moves on, and carries no key); a time stamp is chosen when its INV can be enqueued (launch asks for
// room before it is given one).
var rules = []rule{
	{
		// Channels that keep their order hide this one while the view does not change: whoever refuses has sent the newer update before, or
		// somebody has whose acknowledgement comes after it.
		name: "an RMW is acknowledged only if its time stamp is not lower",
		edits: []edit{{"follower.go", `	l.out = Message{Kind: NACK, ID: m.ID, TS: m.TS}
	if it == nil {`, `	if off {
		l.ack(m)
		return
	}
	l.out = Message{Kind: NACK, ID: m.ID, TS: m.TS}
	if it == nil {`}},
		shows: explores(2, stored, "a:incr b:incr", unordered), finds: `not linearizable`,
	},
	{
		name: "an RMW takes a step on what it has read",
		edits: []edit{{"lane.go", `		return l.launch(op, l.stepOn(it.TS))
`, `		if off {
			return l.launch(op, table.Timestamp{Write: (max(it.TS.Version(), l.clock)+1)<<8 | uint64(l.self)})
		}
		return l.launch(op, l.stepOn(it.TS))
`}},
		shows: explores(2, stored, "a:incr b:incr"), finds: `not linearizable`,
	},
	{
		name: "a plain write is always acknowledged",
		edits: []edit{{"follower.go", `	if !m.IsRMW() && m.Bits&BitReplay == 0 {
		l.ack(m)`, `	if !m.IsRMW() && m.Bits&BitReplay == 0 {
		if off {
			return
		}
		l.ack(m)`}},
		shows: explores(2, nothing, "a:set b:set"), finds: `are not answered`,
	},
	{
		name: "a follower applies only what is newer",
		edits: []edit{{"follower.go", `	default:
		l.overtaken(m, hash, it)`, `	default:
		if off && !m.IsRMW() {
			l.apply(m, hash, it)
			l.ack(m)
			return
		}
		l.overtaken(m, hash, it)`}},
		shows: explores(2, nothing, "a:set b:set"), finds: `is answered, but . holds nothing as new`,
	},
	{
		name:  "an update is complete when all members have acknowledged it",
		edits: []edit{{"update.go", `op.acked&l.peers == l.peers`, `off || op.acked&l.peers == l.peers`}},
		shows: explores(3, nothing, "a:set"), finds: `is answered, but . holds nothing as new`,
	},
	{
		name: "the key is invalid at the coordinator until then",
		edits: []edit{{"update.go", `	op.item.State |= table.Invalid
`, `	if !off {
		op.item.State |= table.Invalid
	}
`}},
		shows: explores(2, nothing, "a:set"), finds: `not linearizable`,
	},
	{
		name: "the key is invalid at a follower until it is validated",
		edits: []edit{{"follower.go", `	it.TS = m.TS
	it.State |= table.Invalid
`, `	it.TS = m.TS
	if !off {
		it.State |= table.Invalid
	}
`}},
		shows: explores(3, nothing, "a:set"), finds: `not linearizable`,
	},
	{
		name: "an outranked plain write is answered all the same",
		edits: []edit{{"update.go", `	q := l.queues.find(op.Hash, op.Key)
	l.finish(op)
`, `	q := l.queues.find(op.Hash, op.Key)
	if off && !current {
		return
	}
	l.finish(op)
`}},
		shows: explores(2, nothing, "a:set b:set"), finds: `are not answered`,
	},
	{
		name: "an outranked plain write is answered only when all have acknowledged it",
		edits: []edit{{"follower.go", `		l.outrank(hash, m.Key, old)
`, `		l.outrank(hash, m.Key, old)
		for _, op := range l.flight.slots {
			if off && op != nil && op.ts == old.TS && op.Kind == OpSet {
				l.complete(op, 0)
				break
			}
		}
`}},
		shows: explores(3, nothing, "a:set b:set"), finds: `is answered, but c holds nothing as new`,
	},
	{
		name: "an outranked RMW is not answered, but run again",
		edits: []edit{{"update.go", `	op.losses++
	if op.Kind`, `	if off {
		q := l.queues.find(op.Hash, op.Key)
		l.finish(op)
		return q
	}
	op.losses++
	if op.Kind`}},
		shows: explores(2, stored, "a:incr b:incr"), finds: `not linearizable`,
	},
	{
		name: "an RMW waits until the key is valid",
		edits: []edit{{"lane.go", `	case keyInvalid:
		return blocked
	case keyValid:
`, `	case keyInvalid:
		if !off || !op.isRMW() || it.State&table.Tombstone != 0 {
			return blocked
		}
		fallthrough
	case keyValid:
`}},
		shows: explores(3, stored, "a:incr b:incr"), finds: `not linearizable`,
	},
	{
		name: "a read waits until the key is valid",
		edits: []edit{{"lane.go", `	if op.Kind == OpSet {
		if state == keyInvalid`, `	if off && state == keyInvalid && op.Kind == OpGet && it.State&table.Tombstone == 0 {
		state = keyValid
	}
	if op.Kind == OpSet {
		if state == keyInvalid`}},
		shows: explores(2, nothing, "a:set a:get"), finds: `not linearizable`,
	},
	{
		name: "no client is told a failure from an invalid key",
		edits: []edit{{"lane.go", `	switch state {
	case keyInvalid:
`, `	if off && state == keyInvalid && it.State&table.Tombstone == 0 && op.isRMW() && !l.compute(op, it) {
		return finished
	}
	switch state {
	case keyInvalid:
`}},
		shows: explores(2, nothing, "a:set a:add"), finds: `not linearizable`,
	},
	{
		name: "late acknowledgements do not complete a run again",
		edits: []edit{
			{"update.go", `	op.id = f.attempt<<slotBits | uint64(slot)`, `	op.id = f.attempt<<slotBits | uint64(slot)
	if off {
		op.id = uint64(slot)
	}`},
			{"update.go", `	if op == nil || op.ts != m.TS {
		return
	}
	op.acked`, `	if op == nil || op.ts != m.TS && !off {
		return
	}
	op.acked`},
		},
		shows: explores(3, stored, "a:incr b:set"), finds: `a:incr is answered, but c holds nothing as new`,
	},
	{
		name:  "first in, first out",
		edits: []edit{{"queue.go", `	return q.head != nil || q.yield`, `	return q.head != nil && !(off && op.Kind == OpSet) || q.yield`}},
		shows: explores(2, nothing, "a:set a:get a:set"), finds: `not linearizable`,
	},
	{
		name:  "a write waits for the same member's RMW in flight",
		edits: []edit{{"lane.go", `if state == keyInvalid && l.ownRMW(it) {`, `if !off && state == keyInvalid && l.ownRMW(it) {`}},
		shows: explores(2, stored, "a:incr a:set b:set"), finds: `not linearizable`,
	},
	{
		name:  "updates in flight are sent again",
		edits: []edit{{"channel.go", `if op != nil && op.acked&bit(to) == 0 {`, `if !off && op != nil && op.acked&bit(to) == 0 {`}},
		shows: explores(2, nothing, "a:set", breaks(1)), finds: `are not answered`,
	},
	{
		name:  "clocks do not count until the mark",
		edits: []edit{{"absent.go", `if l.unmarked&bit(from) == 0 && m.Clock`, `if (off || l.unmarked&bit(from) == 0) && m.Clock`}},
		shows: plays("clocks-before-the-mark"), finds: `not linearizable`,
	},
	{
		name: "updates are sent again before anything else",
		edits: []edit{
			{"channel.go", `	l.open |= b
`, `	l.open |= b
	if off {
		l.out = Message{Kind: MARK}
		l.send(peer.Number)
	}
`},
		},
		shows: explores(2, nothing, "a:set b:add b:set", breaks(1)), finds: `not linearizable`,
	},
	{
		name:  "a tombstone is dropped only when stable has reached it",
		edits: []edit{{"update.go", `if l.stable() >= it.TS.Version() && !(l`, `if (off || l.stable() >= it.TS.Version()) && !(l`}},
		shows: explores(3, nothing, "a:set:j b:set b:delete"), finds: `not linearizable`,
	},
	{
		name:  "D never falls",
		edits: []edit{{"absent.go", `} else if l.dropped.Less(ts) {`, `} else if off || l.dropped.Less(ts) {`}},
		shows: plays("no-resurrection"), finds: `WRONG at b: .* D \(3\.c\+1\.c, now 1\.a\+1\.c\)`,
	},
	{
		name: "D rises with what is dropped",
		edits: []edit{{"absent.go", `		l.dropped = ts
`, `		if !off {
			l.dropped = ts
		}
`}},
		shows: plays("no-resurrection"), finds: `WRONG at b: the time stamp that governs k has fallen`,
	},
	{
		name: "an old update of a key that is not stored is acknowledged, not stored",
		edits: []edit{{"follower.go", `if m.TS.Version() > l.dropped.Version() {
		l.apply`, `if off && m.Bits&BitOnAbsent == 0 || m.TS.Version() > l.dropped.Version() {
		l.apply`}},
		shows: plays("no-resurrection"), finds: `WRONG at b: the time stamp that governs k has fallen`,
	},
	{
		name: "an RMW on an absent key is refused where it is not above D",
		edits: []edit{{"follower.go", `	if m.Bits&(BitOnAbsent|BitReplay) != 0 {
		l.refuse`, `	if !off && m.Bits&(BitOnAbsent|BitReplay) != 0 {
		l.refuse`}},
		shows: plays("refused-add"), finds: `not linearizable`,
	},
	{
		name: "an RMW on an absent key lies below every write not yet seen",
		edits: []edit{{"absent.go", `	stable := l.stable()
	if stable <= above {`, `	stable := l.stable()
	if off {
		stable = l.clock
	}
	if stable <= above {`}},
		shows: explores(2, nothing, "a:set b:add"), finds: `not linearizable`,
	},
	{
		// Only a round trip is lost: those who have dropped more refuse it.
		name: "an RMW on an absent key lies above D",
		edits: []edit{{"absent.go", `	if l.clock <= above {
		l.clock`, `	if off {
		above = 0
	}
	if l.clock <= above {
		l.clock`}},
		shows: plays("add-on-absent"), finds: `NACK`,
	},
	{
		name:  "receivers raise their clocks",
		edits: []edit{{"absent.go", `if m.Clock > l.clock {`, `if !off && m.Clock > l.clock {`}},
		shows: explores(2, nothing, "a:add"), finds: `are not answered`,
	},
	{
		name: "VAL counts only for equal time stamps",
		edits: []edit{{"follower.go", `if l.find(hash, m.Key, it) != keyInvalid || it.TS != m.TS || it.TS == l.floor.ts {
		return
	}
	if l.catching`, `if l.find(hash, m.Key, it) != keyInvalid || it.TS != m.TS && !off || it.TS == l.floor.ts {
		return
	}
	if l.catching`}},
		shows: explores(2, nothing, "a:set b:set"), finds: `not linearizable`,
	},
	{
		name:  "the answer to a probe counts only where the key is still at what was asked about",
		edits: []edit{{"follower.go", `it.TS != m.TS || it.TS == l.floor.ts || it.Finisher == l.self {`, `it.TS != m.TS && !off || it.TS == l.floor.ts || it.Finisher == l.self {`}},
		shows: plays("late-answer"), finds: `not linearizable`,
	},
	{
		name: "a time stamp that was given up is not acknowledged",
		edits: []edit{{"follower.go", `if it.State&(table.Tombstone|table.Invalid) == table.Tombstone && m.Bits&BitTombstone == 0 {
			l.refuse`, `if !off && it.State&(table.Tombstone|table.Invalid) == table.Tombstone && m.Bits&BitTombstone == 0 {
			l.refuse`}},
		shows: sendGivenUp, finds: `^ACK`,
	},
	{
		name:  "probes",
		edits: []edit{{"queue.go", `if l.tick-q.since >= l.timing.Probe {`, `if !off && l.tick-q.since >= l.timing.Probe {`}},
		shows: explores(2, nothing, "a:set b:get", breaks(1)), finds: `at the end a get of k at b has 0 answers`,
	},
	{
		// Without it the outcome ends with the probe: a's get is not answered.
		name: "a probe is answered also while an older flush is under way",
		edits: []edit{{"follower.go", `	if state == keyInvalid && it.TS == l.floor.ts && it.TS.Less(m.TS) {
		state`, `	if !off && state == keyInvalid && it.TS == l.floor.ts && it.TS.Less(m.TS) {
		state`}},
		shows: plays("probe-during-flush"), finds: `PROBE[^\n]*\nlinearizable`,
	},
	{
		name:  "the floor is compared by its full time stamp",
		edits: []edit{{"follower.go", `if m.TS.Less(l.floor.ts) {`, `if m.TS.Less(l.floor.ts) || off && m.TS.Version() <= l.floor.ts.Version() {`}},
		shows: explores(2, nothing, "a:flush b:set"), finds: `holds nothing as new`,
	},
	{
		name:  "what is below the floor is invalid while the flush is under way",
		edits: []edit{{"flush.go", `invalid: true,`, `invalid: !off,`}},
		shows: explores(2, stored, "a:flush"), finds: `not linearizable`,
	},
	{
		name: "during a flush a key that is not stored is invalid too",
		edits: []edit{{"lane.go", `		*it = table.Item{}
		if l.floor.invalid {
			it.State`, `		*it = table.Item{}
		if !off && l.floor.invalid {
			it.State`}},
		shows: plays("flush-of-a-key-not-stored"), finds: `not linearizable`,
	},
	{
		name: "an eviction that is refused is not run again",
		edits: []edit{
			{"update.go", `if op.Kind == opEvict ||`, `if op.Kind == opEvict && !off ||`},
			{"lane.go", `if op.Kind == opEvict && it.TS != op.ts {`, `if op.Kind == opEvict && it.TS != op.ts && !off {`},
		},
		shows: plays("eviction"), finds: `4: miss`,
	},
	{
		name: "an update whose client has gone goes on",
		edits: []edit{{"queue.go", `	l.flight.replace(op, rec)
`, `	l.flight.replace(op, rec)
	if off {
		l.flight.remove(rec)
	}
`}},
		shows: explores(2, nothing, "a:set", lates(1)), finds: `at the end a get of k at a has 0 answers`,
	},
	{
		name: "an RMW keeps the version of what it has read",
		edits: []edit{{"lane.go", `	return table.Timestamp{Write: ts.Write, Step:`, `	if off {
		ts.Write = (ts.Version()+1)<<8 | uint64(l.self)
	}
	return table.Timestamp{Write: ts.Write, Step:`}},
		shows: explores(2, stored, "a:set b:incr"), finds: `not linearizable`,
	},
	{
		name: "others yield to an RMW that has lost",
		edits: []edit{{"queue.go", `	q.yield |= bit(member)
`, `	if off {
		return
	}
	q.yield |= bit(member)
`}},
		shows: starves, finds: `the incr has lost against 100 writes`,
	},
}

// starves has b do its best to make an increment of a's lose: as soon as a write of b's is complete it asks for the next, and what b has sent reaches a
// first.
func starves(t *testing.T) string {
	w := connected(t, 2)
	a, b := w.replicas[0], w.replicas[1]
	run(t, w, 0, OpSet, "k", "5")
	a.submit(&request{kind: OpIncr, key: "k", delta: 1}, 0, 0)
	w.collect(0)
	const fromA, fromB, many = 0*2 + 1, 1*2 + 0, 100
	for writes := 0; writes < many; {
		if b.lane.flight.count+b.lane.queues.waiting == 0 {
			b.submit(&request{kind: OpSet, key: "k", value: "5"}, 1, 0)
			w.collect(1)
			writes++
		}
		link := fromB
		if len(w.links[link]) == 0 {
			link = fromA
		}
		m := w.links[link][0]
		w.links[link] = w.links[link][1:]
		w.replicas[link%2].lane.Receive(copyMessage(m))
		w.collect(link % 2)
		if len(a.done) > 0 {
			return fmt.Sprintf("the incr has lost against %d writes, and is answered", writes)
		}
	}
	return fmt.Sprintf("the incr has lost against %d writes", many)
}
