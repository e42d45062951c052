package transporttest

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"hermesd/replication"
)

// exchange sends one message from a to b and waits for its echo.
func exchange(a, b *node) {
	a.t.Helper()
	p := &a.peers[b.self.Number]
	before := a.echoes(b.self.Number)
	a.send(b.self.Number, 0, update(rand.New(rand.NewPCG(1, 1)), 10, wantsEcho))
	a.transport.Flush()
	a.await(fmt.Sprintf("member %d has echoed", b.self.Number), func() bool { return p.total.echoes > before })
}

// ends is how many channels with a peer have come to their end.
func (n *node) ends(number uint8) uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.peers[number].downs
}

func (n *node) awaitDown(number uint8) {
	n.t.Helper()
	p := &n.peers[number]
	n.await(fmt.Sprintf("member %d is down", number), func() bool { return p.channels == p.downs })
}

// awaitLife waits until a channel with that life is up.
func (n *node) awaitLife(m replication.Member) {
	n.t.Helper()
	p := &n.peers[m.Number]
	n.await(fmt.Sprintf("%v is up", m), func() bool { return p.channels > p.downs && p.current == m })
}

// Views reach members one after the other; the channel comes when both ends have been told, whoever is first. Nothing that has been
// listed unchanged is disturbed.
func testListedLater(t *testing.T, open func(t testing.TB, o Options) Network) {
	for _, first := range []uint8{1, 2} {
		t.Run(fmt.Sprintf("member %d first", first), func(t *testing.T) {
			network := open(t, Options{Members: 3, ValueMax: 1000})
			nodes := []*node{nil, newNode(t, network, 1, 1).start(), newNode(t, network, 2, 1).start(), newNode(t, network, 3, 1).start()}
			pair := nodes[:3]
			nodes[first].listOthers(pair)
			nodes[3-first].listOthers(pair)
			awaitAll(pair)
			connected(nodes)
			exchange(nodes[1], nodes[2])
			exchange(nodes[2], nodes[1])
			for _, n := range pair[1:] {
				if ends := n.ends(3 - n.self.Number); ends != 0 {
					t.Errorf("member %d lost its channel when another was listed", n.self.Number)
				}
			}
		})
	}
}

// A member has no channel with a life that it does not list, though that lists it, and gets one as soon as it lists it.
func testNotListed(t *testing.T, open func(t testing.TB, o Options) Network) {
	for _, stranger := range []uint8{1, 3} {
		t.Run(fmt.Sprintf("member %d", stranger), func(t *testing.T) {
			network := open(t, Options{Members: 3, ValueMax: 1000})
			nodes := []*node{nil, newNode(t, network, 1, 2).start(), newNode(t, network, 2, 2).start(), newNode(t, network, 3, 2).start()}
			for number, n := range nodes {
				if n != nil && number != 2 {
					n.listOthers(nodes)
				}
			}
			other := 4 - stranger
			// Node 2 knows the stranger by another incarnation. That a channel with the other comes shows that it has looked.
			nodes[2].list(replication.Member{Number: stranger, Incarnation: 1}, nodes[other].self)
			nodes[2].awaitUp(other)
			exchange(nodes[2], nodes[other])
			nodes[2].listOthers(nodes) // fails if PeerUp with the stranger came before: see node.PeerUp
			awaitAll(nodes)
			exchange(nodes[2], nodes[stranger])
			exchange(nodes[stranger], nodes[2])
			if ends := nodes[2].ends(other); ends != 0 {
				t.Error("the channel with a member that had been listed before has ended")
			}
		})
	}
}

