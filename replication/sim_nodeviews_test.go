package replication

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"strings"

	"hermesd/bench/history"
	"hermesd/replication/views"
	"hermesd/table"
)

// Whole Nodes whose views change: lives, leases, partitions and the control plane are those of sim_views_test.go; the memory is full from the
// beginning, so that credit, lanes that stall, evictions and NEEDROOM meet with members that die, return, and catch up.

// drawNodesInViews draws from a seed a group of whole nodes whose views change.
func drawNodesInViews(seed uint64) simConfig {
	c := drawDynamic(seed)
	random := rand.New(rand.NewPCG(seed, 4))
	c.nodes = true
	c.replicas = pick(random, 2, 2, 3, 3, 3, 4, 5)
	c.witness = c.replicas == 2 && random.IntN(4) > 0 || random.IntN(12) == 0
	c.lanes = pick(random, 1, 2, simLaneMax)
	c.keys = c.lanes + random.IntN(12)
	c.clients = 1 + random.IntN(min(3, simClientsMax/c.replicas))
	c.ops = (160 + random.IntN(240)) / (c.replicas * c.clients)
	c.refusals, c.full = 0, 0
	c.valueBytes = pick(random, 300, 600, 3000, 7000, 8000)
	c.numbers = false
	c.noEvict = random.IntN(8) == 0
	c.gentle = random.IntN(8) > 0
	c.chunk = pick(random, uint32(2<<10), 5<<10, fetchBytes, fetchBytes)
	if c.uneven {
		c.chunk, c.tail = fetchBytes, min(c.tail, 20)
	}
	c.memory = pick(random, uint64(simMemory), simMemory*5/4, simMemory*3/2)
	c.shrinks = !c.noEvict && c.memory > simMemory && random.IntN(4) > 0
	c.busy = pick(random, 0, 10, 40, 150)
	if c.noEvict { // in smaller tables, rounding to segments is more than what is kept free
		c.memory = 2 * simMemory
	}
	c.lasting = random.IntN(2) == 0
	if c.replicas > 3 { // every channel and every view costs so many messages
		c.breaks, c.crashes, c.partitions = 3*c.breaks, 3*c.crashes, 3*c.partitions
	}
	if c.weights[history.Set] < 5 {
		c.weights[history.Set] += 10
	}
	if c.noEvict && c.timing.Timeout == 0 {
		c.timing.Timeout = 240
	}
	if random.IntN(4) == 0 {
		c.fill()
	}
	return c
}

// fill has busybodies begin many small updates in all lanes at once: each may take a segment.
func (c *simConfig) fill() {
	c.noEvict, c.memory, c.shrinks, c.busy, c.valueBytes = false, simMemory, false, 150, 600
}

// onlyNodesInViews makes every configuration one of whole nodes whose views change.
func (c *simConfig) onlyNodesInViews() { *c = drawNodesInViews(c.seed) }

// drawMemory is how much memory a process has, in bytes.
func (s *sim) drawMemory() uint64 {
	if s.newest.Epoch > 0 && s.chance(2) { // the first generation begins with what is larger
		return s.leastMemory(2)
	}
	return s.leastMemory(1)
}

// leastMemory is the least that a process of a generation may have when it begins.
func (s *sim) leastMemory(generation uint64) uint64 {
	if s.cfg.memory == 0 || s.cfg.shrinks && generation > 1 {
		return simMemory
	}
	return s.cfg.memory
}

// node is the node of a process, nil if it has none.
func (s *sim) node(i int) *simNode {
	if i >= len(s.replicas) || s.replicas[i] == nil {
		return nil
	}
	d, _ := s.replicas[i].drive.(*simNode)
	return d
}

// restart begins another life in the same process.
func (d *simNode) restart(r *simReplica) {
	old := d.lanes
	d.r = r
	for i := range d.lanes { // Restart makes the engines
		d.lanes[i] = &simNodeItems{Lane: old[i].Lane, r: r, expired: make(map[uint64]bool), held: make(map[uint64]table.Item)}
	}
	d.node.Restart(r.self)
	for i := range d.node.lanes {
		nl := &d.node.lanes[i]
		r.lanes = append(r.lanes, &simView{lane: nl.lane, items: nl.items})
	}
	d.node.Renew(forever)
	d.fetches, d.busy = 0, 0
}

