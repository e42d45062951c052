package replication

import (
	"errors"
	"fmt"
	"net"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"hermesd/table"
)

// Config says what replica a Node is, and of which group.
type Config struct {
	Self             uint8            // this replica's number, 1..MaxMember; 0 in a group of one without numbers: 1
	Group            map[uint8]string // replication addresses (host:port) by number, Self's included; empty: a group of one
	Listener         net.Listener     // for the other replicas, listening on Group[Self]; nil in a group of one
	Table            *table.Table     // the node closes nothing of it
	ItemSizeMax      uint32           // bytes, memcached's -I
	DisableEvictions bool             // memcached's -M: a full table refuses updates instead
	OpTimeout        time.Duration    // an operation that the group has not finished by then is answered Unavailable; 0: 3 s
	Logger           zerolog.Logger
}

// Node is one replica: it owns the lanes' engines and their locks, drives them with what clients, peers and time bring,
// and makes room in the table. All methods are safe for concurrent use.
type Node struct {
	cfg       Config
	self      Member
	table     *table.Table
	lanes     [table.Lanes]nodeLane
	transport Transport
	log       zerolog.Logger
	ops       sync.Pool

	unique atomic.Uint64
	ready  atomic.Bool
	alone  bool // a group of one

	membership membership
	credit     credit
	room       room
	counters   counters

	stop chan struct{}
	done sync.WaitGroup
}

// nodeLane is a lane's engine, and the world that it sees.
type nodeLane struct {
	node  *Node
	items *table.Lane // its lock is the lane's
	lane  *Lane

	// finished are the operations to be handed back once the lock is released, a list by Op.next.
	finished, lastFinished *Op

	// What readers without the lock have to know, as of the last release of the lock.
	slow  atomic.Bool   // operations wait, or a flush is under way: reads must take their place in the queues
	floor atomic.Uint64 // F's Write word; F has no steps
	busy  atomic.Bool   // Tick has something to do

	_ [64]byte // the next lane's atomics lie on lines of their own
}

