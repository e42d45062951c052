package replication

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"hermesd/replication/alarm"
	"hermesd/replication/views"
	"hermesd/table"
)

// Config says what replica a Node is, and of which group.
type Config struct {
	Self     Member       // this life of this replica; zero: a replica for itself, which needs no control plane
	Replicas int          // how many the group is meant to have, for checking that there is memory for it; 0: 1
	Listener net.Listener // for channels with the other replicas; nil for a replica for itself
	Path     Path         // TCPConfig's, as the next two; the node closes it, also when New fails
	NoPath   string
	PathOnly bool
	Unique   uint64 // unique numbers of earlier lives lie below; 0: taken from the clock
	// ReserveUnique notes on the disk that n more unique numbers may be used, and returns the bound below which they lie (views.Store). nil: there
	// is no bound, and none is noted.
	ReserveUnique func(n uint64) (from, to uint64, err error)
	// Unreachable: a member that cannot be reached for so long is reported; 0: 100 ms. Half of it, 500 ms at least, is for noticing that what was
	// sent is not acknowledged, the rest for connecting again.
	Unreachable      time.Duration
	Table            *table.Table  // the node closes nothing of it
	ItemSizeMax      uint32        // bytes, memcached's -I
	DisableEvictions bool          // memcached's -M: a full table refuses updates instead
	OpTimeout        time.Duration // an operation that the group has not finished by then is answered Unavailable; 0: 3 s
	Tracer           Tracer        // is told of every step of the protocol; nil: nobody is
	Logger           zerolog.Logger
}

// Node is one replica: it owns the lanes' engines and their locks, drives them with what clients, peers and time bring,
// and makes room in the table. All methods are safe for concurrent use.
type Node struct {
	cfg       Config
	self      Member // Restart changes it, while no transport runs
	table     *table.Table
	lanes     [table.Lanes]nodeLane
	transport Transport
	log       zerolog.Logger
	ops       sync.Pool
	opClock   func() uint64    // the lanes' Env.Now: monotonic, ns
	now       func() time.Time // for what is measured between events of the group, and paced; the simulation has its own
	engine    func(lane int) *Lane
	driven    bool // goroutines of the node's own call keepHouse, tickLanes and fetchDue; without, who has assembled it does

	unique    atomic.Uint64
	uniqueEnd atomic.Uint64 // numbers from here on have not been reserved
	ready     atomic.Bool
	alone     bool // a replica for itself: no transport, no control plane

	membership membership
	catchUp    catchUp
	credit     credit
	room       room
	counters   counters

	clock   *alarm.Alarm // of keepTime
	done    sync.WaitGroup
	closing sync.Once
	closed  error
}

// nodeLane is a lane's engine, and the world that it sees.
type nodeLane struct {
	node  *Node
	items *table.Lane // its lock is the lane's
	lane  *Lane

	// What Admit has taken in this locked section: memory, to be given back at its end; and of the update being started its cost, and the
	// peers that its INV has not been sent to.
	taken, cost int64
	unsent      uint64
	closed      bool // nothing may begin any more

	// finished are the operations to be handed back once the lock is released, a list by Op.next.
	finished, lastFinished *Op

	// What readers without the lock have to know, as of the last release of the lock.
	slow  atomic.Bool   // operations wait, a flush is under way, or the lane does not serve: reads must go through Submit
	floor atomic.Uint64 // F's Write word; F has no steps
	busy  atomic.Bool   // Tick has something to do

	// Likewise, for Status.
	unsettled atomic.Bool
	behind    atomic.Bool // not caught up

	starved atomic.Bool // operations may be waiting for room

	_ [64]byte // the next lane's atomics lie on lines of their own
}

// New starts a replica. One for itself serves at once; another when the control plane has it enter a view and gives it a lease.
func New(cfg Config) (*Node, error) {
	n, err := assemble(cfg)
	if err == nil {
		n.clock, err = alarm.New()
	}
	if err != nil {
		if cfg.Path != nil {
			_ = cfg.Path.Close()
		}
		return nil, err
	}
	n.driven = true
	if n.alone {
		n.membership.lease.Store(forever)
		n.Enter(views.View{Epoch: 1, Members: []views.Replica{{Member: n.self, Serving: true}}})
	} else {
		t, err := NewTCP(TCPConfig{Self: n.self, Listener: cfg.Listener, ValueMax: int(cfg.ItemSizeMax), Logger: n.log,
			PeerTimeout: peerTimeout(n.cfg.Unreachable), Path: cfg.Path, NoPath: cfg.NoPath, PathOnly: cfg.PathOnly})
		if err == nil {
			n.transport = t
			err = t.Start(n)
		}
		if err != nil {
			return nil, errors.Join(err, n.clock.Close())
		}
	}
	n.done.Add(1)
	go n.keepTime()
	return n, nil
}

