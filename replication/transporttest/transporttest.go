package transporttest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"hermesd/replication"
)

// Options are what a test needs of its network. Members are numbered from 1.
type Options struct {
	Members  int
	ValueMax int // bytes of the largest value that is sent
	OutLimit int // bytes that may wait for one member; 0: replication.OutLimitFor(ValueMax)
}

// Network makes the transports of one group, and can break what lies between them.
type Network interface {
	// Transport returns a transport for self that has not been started. It is called again for the same number once the
	// earlier transport was closed: a restart. Run closes what it starts.
	Transport(t testing.TB, self replication.Member) replication.Transport
	// Break ends the channel between a and b, if there is one, at any point of its stream; they can connect again at once.
	Break(a, b uint8)
	// Address is where the others are to dial a member, in this life and later ones, until Move.
	Address(number uint8) string
	// Move gives a member that has a transport another address. The one before goes on to work until closeOld is called.
	Move(t testing.TB, number uint8) (closeOld func())
}

// Run runs the contract against the transports that open makes.
func Run(t *testing.T, open func(t testing.TB, o Options) Network) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, open func(t testing.TB, o Options) Network)
	}{
		{"order and no loss", testOrder},
		{"sizes", testSizes},
		{"slow receiver", testSlowReceiver},
		{"overflow", testOverflow},
		{"breaks", testBreaks},
		{"resend", testResend},
		{"refusal", testRefusal},
		{"restart", testRestart},
		{"member that is down", testDown},
		{"close", testClose},
		{"listed one after the other", testListedLater},
		{"not listed", testNotListed},
		{"any incarnation", testAnyIncarnation},
		{"delisted", testDelisted},
		{"address", testAddress},
		{"next incarnation", testNextIncarnation},
		{"reset under load", testReset},
		{"interrupt", testInterrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Cleanup(func() { checkGoroutines(t) })
			c.test(t, open)
		})
	}
}

// group starts members 1..n and waits until all are connected.
func group(t testing.TB, network Network, members int) []*node {
	nodes := make([]*node, members+1) // by number
	for number := 1; number <= members; number++ {
		nodes[number] = newNode(t, network, uint8(number), 1).start()
	}
	connected(nodes)
	return nodes
}

// connected makes nodes that have been started peers of each other and waits until all are connected.
func connected(nodes []*node) {
	listAll(nodes)
	awaitAll(nodes)
}

func awaitAll(nodes []*node) {
	for _, n := range nodes[1:] {
		for _, peer := range nodes[1:] {
			if peer != n {
				n.awaitUp(peer.self.Number)
			}
		}
	}
}

// Every member sends to every other, on many lanes from many goroutines, values of random sizes, and all handlers answer.
func testOrder(t *testing.T, open func(t testing.TB, o Options) Network) {
	const members, senders, lanesEach, valueMax = 3, 4, 8, 40_000
	messages := 4_000 // of each sender to each peer
	if testing.Short() {
		messages /= 10
	}
	nodes := group(t, open(t, Options{Members: members, ValueMax: valueMax}), members)
	var senderGroup sync.WaitGroup
	for _, n := range nodes[1:] {
		for s := range senders {
			senderGroup.Go(func() {
				r := rand.New(rand.NewPCG(uint64(n.self.Number), uint64(s)))
				for i := range messages {
					size := r.IntN(200)
					if r.IntN(50) == 0 {
						size = r.IntN(valueMax)
					}
					m := update(r, size, wantsEcho)
					for to := 1; to <= members; to++ {
						if to != int(n.self.Number) {
							n.send(uint8(to), uint8(s*lanesEach+r.IntN(lanesEach)), m)
						}
					}
					if r.IntN(8) == 0 || i == messages-1 {
						n.transport.Flush()
					}
				}
			})
		}
	}
	senderGroup.Wait()
	want := uint64(messages * senders)
	for _, n := range nodes[1:] {
		for number := 1; number <= members; number++ {
			if p := &n.peers[number]; number != int(n.self.Number) {
				n.await(fmt.Sprintf("%d messages and echoes came from member %d", want, number), func() bool {
					return p.total.messages == want && p.total.echoes == want
				})
			}
		}
	}
}

