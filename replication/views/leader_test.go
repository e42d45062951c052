package views

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// stage drives a Leader of a formed group by hand. Time is in milliseconds.
type stage struct {
	t      *testing.T
	l      *Leader
	g      Group
	now    int64
	sent   map[uint8]Heartbeat // what each replica says
	leases map[Member]int      // answers with a lease
}

const ms = int64(time.Millisecond)

func newStage(t *testing.T, n int) *stage {
	s := &stage{t: t, l: NewLeader(DefaultTiming), g: formed(t, n), now: 1_000_000 * ms, sent: map[uint8]Heartbeat{}, leases: map[Member]int{}}
	for _, r := range s.g.View.Members {
		s.sent[r.Number] = Heartbeat{From: r.Member, Server: serverOf(r.Number), Status: Status{Epoch: 1, Settled: true}}
	}
	for i := range s.g.Slots {
		s.g.Slots[i].Server = serverOf(s.g.Slots[i].Number)
	}
	s.l.Elected(s.now, s.g, 1)
	return s
}

func serverOf(n uint8) string { return fmt.Sprint("server", n) }

// take carries out what the leader wants; rounds succeed at once, and commands are committed.
func (s *stage) take() {
	for range 10 {
		o := s.l.Take()
		for _, a := range o.Answers {
			if a.Lease != 0 {
				s.leases[a.To]++
			}
		}
		if o.Propose != nil {
			if err := s.g.Apply(*o.Propose); err != nil {
				s.t.Fatal(err)
			}
			s.l.Committed(s.now, s.g)
		}
		if o.Round != 0 {
			s.l.RoundDone(s.now, o.Round, true)
		}
	}
}

// run lets time pass; the replicas named send heartbeats every 50 ms, and enter each view at once.
func (s *stage) run(milliseconds int64, numbers ...uint8) {
	for end := s.now + milliseconds*ms; s.now < end; s.now += 10 * ms {
		if s.now/ms%50 == 0 {
			for _, n := range numbers {
				b := s.sent[n]
				b.Sent, b.Seen, b.Server = s.now, s.g.View.Epoch, serverOf(n)
				if s.g.View.Has(b.From) {
					b.Epoch = s.g.View.Epoch
				}
				s.l.Heartbeat(s.now, b, Mandate{})
			}
		}
		s.l.Tick(s.now)
		s.take()
	}
}

func (s *stage) expect(view string) {
	s.t.Helper()
	if got := s.g.View.String(); got != view {
		s.t.Errorf("at %d ms the view is\n%s, not\n%s", s.now/ms-1_000_000, got, view)
	}
}

func (s *stage) says(n uint8, change func(*Heartbeat)) {
	b := s.sent[n]
	change(&b)
	s.sent[n] = b
}

func TestSilentReplicaIsRemovedWhenItsLeaseIsOver(t *testing.T) {
	s := newStage(t, 3)
	s.run(500, 1, 2, 3)
	last := s.now - 50*ms
	for s.g.View.Epoch == 1 {
		s.run(10, 1, 2)
	}
	s.expect("epoch 2, generation 1: 1/10 2/10")
	if waited := s.now - last; waited < int64(DefaultTiming.LeaseBound()) || waited > int64(DefaultTiming.SuspectAfter)+40*ms {
		t.Errorf("replica 3 was removed %d ms after its last heartbeat", waited/ms)
	}
}

func TestHeartbeatIsAnsweredAfterARoundThatBeganLater(t *testing.T) {
	s := newStage(t, 3)
	beat := func(n uint8) {
		b := s.sent[n]
		b.Sent = s.now
		s.l.Heartbeat(s.now, b, Mandate{})
	}
	beat(1)
	s.now += int64(DefaultTiming.gather())
	s.l.Tick(s.now)
	first := s.l.Take()
	if first.Round == 0 || len(first.Answers) > 0 {
		t.Fatalf("%+v; a round should begin, and nobody be answered", first)
	}
	s.now += ms
	beat(2)
	s.l.RoundDone(s.now, first.Round, true)
	if o := s.l.Take(); len(o.Answers) != 1 || o.Answers[0].To.Number != 1 || o.Answers[0].Lease != 1 {
		t.Errorf("after the first round: %+v; only replica 1 should get a lease", o)
	}
	s.now += 100 * ms
	s.l.Tick(s.now)
	second := s.l.Take()
	s.l.RoundDone(s.now, second.Round, false)
	if o := s.l.Take(); second.Round == 0 || len(o.Answers) != 1 || o.Answers[0].Lease != 0 {
		t.Errorf("after a round without a majority: %+v; replica 2 should be answered without a lease", o)
	}
}

