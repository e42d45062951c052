package replication

import (
	"context"
	"fmt"
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"hermesd/replication/views"
)

// membership is what the node knows of its group: the view that it has entered, its lease, and the channels to the view's other members. The control
// plane (package views) tells of views and leases through the methods of views.Host; the transport tells of channels.
type membership struct {
	node     *Node
	changing sync.Mutex           // held while a view is entered, and while a channel comes or goes
	passes   [MaxMember + 1]pass  // of the peers' receivers
	heard    [MaxMember + 1]bool  // likewise: something has come through the channel
	lost     [MaxMember + 1]bool  // likewise: a message of the channel was dropped, and so is all that follows it there
	stalls   [MaxMember + 1]stall // what waits for memory

	peers atomic.Uint64 // the view's other members
	epoch atomic.Uint64 // of the view that has been entered; 0: none
	left  atomic.Uint64 // numbers that were in a view, and whose credit has not been given back
	lease atomic.Int64  // until when this replica may serve, ns of views.Now

	mu          sync.Mutex
	view        views.View               // entered
	connected   uint64                   // peers that we hear
	downAt      [MaxMember + 1]time.Time // since when a peer is not connected
	interrupted uint64                   // peers whose channel has ended, though PeerDown has not come yet
	changed     chan struct{}            // closed, and made anew, when one who waits for a view must look again
	closed      bool
	empty       bool                   // there are no unique numbers left
	reason      atomic.Pointer[string] // why not ready
	explain     atomic.Pointer[func() string]
	news        atomic.Pointer[func()]
	waiters     chan struct{} // closed when the replica has served for the first time
	served      atomic.Bool   // it is
	asleep      atomic.Bool   // the clock is set for tickIdle
}

const forever = math.MaxInt64

var (
	_ views.Host  = (*Node)(nil)
	_ Handler     = (*Node)(nil)
	_ Interrupter = (*Node)(nil)
)

func (ms *membership) init(n *Node) {
	ms.node = n
	ms.waiters = make(chan struct{})
	ms.changed = make(chan struct{})
	ms.say("the replica has not joined its group yet")
}

func (ms *membership) say(why string) { ms.reason.Store(&why) }

// wakeWaiters has those look again who wait for a view. ms.mu is held.
func (ms *membership) wakeWaiters() {
	close(ms.changed)
	ms.changed = make(chan struct{})
}

// close makes the node refuse everything from now on.
func (ms *membership) close() {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	ms.say(shuttingDown)
	ms.closed = true
	ms.node.ready.Store(false)
	ms.wakeWaiters()
}

// wake makes the clock tick in tickBusy, if it sleeps.
func (ms *membership) wake() {
	if ms.asleep.Load() && ms.asleep.Swap(false) {
		ms.node.clock.Set(tickBusy)
	}
}

// Enter implements views.Host. The lanes enter one after the other; messages of the new view are taken only when all have.
func (n *Node) Enter(v views.View) {
	ms := &n.membership
	ms.changing.Lock()
	defer ms.changing.Unlock()
	if v.Epoch <= ms.epoch.Load() || !v.Has(n.self) {
		return
	}
	self := n.self.Number
	peers := v.Numbers() &^ bit(self)
	ms.listPeers(&v)
	view := engineView(&v, n.self)
	n.room.setOwners(v.Serving()|bit(self), self, v.Serving()&bit(self) != 0)
	n.room.setLow(n, peers)
	if low, memory := n.room.low.Load(), int64(n.table.MemoryBytes()); low > memory/2 && peers != 0 {
		n.log.Warn().Int64("kept_free", low).Int64("memory", memory).Int("members", len(v.Members)).
			Msg("the group has grown so large that more than half of the memory is kept free for updates under way: raise the memory limit or lower the item size limit")
	}
	var pass pass
	for i := range n.lanes {
		nl := &n.lanes[i]
		nl.lock()
		nl.lane.SetView(view)
		nl.unlock(&pass)
	}
	ms.entered(v, peers)
	if v.Serving()&bit(self) == 0 {
		n.catchUp.begin(n)
	} else {
		n.catchUp.finish()
	}
	n.admitAgain(&pass)
	n.Flush()
	pass.end()
}

// listPeers has channels set up with the view's members. What a new one may send is settled between the two of them.
func (ms *membership) listPeers(v *views.View) {
	n := ms.node
	var list []Peer
	for _, r := range v.Members {
		if r.Number == n.self.Number {
			continue
		}
		list = append(list, Peer{Member: r.Member, Address: r.Address})
		if !ms.view.Has(r.Member) {
			n.credit.begin(r.Number)
		}
	}
	if n.transport != nil {
		n.transport.SetPeers(list)
	}
}

