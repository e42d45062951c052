package table

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
)

var (
	tortureSeed  = flag.Uint64("torture.seed", 0, "repeat TestTorture with this seed, as a failure prints it (0: new ones)")
	tortureRuns  = flag.Int("torture.runs", 4, "how many seeds TestTorture tries")
	tortureSteps = flag.Int("torture.steps", 3_000, "steps for each seed")
)

// torture is everything that a caller may do, on few lanes of a table of the least size, so that memory is short all the time and queues, pieces,
// the victim and the sweep meet. After each step all that must hold in the lane is checked.
type torture struct {
	testing.TB
	t     *Table
	rng   *rand.Rand
	items map[string]*modelItem
	keys  [][]byte
	lanes int
	now   uint32
	large int      // longest value, bytes
	todo  []string // keys whose delete is under way
	mood  mood
	steps [tortureOps]int // done, by kind
	dead  bool            // visit changes nothing (for what must come to an end)
}

// mood is how the caller decides for some time, in percent.
type mood struct {
	drop, pend, changes, invalid, tombstone, expire, put int
}

func (x *torture) newMood() {
	r := x.rng
	some := func() int { return [...]int{0, 5, 30, 90, 100}[r.IntN(5)] }
	x.mood = mood{drop: some(), pend: some(), changes: some(), invalid: some(), tombstone: some() / 3, expire: some(), put: 30 + r.IntN(50)}
	x.large = [...]int{100, 3_000, 10_000, 100_000, 250_000}[r.IntN(5)]
}

func newTorture(tb testing.TB, seed uint64) *torture {
	r := rand.New(rand.NewPCG(seed, 7))
	x := &torture{TB: tb, rng: r, items: map[string]*modelItem{}, now: 1000, lanes: 1 + r.IntN(3)}
	segment := 4 << 10 << r.IntN(2)
	x.t = newTable(tb, uint64(max(minMemoryBytes, (minSegments+8+r.IntN(120))*segment)), 512<<10, segment)
	x.t.stepRecords = [...]int{1, 2, 7, stepRecords}[r.IntN(4)]
	n := [...]int{20, 100, 1000}[r.IntN(3)]
	for lane := range x.lanes {
		for i := range n {
			key := keyOfLane(lane, i)
			for pad := i % 5 * 50; pad > 0; pad-- {
				longer := append(bytes.Clone(key), bytes.Repeat([]byte{'x'}, pad)...)
				if len(longer) <= maxKeyBytes && LaneOf(Hash(longer)) == lane {
					key = longer
					break
				}
			}
			x.keys = append(x.keys, key)
		}
	}
	x.newMood()
	return x
}

func (x *torture) percent(n int) bool { return x.rng.IntN(100) < n }

func (x *torture) value() []byte {
	n := x.rng.IntN(200)
	switch x.rng.IntN(10) {
	case 0:
		n = 0
	case 1, 2, 3:
		n = x.rng.IntN(x.large)
	case 4, 5:
		n = x.rng.IntN(x.large/10 + 1)
	case 6: // about a segment
		n = max(0, int(x.t.segmentBytes)-300+x.rng.IntN(400))
	}
	v := make([]byte, n)
	for i := 0; i < n; i += 8 {
		word := x.rng.Uint64()
		for j := i; j < min(n, i+8); j++ {
			v[j] = byte(word >> (j & 7 * 8))
		}
	}
	return v
}

func (x *torture) fill(it *Item) {
	r := x.rng
	w := it.where
	*it = Item{TS: Timestamp{Write: r.Uint64()}, CAS: r.Uint64(), Finisher: uint8(r.Uint32()), where: w}
	if r.IntN(3) == 0 {
		it.TS.Step = r.Uint64()
	}
	if x.percent(x.mood.expire) {
		it.Exptime = x.now + r.Uint32N(30)
	}
	if r.IntN(4) == 0 {
		it.Flags = r.Uint32()
	}
	if x.percent(x.mood.invalid) {
		it.State = Invalid
	}
}

func (x *torture) stored(key []byte, it *Item, value []byte) {
	if it.State&Tombstone != 0 {
		value = nil
	}
	x.items[string(key)] = &modelItem{Item: *it, value: value}
}

func (x *torture) same(key []byte, it *Item, value []byte) *modelItem {
	x.Helper()
	want := x.items[string(key)]
	if want == nil {
		x.Fatalf("%q is stored, and should not be", key)
	}
	got, have := *it, want.Item
	got.where, have.where = where{}, where{}
	have.ValueLen = len(want.value)
	if have.State&Tombstone != 0 {
		have.CAS, have.Exptime, have.Flags = 0, 0, 0
	}
	if got != have || !bytes.Equal(value, want.value) {
		x.Fatalf("%q is %+v, want %+v; values of %d and %d bytes, equal: %v", key, got, have, len(value), len(want.value), bytes.Equal(value, want.value))
	}
	return want
}