// New starts a replica. A group of one serves at once; another once all of its replicas are connected.
func New(cfg Config) (*Node, error) {
	if cfg.Self == 0 {
		cfg.Self = 1
	}
	if len(cfg.Group) == 0 {
		cfg.Group = map[uint8]string{cfg.Self: ""}
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.OpTimeout == 0 {
		cfg.OpTimeout = 3 * time.Second
	}
	n := &Node{
		cfg: cfg, table: cfg.Table, log: cfg.Logger, stop: make(chan struct{}),
		self:  Member{Number: cfg.Self, Incarnation: uint64(time.Now().UnixNano())},
		alone: len(cfg.Group) == 1,
	}
	n.ops.New = func() any { return new(Op) }
	// Unique numbers of an earlier life lie below, as long as the clock has not been set back and fewer than a million a second
	// were taken.
	n.unique.Store(uint64(time.Now().UnixMicro()))
	n.membership.init(n)
	if err := n.credit.init(n.table.MemoryBytes(), cfg.ItemSizeMax, n.membership.expected); err != nil && !n.alone {
		return nil, err
	}
	n.room.init(n)
	for i := range n.lanes {
		nl := &n.lanes[i]
		nl.node, nl.items = n, n.table.Lane(i)
		nl.lane = NewLane(uint8(i), nl, nl.items, fits{n.table}, timing(cfg.OpTimeout))
		nl.lane.SetView(n.membership.view())
	}
	if n.alone {
		n.ready.Store(true)
	} else if err := n.startTransport(); err != nil {
		return nil, err
	}
	n.done.Add(1)
	go n.keepTime()
	return n, nil
}

func (c *Config) validate() error {
	if c.Table == nil {
		return errors.New("replication: Config.Table is nil")
	}
	if _, ok := c.Group[c.Self]; !ok {
		return fmt.Errorf("replica %d is not in its own group %s", c.Self, groupString(c.Group))
	}
	for number := range c.Group {
		if number == 0 || number > MaxMember {
			return fmt.Errorf("replica number %d is not in 1..%d", number, MaxMember)
		}
	}
	if len(c.Group) > 1 && c.Listener == nil {
		return errors.New("replication: Config.Listener is nil in a group of several")
	}
	return nil
}

func groupString(group map[uint8]string) string {
	numbers := make([]int, 0, len(group))
	for n := range group {
		numbers = append(numbers, int(n))
	}
	sort.Ints(numbers)
	s := ""
	for i, n := range numbers {
		if i > 0 {
			s += ","
		}
		s += fmt.Sprintf("%d=%s", n, group[uint8(n)])
	}
	return s
}

func (n *Node) startTransport() error {
	t, err := NewTCP(TCPConfig{Self: n.self, Group: n.cfg.Group, Listener: n.cfg.Listener,
		ValueMax: int(n.cfg.ItemSizeMax), Logger: n.log})
	if err != nil {
		return err
	}
	n.transport = t
	return t.Start(n)
}

// Close leaves the group: it ends the channels to the other replicas and returns when nothing of the node runs any more. Operations in
// flight are answered Unavailable.
func (n *Node) Close() error {
	n.ready.Store(false)
	close(n.stop)
	n.done.Wait()
	var err error
	if n.transport != nil {
		err = n.transport.Close()
	}
	for i := range n.lanes {
		nl := &n.lanes[i]
		nl.lock()
		nl.lane.Abandon("this replica is shutting down")
		nl.unlock(nil)
	}
	return err
}

// NewOp returns an op for Submit.
func (n *Node) NewOp() *Op { return n.ops.Get().(*Op) }

// FreeOp gives back an op that is the caller's. Its Result.Value must not be used any more.
func (n *Node) FreeOp(op *Op) {
	op.reset()
	n.ops.Put(op)
}

func laneOf(hash uint64) int { return table.LaneOf(hash) }

// Submit runs op. If it returns true, op.Result is the answer; otherwise op is the engine's until op.Client.Done.
func (n *Node) Submit(op *Op) (done bool) {
	if !n.ready.Load() {
		op.Result = Result{Status: Unavailable, Err: n.Reason(), Value: op.Result.Value[:0]}
		return true
	}
	if op.Kind != OpGet && op.Kind != OpDelete {
		n.makeRoomFor(op)
	}
	nl := &n.lanes[laneOf(op.Hash)]
	nl.lock()
	done = nl.lane.Submit(op)
	nl.unlock(nil)
	return done
}

// FlushAll makes everything stored before it absent, in every lane of every replica. op.Kind must be OpFlush; the rest is as
// with Submit.
func (n *Node) FlushAll(op *Op) (done bool) {
	if !n.ready.Load() {
		op.Result = Result{Status: Unavailable, Err: n.Reason()}
		return true
	}
	if n.alone {
		for i := range n.lanes {
			nl := &n.lanes[i]
			nl.lock()
			nl.lane.Submit(op)
			nl.unlock(nil)
		}
		return true
	}
	all := &flushAll{node: n, op: op}
	all.left.Store(table.Lanes)
	for i := range n.lanes {
		part := n.NewOp()
		part.Kind, part.Client = OpFlush, all
		nl := &n.lanes[i]
		nl.lock()
		done := nl.lane.Submit(part)
		nl.unlock(nil)
		if done {
			all.Done(part)
		}
	}
	return false
}

// flushAll gathers the flushes of all lanes into the answer of one operation.
type flushAll struct {
	node   *Node
	op     *Op
	left   atomic.Int32
	failed atomic.Pointer[string]
}

func (f *flushAll) Done(part *Op) Flusher {
	if part.Result.Status == Unavailable {
		why := part.Result.Err
		f.failed.Store(&why)
	}
	f.node.FreeOp(part)
	if f.left.Add(-1) > 0 {
		return nil
	}
	f.op.Result.Status = Flushed
	if why := f.failed.Load(); why != nil {
		f.op.Result = Result{Status: Unavailable, Err: *why}
	}
	return f.op.Client.Done(f.op)
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
	nl.publishFloor()
	if slow := l.queues.any() || l.floor.invalid; slow != nl.slow.Load() {
		nl.slow.Store(slow)
	}
	if busy := !l.Idle(); busy != nl.busy.Load() {
		nl.busy.Store(busy)
		if busy {
			nl.node.membership.wake()
		}
	}
	op := nl.finished
	nl.finished, nl.lastFinished = nil, nil
	nl.items.Unlock()
	for op != nil {
		next := op.next
		op.next = nil
		nl.node.handBack(op, pass)
		op = next
	}
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
		nl.node.credit.spend(to, m)
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

func (nl *nodeLane) Unique() uint64 { return nl.node.unique.Add(1) }

func (nl *nodeLane) Admit(keyLen, valueLen int) bool {
	return nl.node.admit(itemCost(keyLen, valueLen))
}

type fits struct{ *table.Table }

func (f fits) Fits(keyLen, valueLen int, flags uint32) bool {
	return f.Table.Fits(keyLen, valueLen, flags)
}