// engineView is the view as a lane knows it.
func engineView(v *views.View, self Member) View {
	view := View{Epoch: v.Epoch, Self: self, CatchingUp: v.Numbers() &^ v.Serving()}
	for _, r := range v.Members {
		view.Members = append(view.Members, r.Member)
	}
	return view
}

// entered publishes the view that all lanes have entered.
func (ms *membership) entered(v views.View, peers uint64) {
	n := ms.node
	ms.mu.Lock()
	defer ms.mu.Unlock()
	now := n.now()
	for _, r := range v.Members {
		if !ms.view.Has(r.Member) {
			ms.connected &^= bit(r.Number)
			ms.downAt[r.Number] = now
		}
	}
	ms.connected &= peers
	ms.left.Or(ms.peers.Load() &^ peers)
	ms.view = v
	ms.peers.Store(peers)
	ms.epoch.Store(v.Epoch)
	ms.wakeWaiters()
	if ms.closed {
		return
	}
	ms.setReady()
	n.log.Info().Uint64("epoch", v.Epoch).Uint64("generation", v.Generation).Int("members", len(v.Members)).
		Bool("serving", n.ready.Load()).Msg("view entered")
	ms.noteServing()
}

// setReady makes the node serve, under its lease, or not, by its view. ms.mu is held.
func (ms *membership) setReady() {
	serving := ms.view.Serving()&bit(ms.node.cfg.Self.Number) != 0
	switch {
	case ms.empty:
		return // that has been said
	case serving:
		ms.say("the replica has no lease")
	default:
		ms.say("the replica is catching up with its group")
	}
	ms.node.ready.Store(serving)
}

// exhausted stops serving for want of unique numbers; replenished ends that.
func (ms *membership) exhausted(why string) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if !ms.closed {
		ms.empty = true
		ms.say(why)
		ms.node.ready.Store(false)
	}
}

func (ms *membership) replenished() {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if !ms.empty || ms.closed {
		return
	}
	ms.empty = false
	if ms.view.Epoch != 0 {
		ms.setReady()
	}
}

// noteServing lets WaitReady go on once the replica serves.
func (ms *membership) noteServing() {
	if !ms.served.Load() && ms.node.Serves() && !ms.served.Swap(true) {
		close(ms.waiters)
	}
}

// Renew implements views.Host.
func (n *Node) Renew(until int64) {
	n.membership.lease.Store(until)
	n.membership.noteServing()
}

// Restart implements views.Host: the replica begins a new life, with an empty memory. Operations under way are answered Unavailable: what became of
// those updates is decided by the others.
func (n *Node) Restart(self Member) {
	ms := &n.membership
	ms.lease.Store(0)
	n.ready.Store(false)
	first := ms.epoch.Load() == 0
	ms.mu.Lock()
	if !ms.closed && !first {
		ms.say("the replica was removed from its group, and begins anew")
	}
	ms.interrupted = ^uint64(0)
	ms.wakeWaiters()
	ms.mu.Unlock()
	n.catchUp.end()
	n.transport.Reset(self)

	ms.changing.Lock()
	defer ms.changing.Unlock()
	if !first {
		n.log.Info().Uint64("incarnation", self.Incarnation).Msg("memory is cleared; joining as a new incarnation")
	}
	n.self = self
	for i := range n.lanes {
		nl := &n.lanes[i]
		nl.lock()
		nl.lane.Abandon("the replica was removed from its group: whether this was done is not known")
		nl.items.Clear()
		nl.lane = n.engine(i)
		nl.unlock(nil)
	}
	n.credit.clear()
	n.room.at.Store(0)
	ms.mu.Lock()
	defer ms.mu.Unlock()
	ms.view, ms.connected, ms.interrupted = views.View{}, 0, 0
	ms.peers.Store(0)
	ms.left.Store(0) // clear has given it back
	ms.epoch.Store(0)
}

// Status implements views.Host.
func (n *Node) Status() views.Status {
	ms := &n.membership
	ms.mu.Lock()
	s := views.Status{Epoch: ms.epoch.Load(), Memory: n.memory()}
	now := n.now()
	for set := ms.peers.Load() &^ ms.connected; set != 0; set &= set - 1 {
		if number := lowest(set); now.Sub(ms.downAt[number]) > n.cfg.Unreachable/2 {
			s.Unreachable |= bit(number)
		}
	}
	ms.mu.Unlock()
	s.Settled, s.CaughtUp = true, true
	for i := range n.lanes {
		s.Settled = s.Settled && !n.lanes[i].unsettled.Load()
		s.CaughtUp = s.CaughtUp && !n.lanes[i].behind.Load()
	}
	if s.Epoch != ms.epoch.Load() {
		s.Settled, s.CaughtUp = false, false // another view has been entered meanwhile
	}
	return s
}