func (x *torture) ok(err error) bool {
	x.Helper()
	if err != nil && !errors.Is(err, ErrNoMemory) {
		x.Fatal(err)
	}
	return err == nil
}

// put stores something under key, and holds Put to what NeedBytes promises.
func (x *torture) put(l *Lane, key []byte) {
	x.Helper()
	var it Item
	x.fill(&it)
	value := x.value()
	if x.percent(x.mood.tombstone) {
		it.State |= Tombstone
	}
	sure := x.t.FreeBytes() >= x.t.NeedBytes(len(key), len(value))
	if x.ok(l.Put(Hash(key), key, &it, value)) {
		x.stored(key, &it, value)
	} else if sure {
		x.Fatalf("Put of %d bytes fails though there is room", len(value))
	}
}

// update changes the header of it, which is stored under key.
func (x *torture) update(l *Lane, key []byte, it *Item, tombstone bool) {
	x.Helper()
	value := x.items[string(key)].value
	x.fill(it)
	if tombstone {
		it.State |= Tombstone
	}
	err := l.Update(it)
	if tombstone && err != nil {
		x.Fatalf("a tombstone needs no memory: %v", err)
	}
	if x.ok(err) {
		x.stored(key, it, value)
	}
}

func (x *torture) remove(l *Lane, key []byte, it *Item) {
	l.Remove(it)
	delete(x.items, string(key))
}

// visit decides at random, and at random does itself what it then reports as Pending.
func (x *torture) visit(l *Lane) Visit {
	return func(inTable []byte, hash uint64, it *Item) Verdict {
		key := bytes.Clone(inTable)
		if hash != Hash(key) {
			x.Fatalf("visit of %q with another key's hash", key)
		}
		want := x.same(key, it, l.AppendValue(nil, it))
		if it.State&Tombstone != 0 {
			x.Fatalf("visit of %q, which is a tombstone", key)
		}
		switch {
		case x.dead:
			return Keep
		case x.percent(x.mood.drop):
			delete(x.items, string(key))
			return Drop
		case !x.percent(x.mood.pend):
			return Keep
		case !x.percent(x.mood.changes):
			x.todo = append(x.todo, string(key))
			return Pending
		}
		switch x.rng.IntN(6) {
		case 0:
			x.remove(l, key, it)
		case 1:
			x.update(l, key, it, false)
			_ = want
		case 2:
			x.put(l, key)
		case 3:
			x.remove(l, key, it)
			x.put(l, key)
		case 4:
			x.remove(l, key, it)
			other := x.keys[x.rng.IntN(len(x.keys))]
			if LaneOf(Hash(other)) == LaneOf(hash) {
				x.put(l, other)
			}
		default:
			x.update(l, key, it, true)
			x.todo = append(x.todo, string(key))
		}
		return Pending
	}
}

const tortureOps = 10

// step does one random thing in one lane and checks the lane.
func (x *torture) step() {
	key := x.keys[x.rng.IntN(len(x.keys))]
	hash := Hash(key)
	l := x.t.Lane(LaneOf(hash))
	l.Lock()
	defer l.Unlock()
	var it Item
	found := l.Find(hash, key, &it)
	if found {
		x.same(key, &it, l.AppendValue(nil, &it))
	} else if x.items[string(key)] != nil {
		x.Fatalf("%q is not stored, and should be", key)
	}
	op := 0
	if !x.percent(x.mood.put) {
		op = 1 + x.rng.IntN(tortureOps-1)
	}
	x.steps[op]++
	switch op {
	case 0:
		x.put(l, key)
	case 1:
		if found {
			x.update(l, key, &it, it.State&Tombstone != 0 || x.percent(x.mood.tombstone))
		}
	case 2:
		if found && x.percent(50) {
			x.remove(l, key, &it)
		} else if found {
			l.Used(&it)
		}
	case 3, 4:
		l.Collect(x.now, x.visit(l))
	case 5:
		l.Compact([...]int{2, 4, 16}[x.rng.IntN(3)], x.now, x.visit(l))
	case 6:
		x.now += x.rng.Uint32N(3)
		l.Sweep(x.now, 1+x.rng.IntN(30), x.visit(l))
	case 7:
		x.resolve()
	case 8:
		cursor := x.rng.Uint64N(l.Stats().Buckets)
		l.Walk(cursor, 1+x.rng.IntN(3), func(inTable []byte, it *Item) bool {
			key := bytes.Clone(inTable)
			x.same(key, it, l.AppendValue(nil, it))
			switch x.rng.IntN(4) {
			case 0:
				x.remove(l, key, it)
			case 1:
				x.update(l, key, it, it.State&Tombstone != 0)
			}
			return x.percent(90)
		})
	case 9:
		x.rare(l)
	}
	l.check(x, x.now)
}