// peerTimeout is when a channel on which nothing is acknowledged is broken, which leaves time to connect again before the member is reported as unreachable.
func peerTimeout(unreachable time.Duration) time.Duration { return max(unreachable/2, minPeerTimeout) }

// assemble makes the parts of a replica and connects them. Nothing drives it yet: no transport, no clock, no view.
func assemble(cfg Config) (*Node, error) {
	if cfg.Table == nil {
		return nil, errors.New("replication: Config.Table is nil")
	}
	if cfg.Self.Number > MaxMember {
		return nil, fmt.Errorf("replica number %d is not in 1..%d", cfg.Self.Number, MaxMember)
	}
	n := &Node{table: cfg.Table, log: cfg.Logger, alone: cfg.Self == Member{}, now: time.Now, opClock: monotonic}
	n.engine = func(lane int) *Lane {
		nl := &n.lanes[lane]
		l := NewLane(uint8(lane), nl, nl.items, fits{n.table}, timing(n.cfg.OpTimeout))
		l.TraceTo(n.cfg.Tracer)
		return l
	}
	if n.alone {
		cfg.Self = Member{Number: 1, Incarnation: uint64(time.Now().UnixNano())}
	}
	cfg.Replicas = max(cfg.Replicas, 1)
	cfg.OpTimeout = cmp.Or(cfg.OpTimeout, 3*time.Second)
	cfg.Unreachable = cmp.Or(cfg.Unreachable, 100*time.Millisecond)
	n.cfg, n.self = cfg, cfg.Self
	n.ops.New = func() any { return new(Op) }
	// Unique numbers of an earlier life lie below the clock, as long as that has not been set back and fewer than a million a second
	// were taken.
	n.unique.Store(cmp.Or(cfg.Unique, uint64(time.Now().UnixMicro())))
	n.uniqueEnd.Store(forever)
	if cfg.ReserveUnique != nil {
		from, to, err := cfg.ReserveUnique(uniqueReserve)
		if err != nil {
			return nil, err
		}
		n.unique.Store(from)
		n.uniqueEnd.Store(to)
	}
	n.catchUp.chunk = fetchBytes
	n.membership.init(n)
	if err := n.credit.init(n.table.MemoryBytes(), n.table.SegmentBytes(), cfg.ItemSizeMax, cfg.Replicas-1); err != nil && !n.alone {
		return nil, err
	}
	n.room.setLow(n, 0)
	for i := range n.lanes {
		nl := &n.lanes[i]
		nl.node, nl.items = n, n.table.Lane(i)
		nl.lane = n.engine(i)
	}
	return n, nil
}

// Self is the present life of the replica.
func (n *Node) Self() Member {
	ms := &n.membership
	ms.changing.Lock()
	defer ms.changing.Unlock()
	return n.self
}

// Close leaves the group: it ends the channels to the other replicas and returns when nothing of the node runs any more. Operations in
// flight are answered Unavailable, and so is what is submitted later. Reads must have ended before the table is closed.
func (n *Node) Close() error {
	n.closing.Do(func() {
		n.membership.close()
		_ = n.clock.Close()
		n.catchUp.end()
		n.done.Wait()
		if n.transport != nil {
			n.closed = n.transport.Close()
		}
		for i := range n.lanes {
			nl := &n.lanes[i]
			nl.lock()
			nl.closed = true
			nl.lane.Abandon(shuttingDown)
			nl.unlock(nil)
		}
	})
	return n.closed
}

const shuttingDown = "this replica is shutting down"

// NewOp returns an op for Submit.
func (n *Node) NewOp() *Op { return n.ops.Get().(*Op) }

// FreeOp gives back an op that is the caller's. Its Result.Value must not be used any more.
func (n *Node) FreeOp(op *Op) {
	op.reset()
	n.ops.Put(op)
}

// peerCount is the number of the view's other members.
func (n *Node) peerCount() int { return bits.OnesCount64(n.membership.peers.Load()) }

func laneOf(hash uint64) int { return table.LaneOf(hash) }