// memory says what the group has to know of this replica's memory before it joins, or another one does.
func (n *Node) memory() views.Memory {
	kept := func(peers int) uint64 { return uint64(n.credit.reserve(peers) + n.aheadBytes(peers)) }
	total := n.table.MemoryBytes()
	return views.Memory{Total: total, Taken: total - min(total, n.table.FreeBytes()), Kept: kept(1), KeptEach: kept(2) - kept(1),
		KeepsAll: n.cfg.DisableEvictions}
}

// Serves reports whether the replica may answer from what it holds: it is a serving member of a view, and its lease is live by a clock reading made
// during the call. One call covers all requests that have been read before it.
func (n *Node) Serves() bool {
	if !n.ready.Load() {
		return false
	}
	until := n.membership.lease.Load()
	return until == forever || views.Now() < until
}

// WaitReady returns when the replica has served, or ctx ends.
func (n *Node) WaitReady(ctx context.Context) error {
	select {
	case <-n.membership.waiters:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", n.Reason(), ctx.Err())
	}
}

// Reason says why the replica does not serve, in words for a client.
func (n *Node) Reason() string {
	reason := *n.membership.reason.Load()
	if explain := n.membership.explain.Load(); explain != nil {
		if more := (*explain)(); more != "" {
			reason += ": " + more
		}
	}
	return reason
}

// Explain gives the node words of the control plane's to add to Reason; they may be empty.
func (n *Node) Explain(why func() string) { n.membership.explain.Store(&why) }

// OnNews gives the node a function that is called when Status has something new to say that the group may wait for. It must not wait for anything.
func (n *Node) OnNews(tell func()) { n.membership.news.Store(&tell) }

func (ms *membership) tellNews() {
	if tell := ms.news.Load(); tell != nil {
		(*tell)()
	}
}

// CurrentView is the view that the replica has entered. Its members must not be changed.
func (n *Node) CurrentView() views.View {
	ms := &n.membership
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return ms.view
}

// Members returns the numbers of members of the view and how many of them are connected, this one included.
func (n *Node) Members() (members, connected int) {
	ms := &n.membership
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return len(ms.view.Members), bits.OnesCount64(ms.connected) + 1
}

// PeerUp implements Handler.
func (n *Node) PeerUp(peer Member) error {
	ms := &n.membership
	ms.changing.Lock()
	defer ms.changing.Unlock()
	if !ms.view.Has(peer) {
		return fmt.Errorf("replica %v is not in the view of epoch %d", peer, ms.epoch.Load())
	}
	ms.mu.Lock()
	ms.interrupted &^= bit(peer.Number)
	ms.mu.Unlock()
	ms.heard[peer.Number], ms.lost[peer.Number] = false, false
	n.credit.reset(peer.Number)
	for i := range n.lanes {
		nl := &n.lanes[i]
		nl.lock()
		nl.lane.PeerUp(peer)
		nl.unlock(&ms.passes[peer.Number])
	}
	n.grant(peer.Number)
	n.transport.Flush()
	ms.passes[peer.Number].end()
	n.catchUp.wake()
	return nil
}

// hear notes that something has come through a peer's channel: it has accepted us, as we have it.
func (ms *membership) hear(peer Member) {
	ms.heard[peer.Number] = true
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if ms.view.Has(peer) {
		ms.connected |= bit(peer.Number)
		ms.node.log.Debug().Uint8("peer", peer.Number).Msg("replica connected")
	}
}

// Interrupt implements Interrupter.
func (n *Node) Interrupt(peer Member) {
	ms := &n.membership
	ms.mu.Lock()
	ms.interrupted |= bit(peer.Number)
	ms.wakeWaiters()
	ms.mu.Unlock()
}

// PeerDown implements Handler.
func (n *Node) PeerDown(peer Member, err error) {
	ms := &n.membership
	ms.changing.Lock()
	defer ms.changing.Unlock()
	n.credit.down(peer.Number)
	ms.stalls[peer.Number].clear()
	for i := range n.lanes {
		nl := &n.lanes[i]
		nl.lock()
		nl.lane.PeerDown(peer)
		nl.unlock(&ms.passes[peer.Number])
	}
	ms.passes[peer.Number].end()
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if ms.connected&bit(peer.Number) != 0 {
		ms.connected &^= bit(peer.Number)
		ms.downAt[peer.Number] = n.now()
		n.log.Debug().Uint8("peer", peer.Number).Err(err).Msg("replica disconnected")
	}
	n.catchUp.wake()
}