// enter has the node enter a view. In the first one of a generation, the memory is made full.
func (d *simNode) enter(v views.View) {
	s := d.r.s
	me, _ := v.Find(d.r.self.Number)
	if d.node.membership.epoch.Load() == 0 && me.Serving {
		d.fill(s.leastMemory(v.Generation))
	}
	if m := s.hooks.entering; m != nil {
		m(d)
	}
	d.node.Enter(v)
}

// actedInView does what an input may have brought about where views change.
func (d *simNode) actedInView() {
	s := d.r.s
	for i := range s.keys {
		k := &s.keys[i]
		d.lanes[k.lane].check(k.hash, []byte(k.name))
	}
	d.fetchSoon()
}

// fetchSoon has the node fetch, if it is catching up and has been woken, as its goroutine would.
func (d *simNode) fetchSoon() {
	select {
	case <-d.node.catchUp.again:
		d.fetchAfter(1)
	default:
	}
}

func (d *simNode) fetchAfter(steps uint64) {
	s, r := d.r.s, d.r
	at := s.now + steps
	if d.fetches > s.now && d.fetches <= at {
		return
	}
	d.fetches = at
	s.at(at, r.index, func() {
		if r.dead || d.r != r || d.node.catchUp.stop == nil {
			return
		}
		d.fetches = 0
		if wait := d.node.fetchDue(d.node.catchUp.fetcher); wait > 0 {
			d.fetchAfter(s.cfg.steps(wait) + 1)
		}
		s.acted(r, -1, "")
	})
}

// simNodeItems are a lane's items, as the engine sees them. It remembers of the items that this member deletes whether they had expired, which
// updates have been valid, and which of the clients' keys the table has given up without a word: so a member evicts that is alone in its view.
type simNodeItems struct {
	*table.Lane
	r         *simReplica
	lane      *Lane
	found     table.Item
	foundHash uint64
	expired   map[uint64]bool       // by hash
	held      map[uint64]table.Item // by hash: keys that are stored and valid
}

func (i *simNodeItems) Find(hash uint64, key []byte, it *table.Item) bool {
	i.check(hash, key)
	if !i.Lane.Find(hash, key, it) {
		return false
	}
	i.found, i.foundHash = *it, hash
	return true
}

func (i *simNodeItems) Put(hash uint64, key []byte, it *table.Item, value []byte) error {
	if err := i.Lane.Put(hash, key, it, value); err != nil {
		return err
	}
	i.note(hash, it)
	return nil
}

func (i *simNodeItems) Update(it *table.Item) error {
	if it.State == table.Invalid|table.Tombstone && it.Finisher == i.r.self.Number {
		i.expired[i.foundHash] = i.found.Expired(simNow)
	}
	if err := i.Lane.Update(it); err != nil {
		return err
	}
	i.note(i.foundHash, it)
	return nil
}

func (i *simNodeItems) Remove(it *table.Item) {
	i.note(i.foundHash, it)
	delete(i.held, i.foundHash)
	i.Lane.Remove(it)
}

// note notes what is stored of a client's key.
func (i *simNodeItems) note(hash uint64, it *table.Item) {
	s := i.r.s
	k := s.keyHashed(hash)
	if k == nil || !s.cfg.dynamic {
		return
	}
	delete(i.held, hash)
	if it.State&table.Invalid == 0 {
		s.valid[simUpdate{k.name, it.TS}] = true
		if it.State&table.Tombstone == 0 {
			i.held[hash] = *it
		}
	}
}

// check finds out whether the table has given a key up, and tells the history.
func (i *simNodeItems) check(hash uint64, key []byte) {
	was, held := i.held[hash]
	var it table.Item
	if !held || i.Lane.Find(hash, key, &it) {
		return
	}
	delete(i.held, hash)
	s, name := i.r.s, string(key)
	if was.Expired(simNow) || was.TS.Compare(i.lane.floor.ts) <= 0 {
		return // nobody can tell the difference
	}
	s.counts.evictedAlone++
	s.say("%s: alone, evicts %s", i.r.name(), name)
	o := s.begin(nil, evictor, i.r, history.Input{Kind: history.Delete, Key: name})
	o.over = true
	o.history.Return(o.id, history.Output{Status: history.Deleted})
}

