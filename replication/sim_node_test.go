package replication

import (
	"fmt"
	"strings"

	"github.com/rs/zerolog"

	"hermesd/bench/history"
	"hermesd/table"
)

// simNode drives a whole Node, as server, transport and clock would, but for its goroutines: credit, room, reads without the
// lock and the table are the real ones. Its table is nearly full from the beginning.
type simNode struct {
	r     *simReplica
	node  *Node
	pass  pass
	lanes []*simNodeItems
	out   []simOut
}

type simOut struct {
	to uint8
	m  *Message
}

// Memory of a simulated node, in bytes: the smallest table that there is.
const (
	simMemory      = 1 << 20
	simItemSizeMax = 8 << 10 // two segments
)

func newSimNode(r *simReplica) *simNode {
	t, err := table.New(table.Config{MemoryBytes: simMemory, ItemSizeMax: simItemSizeMax})
	if err != nil {
		panic(err)
	}
	cfg := Config{Self: r.self, Replicas: r.s.cfg.replicas, Table: t, ItemSizeMax: simItemSizeMax, DisableEvictions: r.s.cfg.noEvict, Unique: 1000,
		Logger: zerolog.Nop()}
	n, err := assemble(cfg)
	if err != nil {
		panic(err)
	}
	d := &simNode{r: r, node: n}
	n.transport = d
	for i := range n.lanes {
		nl := &n.lanes[i]
		items := &simNodeItems{Lane: nl.items, self: r.self.Number, expired: make(map[uint64]bool)}
		nl.lane = NewLane(uint8(i), simNodeEnv{nl, r.s}, items, fits{t}, r.s.cfg.timing)
		d.lanes = append(d.lanes, items)
		r.lanes = append(r.lanes, &simView{lane: nl.lane, items: nl.items})
	}
	n.Enter(viewOf(r.s.group()...))
	n.Renew(forever)
	d.fill()
	return d
}

// fill puts items in the table that nobody will ask for, the same in all replicas, until little more than what the node keeps free is left.
func (d *simNode) fill() {
	n := d.node
	value := []byte(strings.Repeat("x", 600))
	for i := 0; int64(n.table.FreeBytes()) > n.room.low.Load()+2*int64(n.table.SegmentBytes()); i++ {
		key := fmt.Appendf(nil, "ballast%d", i)
		hash := table.Hash(key)
		nl := &n.lanes[laneOf(hash)]
		nl.lock()
		it := table.Item{TS: table.Timestamp{Write: 1<<8 | 1}, CAS: uint64(i + 1)}
		if i%5 == 0 {
			it.Exptime = simNow
		}
		if err := nl.items.Put(hash, key, &it, value[:100+i*37%500]); err != nil {
			panic(err)
		}
		nl.lane.clock = 1
		nl.unlock(nil)
	}
}

// simNodeEnv tells the simulation of what ends without a client.
type simNodeEnv struct {
	*nodeLane
	s *sim
}

func (e simNodeEnv) Admit(keyLen, valueLen int) bool {
	admits := e.nodeLane.Admit(keyLen, valueLen)
	e.s.counts.refused += b2i(!admits)
	return admits
}

func (e simNodeEnv) Done(op *Op) {
	if op.Client == nil {
		e.s.counts.collected += b2i(op.Tag == 0 && op.Result.Status == Deleted)
		e.s.over(op)
	}
	e.nodeLane.Done(op)
}

// simNodeItems remembers of the items that this member deletes whether they had expired.
type simNodeItems struct {
	*table.Lane
	self      uint8
	found     table.Item
	foundHash uint64
	expired   map[uint64]bool // by hash
}

func (i *simNodeItems) Find(hash uint64, key []byte, it *table.Item) bool {
	if !i.Lane.Find(hash, key, it) {
		return false
	}
	i.found, i.foundHash = *it, hash
	return true
}

func (i *simNodeItems) Update(it *table.Item) error {
	if it.State == table.Invalid|table.Tombstone && it.Finisher == i.self {
		i.expired[i.foundHash] = i.found.Expired(simNow)
	}
	return i.Lane.Update(it)
}