// Large and tiny values, mixed, in both directions at once: first those at which something changes in a transport or in the encoding, then
// sizes drawn so that each power of two is as likely.
func testSizes(t *testing.T, open func(t testing.TB, o Options) Network) {
	const valueMax = 64 << 20
	sizes := []int{0, 1, 7, 250, 255, 256, 4096, 1, 32<<10 - 1, 32 << 10, 64<<10 - 1, 64 << 10, 64<<10 + 1, 0, 1 << 20, 3, 4 << 20, 1}
	drawn := 100
	if !testing.Short() {
		sizes = append(sizes, valueMax, 0, 5, 1<<20, 200_000, valueMax, 1)
		drawn = 400
	}
	nodes := group(t, open(t, Options{Members: 2, ValueMax: valueMax}), 2)
	var senders sync.WaitGroup
	for _, n := range nodes[1:] {
		senders.Go(func() {
			r := rand.New(rand.NewPCG(7, uint64(n.self.Number)))
			to := 3 - n.self.Number
			p := &n.peers[to]
			sizes := slices.Clone(sizes)
			for range drawn {
				sizes = append(sizes, r.IntN(1<<r.IntN(22)))
			}
			for i, size := range sizes {
				n.send(to, uint8(r.IntN(firstEcho)), update(r, size, wantsEcho))
				n.send(to, uint8(r.IntN(firstEcho)), update(r, 10, wantsEcho))
				if size > 1<<10 || r.IntN(4) == 0 {
					n.transport.Flush()
				}
				if size > 1<<20 && !n.awaitQuietly(func() bool { return p.total.echoes >= uint64(2*i) }) {
					n.fail("no echo while sending %d bytes", size)
				}
			}
			n.transport.Flush()
		})
	}
	senders.Wait()
	want := uint64(2 * (len(sizes) + drawn))
	for _, n := range nodes[1:] {
		p := &n.peers[3-n.self.Number]
		n.await("all echoes came", func() bool { return p.total.messages == want && p.total.echoes == want })
	}
}

// A member whose handler stands still blocks neither those who send to it nor the channels of others; when it goes on, it
// gets everything.
func testSlowReceiver(t *testing.T, open func(t testing.TB, o Options) Network) {
	const messages, size = 300, 100_000 // 30 MB: more than the sockets of one connection take
	network := open(t, Options{Members: 3, ValueMax: size})
	gate := make(chan struct{})
	slow := newNode(t, network, 2, 1)
	slow.block = func(m *replication.Message) {
		if m.Kind == replication.INV && m.From.Number == 1 {
			<-gate
		}
	}
	defer func() {
		select {
		case <-gate:
		default:
			close(gate)
		}
	}()
	nodes := []*node{nil, newNode(t, network, 1, 1).start(), slow.start(), newNode(t, network, 3, 1).start()}
	connected(nodes)

	r := rand.New(rand.NewPCG(3, 3))
	for range messages {
		nodes[1].send(2, uint8(r.IntN(firstEcho)), update(r, size, 0))
		nodes[1].transport.Flush() // that this returns is the test
	}
	for _, pair := range [][2]uint8{{1, 3}, {3, 1}, {3, 2}} {
		from, p := nodes[pair[0]], &nodes[pair[0]].peers[pair[1]]
		before := from.echoes(pair[1])
		from.send(pair[1], 0, update(r, 10, wantsEcho))
		from.transport.Flush()
		from.await("a message passes by the slow member", func() bool { return p.total.echoes == before+1 })
	}
	close(gate)
	p := &slow.peers[1]
	slow.await("everything came", func() bool { return p.total.messages == messages })
	slow.mu.Lock()
	defer slow.mu.Unlock()
	if p.channels != 1 {
		t.Errorf("%d channels, one was enough", p.channels)
	}
}

