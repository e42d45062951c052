package replication

import (
	"fmt"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"hermesd/bench/history"
	"hermesd/table"
)

// simNode drives a whole Node, as server, transport and clock would, but for its goroutines: credit, room, reads without the
// lock and the table are the real ones. Its table is nearly full from the beginning. Where views change, it is a process: it has
// several lives if it is removed from its group and returns.
type simNode struct {
	r     *simReplica // the present life
	node  *Node
	pass  pass
	lanes []*simNodeItems
	out   []simOut
	up    uint64 // peers, by number, whose channel the node knows of

	busy    int    // operations of its busybody under way
	fetches uint64 // step at which it is looked at what may be fetched, 0: at none
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
	s := r.s
	s.uniques[r.index] += 1 << 20
	n, err := s.newNode(r.self, s.uniques[r.index], s.drawMemory())
	if err != nil {
		panic(err)
	}
	d := &simNode{node: n}
	s.nodes = append(s.nodes, d)
	n.transport = d
	n.engine = d.engine
	n.now = func() time.Time { return time.Unix(0, s.local(r.index)) }
	if s.cfg.chunk != 0 {
		n.catchUp.chunk = s.cfg.chunk
	}
	n.Renew(forever) // the simulation knows the leases
	d.begin(r)
	if !s.cfg.dynamic {
		d.node.Enter(viewOf(s.group()...))
		d.fill(simMemory)
	}
	return d
}

func (s *sim) newNode(self Member, unique, memory uint64) (*Node, error) {
	t, err := table.New(table.Config{MemoryBytes: memory, ItemSizeMax: simItemSizeMax})
	if err != nil {
		return nil, err
	}
	return assemble(Config{Self: self, Replicas: s.cfg.replicas, Table: t, ItemSizeMax: simItemSizeMax, DisableEvictions: s.cfg.noEvict, Unique: unique,
		Unreachable: 2 * s.cfg.views.Unreachable, Logger: zerolog.Nop()})
}

// begin makes the node's engines those of a life.
func (d *simNode) begin(r *simReplica) {
	d.r, d.lanes, r.lanes = r, nil, nil
	for i := range d.node.lanes {
		nl := &d.node.lanes[i]
		d.lanes = append(d.lanes, &simNodeItems{Lane: nl.items, r: r, expired: make(map[uint64]bool), held: make(map[uint64]table.Item)})
		nl.lane = d.engine(i)
		r.lanes = append(r.lanes, &simView{lane: nl.lane, items: nl.items})
	}
}

// engine makes the engine of a lane, with the simulation between it and its world.
func (d *simNode) engine(lane int) *Lane {
	nl := &d.node.lanes[lane]
	items := d.lanes[lane]
	timing := d.r.s.cfg.timing
	timing.Timeout *= uint64(tickBusy)
	items.lane = NewLane(uint8(lane), simNodeEnv{nl, d.r.s}, items, fits{d.node.table}, timing)
	return items.lane
}

// fill puts items in the table that nobody will ask for, the same in all replicas: so many that in the smallest of them little more than what a
// node of a whole group keeps free is left.
func (d *simNode) fill(smallest uint64) {
	s := d.r.s
	if s.ballast[smallest] == 0 {
		n, err := s.newNode(d.r.self, 1, smallest)
		if err != nil {
			panic(err)
		}
		s.ballast[smallest] = fillTable(n, s.cfg.replicas-1, 1<<30)
		if err := n.table.Close(); err != nil {
			panic(err)
		}
	}
	fillTable(d.node, 0, s.ballast[smallest])
}

// fillTable fills a table with most items, or until little more than what a node keeps free that has so many peers, and returns their number.
func fillTable(n *Node, peers, most int) (items int) {
	low := n.credit.low(peers) + int64(aheadSegments*n.table.SegmentBytes())
	value := []byte(strings.Repeat("x", 600))
	for i := range most {
		if most == 1<<30 && int64(n.table.FreeBytes()) <= low+2*int64(n.table.SegmentBytes()) {
			return i
		}
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
	return most
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

// Now is the time that the lane's ticks have taken, if none was late.
func (e simNodeEnv) Now() uint64 { return e.lane.tick * uint64(tickBusy) }

func (e simNodeEnv) Send(to uint8, m *Message) {
	if m.Kind == INV && m.Bits&BitReplay == 0 {
		if op := e.lane.flight.get(m.ID); op != nil && op.Tag != 0 {
			e.s.ops[op.Tag].attempt(op)
		}
	}
	e.nodeLane.Send(to, m)
}

func (e simNodeEnv) Done(op *Op) {
	if op.Client == nil {
		e.s.counts.collected += b2i(op.Tag == 0 && op.Result.Status == Deleted)
		e.s.over(op)
	}
	e.nodeLane.Done(op)
}

// Start, Send, Flush, Stats and Close make it the node's Transport: nothing leaves before Flush.
func (d *simNode) Start(Handler) error { return nil }

// SetPeers has nothing to do: the simulation says who is connected.
func (d *simNode) SetPeers([]Peer) {}

// Reset ends the node's channels.
func (d *simNode) Reset(Member) {
	for number := uint8(1); number <= MaxMember; number++ {
		if peer := d.node.lanes[0].lane.members[number]; d.up&bit(number) != 0 {
			d.PeerDown(peer, errSimCut)
		}
	}
	d.out = d.out[:0]
}

func (d *simNode) Send(to uint8, m *Message) {
	if l := d.r.s.link(d.r.index, int(to)-1); l != nil && l.members[l.side(d.r)] == d.r && l.ends[l.side(d.r)] == simUp {
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
	d.up |= bit(peer.Number)
	if hook := d.r.s.hooks.peerUp; hook != nil {
		defer hook(d, peer)()
	}
	return d.node.PeerUp(peer)
}

func (d *simNode) PeerDown(peer Member, err error) {
	d.up &^= bit(peer.Number)
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
	d.r.s.counts.putOff += b2i(d.node.credit.short.Load())
	d.node.tickLanes(&d.pass)
	if d.r.ticks%ticksToIdle == 0 {
		if hook := d.r.s.hooks.housekeeping; hook != nil {
			hook(d)
		}
		d.node.keepHouse(simNow, &d.pass)
	}
	d.node.Flush()
	d.pass.end()
}

func (d *simNode) newOp() *Op { return d.node.NewOp() }

func (d *simNode) freeOp(op *Op) { d.node.FreeOp(op) }

// acted looks for evictions that the node has begun, which the history has to know of.
func (d *simNode) acted() {
	s := d.r.s
	if s.cfg.dynamic {
		d.actedInView()
	}
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
			o.attempt(op)
			op.Tag = o.tag
			s.say("%s: evicts %s", d.r.name(), op.Key)
		}
	}
	if len(d.out) > 0 {
		s.fail("%s has not flushed %d messages, the first of them %s", d.r.name(), len(d.out), showMessage(d.out[0].m))
	}
}