// Receive implements Handler.
func (n *Node) Receive(m *Message) {
	ms := &n.membership
	from := m.From.Number
	if ms.lost[from] {
		return
	}
	if m.Epoch > ms.epoch.Load() && !ms.awaitEpoch(m) {
		ms.lost[from] = true
		return
	}
	if !ms.heard[from] {
		ms.hear(m.From)
	}
	if m.Kind == CREDIT {
		n.credit.came(from, int64(m.ID))
		n.admitAgain(&ms.passes[from])
		return
	}
	if m.Kind == NEEDROOM {
		n.room.wanted.Store(int64(m.ID)) // the clock makes it, not the reader of a channel
		return
	}
	n.receive(m, &ms.passes[from])
}

// awaitEpoch holds a channel whose sender has entered a view that this member has not (design section 4, "View change"): what comes is not
// to be lost, and not to be taken by the rules of the old view. What the batch has made so far is not held. It reports false if the channel
// has ended before.
func (ms *membership) awaitEpoch(m *Message) bool {
	n, from := ms.node, m.From.Number
	n.transport.Flush()
	ms.passes[from].end()
	for {
		ms.mu.Lock()
		interrupted, changed := ms.closed || ms.interrupted&bit(from) != 0, ms.changed
		ms.mu.Unlock()
		switch {
		case interrupted:
			return false
		case m.Epoch <= ms.epoch.Load():
			return true
		}
		<-changed
	}
}

// EndBatch implements Handler: what the batch made for peers and clients is sent, and memory kept ahead of what comes next.
func (n *Node) EndBatch(peer Member) {
	ms := &n.membership
	n.grantAll()
	n.transport.Flush()
	ms.passes[peer.Number].end()
	if !n.hasRoom(n.room.low.Load()) || ms.stalls[peer.Number].lanes.Load() != 0 {
		n.makeSomeRoom(n.room.low.Load(), stepsOfBatch, n.room.now.Load(), &ms.passes[peer.Number])
		n.unstall(peer.Number, &ms.passes[peer.Number])
		n.transport.Flush()
		ms.passes[peer.Number].end()
	}
}

// The ticks of lanes: short while something is under way, long otherwise.
const (
	tickBusy = 2 * time.Millisecond
	tickIdle = 100 * time.Millisecond
)

// timing in ticks of tickBusy: lanes tick only while they are busy. Timeout is in nanoseconds.
func timing(opTimeout time.Duration) Timing {
	return Timing{Probe: 5, Yield: 3, Clock: 2, Timeout: uint64(opTimeout)}
}

// keepTime ticks the lanes that are busy, and makes room ahead of need. It is the goroutine of the clock, until that is closed.
func (n *Node) keepTime() {
	defer n.done.Done()
	asleep := &n.membership.asleep
	var pass pass
	lastCheck := time.Now()
	for n.clock.Set(tickBusy); n.clock.Wait() == nil; {
		asleep.Store(false)
		busy := n.tickLanes(&pass)
		if now := time.Now(); now.Sub(lastCheck) >= tickIdle {
			lastCheck = now
			n.keepHouse(uint32(now.Unix()), &pass)
		}
		n.Flush()
		pass.end()
		if busy {
			n.clock.Set(tickBusy)
			continue
		}
		n.clock.Set(tickIdle)
		asleep.Store(true)
		if n.anyBusy() { // those that became so before could not wake it
			n.membership.wake()
		}
	}
}

// keepHouse does what is due every tickIdle, now and then in Unix seconds.
func (n *Node) keepHouse(now uint32, pass *pass) {
	n.forgetSettled()
	n.reserveUnique()
	n.keepRoom(now, pass)
}

func (n *Node) anyBusy() bool {
	for i := range n.lanes {
		if n.lanes[i].busy.Load() {
			return true
		}
	}
	return false
}

// roomPatience is how long an update waits for room, in nanoseconds, where nothing may be evicted for it.
const roomPatience = uint64(200 * time.Millisecond)

func (n *Node) tickLanes(pass *pass) (busy bool) {
	starved := false
	for i := range n.lanes {
		nl := &n.lanes[i]
		if !nl.busy.Load() {
			continue
		}
		busy = true
		nl.lock()
		nl.lane.Tick()
		if nl.starved.Load() {
			nl.admitAgain()
			if n.cfg.DisableEvictions {
				nl.lane.RefuseRoom(roomPatience)
			}
			starved = starved || nl.starved.Load()
		}
		nl.unlock(pass)
	}
	if starved {
		n.moreRoom(stepsOfTick, pass)
	}
	return busy
}