func (s *sim) keyHashed(hash uint64) *simKey {
	for i := range s.keys {
		if s.keys[i].hash == hash {
			return &s.keys[i]
		}
	}
	return nil
}

// atRest reports whether no lane waits for memory, and every peer has been granted what it can be. (A table that is full and may not evict grants
// nothing.)
func (d *simNode) atRest() bool {
	n := d.node
	for set := n.membership.peers.Load(); set != 0; set &= set - 1 {
		peer := lowest(set)
		p := &n.credit.peers[peer]
		if n.membership.stalls[peer].lanes.Load() != 0 || !p.up || p.granted-p.received <= n.credit.window/2 && !d.r.s.cfg.noEvict {
			return false
		}
	}
	return d.busy == 0 && n.room.pending.Load() == 0 && n.membership.left.Load() == 0
}

// pending tells what of the node has not come to an end.
func (d *simNode) pending() string {
	n := d.node
	c := &n.credit
	var b strings.Builder
	fmt.Fprintf(&b, "\n    free %d, kept free %d, promised %d, taken %d, slack %d, window %d, claim %+v, evictions pending %d, may evict %v, left %b, busy %d", n.table.FreeBytes(), n.room.low.Load(),
		c.promised.Load(), c.taken.Load(), c.slack, c.window, c.claim, n.room.pending.Load(), n.room.evicts.Load(), n.membership.left.Load(), d.busy)
	for set := n.membership.peers.Load(); set != 0; set &= set - 1 {
		peer := lowest(set)
		p := &c.peers[peer]
		fmt.Fprintf(&b, "\n    %s: up %v, granted %d, received %d, promised %d; sent %d of %d; stalled lanes %d, bytes %d", memberName(peer), p.up, p.granted, p.received, p.promised,
			c.sent[peer], c.limit[peer], bits.OnesCount64(n.membership.stalls[peer].lanes.Load()), len(n.membership.stalls[peer].queue))
	}
	for i := range n.lanes {
		if l := n.lanes[i].lane; !l.CaughtUp() {
			fmt.Fprintf(&b, "\n    lane %d: complete %v, asked %v of %v, cursor %d", i, l.join.complete, l.join.asked, l.join.streamer, l.join.cursor)
			break
		}
	}
	return b.String()
}

// checkCredit checks, in a group at rest, that every node's books agree with its peers' and that nothing has leaked.
func (s *sim) checkCredit() {
	for _, r := range s.live() {
		d, is := r.drive.(*simNode)
		if !is {
			return
		}
		c := &d.node.credit
		promised := int64(0)
		for number := uint8(1); number <= MaxMember; number++ {
			p := &c.peers[number]
			promised += p.promised
			if d.node.membership.peers.Load()&bit(number) == 0 {
				if p.promised != 0 {
					s.fail("at the end, %s keeps %d bytes for %s, which is not in its view", r.name(), p.promised, memberName(number))
				}
				continue
			}
			theirs := &s.node(int(number) - 1).node.credit
			if sent, limit := theirs.sent[r.self.Number], theirs.limit[r.self.Number]; sent != p.received || limit != p.granted {
				s.fail("at the end, %s has sent %s %d bytes, may send %d, and is known to have sent %d and granted %d", memberName(number), r.name(), sent, limit, p.received, p.granted)
			}
			if p.granted != 0 && p.promised != max(0, p.granted-p.received) {
				s.fail("at the end, %s keeps %d bytes for %s, which may send %d", r.name(), p.promised, memberName(number), p.granted-p.received)
			}
		}
		if sum := c.promised.Load(); sum != promised || c.taken.Load() != 0 || c.claim.cost != 0 {
			s.fail("at the end, %s has promised %d bytes, keeps %d for that, %d for its own updates, and %d for one that waits", r.name(), promised, sum, c.taken.Load(), c.claim.cost)
		}
		if free := int64(d.node.table.FreeBytes()); free < promised {
			s.fail("at the end, %s has %d bytes free, and has promised %d", r.name(), free, promised)
		}
	}
}