// A member that does not read at all costs bounded memory: its channel breaks, and is set up again.
func testOverflow(t *testing.T, open func(t testing.TB, o Options) Network) {
	const size, outLimit, atMost = 100_000, 1 << 20, 512 << 20
	network := open(t, Options{Members: 2, ValueMax: size, OutLimit: outLimit})
	gate := make(chan struct{})
	slow := newNode(t, network, 2, 1)
	slow.block = func(m *replication.Message) {
		if m.Kind == replication.INV {
			<-gate
		}
	}
	nodes := []*node{nil, newNode(t, network, 1, 1).start(), slow.start()}
	connected(nodes)
	r := rand.New(rand.NewPCG(4, 4))
	p := &nodes[1].peers[2]
	isDown := func() bool {
		nodes[1].mu.Lock()
		defer nodes[1].mu.Unlock()
		return p.downs > 0
	}
	m := update(r, size, 0)
	for sent := 0; !isDown(); sent += size {
		if sent > atMost {
			close(gate)
			t.Fatalf("%d bytes were taken for a member that does not read", sent)
		}
		nodes[1].send(2, 0, m)
		nodes[1].transport.Flush()
		runtime.Gosched()
	}
	close(gate)
	nodes[1].await("the channel is back", func() bool { return p.channels >= 2 && p.channels > p.downs })
	slow.await("the channel is back", func() bool { return slow.peers[1].channels >= 2 })
	nodes[1].await("messages pass again", func() bool {
		nodes[1].mu.Unlock()
		nodes[1].send(2, 0, update(r, 10, wantsEcho))
		nodes[1].transport.Flush()
		nodes[1].mu.Lock()
		return p.channel.echoes > 0
	})
}

// Channels break at any point while both sides send.
func testBreaks(t *testing.T, open func(t testing.TB, o Options) Network) {
	const senders, valueMax = 2, 20_000
	breaks := 30
	if testing.Short() {
		breaks = 5
	}
	network := open(t, Options{Members: 2, ValueMax: valueMax})
	nodes := group(t, network, 2)
	stop := make(chan struct{})
	var senderGroup sync.WaitGroup
	for _, n := range nodes[1:] {
		for s := range senders {
			senderGroup.Go(func() { sendUntil(n, 3-n.self.Number, uint8(s), valueMax, stop) })
		}
	}
	for range breaks {
		var before [3]uint64
		for _, n := range nodes[1:] {
			p := &n.peers[3-n.self.Number]
			n.await("messages pass in the new channel", func() bool { return p.channels > p.downs && p.channel.echoes > 20 })
			n.mu.Lock()
			before[n.self.Number] = p.channels
			n.mu.Unlock()
		}
		network.Break(1, 2)
		for _, n := range nodes[1:] {
			p := &n.peers[3-n.self.Number]
			n.await("a new channel comes", func() bool { return p.channels > before[n.self.Number] })
		}
	}
	close(stop)
	senderGroup.Wait()
}

// sendUntil sends bursts to one member in one lane, each when the last was echoed or its channel is gone.
func sendUntil(n *node, to, laneNumber uint8, valueMax int, stop <-chan struct{}) {
	r := rand.New(rand.NewPCG(uint64(to), uint64(laneNumber)))
	p := &n.peers[to]
	for {
		select {
		case <-stop:
			return
		default:
		}
		channel, last, sent := uint64(0), uint64(0), false
		for range 1 + r.IntN(30) {
			if c, number, ok := n.send(to, laneNumber, update(r, r.IntN(valueMax), wantsEcho)); ok {
				channel, last, sent = c, number, true
			}
		}
		n.transport.Flush()
		ok := n.awaitQuietly(func() bool {
			if !sent {
				return p.channels > p.downs
			}
			return p.channels != channel || p.downs == channel || p.channel.echoed[laneNumber] > last
		})
		if !ok {
			n.fail("lane %d: message %d of channel %d was not echoed", laneNumber, last, channel)
			return
		}
	}
}

