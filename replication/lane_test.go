package replication

import (
	"fmt"
	"strings"
	"testing"

	"hermesd/table"
)

// Rules of the engine that no order of messages among correct replicas brings to light, and its limits.

// connected returns a group whose channels are up, and settles what that has made.
func connected(t *testing.T, n int) *world {
	t.Helper()
	x := exploration{replicas: n}
	_, w := x.start()
	return w
}

func settled(t *testing.T, w *world) {
	t.Helper()
	if wrong := w.settle(func(*world) string { return "" }); wrong != "" {
		t.Fatal(wrong)
	}
}

// run has replica `at` run a request to its end and returns what is answered.
func run(t *testing.T, w *world, at int, kind OpKind, key, value string) outcome {
	t.Helper()
	r := w.replicas[at]
	r.submit(&request{kind: kind, key: key, value: value}, 0, noUnique)
	w.collect(at)
	settled(t, w)
	if len(r.done) != 1 {
		t.Fatalf("%v %s: %d answers", kind, key, len(r.done))
	}
	o := outcomeOf(r.done[0])
	r.done = nil
	return o
}

// TestTimeStampGivenUp: an add that was refused somewhere has made its time stamp a tombstone. Whoever still sends that add gets the same refusal:
// acknowledging it would complete what another replica has told to be absent. (Nobody does, as long as the view does not change.)
func TestTimeStampGivenUp(t *testing.T) {
	if got := sendGivenUp(t); !strings.HasPrefix(got, "NACK 3.a+1.a newer=0 absent") {
		t.Errorf("the answer is %s, want a refusal", got)
	}
}

// sendGivenUp sends b an add whose time stamp b has been told is a tombstone, and returns b's answer.
func sendGivenUp(t *testing.T) string {
	t.Helper()
	w := connected(t, 3) // c says nothing, so that b keeps tombstones
	b := w.replicas[1]
	add := &Message{Kind: INV, Bits: BitOnAbsent, From: w.replicas[0].self, Epoch: 1, ID: 1, TS: table.Timestamp{Write: 3<<8 | 1, Step: 1<<8 | 1}, Clock: 3,
		Key: []byte("k"), Value: []byte("1")}
	b.lane.Receive(add)
	b.lane.Receive(&Message{Kind: STATE, Bits: BitAbsent, From: add.From, Epoch: 1, TS: add.TS, Clock: 3, Key: add.Key})
	if it, _, st := b.peek("k"); st != keyTombstone || it.TS != add.TS {
		t.Fatalf("told that k is absent, b holds it in state %d at %s, want a tombstone at %s", st, showTS(it.TS), showTS(add.TS))
	}
	b.sent = nil
	b.lane.Receive(add)
	if len(b.sent) != 1 {
		t.Fatalf("b answers with %d messages", len(b.sent))
	}
	return showMessage(b.sent[0].m)
}

// TestManyTombstonesAskForClocks: tombstones cost memory, so the clocks that let them go are asked for when many have come together.
func TestManyTombstonesAskForClocks(t *testing.T) {
	w := connected(t, 3)
	b := w.replicas[1]
	most := 0
	for i := range 2*manyTombs + 10 {
		for _, kind := range []OpKind{OpSet, OpDelete} { // by a; b hears nothing from c, unless it asks
			r := w.replicas[0]
			r.submit(&request{kind: kind, key: fmt.Sprint(i)}, 0, 0)
			w.collect(0)
			if wrong := w.deliverAll(func(*world) string { return "" }); wrong != "" {
				t.Fatal(wrong)
			}
			most = max(most, len(b.lane.tombs.pending))
		}
	}
	if most != manyTombs-1 {
		t.Errorf("without a tick, up to %d tombstones waited at b between deletes, want %d", most, manyTombs-1)
	}
}

