package replication

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// membership is what the node knows of its group. The members are those that it was started with; their incarnations are
// learnt when they connect. A replica that has been restarted has forgotten what it acknowledged, and is not let
// back into a group that holds anything: it would answer misses for what the others hold.
//
// A member is connected once something has come through its channel. That this member has accepted it is not enough: it may yet refuse us,
// and a restarted replica would then answer misses.
type membership struct {
	node     *Node
	changing sync.Mutex           // held while a channel comes or goes: lanes are told of one at a time
	passes   [MaxMember + 1]pass  // of the peers' receivers
	heard    [MaxMember + 1]bool  // likewise: something has come through the channel
	stalls   [MaxMember + 1]stall // what waits for memory

	mu        sync.Mutex
	members   [MaxMember + 1]Member
	expected  uint64                   // the other members; never changes
	connected uint64                   // those that we hear
	downAt    [MaxMember + 1]time.Time // since when a member that was connected is not
	why       [MaxMember + 1]string    // a member is not connected, as far as there is more to say
	formed    bool                     // all have been connected at one time
	closed    bool
	reason    atomic.Pointer[string] // why not ready
	waiters   chan struct{}          // closed when ready
	wakeup    chan struct{}          // the clock's goroutine looks at the lanes
	asleep    atomic.Bool
}

// outageGrace is for how long a group goes on serving when a channel breaks: updates wait, and reads of keys that are
// valid are right all the same, since no update can be answered without this replica.
const outageGrace = time.Second

func (ms *membership) init(n *Node) {
	ms.node = n
	ms.waiters = make(chan struct{})
	ms.wakeup = make(chan struct{}, 1)
	for number := range n.cfg.Group {
		ms.members[number] = Member{Number: number}
		if number != n.self.Number {
			ms.expected |= bit(number)
		}
	}
	ms.members[n.self.Number] = n.self
	ms.setReady()
}

// view is the group with the incarnations known so far. The epoch stays 1: views do not change yet.
func (ms *membership) view() View {
	v := View{Epoch: 1, Self: ms.node.self}
	for _, m := range ms.members {
		if m.Number != 0 {
			v.Members = append(v.Members, m)
		}
	}
	return v
}

// setReady makes the node serve, or not, by the state of the channels; ms.mu is held, except at the beginning.
func (ms *membership) setReady() {
	if ms.closed {
		return
	}
	missing := ms.expected &^ ms.connected
	if missing == 0 {
		ms.formed = true
		if !ms.node.ready.Swap(true) {
			select {
			case <-ms.waiters:
			default:
				close(ms.waiters)
			}
		}
		return
	}
	for set := missing; set != 0; set &= set - 1 {
		number := lowest(set)
		if ms.formed && time.Since(ms.downAt[number]) < outageGrace {
			continue
		}
		why := fmt.Sprintf("replica %d (%s) is not connected", number, ms.node.cfg.Group[number])
		if ms.why[number] != "" {
			why += ": " + ms.why[number]
		}
		ms.reason.Store(&why)
		ms.node.ready.Store(false)
		return
	}
}

// check is called now and then, so that a channel that stays down is noticed.
func (ms *membership) check() {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if ms.connected != ms.expected {
		ms.setReady()
	}
}

// close makes the node refuse everything from now on.
func (ms *membership) close() {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	why := shuttingDown
	ms.reason.Store(&why)
	ms.closed = true
	ms.node.ready.Store(false)
}

// wake makes the clock tick, if it sleeps.
func (ms *membership) wake() {
	if ms.asleep.Load() && ms.asleep.Swap(false) {
		select {
		case ms.wakeup <- struct{}{}:
		default:
		}
	}
}

// Ready reports whether the replica serves.
func (n *Node) Ready() bool { return n.ready.Load() }

// WaitReady returns when the replica serves, or ctx ends.
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
	if why := n.membership.reason.Load(); why != nil {
		return *why
	}
	return "the replica is not ready"
}

// Members returns the numbers of members and how many of them are connected, this one included.
func (n *Node) Members() (members, connected int) {
	ms := &n.membership
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return bits.OnesCount64(ms.expected) + 1, bits.OnesCount64(ms.connected) + 1
}

// PeerUp implements Handler.
func (n *Node) PeerUp(peer Member) error {
	ms := &n.membership
	ms.changing.Lock()
	defer ms.changing.Unlock()
	view, err := ms.meet(peer)
	if err != nil {
		return err
	}
	ms.heard[peer.Number] = false
	n.credit.reset(peer.Number)
	for i := range n.lanes {
		nl := &n.lanes[i]
		nl.lock()
		nl.lane.SetView(view)
		nl.lane.PeerUp(peer)
		nl.unlock(&ms.passes[peer.Number])
	}
	n.grant(peer.Number)
	n.transport.Flush()
	ms.passes[peer.Number].end()
	return nil
}