// Submit runs op. If it returns true, op.Result is the answer; otherwise op is the engine's until op.Client.Done.
func (n *Node) Submit(op *Op) (done bool) {
	if !n.ready.Load() {
		return n.refuse(op)
	}
	if op.Kind != OpGet && op.Kind != OpDelete {
		n.makeRoomFor(op)
		if n.cfg.DisableEvictions && n.isFullFor(op) {
			op.Result = Result{Status: OutOfMemory, Value: op.Result.Value[:0]}
			return true
		}
	}
	nl := &n.lanes[laneOf(op.Hash)]
	nl.lock()
	if nl.closed {
		nl.unlock(nil)
		return n.refuse(op)
	}
	done = nl.lane.Submit(op)
	nl.unlock(nil)
	return done
}

// refuse answers an operation that is not begun.
func (n *Node) refuse(op *Op) (done bool) {
	op.Result = Result{Status: Unavailable, Err: n.Reason(), Value: op.Result.Value[:0]}
	return true
}

// FlushAll makes everything stored before it absent, in every lane of every replica. op.Kind must be OpFlush; the rest is as
// with Submit.
func (n *Node) FlushAll(op *Op) (done bool) {
	if !n.ready.Load() {
		return n.refuse(op)
	}
	all := &flushAll{node: n, op: op}
	all.left.Store(table.Lanes + 1) // one for this loop, which therefore answers only what it alone has finished
	for i := range n.lanes {
		part := n.NewOp()
		part.Kind, part.Client = OpFlush, all
		nl := &n.lanes[i]
		nl.lock()
		done := true
		if nl.closed {
			n.refuse(part)
		} else {
			done = nl.lane.Submit(part)
		}
		nl.unlock(nil)
		if done {
			all.finish(part)
		}
	}
	return all.left.Add(-1) == 0 && all.answer()
}

// flushAll gathers the flushes of all lanes into the answer of one operation.
type flushAll struct {
	node   *Node
	op     *Op
	left   atomic.Int32
	failed atomic.Pointer[string]
}

// Done implements Client.
func (f *flushAll) Done(part *Op) Flusher {
	if last := f.finish(part); last {
		f.answer()
		return f.op.Client.Done(f.op)
	}
	return nil
}

// finish takes in one lane's answer; last: there are no more to come.
func (f *flushAll) finish(part *Op) (last bool) {
	if part.Result.Status == Unavailable {
		why := part.Result.Err
		f.failed.Store(&why)
	}
	f.node.FreeOp(part)
	return f.left.Add(-1) == 0
}

func (f *flushAll) answer() (done bool) {
	f.op.Result = Result{Status: Flushed, Value: f.op.Result.Value[:0]}
	if why := f.failed.Load(); why != nil {
		f.op.Result.Status, f.op.Result.Err = Unavailable, *why
	}
	return true
}

// Flush ends a pass of work: what it has produced for the other replicas is sent.
func (n *Node) Flush() {
	if n.transport != nil {
		n.transport.Flush()
	}
}

func (nl *nodeLane) lock() { nl.items.Lock() }

// unlock publishes what readers without the lock have to know, releases the lock, and hands back the operations that
// have finished: their flushers are added to pass, or called at once if pass is nil.
func (nl *nodeLane) unlock(pass *pass) {
	l := nl.lane
	nl.settle()
	nl.publishFloor()
	if nl.taken != 0 {
		nl.node.credit.taken.Add(-nl.taken)
		nl.taken = 0
	}
	if l.WaitsForRoom() && !nl.starved.Load() { // also for the end of others' updates, of which Admit knows nothing
		nl.starved.Store(true)
	}
	if slow := l.queues.waiting > 0 || l.floor.invalid || l.outside(); slow != nl.slow.Load() {
		nl.slow.Store(slow)
	}
	if busy := !l.Idle(); busy != nl.busy.Load() {
		nl.busy.Store(busy)
		if busy {
			nl.node.membership.wake()
		}
	}
	news := nl.publishStatus()
	l.letGo()
	op := nl.finished
	nl.finished, nl.lastFinished = nil, nil
	nl.items.Unlock()
	if news {
		nl.node.membership.tellNews()
	}
	for op != nil {
		next := op.next
		op.next = nil
		nl.node.handBack(op, pass)
		op = next
	}
}

// publishStatus notes what Status says of the lane, and reports whether that is something that the group waits for.
func (nl *nodeLane) publishStatus() (news bool) {
	if unsettled := !nl.lane.Settled(); unsettled != nl.unsettled.Load() {
		nl.unsettled.Store(unsettled)
		news = !unsettled
	}
	if behind := !nl.lane.CaughtUp(); behind != nl.behind.Load() {
		nl.behind.Store(behind)
		news = news || !behind
	}
	return news
}

// publishFloor lets no read pass by a flush that has begun. A key that is not stored is below the floor too: such reads see slow.
func (nl *nodeLane) publishFloor() {
	if f := nl.lane.floor.ts.Write; f != nl.floor.Load() {
		nl.slow.Store(true)
		nl.floor.Store(f)
	}
}

