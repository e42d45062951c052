package table

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

func newTable(t testing.TB, memory uint64, itemMax uint32, segment int) *Table {
	t.Helper()
	tb, err := New(Config{MemoryBytes: memory, ItemSizeMax: itemMax, SegmentBytes: segment})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tb.Close() })
	return tb
}

// model is the table as it should be: a map, and what the verdicts have done to it.
type model struct {
	t     *Table
	rng   *rand.Rand
	items map[string]*modelItem
	now   uint32
	keys  int
	large int // largest value
	drop  int // verdicts: percent Drop, then Pending, the rest Keep
	pend  int
	todo  []string // pending deletes
	lives int
}

type modelItem struct {
	Item
	value []byte
	life  int // number of the put that stored it, where nothing was stored
}

func (m *model) key() []byte {
	k := m.rng.IntN(m.keys)
	key := fmt.Appendf(nil, "key-%d", k)
	return append(key, bytes.Repeat([]byte{'.'}, k*7%(maxKeyBytes-len(key)))...)
}

func (m *model) value() []byte {
	n := m.rng.IntN(300)
	switch m.rng.IntN(40) {
	case 0:
		n = m.rng.IntN(m.large)
	case 1, 2, 3:
		n = m.rng.IntN(m.large/16 + 1)
	case 4, 5:
		n = m.rng.IntN(10)
	}
	v := make([]byte, n)
	for i := range v {
		v[i] = byte(m.rng.Uint32())
	}
	return v
}

func (m *model) fill(it *Item) {
	r := m.rng
	it.TS = Timestamp{Write: r.Uint64()}
	it.CAS, it.Exptime, it.Flags, it.State, it.Finisher = r.Uint64(), 0, 0, 0, uint8(r.Uint32())
	if r.IntN(3) == 0 {
		it.TS.Step = r.Uint64()
	}
	if r.IntN(3) == 0 {
		it.Exptime = m.now + r.Uint32N(1000)
	}
	if r.IntN(4) == 0 {
		it.Flags = r.Uint32()
	}
	if r.IntN(8) == 0 {
		it.State = Invalid
	}
	if r.IntN(8) == 0 {
		it.State |= OnAbsent
	}
}

func (m *model) same(key []byte, it *Item, value []byte, want *modelItem) {
	tb := m.t
	_ = tb
	got := *it
	got.where, want.where = where{}, where{}
	want.ValueLen = len(want.value)
	if got != want.Item || !bytes.Equal(value, want.value) {
		panic(fmt.Sprintf("%q: got %+v (%d bytes), want %+v (%d bytes), values equal: %v", key, got, len(value), want.Item, len(want.value), bytes.Equal(value, want.value)))
	}
}

func (m *model) store(key []byte, it *Item, value []byte) {
	if it.State&Tombstone != 0 {
		it.Flags, it.Exptime, it.CAS, value = 0, 0, 0, nil
	}
	m.lives++
	life := m.lives
	if was := m.items[string(key)]; was != nil {
		life = was.life
	}
	m.items[string(key)] = &modelItem{Item: *it, value: value, life: life}
}

func (m *model) visit(l *Lane) Visit {
	return func(key []byte, hash uint64, it *Item) Verdict {
		want := m.items[string(key)]
		if want == nil {
			panic(fmt.Sprintf("visit of %q, which is not stored", key))
		}
		m.same(key, it, l.AppendValue(nil, it), want)
		if it.State&Tombstone != 0 {
			panic(fmt.Sprintf("visit of %q in state %d", key, it.State))
		}
		if it.State&Invalid != 0 { // something else may have taken its place; otherwise it stays
			if m.rng.IntN(100) >= m.drop {
				return Keep
			}
			delete(m.items, string(key))
			return Drop
		}
		if hash != Hash(key) {
			panic("wrong hash")
		}
		switch p := m.rng.IntN(100); {
		case p < m.drop:
			delete(m.items, string(key))
			return Drop
		case p < m.drop+m.pend:
			k := string(key)
			if m.rng.IntN(4) == 0 {
				l.Remove(it)
				delete(m.items, k)
				return Pending
			}
			if m.rng.IntN(2) == 0 {
				it.State = Tombstone | Invalid
				it.TS.Step++
				if err := l.Update(it); err != nil {
					panic(err)
				}
				m.store([]byte(k), it, nil)
			}
			m.todo = append(m.todo, k)
			return Pending
		}
		return Keep
	}
}