// Updates are sent again in every new channel, before anything else, until they have been acknowledged, as the engine does it; values are
// large, so that channels break in the middle of them. In the end the receiver has every update.
func testResend(t *testing.T, open func(t testing.TB, o Options) Network) {
	const inFlight, valueMax = 24, 300_000
	updates, breakEvery := 1_500, 50
	if testing.Short() {
		updates /= 5
	}
	network := open(t, Options{Members: 2, ValueMax: valueMax})
	receiver := newNode(t, network, 1, 1)
	has := make(map[uint64]bool) // by version; guarded by receiver.mu
	receiver.block = func(m *replication.Message) {
		if m.Kind == replication.INV {
			receiver.mu.Lock()
			has[m.TS.Version()] = true
			receiver.mu.Unlock()
		}
	}
	sender := newNode(t, network, 2, 1)
	p := &sender.peers[1]
	flight := newResender(sender, inFlight)
	sender.resend = flight.sendAgain
	sender.block = func(m *replication.Message) {
		if m.Kind == replication.ACK {
			flight.acknowledged(m)
		}
	}
	nodes := []*node{nil, receiver.start(), sender.start()}
	connected(nodes)
	r := rand.New(rand.NewPCG(5, 5))
	for version := uint64(1); version <= uint64(updates); version++ {
		if !flight.launch(version, update(r, r.IntN(valueMax), wantsEcho)) {
			t.Fatalf("gave up waiting for acknowledgements after %d updates", version)
		}
		if version%uint64(breakEvery) == 0 {
			network.Break(1, 2)
		}
	}
	if !flight.drained() {
		t.Fatal("gave up waiting until the last updates are acknowledged")
	}
	receiver.mu.Lock()
	if len(has) != updates {
		t.Errorf("%d updates were acknowledged, the receiver has %d", updates, len(has))
	}
	receiver.mu.Unlock()
	sender.mu.Lock()
	if p.channels < 3 {
		t.Errorf("%d channels: nothing was broken", p.channels)
	}
	sender.mu.Unlock()
}

// A member that is refused by PeerUp is told why, or never told that it is up; it is tried again.
func testRefusal(t *testing.T, open func(t testing.TB, o Options) Network) {
	for _, refuser := range []uint8{1, 2} {
		t.Run(fmt.Sprintf("by member %d", refuser), func(t *testing.T) {
			const reason = "this life is over"
			network := open(t, Options{Members: 2, ValueMax: 1000})
			nodes := []*node{nil, newNode(t, network, 1, 1), newNode(t, network, 2, 1)}
			strict, refused := nodes[refuser], nodes[3-refuser]
			times := 3
			strict.admit = func(peer replication.Member) error {
				if (peer != replication.Member{Number: 3 - refuser, Incarnation: 1}) {
					t.Errorf("PeerUp(%v)", peer)
				}
				if times--; times >= 0 {
					return errors.New(reason)
				}
				return nil
			}
			listAll(nodes)
			nodes[1].start()
			nodes[2].start()
			// The refused may be told of channels that the refuser does not take. So it is asked second: the one that the refuser
			// has taken came after the refused had been told of the end of all others.
			strict.awaitUp(refused.self.Number)
			refused.awaitUp(refuser)
			r := rand.New(rand.NewPCG(1, 1))
			for _, n := range nodes[1:] {
				p := &n.peers[3-n.self.Number]
				n.send(3-n.self.Number, 0, update(r, 10, wantsEcho))
				n.transport.Flush()
				n.await("an echo came", func() bool { return p.total.echoes == 1 })
			}
			refused.mu.Lock()
			defer refused.mu.Unlock()
			p := &refused.peers[refuser]
			if p.channels != p.downs+1 || p.channels > 4 {
				t.Errorf("the refused was told of %d channels and %d ends", p.channels, p.downs)
			}
			if p.downs > 0 && !strings.Contains(p.reason.Error(), reason) {
				t.Errorf("the refused was told %q", p.reason)
			}
			strict.mu.Lock()
			defer strict.mu.Unlock()
			if s := &strict.peers[3-refuser]; s.refusals != 3 || s.channels != 1 {
				t.Errorf("the refuser refused %d times and accepted %d", s.refusals, s.channels)
			}
		})
	}
}

