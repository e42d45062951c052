package replication

import (
	"testing"

	"github.com/rs/zerolog"

	"hermesd/table"
)

// This file holds the smallest executions of mistakes that the simulation has found, so that they are looked at in every
// run and not only where a seed comes upon them.

// TestAbsentKeyWaitsForFlush: b flushes while a sets. c has the flush already when the set comes, and acknowledges it without
// keeping it. At a, where the flush has not come yet, the value is valid then: c must not read a miss before the flush is over.
func TestAbsentKeyWaitsForFlush(t *testing.T) {
	x := exploration{replicas: 3, requests: []request{{at: 0, kind: OpSet, key: "k", value: "1"}, {at: 1, kind: OpFlush}, {at: 2, kind: OpGet, key: "k"},
		{at: 0, kind: OpGet, key: "k"}}}
	if res := x.run(); res.wrong != "" {
		t.Error(res)
	}
}

// TestOutrankedByKey: two keys of a lane that were added at one version come to equal time stamps, in flight at the same time. When one
// of them is outranked the other one's update is not to be taken out of flight.
func TestOutrankedByKey(t *testing.T) {
	x := exploration{
		replicas: 2,
		prologue: []request{{at: 1, kind: OpAdd, key: "k", value: "5"}, {at: 1, kind: OpAdd, key: "j", value: "5"}, {at: 1, kind: OpIncr, key: "k", delta: 1},
			{at: 1, kind: OpIncr, key: "k", delta: 1}},
		requests: []request{{at: 0, kind: OpIncr, key: "k", delta: 10}, {at: 0, kind: OpIncr, key: "j", delta: 10}, {at: 1, kind: OpIncr, key: "j", delta: 20}},
	}
	_, w := x.start()
	k, _, _ := w.replicas[0].peek("k")
	j, _, _ := w.replicas[0].peek("j")
	if k.TS != j.TS {
		t.Fatalf("the prologue has left k with %s and j with %s: they are to be equal", showTS(k.TS), showTS(j.TS))
	}
	if res := x.run(); res.wrong != "" {
		t.Error(res)
	}
}

// TestProbeDuringOlderFlush: b has not heard that a flush is over. That must not keep it from answering for a delete of its own which is newer
// than the flush, or a waits for ever.
func TestProbeDuringOlderFlush(t *testing.T) {
	w := newPair()
	flush := w.submit(0, &request{kind: OpFlush})
	w.deliver(0)
	w.deliver(1)
	w.reconnect() // the VAL is lost
	w.wantStatus(t, "a's flush", flush, Flushed)
	set := w.submit(0, &request{kind: OpSet, key: "k", value: "1"})
	w.pump()
	w.wantStatus(t, "a's set", set, Stored)
	del := w.submit(1, &request{kind: OpDelete, key: "k"})
	w.deliver(1)
	w.deliver(0)
	w.reconnect() // and so is this one
	w.wantStatus(t, "b's delete", del, Deleted)
	if !w.rs[1].lane.floor.invalid {
		t.Fatal("b knows that the flush is over: the execution is not what it was")
	}
	get := w.submit(0, &request{kind: OpGet, key: "k"})
	for range 4 {
		w.rs[0].lane.Tick()
		w.pump()
	}
	w.wantStatus(t, "a's get", get, Miss)
}

// pair is a group of two whose messages are delivered by hand.
type pair struct {
	rs   []*replica
	tags int
}

func newPair() *pair {
	w := &pair{rs: newReplicas(2, eager)}
	w.reconnect()
	return w
}

// submit returns the tag of the operation.
func (w *pair) submit(at int, q *request) (tag int) {
	w.tags++
	w.rs[at].submit(q, w.tags, 0)
	return w.tags
}

// deliver delivers what one of the two has sent.
func (w *pair) deliver(from int) {
	sent := w.rs[from].sent
	w.rs[from].sent = nil
	for _, s := range sent {
		w.rs[1-from].lane.Receive(s.m)
	}
}

// pump delivers until there is nothing more.
func (w *pair) pump() {
	for len(w.rs[0].sent)+len(w.rs[1].sent) > 0 {
		w.deliver(0)
		w.deliver(1)
	}
}

// reconnect loses what is under way, and what becomes of the new connection is delivered.
func (w *pair) reconnect() {
	for i, r := range w.rs {
		r.sent = nil
		r.lane.PeerDown(w.rs[1-i].self)
	}
	for i, r := range w.rs {
		r.lane.PeerUp(w.rs[1-i].self)
	}
	w.pump()
}

