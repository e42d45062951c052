package replication

import (
	"context"
	"fmt"
	"hash/crc64"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"hermesd/replication/transporttest/proxy"
	"hermesd/replication/views"
	"hermesd/table"
)

// cluster is a group of replicas in this process, over real sockets, which can be cut off from each other and restarted. Its views are made by the
// test, and its leases do not end.
type cluster struct {
	t       testing.TB
	o       clusterOptions
	group   map[uint8]string
	view    views.View
	proxies []*proxy.Proxy // by index of the member that they stand before; nil: nothing is cut
	nodes   []*Node
	tables  []*table.Table
}

type clusterOptions struct {
	replicas         int
	memoryBytes      uint64
	itemSizeMax      uint32
	disableEvictions bool
	opTimeout        time.Duration // 0: as in production
	proxied          bool
}

// patience is how long a test waits for what must happen before it fails.
const patience = time.Minute

// newCluster starts a group and waits until all serve.
func newCluster(t testing.TB, o clusterOptions) *cluster {
	t.Helper()
	c := &cluster{t: t, o: o, group: make(map[uint8]string), nodes: make([]*Node, o.replicas), tables: make([]*table.Table, o.replicas)}
	listeners := make([]net.Listener, o.replicas)
	for i := range o.replicas {
		listeners[i] = c.listen()
		address := listeners[i].Addr().String()
		if o.proxied {
			p := proxy.New(t)
			p.Serve(address)
			c.proxies, address = append(c.proxies, p), p.Address()
		}
		c.group[uint8(i+1)] = address
	}
	t.Cleanup(func() {
		for i := range c.nodes {
			c.stop(i)
		}
	})
	for i := range o.replicas {
		c.start(i, listeners[i])
		c.view.Members = append(c.view.Members, views.Replica{Member: c.nodes[i].Self(), Address: c.group[uint8(i+1)], Serving: true})
	}
	c.enter()
	for i := range c.nodes {
		c.awaitReady(i)
	}
	return c
}

// enter has the view's members enter it, under the next epoch, one after the other.
func (c *cluster) enter() {
	c.view.Epoch++
	for _, r := range c.view.Members {
		v := c.view
		v.Members = slices.Clone(v.Members)
		c.nodes[r.Number-1].Enter(v)
	}
}

// remove has the others go on without replica i.
func (c *cluster) remove(i int) {
	c.view.Members = slices.DeleteFunc(c.view.Members, func(r views.Replica) bool { return r.Number == uint8(i+1) })
	c.enter()
}

// join has replica i join, catch up and serve.
func (c *cluster) join(i int) {
	c.t.Helper()
	c.list(i)
	c.awaitCaughtUp(i)
	c.serve(i)
}

// list makes replica i a member that catches up, once all others are settled.
func (c *cluster) list(i int) {
	c.t.Helper()
	for _, r := range c.view.Members {
		await(c.t, "all are settled", func() bool { return c.nodes[r.Number-1].Status().Settled })
	}
	c.view.Members = append(c.view.Members, views.Replica{Member: c.nodes[i].Self(), Address: c.group[uint8(i+1)]})
	slices.SortFunc(c.view.Members, func(a, b views.Replica) int { return int(a.Number) - int(b.Number) })
	c.enter()
}

func (c *cluster) awaitCaughtUp(i int) {
	c.t.Helper()
	n := c.nodes[i]
	defer func() {
		if c.t.Failed() {
			for j := range n.lanes {
				l := n.lanes[j].lane
				c.t.Logf("lane %d: %+v, peers %b open %b unmarked %b clock %d stable %d heard %v", j, l.join, l.peers, l.open, l.unmarked, l.clock, l.stable(), l.heard[:4])
			}
		}
	}()
	await(c.t, "the replica has caught up", func() bool {
		s := n.Status()
		return s.Epoch == c.view.Epoch && s.CaughtUp
	})
}

// serve lets replica i serve.
func (c *cluster) serve(i int) {
	for j := range c.view.Members {
		if r := &c.view.Members[j]; r.Number == uint8(i+1) {
			r.Serving = true
		}
	}
	c.enter()
}

func (c *cluster) listen() net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	return ln
}