// A peer that is listed with incarnation 0 is any life of its number: the next one takes over without being listed.
func testAnyIncarnation(t *testing.T, open func(t testing.TB, o Options) Network) {
	for _, restarted := range []uint8{1, 2} {
		t.Run(fmt.Sprintf("of member %d", restarted), func(t *testing.T) {
			network := open(t, Options{Members: 2, ValueMax: 1000})
			nodes := []*node{nil, newNode(t, network, 1, 1).start(), newNode(t, network, 2, 1).start()}
			for _, n := range nodes[1:] {
				n.list(replication.Member{Number: 3 - n.self.Number})
			}
			awaitAll(nodes)
			other := nodes[3-restarted]
			for incarnation := uint64(2); incarnation < 4; incarnation++ {
				nodes[restarted].close()
				nodes[restarted] = newNode(t, network, restarted, incarnation).start()
				nodes[restarted].list(replication.Member{Number: other.self.Number})
				other.awaitLife(nodes[restarted].self)
				nodes[restarted].awaitUp(other.self.Number)
				exchange(other, nodes[restarted])
			}
		})
	}
}

// A channel ends when its peer is not listed any more, though its peer lists this member still; it comes back when it is listed again.
func testDelisted(t *testing.T, open func(t testing.TB, o Options) Network) {
	for _, who := range []uint8{1, 2} {
		t.Run(fmt.Sprintf("by member %d", who), func(t *testing.T) {
			nodes := group(t, open(t, Options{Members: 3, ValueMax: 1000}), 3)
			n, out := nodes[who], nodes[3-who]
			for range 3 {
				n.list(nodes[3].self)
				n.awaitDown(out.self.Number)
				out.awaitDown(n.self.Number)
				exchange(n, nodes[3])
				n.listOthers(nodes)
				awaitAll(nodes)
				exchange(n, out)
				exchange(out, n)
			}
			if n.ends(3) != 0 {
				t.Error("the channel with a member that was listed all the time has ended")
			}
		})
	}
}

// A member that is listed with another address is dialled there, in a new channel.
func testAddress(t *testing.T, open func(t testing.TB, o Options) Network) {
	for _, moved := range []uint8{1, 2} {
		t.Run(fmt.Sprintf("of member %d", moved), func(t *testing.T) {
			network := open(t, Options{Members: 2, ValueMax: 1000})
			nodes := group(t, network, 2)
			other := nodes[3-moved]
			for moves := uint64(1); moves <= 3; moves++ {
				closeOld := network.Move(t, moved)
				listAll(nodes)
				p := &other.peers[moved]
				other.await("the channel has ended and another is up", func() bool { return p.downs >= moves && p.channels > p.downs })
				nodes[moved].awaitUp(other.self.Number)
				exchange(other, nodes[moved])
				before := other.ends(moved)
				closeOld()
				exchange(other, nodes[moved])
				if moved < other.self.Number && other.ends(moved) != before { // the higher number dials
					t.Error("the channel went through the old address")
				}
			}
		})
	}
}

// The next life of a member is listed while the handler stands in Receive with a message of the last one, and more are on their way. It is up
// only when that one is down, and then nothing of the last one comes any more (node.Receive looks at that).
func testNextIncarnation(t *testing.T, open func(t testing.TB, o Options) Network) {
	for _, reborn := range []uint8{1, 2} {
		t.Run(fmt.Sprintf("of member %d", reborn), func(t *testing.T) {
			network := open(t, Options{Members: 2, ValueMax: 100_000})
			other := newNode(t, network, 3-reborn, 1)
			p := &other.peers[reborn]
			standing := uint64(0) // of which channel a message is being received; guarded by other.mu
			other.block = func(m *replication.Message) {
				if m.Kind != replication.INV {
					return
				}
				other.mu.Lock()
				standing = p.channels
				other.event.Broadcast()
				other.mu.Unlock()
				other.awaitQuietly(func() bool { return p.breaks == p.channels })
			}
			nodes := make([]*node, 3)
			nodes[3-reborn], nodes[reborn] = other.start(), newNode(t, network, reborn, 1).start()
			connected(nodes)
			r := rand.New(rand.NewPCG(8, 8))
			for incarnation := uint64(2); incarnation < 5; incarnation++ {
				for range 100 {
					nodes[reborn].send(other.self.Number, uint8(r.IntN(firstEcho)), update(r, r.IntN(10_000), 0))
				}
				nodes[reborn].transport.Flush()
				other.await("Receive waits", func() bool { return standing == incarnation-1 })
				nodes[reborn].reset(incarnation)
				listAll(nodes)
				other.awaitLife(nodes[reborn].self)
				nodes[reborn].awaitUp(other.self.Number)
			}
		})
	}
}