// step does one random thing and checks its outcome.
func (m *model) step(t testing.TB) {
	key := m.key()
	hash := Hash(key)
	l := m.t.Lane(LaneOf(hash))
	l.Lock()
	defer l.Unlock()
	var it Item
	want := m.items[string(key)]
	if found := l.Find(hash, key, &it); found != (want != nil) {
		t.Fatalf("%q: found %v", key, found)
	} else if found {
		m.same(key, &it, l.AppendValue(nil, &it), want)
	}
	tried := func(err error) bool {
		if err != nil && !errors.Is(err, ErrNoMemory) {
			t.Fatal(err)
		}
		return err == nil
	}
	switch op := m.rng.IntN(100); {
	case op < 55:
		var put Item
		m.fill(&put)
		value := m.value()
		if m.rng.IntN(10) == 0 {
			put.State |= Tombstone
		}
		if tried(l.Put(hash, key, &put, value)) {
			m.store(key, &put, value)
		}
	case op < 70 && want != nil:
		old := it.State
		m.fill(&it)
		it.where.word = 0 // Update must not trust it
		if old&Tombstone != 0 || m.rng.IntN(3) == 0 {
			it.State |= Tombstone
		}
		tomb := it.State&Tombstone != 0
		err := l.Update(&it)
		if tomb && err != nil {
			t.Fatalf("tombstone: %v", err)
		}
		if tried(err) {
			m.store(key, &it, want.value)
		}
	case op < 80 && want != nil:
		l.Remove(&it)
		delete(m.items, string(key))
	case op < 90:
		l.Collect(m.now, m.visit(l))
	case op < 93:
		m.now += m.rng.Uint32N(3)
		l.Sweep(m.now, 1+m.rng.IntN(100), m.visit(l))
	case len(m.todo) > 0:
		m.finishDelete()
	}
}

// finishDelete ends a pending delete the way that the group would.
func (m *model) finishDelete() {
	k := m.todo[0]
	m.todo = m.todo[1:]
	want := m.items[k]
	hash := Hash([]byte(k))
	l := m.t.Lane(LaneOf(hash))
	if want == nil {
		return
	}
	if l.mu.TryLock() {
		defer l.Unlock()
	}
	var it Item
	if !l.Find(hash, []byte(k), &it) {
		panic(fmt.Sprintf("%q is pending and not there", k))
	}
	l.Remove(&it)
	delete(m.items, k)
}

// makeRoom goes round the lanes as replication does.
func (m *model) makeRoom(bytes uint64) bool {
	for idle := 0; m.t.FreeBytes() < bytes; {
		l := m.t.Lane(m.t.Fullest())
		if idle > 0 {
			l = m.t.Lane(idle % Lanes)
		}
		l.Lock()
		ok := l.Collect(m.now, m.visit(l))
		l.Unlock()
		for len(m.todo) > 0 {
			m.finishDelete()
		}
		if !ok {
			if idle++; idle > Lanes {
				return false
			}
		}
	}
	return true
}

// TestModel does everything at random and compares with a map, for several sizes of everything.
func TestModel(t *testing.T) {
	for _, c := range []struct {
		name         string
		memory       uint64
		itemMax      uint32
		segment      int
		keys, large  int
		drop, pend   int
		steps, every int
	}{
		{"tight", 2 << 20, 1 << 20, 0, 20000, 4000, 70, 20, 200000, 20000},
		{"large values", 3 << 20, 1 << 20, 0, 300, 300000, 50, 40, 40000, 4000},
		{"pending", 4 << 20, 1 << 20, 8 << 10, 30000, 20000, 0, 90, 150000, 20000},
		{"keep", 2 << 20, 1 << 20, 0, 5000, 30000, 0, 0, 20000, 10000},
		{"roomy", 64 << 20, 1 << 20, 0, 50000, 4000, 80, 10, 200000, 40000},
		{"few large segments", 256 << 20, 1 << 20, 1 << 20, 20000, 100000, 80, 10, 60000, 20000},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			seed := rand.Uint64()
			defer func() {
				if t.Failed() {
					t.Logf("seed %d", seed)
				}
			}()
			m := &model{
				t: newTable(t, c.memory, c.itemMax, c.segment), rng: rand.New(rand.NewPCG(seed, 2)),
				items: map[string]*modelItem{}, now: 1000, keys: c.keys, large: c.large, drop: c.drop, pend: c.pend,
			}
			if testing.Short() {
				c.steps /= 5
			}
			for i := range c.steps {
				m.step(t)
				if i%64 == 0 {
					m.makeRoom(uint64(8 * m.t.SegmentBytes()))
				}
				if i%c.every == c.every-1 {
					m.t.checkAll(t, m.now)
				}
			}
			m.compareAll(t)
			m.emptyAll(t)
		})
	}
}

// compareAll compares all that is stored with the model.
func (m *model) compareAll(t *testing.T) {
	n := 0
	for i := range Lanes {
		l := m.t.Lane(i)
		l.Lock()
		l.Each(func(key []byte, it *Item) bool {
			want := m.items[string(key)]
			if want == nil {
				t.Fatalf("%q is stored", key)
			}
			m.same(key, it, l.AppendValue(nil, it), want)
			n++
			return true
		})
		l.Unlock()
	}
	if n != len(m.items) {
		t.Fatalf("%d keys are stored, want %d", n, len(m.items))
	}
}

// emptyAll removes everything; all memory but the index and open segments must be free again.
func (m *model) emptyAll(t *testing.T) {
	for k := range m.items {
		hash := Hash([]byte(k))
		l := m.t.Lane(LaneOf(hash))
		l.Lock()
		var it Item
		if !l.Find(hash, []byte(k), &it) {
			t.Fatalf("%q is not there", k)
		}
		l.Remove(&it)
		l.Unlock()
	}
	m.t.checkAll(t, m.now)
	for i := range Lanes {
		l := m.t.Lane(i)
		l.Lock()
		s := l.Stats()
		if s.LiveBytes != 0 || l.small.head != 0 || l.main.head != 0 {
			t.Fatalf("lane %d, all removed: %+v", i, s)
		}
		l.Unlock()
	}
}