// start starts a life of replica i.
func (c *cluster) start(i int, ln net.Listener) {
	c.t.Helper()
	tab, err := table.New(table.Config{MemoryBytes: c.o.memoryBytes, ItemSizeMax: c.o.itemSizeMax})
	if err != nil {
		c.t.Fatal(err)
	}
	self := Member{Number: uint8(i + 1), Incarnation: uint64(time.Now().UnixNano())}
	node, err := New(Config{Self: self, Replicas: c.o.replicas, Listener: ln, Table: tab, ItemSizeMax: c.o.itemSizeMax,
		DisableEvictions: c.o.disableEvictions, OpTimeout: c.o.opTimeout, Logger: zerolog.Nop()})
	if err != nil {
		tab.Close()
		c.t.Fatal(err)
	}
	node.Renew(forever)
	c.nodes[i], c.tables[i] = node, tab
}

// restart ends replica i and starts another life of it, which is empty and in no view. The group must be proxied.
func (c *cluster) restart(i int) {
	c.t.Helper()
	c.stop(i)
	c.remove(i)
	ln := c.listen()
	c.proxies[i].Serve(ln.Addr().String())
	c.start(i, ln)
}

func (c *cluster) stop(i int) {
	if c.nodes[i] == nil {
		return
	}
	if err := c.nodes[i].Close(); err != nil {
		c.t.Errorf("Close of replica %d: %v", i+1, err)
	}
	if err := c.tables[i].Close(); err != nil {
		c.t.Error(err)
	}
	c.nodes[i] = nil
}

// between calls f with what lies between replicas i and j: the proxy, and the number of the member that dials through it.
func (c *cluster) between(i, j int, f func(p *proxy.Proxy, number uint8)) {
	f(c.proxies[min(i, j)], uint8(max(i, j)+1))
}

// isolate cuts replica i off from all others; heal ends it.
func (c *cluster) isolate(i int) {
	for j := range c.nodes {
		if j != i {
			c.between(i, j, (*proxy.Proxy).Cut)
		}
	}
}

func (c *cluster) heal(i int) {
	for j := range c.nodes {
		if j != i {
			c.between(i, j, (*proxy.Proxy).Heal)
		}
	}
}

func (c *cluster) awaitReady(i int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.nodes[i].WaitReady(ctx); err != nil {
		c.t.Fatal(err)
	}
}

// await waits for what nobody tells: it looks again and again.
func await(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("gave up waiting until %s\n%s", what, goroutines())
		}
	}
}

func goroutines() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

// awaitRest waits until nothing is under way in any replica, and none has a reason to evict.
func (c *cluster) awaitRest() {
	c.t.Helper()
	await(c.t, "nothing is under way", func() bool {
		for _, n := range c.nodes {
			if n == nil {
				continue
			}
			if !c.o.disableEvictions && int64(n.table.FreeBytes()) < n.room.low.Load() {
				return false
			}
			for i := range n.lanes {
				nl := &n.lanes[i]
				nl.lock()
				idle := nl.lane.Idle()
				nl.unlock(nil)
				if !idle {
					return false
				}
			}
		}
		return true
	})
}

// holding is what a replica has of a key.
type holding struct {
	ts      table.Timestamp
	state   table.State
	flags   uint32
	exptime uint32
	cas     uint64
	bytes   int
	sum     uint64
}

// dump is all that a replica holds, but for what has expired: that is deleted some time or other, perhaps between two dumps.
func dump(n *Node) map[string]holding {
	held := make(map[string]holding)
	sums := crc64.MakeTable(crc64.ECMA)
	var value []byte
	for i := range n.lanes {
		nl := &n.lanes[i]
		nl.lock()
		nl.items.Each(func(key []byte, it *table.Item) bool {
			if it.Expired(uint32(time.Now().Unix())) {
				return true
			}
			value = nl.items.AppendValue(value[:0], it)
			held[string(key)] = holding{it.TS, it.State, it.Flags, it.Exptime, it.CAS, len(value), crc64.Checksum(value, sums)}
			return true
		})
		nl.unlock(nil)
	}
	return held
}