func TestLeavingReplicaIsRemovedAtOnce(t *testing.T) {
	s := newStage(t, 3)
	s.run(100, 1, 2, 3)
	s.says(3, func(b *Heartbeat) { b.Leaving = true })
	s.run(10, 1, 2, 3)
	s.expect("epoch 2, generation 1: 1/10 2/10")
}

func TestRemovedByAnOperatorGetsNoMoreLeases(t *testing.T) {
	s := newStage(t, 3)
	s.run(500, 1, 2, 3)
	s.l.Request(s.now, Request{ID: 1, Remove: 3})
	s.take()
	before := s.leases[Member{3, 10}]
	s.run(100, 1, 2, 3) // its last lease counts from its heartbeat 50 or 100 ms ago: a round may not have come since
	if n := s.leases[Member{3, 10}]; n != before {
		t.Errorf("%d leases for a replica that is being removed", n-before)
	}
	s.expect("epoch 1, generation 1: 1/10 2/10 3/10")
	s.run(200, 1, 2, 3)
	s.expect("epoch 2, generation 1: 1/10 2/10")
	if _, ok := s.g.Slot(3); ok {
		t.Error("the slot is still there")
	}
}

func TestLastServingReplicaStays(t *testing.T) {
	s := newStage(t, 3)
	s.run(100, 1, 2, 3)
	s.run(2000, 1)
	s.expect("epoch 2, generation 1: 1/10")
	s.run(2000)
	s.expect("epoch 2, generation 1: 1/10")

	// Two return, and wait for it; then its own number does: what it held is lost.
	s.sent[2] = Heartbeat{From: Member{2, 11}}
	s.sent[3] = Heartbeat{From: Member{3, 11}}
	s.run(2000, 2, 3)
	s.expect("epoch 2, generation 1: 1/10")
	s.sent[1] = Heartbeat{From: Member{1, 11}}
	s.run(2000, 1, 2, 3)
	s.expect("epoch 4, generation 2: 1/11 2/11 3/11")
}

func TestJoinerIsListedWhenAllHaveSettledAndItReachesAll(t *testing.T) {
	s := newStage(t, 3)
	s.run(100, 1, 2, 3)
	s.run(500, 1, 2)
	s.expect("epoch 2, generation 1: 1/10 2/10")
	s.sent[3] = Heartbeat{From: Member{3, 11}, Reachable: bit(1)}
	s.says(2, func(b *Heartbeat) { b.Settled = false })
	s.run(500, 1, 2, 3)
	s.says(2, func(b *Heartbeat) { b.Settled = true })
	s.run(500, 1, 2, 3)
	s.expect("epoch 2, generation 1: 1/10 2/10")
	if st, _ := statusOf(s).Slot(3); st.State != "joining" || !strings.Contains(st.Why, "it cannot reach replica 2") {
		t.Errorf("%+v", st)
	}
	s.says(3, func(b *Heartbeat) { b.Reachable |= bit(2) })
	s.run(100, 1, 2, 3)
	s.expect("epoch 3, generation 1: 1/10 2/10 3/11 (catching up)")
	s.says(3, func(b *Heartbeat) { b.CaughtUp, b.Settled = true, true })
	s.run(100, 1, 2, 3)
	s.expect("epoch 4, generation 1: 1/10 2/10 3/11")
}

func statusOf(s *stage) *GroupStatus { st := s.l.Status(s.now); return &st }

func TestOneOfTwoThatCannotReachEachOtherGoes(t *testing.T) {
	for name, c := range map[string]struct {
		reports [4]uint64 // by 1, 2, 3
		want    string
	}{
		"each says so: the higher number":          {[4]uint64{1: bit(2), 2: bit(1)}, "epoch 2, generation 1: 1/10 3/10"},
		"one says so: who is not reached":          {[4]uint64{2: bit(1)}, "epoch 2, generation 1: 2/10 3/10"},
		"two say so of one":                        {[4]uint64{2: bit(1), 3: bit(1), 1: bit(2) | bit(3)}, "epoch 2, generation 1: 2/10 3/10"},
		"nobody reaches anybody: one serves alone": {[4]uint64{1: bit(2) | bit(3), 2: bit(1) | bit(3), 3: bit(1) | bit(2)}, "epoch 2, generation 1: 1/10"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, 3)
			s.run(100, 1, 2, 3)
			for n := uint8(1); n <= 3; n++ {
				s.says(n, func(b *Heartbeat) { b.Unreachable = c.reports[n] })
			}
			for end := s.now + 1000*ms; s.g.View.Epoch == 1 && s.now < end; {
				s.run(10, 1, 2, 3)
			}
			s.expect(c.want)
		})
	}
}