// Start, Send, Flush, Stats and Close make it the node's Transport: nothing leaves before Flush.
func (d *simNode) Start(Handler) error { return nil }

// SetPeers and Reset have nothing to do: the simulation says who is connected.
func (d *simNode) SetPeers([]Peer) {}
func (d *simNode) Reset(Member)    {}

func (d *simNode) Send(to uint8, m *Message) {
	if l := d.r.s.link(d.r.index, int(to)-1); l.ends[l.side(d.r)] == simUp {
		d.out = append(d.out, simOut{to, copyMessage(m)})
	}
}

func (d *simNode) Flush() {
	for _, o := range d.out {
		d.r.s.transmit(d.r, int(o.to)-1, o.m)
	}
	d.out = d.out[:0]
}

func (d *simNode) Stats(func(string, uint64)) {}

func (d *simNode) Close() error { return nil }

func (d *simNode) PeerUp(peer Member) error {
	return d.node.PeerUp(peer)
}

func (d *simNode) PeerDown(peer Member, err error) {
	d.node.PeerDown(peer, err)
}

func (d *simNode) Receive(m *Message)   { d.node.Receive(m) }
func (d *simNode) EndBatch(peer Member) { d.node.EndBatch(peer) }

func (d *simNode) submit(op *Op) (done bool) {
	done = d.node.Submit(op)
	d.node.Flush()
	return done
}

// read is what the server does first with a get.
func (d *simNode) read(op *Op) (done bool) {
	var it table.Item
	ticket, status := d.node.View(op.Hash, op.Key, op.Now, &it)
	switch status {
	case ReadMiss:
		op.Result.Status = Miss
		return true
	case ReadHit:
		value := d.node.AppendValue(op.Result.Value[:0], op.Hash, &it)
		op.Result = Result{Status: Hit, Flags: it.Flags, CAS: it.CAS, Value: value}
		return d.node.Confirm(ticket)
	}
	return false
}

func (d *simNode) flush(o *simOp) {
	op := d.node.NewOp()
	op.Kind, op.Client, op.Tag = OpFlush, o, o.tag
	if d.node.FlushAll(op) {
		o.Done(op)
	}
	d.node.Flush()
}

func (d *simNode) locked(lane int, f func()) {
	nl := &d.node.lanes[lane]
	nl.lock()
	f()
	nl.unlock(nil)
	d.node.Flush()
}

// ticksToIdle is the number of ticks of a busy lane in one of the node's clock when it is idle.
const ticksToIdle = uint64(tickIdle / tickBusy)

func (d *simNode) tick() {
	d.node.tickLanes(&d.pass)
	if d.r.ticks%ticksToIdle == 0 {
		d.node.keepRoom(simNow, &d.pass)
	}
	d.node.Flush()
	d.pass.end()
}

func (d *simNode) newOp() *Op { return d.node.NewOp() }

func (d *simNode) freeOp(op *Op) { d.node.FreeOp(op) }

// acted looks for evictions that the node has begun, which the history has to know of.
func (d *simNode) acted() {
	s := d.r.s
	for i := range d.node.lanes {
		l := d.node.lanes[i].lane
		if l.flight.count == 0 {
			continue
		}
		for _, op := range l.flight.slots {
			if op == nil || op.Kind != opEvict || op.Tag != 0 {
				continue
			}
			if s.keyNamed(string(op.Key)) == nil {
				continue // ballast
			}
			o := s.begin(nil, evictor, d.r, history.Input{Kind: history.Delete, Key: string(op.Key)})
			o.expired = d.lanes[i].expired[op.Hash]
			op.Tag = o.tag
			s.say("%s: evicts %s", d.r.name(), op.Key)
		}
	}
	if len(d.out) > 0 {
		s.fail("%s has not flushed %d messages, the first of them %s", d.r.name(), len(d.out), showMessage(d.out[0].m))
	}
}

func (d *simNode) enter(View) { panic("the views of simulated nodes do not change") }

func (d *simNode) close() {
	if err := d.node.table.Close(); err != nil {
		panic(err)
	}
}