// Members of all positions begin new lives while everybody sends to everybody.
func testReset(t *testing.T, open func(t testing.TB, o Options) Network) {
	const valueMax = 20_000
	rounds := 4
	if testing.Short() {
		rounds = 1
	}
	nodes := group(t, open(t, Options{Members: 3, ValueMax: valueMax}), 3)
	stop := make(chan struct{})
	var senders sync.WaitGroup
	for _, n := range nodes[1:] {
		for to := uint8(1); to <= 3; to++ {
			if to != n.self.Number {
				senders.Go(func() { sendUntil(n, to, 0, valueMax, stop) })
				senders.Go(func() { sendUntil(n, to, 1, valueMax, stop) })
			}
		}
	}
	passing := func(what string) {
		for _, n := range nodes[1:] {
			for _, peer := range nodes[1:] {
				if peer != n {
					p := &n.peers[peer.self.Number]
					n.await(what, func() bool { return p.channels > p.downs && p.current == peer.self && p.channel.echoes > 20 })
				}
			}
		}
	}
	passing("messages pass")
	for round := range rounds {
		for number := uint8(1); number <= 3; number++ {
			n := nodes[number]
			n.reset(n.self.Incarnation + 1)
			if round%2 == 0 { // the newcomer is told last
				for _, other := range nodes[1:] {
					if other != n {
						other.listOthers(nodes)
					}
				}
				n.listOthers(nodes)
			} else {
				n.listOthers(nodes)
				listAll(nodes)
			}
			passing(fmt.Sprintf("messages pass after member %d began its life %d", number, n.self.Incarnation))
		}
	}
	close(stop)
	senders.Wait()
}

// A handler that waits in Receive is told that its channel has ended, whatever the reason, and nobody waits for it meanwhile.
func testInterrupt(t *testing.T, open func(t testing.TB, o Options) Network) {
	for _, c := range []struct {
		name string
		by   []uint8 // who waits
		end  func(network Network, n *node)
	}{
		// The one that dials cannot notice a break while it does not read: see replication.Interrupter.
		{"break", []uint8{1}, func(network Network, _ *node) { network.Break(1, 2) }},
		{"SetPeers", []uint8{1, 2}, func(_ Network, n *node) { n.list() }},
		{"Reset", []uint8{1, 2}, func(_ Network, n *node) { n.reset(2) }},
		{"Close", []uint8{1, 2}, func(_ Network, n *node) { n.close() }},
	} {
		for _, number := range c.by {
			t.Run(fmt.Sprintf("%s of member %d", c.name, number), func(t *testing.T) {
				network := open(t, Options{Members: 2, ValueMax: 1000})
				n, from := newNode(t, network, number, 1), newNode(t, network, 3-number, 1)
				p := &n.peers[from.self.Number]
				waits := false // guarded by n.mu
				n.block = func(m *replication.Message) {
					if m.Kind != replication.INV {
						return
					}
					n.mu.Lock()
					waits = true
					n.event.Broadcast()
					n.mu.Unlock()
					if !n.awaitQuietly(func() bool { return p.breaks == 1 }) {
						n.fail("Receive was not interrupted")
					}
				}
				nodes := make([]*node, 3)
				nodes[number], nodes[3-number] = n.start(), from.start()
				connected(nodes)
				for lane := range uint8(3) {
					from.send(number, lane, update(rand.New(rand.NewPCG(1, 1)), 100, 0))
				}
				from.transport.Flush()
				n.await("Receive waits", func() bool { return waits })
				c.end(network, n)
				n.await("the channel has ended", func() bool { return p.downs == 1 })
				n.mu.Lock()
				defer n.mu.Unlock()
				if p.breaks != 1 {
					t.Errorf("%d interrupts of the channel that has ended", p.breaks)
				}
			})
		}
	}
}