func (w *pair) wantStatus(t *testing.T, what string, tag int, want Status) {
	t.Helper()
	for _, r := range w.rs {
		for _, op := range r.done {
			if op.Tag == uint64(tag) && op.Result.Status == want {
				return
			}
			if op.Tag == uint64(tag) {
				t.Fatalf("%s is answered %v", what, outcomeOf(op))
			}
		}
	}
	t.Fatalf("%s is not answered", what)
}

// TestLoneItemIsPlain: what is written in a group of one is valid at once, and it does not matter any more that its key was absent.
func TestLoneItemIsPlain(t *testing.T) {
	r := newReplicas(1, eager)[0]
	r.submit(&request{kind: OpAdd, key: "k", value: "1"}, 0, 0)
	if it := r.items.recs[0].item; it.State != 0 {
		t.Errorf("an added item is in state %d", it.State)
	}
}

// lonely returns a node of a group of two whose other member does not answer, with a nearly full table.
func lonely(t *testing.T) *Node {
	tab, err := table.New(table.Config{MemoryBytes: 8 << 20, ItemSizeMax: 1 << 10, SegmentBytes: 4 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tab.Close() })
	n, err := assemble(Config{Self: Member{Number: 1, Incarnation: 101}, Replicas: 2, Table: tab, ItemSizeMax: 1 << 10, Unique: 1, Logger: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	n.transport = discard{}
	n.Enter(viewOf(n.self, Member{Number: 2, Incarnation: 102}))
	fillTable(n, 1, 1<<30)
	return n
}

// discard is a Transport to nowhere.
type discard struct{ Transport }

func (discard) Send(uint8, *Message) {}
func (discard) SetPeers([]Peer)      {}
func (discard) Flush()               {}

// TestMakeRoomEnds: while a flush is under way no lane can give anything up, and making room has to say so. (It went round for ever: no two
// lanes' Collect say in the same round that there is nothing to gain.)
func TestMakeRoomEnds(t *testing.T) {
	n := lonely(t)
	if n.FlushAll(&Op{Kind: OpFlush, Client: simNobody{}}) {
		t.Fatal("a flush was done without the other replica")
	}
	n.makeRoom(4<<20, simNow, nil)
	if free := n.table.FreeBytes(); free >= 4<<20 {
		t.Errorf("%d bytes are free: items below a flush that is not over were given up", free)
	}
}

// TestMissWaitsForFlush: a read without the lock does not answer a miss while a flush is under way.
func TestMissWaitsForFlush(t *testing.T) {
	n := lonely(t)
	key := []byte("never stored")
	hash := table.Hash(key)
	view := func() ReadStatus {
		var it table.Item
		_, status := n.View(hash, key, simNow, &it)
		return status
	}
	if got := view(); got != ReadMiss {
		t.Fatalf("before the flush: read status %d", got)
	}
	n.FlushAll(&Op{Kind: OpFlush, Client: simNobody{}})
	if got := view(); got != ReadWait {
		t.Errorf("while the flush is under way: read status %d", got)
	}
	nl := &n.lanes[laneOf(hash)]
	flush := nl.lane.flight.slots[0]
	n.Receive(&Message{Kind: ACK, Lane: nl.lane.number, From: Member{Number: 2, Incarnation: 102}, Epoch: 1, ID: flush.id, TS: flush.ts})
	if got := view(); got != ReadMiss {
		t.Errorf("after the flush: read status %d", got)
	}
}

// TestEntryOfOneself: b and c have both replayed a delete of a member gone, and c's replay is refused, as it is over everywhere by then. But at a,
// which catches up too, it was stored as something new that c has in flight; and so a tells c. c does not have it in flight, and nobody else will
// finish it: c has to.
func TestEntryOfOneself(t *testing.T) {
	w := newPair()
	a, c := w.rs[0], w.rs[1]
	view := View{Epoch: 2, Members: []Member{a.self, c.self}, CatchingUp: bit(c.self.Number)}
	for _, r := range w.rs {
		view.Self = r.self
		r.lane.SetView(view)
	}
	w.pump()
	ts := table.Timestamp{Write: 1<<8 | 9, Step: 1<<8 | 9}
	if err := a.items.Put(table.Hash([]byte("k")), []byte("k"), &table.Item{TS: ts, State: table.Invalid | table.Tombstone, Finisher: c.self.Number}, nil); err != nil {
		t.Fatal(err)
	}
	if !c.lane.Fetch(a.self.Number, 1<<10) {
		t.Fatal("c cannot fetch")
	}
	w.pump()
	for _, r := range w.rs {
		if it, _, _ := r.peek("k"); it.State&table.Invalid != 0 {
			t.Errorf("replica %d holds k invalid with %s, finisher %d, and nothing is under way", r.self.Number, showTS(it.TS), it.Finisher)
		}
	}
}

// TestAddAfterReturn: b has begun anew, and its clock was behind. When it has caught up with a's again, which nothing else has moved meanwhile, an add that
// waits for that is run.
func TestAddAfterReturn(t *testing.T) {
	w := newPair()
	a := w.rs[0]
	for _, kind := range []OpKind{OpSet, OpDelete, OpAdd} {
		w.submit(0, &request{kind: kind, key: "k", value: "1"})
		w.pump()
	}
	w.rs[1] = newReplicas(2, eager)[1]
	b := w.rs[1]
	b.self.Incarnation++
	for _, r := range w.rs {
		r.lane.SetView(View{Epoch: 2, Self: r.self, Members: []Member{a.self, b.self}, CatchingUp: bit(b.self.Number)})
	}
	w.reconnect()
	if a.lane.stable() >= a.lane.clock {
		t.Fatal("b's clock is not behind: the execution is not what it was")
	}
	w.tags = 100
	add := w.submit(0, &request{kind: OpAdd, key: "j", value: "1"})
	w.pump()
	for range 4 {
		a.lane.Tick()
		w.pump()
	}
	w.wantStatus(t, "a's add", add, Stored)
}

// TestForgottenDelete: an update of a member gone is replayed by a, b and c, and deleted by a, and c, which catches up, has forgotten the delete when b's
// replay comes. It cannot know better than to store it. But what has been acknowledged and said before the delete must not make it valid.
func TestForgottenDelete(t *testing.T) {
	for _, late := range []string{"acknowledgements", "VAL of another replay"} {
		t.Run(late, func(t *testing.T) {
			rs := newReplicas(3, eager)
			a, b, c := rs[0].self, rs[1].self, rs[2]
			members := []Member{a, b, c.self}
			c.lane.SetView(View{Epoch: 1, Self: c.self, Members: members, CatchingUp: bit(c.self.Number)})
			for _, peer := range members[:2] {
				c.lane.PeerUp(peer)
			}
			receive := func(from Member, m Message) {
				m.From, m.Epoch, m.Clock = from, 1, 9
				c.lane.Receive(&m)
			}
			receive(a, Message{Kind: MARK})
			receive(b, Message{Kind: MARK})
			key, gone := []byte("k"), uint8(9)
			write := table.Timestamp{Write: 3<<8 | uint64(gone)}
			deleted := table.Timestamp{Write: write.Write, Step: 1<<8 | 1}
			receive(a, Message{Kind: ENTRY, Key: key, Value: []byte("1"), TS: write, Bits: BitInvalid, Finisher: gone})
			replay := c.sent[len(c.sent)-1].m
			if replay.Kind != INV || replay.Bits&BitReplay == 0 {
				t.Fatalf("c sends %s instead of its replay", showMessage(replay))
			}
			id := replay.ID
			receive(a, Message{Kind: INV, Key: key, TS: deleted, Bits: BitTombstone, ID: 1})
			receive(a, Message{Kind: VAL, Key: key, TS: deleted})
			if it, _, state := c.peek("k"); state != keyAbsent {
				t.Fatalf("c still holds %s: the execution is not what it was", showTS(it.TS))
			}
			receive(b, Message{Kind: INV, Key: key, Value: []byte("1"), TS: write, Bits: BitReplay, ID: 1})
			if late == "acknowledgements" {
				receive(a, Message{Kind: ACK, TS: write, ID: id})
				receive(b, Message{Kind: ACK, TS: write, ID: id})
			} else {
				receive(a, Message{Kind: VAL, Key: key, TS: write})
			}
			if it, _, _ := c.peek("k"); it.TS != write || it.State&table.Invalid == 0 {
				t.Errorf("c holds k with %s in state %d: it was deleted", showTS(it.TS), it.State)
			}
			receive(b, Message{Kind: STATE, Key: key, TS: write, Bits: BitAbsent})
			if it, _, _ := c.peek("k"); it.State&(table.Invalid|table.Tombstone) == table.Invalid {
				t.Errorf("b has said that k is absent, and c holds it in state %d", it.State)
			}
		})
	}
}

// TestFinishersOfEachOther: b and c, which catch up, have each stored the other's replay of an update that is over, as something new. Each takes the other
// for its finisher. Who is asked finishes it.
func TestFinishersOfEachOther(t *testing.T) {
	w := newPair()
	ts := table.Timestamp{Write: 1<<8 | 9}
	for i, r := range w.rs {
		other := w.rs[1-i].self.Number
		if err := r.items.Put(table.Hash([]byte("k")), []byte("k"), &table.Item{TS: ts, State: table.Invalid, Finisher: other}, []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
	get := w.submit(0, &request{kind: OpGet, key: "k"})
	for range 4 {
		w.rs[0].lane.Tick()
		w.pump()
	}
	w.wantStatus(t, "the get", get, Hit)
}