// requireSame fails unless all replicas, at rest, hold the same, and all of it valid. It returns what they hold.
func (c *cluster) requireSame() map[string]holding {
	c.t.Helper()
	c.awaitRest()
	// A key whose VAL was lost stays invalid until somebody asks for it.
	for _, n := range c.nodes {
		if n == nil {
			continue
		}
		for key, h := range dump(n) {
			if h.state&table.Invalid != 0 {
				newCaller(n).do(OpGet, key, "")
			}
		}
	}
	c.awaitRest()
	c.requireCredit()
	one := slices.IndexFunc(c.nodes, func(n *Node) bool { return n != nil })
	first := dump(c.nodes[one])
	differences := 0
	differ := func(format string, args ...any) {
		if differences++; differences <= 10 {
			c.t.Errorf(format, args...)
		}
	}
	for key, h := range first {
		if h.state != 0 {
			differ("%q is in state %d at rest", key, h.state)
		}
	}
	for i, n := range c.nodes {
		if n == nil {
			continue
		}
		other := dump(n)
		for key, h := range first {
			if other[key] != h {
				differ("%q: replica %d holds %+v, replica %d %+v", key, one+1, h, i+1, other[key])
			}
		}
		for key, h := range other {
			if _, ok := first[key]; !ok {
				differ("%q: replica %d holds nothing, replica %d %+v", key, one+1, i+1, h)
			}
		}
	}
	return first
}

// requireCredit fails unless, at rest, both ends of every channel have counted the same, and no memory is held for anybody who does not need it.
func (c *cluster) requireCredit() {
	c.t.Helper()
	why := ""
	agree := func() bool {
		for i, n := range c.nodes {
			if n == nil {
				continue
			}
			if taken := n.credit.taken.Load(); taken != 0 {
				why = fmt.Sprintf("replica %d holds %d bytes for updates that are not there", i+1, taken)
				return false
			}
			for j, m := range c.nodes {
				if i == j || m == nil {
					continue
				}
				n.credit.mu.Lock()
				sent, limit := n.credit.sent[j+1], n.credit.limit[j+1]
				n.credit.mu.Unlock()
				p := &m.credit.peers[i+1]
				p.mu.Lock()
				received, granted, promised := p.received, p.granted, p.promised
				p.mu.Unlock()
				if sent != received || limit != granted || promised != max(0, granted-received) {
					why = fmt.Sprintf("replica %d has sent %d of %d to replica %d, which has received %d of %d and promises %d",
						i+1, sent, limit, j+1, received, granted, promised)
					return false
				}
			}
		}
		return true
	}
	for deadline := time.Now().Add(10 * time.Second); !agree(); time.Sleep(time.Millisecond) { // a grant may be under way
		if time.Now().After(deadline) {
			c.t.Errorf("%s\n%s", why, c.describe())
			return
		}
	}
}

// describe is the state of memory and of waiting in all replicas, for a test that fails.
func (c *cluster) describe() string {
	var b strings.Builder
	for i, n := range c.nodes {
		if n == nil {
			continue
		}
		fmt.Fprintf(&b, "replica %d: free %d, low %d, slack %d, window %d, promised %d, taken %d, pending %d, stalled %d, claim %+v\n", i+1,
			n.table.FreeBytes(), n.room.low.Load(), n.credit.slack, n.credit.window, n.credit.promised.Load(), n.credit.taken.Load(),
			n.room.pending.Load(), n.counters.stalled.Load(), n.credit.claim)
		waiting, flying := 0, 0
		for j := range n.lanes {
			nl := &n.lanes[j]
			nl.lock()
			waiting, flying = waiting+nl.lane.queues.waiting, flying+nl.lane.flight.count
			nl.unlock(nil)
		}
		fmt.Fprintf(&b, "  %d operations wait, %d are in flight\n", waiting, flying)
		for number := range n.credit.peers {
			if p := &n.credit.peers[number]; p.up {
				p.mu.Lock()
				fmt.Fprintf(&b, "  peer %d: received %d granted %d promised %d; sent %d limit %d\n", number, p.received, p.granted, p.promised,
					n.credit.sent[number], n.credit.limit[number])
				p.mu.Unlock()
			}
		}
	}
	return b.String()
}

func hashOf(key []byte) uint64 { return table.Hash(key) }

func proxyCut(p *proxy.Proxy, number uint8) { p.Cut(number) }

func viewsNow() int64 { return views.Now() }