func (n *Node) handBack(op *Op, pass *pass) {
	if op.Client == nil { // an eviction, or an update whose client has been answered
		n.FreeOp(op)
		return
	}
	f := op.Client.Done(op)
	if f == nil {
		return
	}
	if pass == nil {
		f.Flush()
		return
	}
	pass.flushers = append(pass.flushers, f)
}

// pass gathers the client connections that a pass of work has replies for.
type pass struct{ flushers []Flusher }

func (p *pass) end() {
	for i, f := range p.flushers {
		f.Flush()
		p.flushers[i] = nil
	}
	p.flushers = p.flushers[:0]
}

// The lane's Env.

func (nl *nodeLane) Send(to uint8, m *Message) {
	nl.publishFloor() // before anybody can be told of it
	if m.Kind == INV {
		if nl.unsent&bit(to) != 0 && storesValue(m) && invCost(m) == nl.cost {
			nl.unsent &^= bit(to)
		} else {
			nl.node.credit.spend(to, m)
		}
	}
	nl.node.transport.Send(to, m)
}

func (nl *nodeLane) Done(op *Op) {
	if op.Kind == opEvict {
		nl.node.evicted(op)
	}
	if nl.lastFinished == nil {
		nl.finished = op
	} else {
		nl.lastFinished.next = op
	}
	nl.lastFinished = op
}

// processBegan is what monotonic counts from.
var processBegan = time.Now()

// monotonic is CLOCK_MONOTONIC in nanoseconds since the process was started: it goes on while the process is kept from running, and stands still only
// while the whole machine is suspended.
func monotonic() uint64 { return uint64(time.Since(processBegan)) }

func (nl *nodeLane) Now() uint64 { return nl.node.opClock() }

func (nl *nodeLane) Unique() uint64 { return nl.node.unique.Add(1) }

// Unique numbers are reserved so many at a time, and again when only half are left: a disk that cannot be written to is felt after
// billions of updates.
const uniqueReserve = 1 << 32

// reserveUnique is called by the clock. A replica whose numbers come to an end, which it cannot reserve, stops to serve.
func (n *Node) reserveUnique() {
	if n.cfg.ReserveUnique == nil || n.uniqueEnd.Load()-n.unique.Load() > uniqueReserve/2 {
		return
	}
	_, to, err := n.cfg.ReserveUnique(uniqueReserve)
	if err == nil {
		n.uniqueEnd.Store(to)
		n.membership.replenished()
		return
	}
	n.log.Error().Err(err).Msg("unique numbers cannot be reserved")
	if n.uniqueEnd.Load()-n.unique.Load() < uniqueLast {
		n.membership.exhausted("the data directory cannot be written to: " + err.Error())
	}
}

// uniqueLast is how many unique numbers are left when a replica stops to serve for want of them: more than what is under way can take.
const uniqueLast = 1 << 24

func (nl *nodeLane) Admit(keyLen, valueLen int) bool {
	nl.settle()
	n, cost := nl.node, itemCost(keyLen, valueLen)
	peers := nl.lane.peers
	if !n.credit.admit(peers, nl.lane.number, cost, int64(n.table.FreeBytes())) {
		nl.starved.Store(true)
		return false
	}
	nl.taken += cost
	nl.cost, nl.unsent = cost, peers
	return true
}

// settle gives back the credit of an update that was admitted and not sent. Where there is no channel now, the next one begins anew.
func (nl *nodeLane) settle() {
	if unsent := nl.unsent & nl.lane.open; unsent != 0 {
		nl.node.credit.refund(unsent, nl.cost)
	}
	nl.unsent = 0
}

// isFullFor reports whether op stores a new value that there is no room for. Without evictions, what is stored while members are away is there still when
// they return: the reserve of the whole group is kept at all times, and what a replica that catches up wants free for an entry, or it would not fit there.
func (n *Node) isFullFor(op *Op) bool {
	switch op.Kind {
	case OpSet, OpAdd, OpReplace, OpAppend, OpPrepend, OpCAS:
		if n.alone {
			return false // Put knows best
		}
		peers := max(n.peerCount(), n.cfg.Replicas-1)
		return int64(n.table.FreeBytes())-n.credit.reserve(peers)-n.aheadBytes(peers) < itemCost(len(op.Key), len(op.Value))
	}
	return false
}

type fits struct{ *table.Table }

func (f fits) Fits(keyLen, valueLen int, flags uint32) bool {
	return f.Table.Fits(keyLen, valueLen, flags)
}