func TestLeaderThatWasStoppedTakesNobodyForSilent(t *testing.T) {
	s := newStage(t, 3)
	s.run(500, 1, 2, 3)
	s.now += 10_000 * ms
	s.l.Tick(s.now)
	s.take()
	s.run(500, 1, 2, 3)
	s.expect("epoch 1, generation 1: 1/10 2/10 3/10")
}

func TestHolderCountsTheLeaseFromSending(t *testing.T) {
	h := NewHolder(DefaultTiming, "", Member{1, 10})
	v := View{Epoch: 1, Generation: 1, Members: []Replica{replica(1, 10, true)}}
	first := h.Beat(100*ms, Status{}, 0)
	second := h.Beat(160*ms, Status{}, 0)
	answer := func(b Heartbeat) Effect {
		return h.Answer(200*ms, Answer{To: b.From, Sent: b.Sent, Since: b.Sent, Lease: 1, View: v, Used: 10})
	}
	if e := answer(second); e.Renew != 160*ms+int64(DefaultTiming.Lease) || e.Enter == nil || e.Enter.Epoch != 1 {
		t.Errorf("%+v", e)
	}
	if e := answer(first); e != (Effect{}) {
		t.Errorf("an answer that came late: %+v", e)
	}
	if h.Due() != 275*ms {
		t.Errorf("the next heartbeat is due at %d ms", h.Due()/ms)
	}
	h.Leave(210 * ms)
	if e := answer(h.Beat(210*ms, Status{}, 0)); e.Renew != 0 {
		t.Errorf("a lease for one that leaves: %+v", e)
	}
}

func TestHolderThatHasBeenRemovedBeginsAnew(t *testing.T) {
	h := NewHolder(DefaultTiming, "", Member{1, 10})
	if e := h.Adopt(View{Epoch: 4, Members: []Replica{replica(2, 10, true)}}, 9); e != (Effect{}) {
		t.Errorf("one that is yet to join: %+v", e)
	}
	h.Adopt(View{Epoch: 5, Members: []Replica{replica(1, 10, false), replica(2, 10, true)}}, 10)
	if e := h.Adopt(View{Epoch: 4}, 10); e != (Effect{}) {
		t.Errorf("an old view: %+v", e)
	}
	if e := h.Adopt(View{Epoch: 6, Members: []Replica{replica(2, 10, true)}}, 10); e.Restart != 10 {
		t.Errorf("removed: %+v", e)
	}
}

func TestHeartbeatSaysWhetherThereIsALease(t *testing.T) {
	self := Member{Number: 1, Incarnation: 10}
	h := NewHolder(DefaultTiming, "1-a", self)
	h.Adopt(View{Epoch: 1, Generation: 1, Members: []Replica{{Member: self, Address: "a:1", Serving: true}}}, 10)
	if h.Beat(0, Status{}, 0).Leased {
		t.Error("before the first answer")
	}
	h.Answer(1, Answer{To: self, Sent: 0, Lease: 1})
	if end := int64(DefaultTiming.Lease); !h.Beat(end-1, Status{}, 0).Leased || h.Beat(end, Status{}, 0).Leased {
		t.Error("at the end of the lease")
	}
}

