package replication

import (
	"fmt"

	"hermesd/replication/views"
	"hermesd/table"
)

// simReplica is one member of the simulated group.
type simReplica struct {
	s      *sim
	index  int
	self   Member
	drive  simDriver
	lanes  []*simView
	refuse bool // Env.Admit refuses (bare lanes)

	ticks     uint64
	tickSteps uint64
	held      simHeld // reused by the checks

	// In groups whose views change:
	dead      bool // this life is over
	leaving   bool // and will not be followed by another at once
	holder    *views.Holder
	view      views.View // entered
	entersAt  uint64     // step at which the last view that is known is entered
	until     int64      // of the lease, by the replica's clock
	downSince map[uint8]int64
}

// simDriver is how inputs reach a replica's lanes: directly, or through a Node.
type simDriver interface {
	Handler
	// submit runs op; if it returns false op.Client is told, or for evictions and late updates sim.over.
	submit(op *Op) (done bool)
	// read answers a get if it can be answered without the engine.
	read(op *Op) (done bool)
	flush(o *simOp)
	// locked calls f as the owner of a lane.
	locked(lane int, f func())
	tick()
	newOp() *Op
	freeOp(op *Op)
	// acted is called after every input, before the checks.
	acted()
	enter(v views.View)
}

// simView is a lane as the checks see it.
type simView struct {
	lane  *Lane
	items Items
	keys  []int // indices of the keys in it
	marks simMarks
}

func (r *simReplica) name() string { return memberName(r.self.Number) }

func (r *simReplica) viewOf(k *simKey) *simView { return r.lanes[k.lane] }

// simKey is a key that clients use.
type simKey struct {
	name   string
	hash   uint64
	lane   int
	unique uint64 // the last cas unique that a client has seen of it
}

// simKeys names the keys. Bare lanes take them in turn; in a node it is the hash that decides, and the first lanes are used.
func simKeys(cfg *simConfig) (keys []simKey) {
	for i := 0; len(keys) < cfg.keys; i++ {
		k := simKey{name: fmt.Sprintf("k%d", i)}
		k.hash = table.Hash([]byte(k.name))
		k.lane = i % cfg.lanes
		if cfg.nodes {
			k.lane = laneOf(k.hash)
		}
		if k.lane < cfg.lanes {
			keys = append(keys, k)
		}
	}
	return keys
}

// newReplica begins a life of a replica; again: in the process of the one before.
func (s *sim) newReplica(i int, self Member, again bool) *simReplica {
	r := &simReplica{s: s, index: i, self: self, tickSteps: max(1, s.cfg.tick)}
	if s.cfg.skew {
		r.tickSteps += s.random.Uint64N(r.tickSteps + 1)
	}
	switch old := s.node(i); {
	case s.cfg.nodes && again:
		old.restart(r)
		r.drive = old
	case s.cfg.nodes:
		r.drive = newSimNode(r)
	default:
		r.drive = newSimBare(r)
	}
	for k := range s.keys {
		v := r.viewOf(&s.keys[k])
		v.keys = append(v.keys, k)
	}
	s.after(r.tickSteps, i, r.tick)
	return r
}

func simMember(i int) Member { return Member{Number: uint8(i + 1), Incarnation: uint64(101 + i)} }

func (s *sim) group() (members []Member) {
	for i := range s.cfg.replicas {
		members = append(members, simMember(i))
	}
	return members
}

func (r *simReplica) tick() {
	if r.dead {
		return
	}
	r.ticks++
	if r.s.cfg.dynamic {
		r.s.wire(r)
	}
	r.drive.tick()
	r.s.acted(r, -1, "")
	r.s.after(r.tickSteps, r.index, r.tick)
}

// simBare drives lanes over fakeStores, as a Node drives its own.
type simBare struct {
	r     *simReplica
	lanes []*simBareLane
	free  []*Op
}

// simBareLane is a lane's Env.
type simBareLane struct {
	b     *simBare
	lane  *Lane
	store *simStore
}

// simStore has no memory now and then for what a replica need not have memory for: its own updates, and the newer state
// that comes with a NACK.
type simStore struct {
	*fakeStore
	r    *simReplica
	nack bool // one is being received
}

func (st *simStore) Put(hash uint64, key []byte, it *table.Item, value []byte) error {
	own := it.Finisher == st.r.self.Number
	if it.State&table.Tombstone == 0 && (own || st.nack && it.State&table.Invalid != 0) && st.r.s.chance(st.r.s.cfg.full) {
		return errFull
	}
	if it.State&table.Invalid == 0 {
		st.r.s.valid[simUpdate{string(key), it.TS}] = true
	}
	return st.fakeStore.Put(hash, key, it, value)
}

