package replication

import (
	"context"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// membership is what the node knows of its group. The members are those that it was started with; their incarnations are
// learnt when they connect. A replica that has been restarted has forgotten what it acknowledged, and is not let
// back into a group that holds anything: it would answer misses for what the others hold.
type membership struct {
	node     *Node
	mu       sync.Mutex
	members  [MaxMember + 1]Member
	expected uint64                   // the other members
	up       uint64                   // those whose channels are up
	downAt   [MaxMember + 1]time.Time // since when a member that was up is not
	refused  [MaxMember + 1]uint64    // incarnation last refused
	formed   bool                     // all have been up at one time
	passes   [MaxMember + 1]pass      // of the peers' receivers
	received [MaxMember + 1]received  // likewise
	reason   atomic.Pointer[string]   // why not ready
	waiters  chan struct{}            // closed when ready
	wakeup   chan struct{}            // the clock's goroutine looks at the lanes
	asleep   atomic.Bool
}

type received struct{ invs bool }

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
	missing := ms.expected &^ ms.up
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
		ms.reason.Store(&why)
		ms.node.ready.Store(false)
		return
	}
}

// check is called now and then, so that a channel that stays down is noticed.
func (ms *membership) check() {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if ms.up != ms.expected {
		ms.setReady()
	}
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
	return bits.OnesCount64(ms.expected) + 1, bits.OnesCount64(ms.up) + 1
}

// PeerUp implements Handler.
func (n *Node) PeerUp(peer Member) error {
	ms := &n.membership
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if ms.expected&bit(peer.Number) == 0 {
		return fmt.Errorf("replica %d is not in the group %s", peer.Number, groupString(n.cfg.Group))
	}
	if known := ms.members[peer.Number]; known != peer {
		if known.Incarnation != 0 && !n.pristine() {
			return fmt.Errorf("replica %d has been restarted with an empty memory and cannot rejoin replica %d, which holds data: restart all replicas of the group",
				peer.Number, n.self.Number)
		}
		ms.members[peer.Number] = peer
	}
	view := ms.view()
	n.credit.reset(peer.Number)
	for i := range n.lanes {
		nl := &n.lanes[i]
		nl.lock()
		nl.lane.SetView(view)
		nl.lane.PeerUp(peer)
		nl.unlock(nil)
	}
	ms.up |= bit(peer.Number)
	n.grant(peer.Number)
	n.transport.Flush()
	n.log.Info().Uint8("peer", peer.Number).Str("address", n.cfg.Group[peer.Number]).Msg("replica connected")
	ms.setReady()
	return nil
}

// PeerDown implements Handler.
func (n *Node) PeerDown(peer Member, err error) {
	ms := &n.membership
	ms.mu.Lock()
	defer ms.mu.Unlock()
	for i := range n.lanes {
		nl := &n.lanes[i]
		nl.lock()
		nl.lane.PeerDown(peer)
		nl.unlock(nil)
	}
	ms.up &^= bit(peer.Number)
	ms.downAt[peer.Number] = time.Now()
	n.log.Warn().Uint8("peer", peer.Number).Err(err).Msg("replica disconnected")
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
	if m.Kind == CREDIT {
		n.creditCame(from, m.ID)
		return
	}
	if m.Kind == INV {
		n.credit.receive(from, m)
		n.roomForINV(m)
	}
	nl := &n.lanes[m.Lane]
	nl.lock()
	nl.lane.Receive(m)
	nl.unlock(&ms.passes[from])
}

// EndBatch implements Handler: what the batch made for peers and clients is sent.
func (n *Node) EndBatch(peer Member) {
	n.grant(peer.Number)
	n.transport.Flush()
	n.membership.passes[peer.Number].end()
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
		wait := tickIdle
		if busy {
			wait = tickBusy
		} else {
			n.membership.asleep.Store(true)
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

func (n *Node) tickLanes(pass *pass) (busy bool) {
	for i := range n.lanes {
		nl := &n.lanes[i]
		if !nl.busy.Load() {
			continue
		}
		busy = true
		nl.lock()
		nl.lane.Tick()
		if nl.lane.WaitsForRoom() {
			nl.lane.AdmitAgain()
		}
		nl.unlock(pass)
	}
	return busy
}