// TestRemovalsAreExplained: what the log says of a new view.
func TestRemovalsAreExplained(t *testing.T) {
	s := newStage(t, 3)
	s.run(500, 1, 2, 3)
	s.run(int64(DefaultTiming.SuspectAfter)/ms-60, 1, 2) // not removed yet
	s.now += 100 * ms
	next := s.g.View
	next.Members = next.Members[:2]
	if got, want := s.l.removed(s.now, next), "replica 3: it sends no heartbeats"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestReplicasAreAlike: one that was started otherwise is not let in, and is told why. If it were, all would wait for channels that it cannot have.
func TestReplicasAreAlike(t *testing.T) {
	s := newStage(t, 3)
	for n := range uint8(3) {
		s.says(n+1, func(h *Heartbeat) { h.Alike = "-I 1m" })
	}
	s.run(500, 1, 2, 3)
	s.says(3, func(h *Heartbeat) {
		h.From.Incarnation, h.Alike, h.Epoch, h.Reachable = 11, "-I 2m", 0, bit(1)|bit(2)
	})
	s.run(1000, 1, 2, 3)
	s.expect("epoch 2, generation 1: 1/10 2/10")
	if why := s.l.admits(s.now, s.sent[3].From); why != "it was started with -I 2m, but replica 1 with -I 1m: give all replicas the same" {
		t.Error(why)
	}
	s.says(3, func(h *Heartbeat) { h.Alike = "-I 1m" })
	s.run(100, 1, 2, 3)
	s.expect("epoch 3, generation 1: 1/10 2/10 3/11 (catching up)")
}

// TestJoinerWithTooLittleMemory: where nothing is evicted, a replica that could not hold what the others do would stop the whole group's sets. It is not let in, and is
// told the numbers.
func TestJoinerWithTooLittleMemory(t *testing.T) {
	const mb = 1 << 20
	full := Memory{Total: 128 * mb, Taken: 50 * mb, Kept: 8 * mb, KeptEach: 2 * mb, KeepsAll: true}
	for _, c := range []struct {
		name   string
		joiner func(*Memory)
		wrong  string
	}{
		{"as much as the others", func(m *Memory) {}, ""},
		{"a full group, and as much as the others", func(m *Memory) { m.Taken, m.Kept = 0, 100*mb }, ""},
		{"less, but enough", func(m *Memory) { m.Total = 60 * mb }, ""},
		{"too little", func(m *Memory) { m.Total = 60*mb - 1 }, "it has too little memory: of its 59 MB (-m) a group of 3 keeps 10 MB free, replica 1 holds 50 MB, and nothing is " +
			"evicted for it (-M); start it with -m 128, as replica 1 was, or delete items"},
		{"too little, though it alone would evict", func(m *Memory) { m.Total, m.KeepsAll = 59*mb, false }, "it has too little memory"},
		{"one that says nothing", func(m *Memory) { *m = Memory{} }, ""},
	} {
		s := newStage(t, 3)
		s.says(1, func(h *Heartbeat) { h.Memory = full })
		s.says(2, func(h *Heartbeat) { h.Memory = full })
		s.run(500, 1, 2, 3)
		s.says(3, func(h *Heartbeat) {
			h.Memory = full
			c.joiner(&h.Memory)
			h.From.Incarnation, h.Epoch, h.Reachable = 11, 0, bit(1)|bit(2)
		})
		s.run(300, 1, 2, 3)
		_, in := s.g.View.Find(3)
		if r, _ := s.g.View.Find(3); c.wrong == "" && (!in || r.Incarnation != 11) {
			t.Errorf("%s: it is not let in: %s", c.name, s.l.admits(s.now, s.sent[3].From))
		}
		if c.wrong != "" {
			if why := s.l.admits(s.now, s.sent[3].From); in || !strings.HasPrefix(why, c.wrong) {
				t.Errorf("%s: in the view %v: %q, want %q", c.name, in, why, c.wrong)
			}
		}
	}
	evicts := full
	evicts.KeepsAll = false
	small := Memory{Total: 20 * mb, Kept: 8 * mb}
	if small.tooLittle(evicts, 3) {
		t.Error("where there are evictions, they make room for a joiner")
	}
}

func TestGenerationOfReplicasThatAreAlike(t *testing.T) {
	s := newStage(t, 3)
	s.run(500, 1, 2, 3)
	for n, alike := range map[uint8]string{1: "-I 1m", 2: "-I 2m", 3: "-I 1m"} {
		s.says(n, func(h *Heartbeat) { h.From.Incarnation, h.Alike, h.Epoch = 11, alike, 0 })
	}
	s.run(3000, 1, 2, 3)
	s.expect("epoch 3, generation 2: 1/11 3/11")
}

// TestLongestLeaseCounts: a leader that was started with a shorter lease than the members waits for theirs.
func TestLongestLeaseCounts(t *testing.T) {
	s := newStage(t, 3)
	for n := range uint8(3) {
		s.says(n+1, func(h *Heartbeat) { h.Bound = int64(time.Second) })
	}
	s.run(500, 1, 2, 3)
	s.run(900, 1, 2)
	s.expect("epoch 1, generation 1: 1/10 2/10 3/10")
	s.run(200, 1, 2)
	s.expect("epoch 2, generation 1: 1/10 2/10")
}