// resolve ends deletes that are under way, in any order.
func (x *torture) resolve() {
	for n := x.rng.IntN(8); n > 0 && len(x.todo) > 0; n-- {
		i := x.rng.IntN(len(x.todo))
		key := []byte(x.todo[i])
		x.todo[i] = x.todo[len(x.todo)-1]
		x.todo = x.todo[:len(x.todo)-1]
		l := x.t.Lane(LaneOf(Hash(key)))
		unlock := l.mu.TryLock() // the step's lane is locked
		var it Item
		if l.Find(Hash(key), key, &it) {
			switch x.rng.IntN(3) {
			case 0:
				x.update(l, key, &it, true)
			default:
				x.remove(l, key, &it)
			}
		}
		if unlock {
			l.Unlock()
		}
	}
}

// ends repeats step until it returns false, which must not take for ever.
func (x *torture) ends(what string, step func() bool) {
	x.Helper()
	for n := 0; step(); n++ {
		if n > 64*len(x.t.segments)*128/x.t.stepRecords {
			x.Fatalf("%s makes progress for ever", what)
		}
	}
}

// rare is what is done less often: whatever must come to an end does, from whatever state.
func (x *torture) rare(l *Lane) {
	switch x.rng.IntN(12) {
	case 0:
		x.newMood()
	case 1:
		share := [...]int{2, 4, 16}[x.rng.IntN(3)]
		x.ends("Compact", func() bool { return l.Compact(share, x.now, x.visit(l)) })
	case 2:
		x.dead = true
		x.ends("Collect of what is kept", func() bool { return l.Collect(x.now, x.visit(l)) })
		x.ends("Compact of what is kept", func() bool { return l.Compact(16, x.now, x.visit(l)) })
		x.ends("Sweep of what is kept", func() bool { return l.Sweep(x.now, 10, x.visit(l)) == 10 })
		x.dead = false
	case 3:
		x.ends("Sweep", func() bool { return l.Sweep(x.now, 10, x.visit(l)) == 10 })
	case 4:
		if x.rng.IntN(10) == 0 {
			l.Clear()
			for k := range x.items {
				if x.t.Lane(LaneOf(Hash([]byte(k)))) == l {
					delete(x.items, k)
				}
			}
		}
	}
}

// end gives up all that can be, as a caller would who must have memory: nothing but tombstones may be left.
func (x *torture) end() {
	drop := func([]byte, uint64, *Item) Verdict { return Drop }
	for i := range x.lanes {
		l := x.t.Lane(i)
		l.Lock()
		for round := 0; round < 6 && l.Stats().Items > 0; round++ {
			x.ends("Collect", func() bool { return l.Collect(x.now, drop) })
			l.check(x, x.now)
		}
		if s := l.Stats(); s.Items != 0 {
			x.Fatalf("lane %d: Collect leaves %d items: %+v", i, s.Items, s)
		}
		l.Unlock()
	}
	x.t.checkAll(x, x.now)
	for i := range x.lanes {
		l := x.t.Lane(i)
		l.Lock()
		l.Clear()
		l.Unlock()
	}
	x.t.checkAll(x, x.now)
	if got, want := x.t.FreeBytes(), uint64(len(x.t.segments)-1-x.t.reserve-Lanes)<<x.t.segmentShift; got != want {
		x.Fatalf("%d bytes are free in the end, want %d", got, want)
	}
}

// TestTorture. A long run: -torture.runs 1000 -timeout 0.
func TestTorture(t *testing.T) {
	runs := *tortureRuns
	if *tortureSeed != 0 {
		runs = 1
	}
	for range runs {
		seed := rand.Uint64()
		if *tortureSeed != 0 {
			seed = *tortureSeed
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			x := newTorture(t, seed)
			step := -1
			defer func() {
				if p := recover(); p != nil || t.Failed() {
					t.Logf("step %d; repeat with -run TestTorture -torture.seed %d -torture.steps %d", step, seed, *tortureSteps)
					if p != nil {
						panic(p)
					}
				}
			}()
			for step = range *tortureSteps {
				x.step()
				if step%50 == 49 {
					x.t.checkAll(t, x.now)
				}
			}
			x.end()
		})
	}
}