func (st *simStore) Update(it *table.Item) error {
	st.note(it)
	return st.fakeStore.Update(it)
}

func (st *simStore) Remove(it *table.Item) {
	st.note(it)
	st.fakeStore.Remove(it)
}

// note notes which updates have been valid: those have taken effect.
func (st *simStore) note(it *table.Item) {
	if it.State&table.Invalid == 0 {
		st.r.s.valid[simUpdate{st.at(it).key, it.TS}] = true
	}
}

func newSimBare(r *simReplica) *simBare {
	b := &simBare{r: r}
	view := View{Epoch: 1, Self: r.self}
	if !r.s.cfg.dynamic {
		view.Members = r.s.group()
	}
	for i := range r.s.cfg.lanes {
		store := &fakeStore{}
		bl := &simBareLane{b: b, store: &simStore{fakeStore: store, r: r}}
		var items Items = bl.store
		if r.s.hooks.items != nil {
			items = r.s.hooks.items(store)
		}
		bl.lane = NewLane(uint8(i), bl, items, anySize{}, r.s.cfg.timing)
		if r.s.hooks.tracer != nil {
			bl.lane.TraceTo(simTracer{r.s})
		}
		if !r.s.cfg.dynamic {
			bl.lane.SetView(view)
		}
		b.lanes = append(b.lanes, bl)
		r.lanes = append(r.lanes, &simView{lane: bl.lane, items: store})
	}
	return b
}

func (bl *simBareLane) Send(to uint8, m *Message) {
	s := bl.b.r.s
	if m.Kind == INV && m.Bits&BitReplay == 0 {
		if op := bl.lane.flight.get(m.ID); op != nil {
			s.ops[op.Tag].attempt(op)
		}
	}
	s.transmit(bl.b.r, int(to)-1, m)
}

func (bl *simBareLane) Done(op *Op) {
	if op.Client == nil {
		bl.b.r.s.over(op)
		return
	}
	op.Client.Done(op)
}

func (bl *simBareLane) Admit(int, int) bool {
	bl.b.r.s.counts.refused += b2i(bl.b.r.refuse)
	return !bl.b.r.refuse
}

// Now has lanes of the simulation count their operations' time in ticks.
func (bl *simBareLane) Now() uint64 { return bl.lane.tick }

func (bl *simBareLane) Unique() uint64 {
	if u := bl.b.r.s.hooks.unique; u != nil {
		return u()
	}
	u := &bl.b.r.s.uniques[bl.b.r.index]
	*u++
	return *u
}

func (b *simBare) PeerUp(peer Member) error {
	for _, bl := range b.lanes {
		bl.lane.PeerUp(peer)
	}
	return nil
}

func (b *simBare) PeerDown(peer Member, _ error) {
	for _, bl := range b.lanes {
		bl.lane.PeerDown(peer)
	}
}

func (b *simBare) Receive(m *Message) {
	bl := b.lanes[m.Lane]
	bl.store.nack = m.Kind == NACK
	bl.lane.Receive(m)
	bl.store.nack = false
}

func (b *simBare) EndBatch(Member) {}

func (b *simBare) submit(op *Op) (done bool) {
	return b.lanes[op.lane(b.r.s)].lane.Submit(op)
}

// lane is the index of the lane of op's key.
func (op *Op) lane(s *sim) int { return s.keyNamed(string(op.Key)).lane }

func (b *simBare) read(*Op) (done bool) { return false }

func (b *simBare) locked(_ int, f func()) { f() }

func (b *simBare) flush(o *simOp) {
	o.parts = len(b.lanes)
	for _, bl := range b.lanes {
		op := b.newOp()
		op.Kind, op.Client, op.Tag = OpFlush, o, o.tag
		if bl.lane.Submit(op) {
			o.Done(op)
		}
	}
}

func (b *simBare) tick() {
	for _, bl := range b.lanes {
		bl.catchUp()
		if bl.lane.Idle() {
			continue
		}
		bl.lane.Tick()
		if !b.r.refuse && bl.lane.WaitsForRoom() {
			bl.lane.AdmitAgain()
		}
	}
}

func (b *simBare) newOp() *Op {
	n := len(b.free)
	if n == 0 {
		return new(Op)
	}
	op := b.free[n-1]
	b.free = b.free[:n-1]
	return op
}

func (b *simBare) freeOp(op *Op) {
	op.reset()
	b.free = append(b.free, op)
}

func (b *simBare) enter(v views.View) {
	view := engineView(&v, b.r.self)
	for _, bl := range b.lanes {
		bl.lane.SetView(view)
	}
}

func (b *simBare) acted() {}
