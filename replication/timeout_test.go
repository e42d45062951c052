package replication

import (
	"testing"
	"time"

	"github.com/rs/zerolog"

	"hermesd/table"
)

// lateNode is a replica whose one peer acknowledges nothing, on a clock that the test moves. The test is its driver: ticks come when it says so.
type lateNode struct {
	*Node
	clock time.Duration
	pass  pass
	done  []*Op
}

func (l *lateNode) Done(op *Op) Flusher {
	l.done = append(l.done, op)
	return nil
}

// newLateNode starts it. Without credit the peer has no room for anything.
func newLateNode(t *testing.T, credit, noEvict bool) *lateNode {
	t.Helper()
	tab, err := table.New(table.Config{MemoryBytes: 16 << 20, ItemSizeMax: 32 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tab.Close() })
	n, err := assemble(Config{Self: Member{Number: 1, Incarnation: 7}, Replicas: 2, Table: tab, ItemSizeMax: 32 << 10, DisableEvictions: noEvict, Unique: 1000,
		Logger: zerolog.Nop()}) // with the OpTimeout of production
	if err != nil {
		t.Fatal(err)
	}
	l := &lateNode{Node: n, clock: time.Hour}
	n.opClock = func() uint64 { return uint64(l.clock) }
	n.transport = new(sink)
	n.Renew(forever)
	peer := Member{Number: 2, Incarnation: 3}
	n.Enter(viewOf(n.self, peer))
	if err := n.PeerUp(peer); err != nil {
		t.Fatal(err)
	}
	for lane := range table.Lanes {
		n.Receive(&Message{Kind: MARK, From: peer, Epoch: 1, Lane: uint8(lane)})
	}
	if credit {
		n.Receive(&Message{Kind: CREDIT, From: peer, Epoch: 1, ID: 1 << 20})
	}
	return l
}

// begin submits an operation that has to wait.
func (l *lateNode) begin(t *testing.T, kind OpKind, key string) {
	t.Helper()
	op := l.NewOp()
	op.Kind, op.Key, op.Hash, op.Client, op.Now = kind, []byte(key), table.Hash([]byte(key)), l, 1_000_000
	submit := l.Submit
	if kind == OpFlush {
		op.Key, submit = nil, l.FlushAll
	}
	if submit(op) {
		t.Fatalf("operation %d on %q was answered at once: status %d %s", kind, key, op.Result.Status, op.Result.Err)
	}
}

// answers are those that come with so many ticks after so much time.
func (l *lateNode) answers(after time.Duration, ticks int) (all []Result) {
	l.clock += after
	for range ticks {
		l.tickLanes(&l.pass)
	}
	for _, op := range l.done {
		all = append(all, op.Result)
	}
	l.done = nil
	return all
}

const opTimeoutDefault = 3 * time.Second

// TestOpTimeoutIsTimeNotTicks: however few ticks have come, since the machine was short of memory or the process was stopped, the first one after --op-timeout
// answers; and however many have come, none does before.
func TestOpTimeoutIsTimeNotTicks(t *testing.T) {
	for _, c := range []struct {
		name string
		ops  func(*lateNode)
		want int
	}{
		{"an update in flight", func(l *lateNode) { l.begin(t, OpSet, "k") }, 1},
		{"a read of its key", func(l *lateNode) { l.begin(t, OpSet, "k"); l.begin(t, OpGet, "k") }, 2},
		{"an update that waits for it", func(l *lateNode) { l.begin(t, OpSet, "k"); l.begin(t, OpIncr, "k") }, 2},
		{"a flush of all lanes", func(l *lateNode) { l.begin(t, OpFlush, "") }, 1},
	} {
		l := newLateNode(t, true, false)
		c.ops(l)
		if early := l.answers(opTimeoutDefault, 10_000); len(early) != 0 {
			t.Errorf("%s: answered before its time is over: %+v", c.name, early)
		}
		late := l.answers(1, 1)
		if len(late) != c.want {
			t.Errorf("%s: %d answers with the first tick after --op-timeout, want %d", c.name, len(late), c.want)
		}
		for _, r := range late {
			if r.Status != Unavailable || r.Err != timedOut {
				t.Errorf("%s: status %d %q", c.name, r.Status, r.Err)
			}
		}
	}
}

// TestEachOperationHasItsOwnTime: one that began while no tick came is not late with an older one, nor because the lane had been idle.
func TestEachOperationHasItsOwnTime(t *testing.T) {
	l := newLateNode(t, true, false)
	l.clock += time.Hour // idle lanes do not tick
	l.begin(t, OpSet, "k")
	l.clock += 2 * time.Second
	l.begin(t, OpSet, "k")
	l.begin(t, OpGet, "k")
	if first := l.answers(time.Second+1, 1); len(first) != 1 {
		t.Errorf("%d answers when the first of three is late", len(first))
	}
	if rest := l.answers(2*time.Second, 1); len(rest) != 2 {
		t.Errorf("%d answers when the other two are late", len(rest))
	}
}

// TestRoomPatienceIsTimeNotTicks: where nothing is evicted, a set that finds no room at a peer waits no longer than that.
func TestRoomPatienceIsTimeNotTicks(t *testing.T) {
	l := newLateNode(t, false, true)
	l.begin(t, OpSet, "k")
	if early := l.answers(time.Duration(roomPatience), 1000); len(early) != 0 {
		t.Errorf("answered before its time is over: %+v", early)
	}
	if late := l.answers(1, 1); len(late) != 1 || late[0].Status != OutOfMemory {
		t.Errorf("with the first tick after it: %+v", late)
	}
}

// TestMonotonicRuns: the clock of operations is the machine's, in nanoseconds.
func TestMonotonicRuns(t *testing.T) {
	before, began := monotonic(), time.Now()
	for time.Since(began) < time.Millisecond {
	}
	if took, least := monotonic()-before, uint64(time.Millisecond); took < least {
		t.Errorf("a millisecond took %d ns of it", took)
	}
}