// A process that comes back is another incarnation, and the old one is reported down before.
func testRestart(t *testing.T, open func(t testing.TB, o Options) Network) {
	for _, restarted := range []uint8{1, 2} {
		t.Run(fmt.Sprintf("of member %d", restarted), func(t *testing.T) {
			network := open(t, Options{Members: 2, ValueMax: 1000})
			nodes := group(t, network, 2)
			other := nodes[3-restarted]
			r := rand.New(rand.NewPCG(1, 1))
			for incarnation := uint64(2); incarnation < 5; incarnation++ {
				nodes[restarted].close()
				nodes[restarted] = newNode(t, network, restarted, incarnation).start()
				listAll(nodes)
				p := &other.peers[restarted]
				other.await("the new life is up", func() bool {
					return p.channels > p.downs && p.current == replication.Member{Number: restarted, Incarnation: incarnation}
				})
				nodes[restarted].awaitUp(other.self.Number)
				before := other.echoes(restarted)
				other.send(restarted, 0, update(r, 10, wantsEcho))
				other.transport.Flush()
				other.await("an echo came", func() bool { return p.total.echoes == before+1 })
			}
		})
	}
}

// Messages for members that are not up, not in the group, or oneself are dropped, at any time.
func testDown(t *testing.T, open func(t testing.TB, o Options) Network) {
	network := open(t, Options{Members: 3, ValueMax: 1000})
	nodes := []*node{nil, newNode(t, network, 1, 1), newNode(t, network, 2, 1)}
	m := update(rand.New(rand.NewPCG(1, 1)), 10, 0)
	toNobody := func() {
		for _, to := range []uint8{0, 1, 3, 4, replication.MaxMember, 255} {
			nodes[1].transport.Send(to, &m)
		}
		nodes[1].transport.Flush()
	}
	toNobody()
	nodes[1].transport.Send(2, &m) // were it delivered later, it would be out of order
	listAll(nodes)
	toNobody()
	nodes[1].start()
	nodes[2].start()
	awaitAll(nodes)
	toNobody()
	p := &nodes[1].peers[2]
	nodes[1].send(2, 0, update(rand.New(rand.NewPCG(1, 1)), 10, wantsEcho))
	nodes[1].transport.Flush()
	nodes[1].await("an echo came", func() bool { return p.total.echoes == 1 })
	nodes[1].close()
	toNobody()
	nodes[1].transport.Send(2, &m)
}

// Close ends handler calls and goroutines while everybody sends, and can be called again, and before Start.
func testClose(t *testing.T, open func(t testing.TB, o Options) Network) {
	network := open(t, Options{Members: 3, ValueMax: 20_000})
	nodes := group(t, network, 2)
	stop := make(chan struct{})
	var senders sync.WaitGroup
	for _, n := range nodes[1:] {
		senders.Go(func() {
			r := rand.New(rand.NewPCG(1, 1))
			for {
				select {
				case <-stop:
					return
				default:
					n.send(3-n.self.Number, 0, update(r, r.IntN(1000), wantsEcho))
					n.transport.Flush()
				}
			}
		})
	}
	for _, n := range nodes[1:] {
		p := &n.peers[3-n.self.Number]
		n.await("echoes come", func() bool { return p.total.echoes > 100 })
	}
	nodes[1].close()
	nodes[1].close()
	p := &nodes[2].peers[1]
	nodes[2].await("the other is told", func() bool { return p.downs == p.channels })
	close(stop)
	senders.Wait()
	newNode(t, network, 3, 1) // never started; closed at the end
	if err := nodes[1].transport.Start(nodes[1]); err == nil {
		t.Error("Start after Close")
	}
}

// checkGoroutines fails if goroutines of a transport outlive it. Those that have signalled their end may take a moment to be gone.
func checkGoroutines(t *testing.T) {
	buf := make([]byte, 1<<20)
	for range 100_000 {
		stacks := string(buf[:runtime.Stack(buf, true)])
		left := ""
		for stack := range strings.SplitSeq(stacks, "\n\n") {
			if strings.Contains(stack, "created by hermesd/") && !strings.Contains(stack, "created by hermesd/replication/transporttest") &&
				!strings.Contains(stack, "_test.") {
				left = stack
			}
		}
		if left == "" {
			return
		}
		runtime.Gosched()
		if t.Failed() {
			return
		}
	}
	t.Error("goroutines are left after all transports were closed:\n" + string(buf[:runtime.Stack(buf, true)]))
}