// meet accepts a peer, perhaps a new life of it, or says why not.
func (ms *membership) meet(peer Member) (View, error) {
	n := ms.node
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if ms.expected&bit(peer.Number) == 0 {
		return View{}, fmt.Errorf("replica %d is not in the group %s", peer.Number, groupString(n.cfg.Group))
	}
	if known := ms.members[peer.Number]; known != peer {
		if known.Incarnation != 0 && !n.pristine() {
			err := fmt.Errorf("replica %d has been restarted with an empty memory and cannot rejoin replica %d, which holds data: restart all replicas of the group",
				peer.Number, n.self.Number)
			ms.why[peer.Number] = err.Error()
			ms.setReady()
			return View{}, err
		}
		ms.members[peer.Number] = peer
	}
	return ms.view(), nil
}

// hear notes that something has come through a peer's channel: it has accepted us, as we have it.
func (ms *membership) hear(peer Member) {
	n := ms.node
	ms.heard[peer.Number] = true
	ms.mu.Lock()
	defer ms.mu.Unlock()
	ms.connected |= bit(peer.Number)
	ms.why[peer.Number] = ""
	n.log.Info().Uint8("peer", peer.Number).Str("address", n.cfg.Group[peer.Number]).Msg("replica connected")
	ms.setReady()
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
	ms.lost(peer, err)
}

// lost notes that a peer's channel is gone.
func (ms *membership) lost(peer Member, err error) {
	n := ms.node
	ms.mu.Lock()
	defer ms.mu.Unlock()
	var r *refusal
	if errors.As(err, &r) && !r.toPeer {
		ms.why[peer.Number] = r.text
	}
	if ms.connected&bit(peer.Number) != 0 {
		ms.connected &^= bit(peer.Number)
		ms.downAt[peer.Number] = time.Now()
		n.log.Warn().Uint8("peer", peer.Number).Err(err).Msg("replica disconnected")
	}
	ms.setReady()
}

// pristine reports whether the node holds nothing and has never held anything.
func (n *Node) pristine() bool {
	for i := range n.lanes {
		nl := &n.lanes[i]
		nl.lock()
		p := nl.lane.Pristine()
		nl.unlock(nil)
		if !p {
			return false
		}
	}
	return true
}

// Receive implements Handler.
func (n *Node) Receive(m *Message) {
	ms := &n.membership
	from := m.From.Number
	if !ms.heard[from] {
		ms.hear(m.From)
	}
	if m.Kind == CREDIT {
		n.credit.came(from, int64(m.ID))
		n.admitAgain(&ms.passes[from])
		return
	}
	n.receive(m, &ms.passes[from])
}

// EndBatch implements Handler: what the batch made for peers and clients is sent, and memory kept ahead of what comes next.
func (n *Node) EndBatch(peer Member) {
	ms := &n.membership
	n.grantAll()
	n.transport.Flush()
	ms.passes[peer.Number].end()
	if !n.hasRoom(n.room.low) || ms.stalls[peer.Number].lanes.Load() != 0 {
		n.makeSomeRoom(n.room.low, stepsOfBatch, n.room.now.Load(), &ms.passes[peer.Number])
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

// timing in ticks of tickBusy: lanes tick only while they are busy.
func timing(opTimeout time.Duration) Timing {
	return Timing{Probe: 5, Yield: 3, Clock: 2, Timeout: uint64(opTimeout / tickBusy)}
}

// keepTime ticks the lanes that are busy, and makes room ahead of need.
func (n *Node) keepTime() {
	defer n.done.Done()
	timer := time.NewTimer(tickBusy)
	defer timer.Stop()
	var pass pass
	lastCheck := time.Now()
	for {
		busy := n.tickLanes(&pass)
		if now := time.Now(); now.Sub(lastCheck) >= tickIdle {
			lastCheck = now
			n.membership.check()
			n.keepRoom(uint32(now.Unix()), &pass)
		}
		n.Flush()
		pass.end()
		wait := tickBusy
		if !busy {
			n.membership.asleep.Store(true)
			if !n.anyBusy() { // those that became so before could not wake us
				wait = tickIdle
			}
		}
		timer.Reset(wait)
		select {
		case <-n.stop:
			return
		case <-n.membership.wakeup:
			// Something has begun to wait: the next tick comes in tickBusy, which is what Reset below gives.
			timer.Reset(tickBusy)
			select {
			case <-timer.C:
			case <-n.stop:
				return
			}
		case <-timer.C:
		}
		n.membership.asleep.Store(false)
	}
}

func (n *Node) anyBusy() bool {
	for i := range n.lanes {
		if n.lanes[i].busy.Load() {
			return true
		}
	}
	return false
}

// roomPatience is how long an update waits for room, in ticks, where nothing may be evicted for it.
const roomPatience = uint64(200 * time.Millisecond / tickBusy)

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