// TestUpdatesInFlightAreBounded: an id has room for so many slots.
func TestUpdatesInFlightAreBounded(t *testing.T) {
	w := connected(t, 2)
	a := w.replicas[0]
	a.lane.flight.count = maxInFlight
	a.submit(&request{kind: OpSet, key: "k", value: "1"}, 0, 0)
	if len(a.sent) != 0 || !a.lane.WaitsForRoom() {
		t.Fatalf("with %d updates in flight, one more sends %v and waits for room: %v", maxInFlight, a.sent, a.lane.WaitsForRoom())
	}
	a.lane.flight.count = 0
	a.lane.AdmitAgain()
	if len(a.sent) != 1 || a.lane.WaitsForRoom() {
		t.Fatalf("afterwards it sends %v and waits for room: %v", a.sent, a.lane.WaitsForRoom())
	}
}

// TestRoomIsGivenInOrder: what has waited longest for room is asked about first, and while it is refused, nothing overtakes it from the queues.
func TestRoomIsGivenInOrder(t *testing.T) {
	w := connected(t, 2)
	a := w.replicas[0]
	a.refuse = true
	for _, key := range []string{"x", "y"} {
		a.submit(&request{kind: OpSet, key: key, value: "1"}, 0, 0)
	}
	asked := 0
	a.lane.env = admitting{a, func() bool { asked++; return false }}
	a.lane.AdmitAgain()
	if asked != 1 {
		t.Errorf("asked for room %d times, want once", asked)
	}
	a.lane.env = admitting{a, func() bool { return true }}
	a.lane.AdmitAgain()
	if len(a.sent) != 2 || string(a.sent[0].m.Key) != "x" || a.lane.WaitsForRoom() {
		t.Errorf("with room, %v are sent, want x and then y", a.sent)
	}
}

// admitting is a replica whose Admit is replaced.
type admitting struct {
	*replica
	admit func() bool
}

func (a admitting) Admit(int, int) bool { return a.admit() }

// TestAnswerToAProbeWithoutMemory: where there is no memory for the state that a probe has brought, the key stays invalid, and the probe is repeated.
func TestAnswerToAProbeWithoutMemory(t *testing.T) {
	w := connected(t, 2)
	a, b := w.replicas[0], w.replicas[1]
	ts := table.Timestamp{Write: 1<<8 | 1}
	b.lane.Receive(&Message{Kind: INV, From: a.self, Epoch: 1, ID: 1, TS: ts, Clock: 1, Key: []byte("k"), Value: []byte("1")})
	b.submit(&request{kind: OpGet, key: "k"}, 0, 0)
	state := &Message{Kind: STATE, From: a.self, Epoch: 1, TS: ts, Newer: table.Timestamp{Write: 2<<8 | 1}, Clock: 2, Key: []byte("k"), Value: []byte("22")}
	b.items.full = true
	b.lane.Receive(state)
	if it, _, st := b.peek("k"); st != keyInvalid || it.TS != ts {
		t.Fatalf("without memory, k is in state %d at %s", st, showTS(it.TS))
	}
	b.sent = nil
	b.lane.Tick()
	if len(b.sent) != 1 || b.sent[0].m.Kind != PROBE {
		t.Fatalf("then a tick sends %v, want a probe", b.sent)
	}
	b.items.full = false
	b.lane.Receive(state)
	if len(b.done) != 1 || string(b.done[0].Result.Value) != "22" {
		t.Fatalf("with memory, the get is not answered with the newer value: %d answers", len(b.done))
	}
}

// TestSetWithoutMemory: the table may refuse an item at its coordinator. The client is told, and nothing has happened.
func TestSetWithoutMemory(t *testing.T) {
	w := connected(t, 2)
	a := w.replicas[0]
	if o := run(t, w, 0, OpSet, "k", "1"); o.status != Stored {
		t.Fatal(o)
	}
	a.items.full = true
	for _, kind := range []OpKind{OpSet, OpAppend} {
		if o := run(t, w, 0, kind, "k", "2"); o.status != OutOfMemory {
			t.Errorf("%s: %v, want out of memory", opNames[kind], o)
		}
	}
	if o := run(t, w, 0, OpDelete, "k", ""); o.status != Deleted {
		t.Errorf("a delete, which needs no memory: %v", o)
	}
	if o := run(t, w, 1, OpGet, "k", ""); o.status != Miss {
		t.Errorf("a get at the other replica: %v", o)
	}
}
