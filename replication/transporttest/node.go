package transporttest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"hermesd/replication"
	"hermesd/table"
)

const (
	patience  = time.Minute      // how long a test waits for what must happen before it fails
	firstEcho = table.Lanes / 2  // lanes from here on carry what handlers answer, those below what tests send
	wantsEcho = uint32(1)        // Flags of a message that is to be answered
	opening   = uint8(firstEcho) // the lane of the message that PeerUp sends
)

var crcTable = crc64.MakeTable(crc64.ECMA)

// pool is random bytes that values are cut out of.
var pool = func() []byte {
	b := make([]byte, 1<<20)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}()

// node is one member: a transport and the Handler that checks what it is told.
type node struct {
	t         testing.TB
	network   Network
	self      replication.Member // changed by reset
	transport replication.Transport
	lanes     [table.Lanes]lane

	// Set before start.
	admit  func(peer replication.Member) error // nil: everybody
	block  func(m *replication.Message)        // called in Receive
	resend func()                              // called in PeerUp, when send works

	peers [replication.MaxMember + 1]peer

	mu     sync.Mutex
	event  sync.Cond
	failed bool
	silent bool                        // Close or Reset has returned: no handler call is allowed
	listed map[replication.Member]bool // all that have been listed in this life
}

// lane is what an engine's lane is to a transport: Sends of one lane are made under its lock, and PeerUp goes through all.
type lane struct {
	mu      sync.Mutex
	channel [replication.MaxMember + 1]uint64 // number of our channel with the peer; 0: not up
	next    [replication.MaxMember + 1]uint64 // message number
}

// peer is what a node knows of another member.
type peer struct {
	// Only handler calls of this peer touch these, unlocked: they must come one after the other.
	up       bool
	member   replication.Member
	theirs   uint64 // the sender's number of its channel, from its first message
	expected [table.Lanes]uint64
	unended  int // Receive calls since EndBatch
	pending  counts

	// Guarded by node.mu; published by PeerUp, EndBatch and PeerDown.
	channels uint64 // PeerUp calls that were accepted
	downs    uint64
	refusals uint64 // PeerUp calls that were not
	current  replication.Member
	breaks   uint64 // Interrupt calls
	reason   error
	total    counts
	channel  counts // of the present channel
}

// channelNow is the number of our present channel with the peer, for its handler calls.
func (p *peer) channelNow() uint64 { return p.channels }

type counts struct {
	messages, echoes uint64
	echoed           [table.Lanes]uint64 // highest number + 1 of ours that was echoed, in this channel
}

func newNode(t testing.TB, network Network, number uint8, incarnation uint64) *node {
	n := &node{t: t, network: network, self: replication.Member{Number: number, Incarnation: incarnation}, listed: make(map[replication.Member]bool)}
	n.event.L = &n.mu
	n.transport = network.Transport(t, n.self)
	t.Cleanup(n.close)
	return n
}

func (n *node) start() *node {
	if err := n.transport.Start(n); err != nil {
		n.t.Fatal(err)
	}
	return n
}

// list makes these the peers of n.
func (n *node) list(members ...replication.Member) {
	peers := make([]replication.Peer, len(members))
	n.mu.Lock()
	n.silent = false
	for i, m := range members {
		peers[i] = replication.Peer{Member: m, Address: n.network.Address(m.Number)}
		n.listed[m] = true
	}
	n.mu.Unlock()
	n.transport.SetPeers(peers)
	clear(peers) // they are the caller's again
}

// listAll makes all nodes peers of each other, as the lives that they are.
func listAll(nodes []*node) {
	for _, n := range nodes[1:] {
		n.listOthers(nodes)
	}
}

func (n *node) listOthers(nodes []*node) {
	var others []replication.Member
	for _, other := range nodes[1:] {
		if other != n {
			others = append(others, other.self)
		}
	}
	n.list(others...)
}

// close closes the transport; after it no handler call is allowed, and all channels must have been reported down.
func (n *node) close() {
	if err := n.transport.Close(); err != nil {
		n.fail("Close: %v", err)
	}
	n.requireSilence("Close")
}

// reset makes n another life of its number, without peers. What is said of close holds until it has some again.
func (n *node) reset(incarnation uint64) {
	self := replication.Member{Number: n.self.Number, Incarnation: incarnation}
	n.transport.Reset(self)
	n.self = self
	n.requireSilence("Reset")
}

func (n *node) requireSilence(after string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.silent = true
	clear(n.listed)
	for number := range n.peers {
		if p := &n.peers[number]; p.channels != p.downs {
			n.t.Errorf("member %d: %s returned after %d PeerUp and %d PeerDown of member %d", n.self.Number, after, p.channels, p.downs, number)
		}
	}
}

// fail reports a failure once; the rest usually follows from the first.
func (n *node) fail(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.failed {
		n.failed = true
		n.t.Errorf("member %d: %s", n.self.Number, fmt.Sprintf(format, args...))
	}
	n.event.Broadcast()
}

// await waits until done, which is called with n.mu locked, says so.
func (n *node) await(what string, done func() bool) {
	n.t.Helper()
	if !n.awaitQuietly(done) {
		n.t.Fatalf("member %d: gave up waiting until %s; %s", n.self.Number, what, n.describe())
	}
}

// describe says what the node was told by each peer.
func (n *node) describe() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	text := "it was told"
	for number := range n.peers {
		if p := &n.peers[number]; p.channels+p.refusals > 0 {
			text += fmt.Sprintf(" of member %d: %d channels, %d ends (%v), %d refusals, %d messages, %d echoes;",
				number, p.channels, p.downs, p.reason, p.refusals, p.total.messages, p.total.echoes)
		}
	}
	return text
}

func (n *node) awaitQuietly(done func() bool) bool {
	deadline := time.Now().Add(patience)
	alarm := time.AfterFunc(patience, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.event.Broadcast()
	})
	defer alarm.Stop()
	n.mu.Lock()
	defer n.mu.Unlock()
	for !done() {
		if n.failed || !time.Now().Before(deadline) {
			return false
		}
		n.event.Wait()
	}
	return true
}

func (n *node) awaitUp(number uint8) {
	n.t.Helper()
	p := &n.peers[number]
	n.await(fmt.Sprintf("member %d is up", number), func() bool { return p.channels > p.downs })
}

// echoes is how many echoes have come from a peer.
func (n *node) echoes(number uint8) uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.peers[number].total.echoes
}

// send enqueues a message for a peer under the lane's lock and returns its number in the lane and channel; ok is false if
// the peer is not up, and then nothing is sent.
func (n *node) send(to, laneNumber uint8, m replication.Message) (channel, number uint64, ok bool) {
	l := &n.lanes[laneNumber]
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.channel[to] == 0 {
		return 0, 0, false
	}
	m.Lane, m.Epoch, m.ID = laneNumber, l.channel[to], l.next[to]
	if len(m.Value) > 0 {
		m.CAS = crc64.Checksum(m.Value, crcTable)
	}
	l.next[to]++
	n.transport.Send(to, &m)
	return m.Epoch, m.ID, true
}

// update is a message with a value of so many random bytes.
func update(r *rand.Rand, valueLen int, flags uint32) replication.Message {
	value := make([]byte, 0, valueLen)
	for len(value) < valueLen {
		from := r.IntN(len(pool))
		value = append(value, pool[from:min(len(pool), from+valueLen-len(value))]...)
	}
	key := binary.LittleEndian.AppendUint64(nil, r.Uint64())
	return replication.Message{Kind: replication.INV, Flags: flags, TS: table.Timestamp{Write: 1<<8 | 1}, Key: key, Value: value}
}

// PeerUp implements replication.Handler.
func (n *node) PeerUp(member replication.Member) error {
	p := &n.peers[member.Number]
	if p.up {
		n.fail("PeerUp(%v) without PeerDown(%v)", member, p.member)
	}
	if n.admit != nil {
		if err := n.admit(member); err != nil {
			n.mu.Lock()
			p.refusals++
			n.event.Broadcast()
			n.mu.Unlock()
			return err
		}
	}
	p.up, p.member, p.theirs, p.expected, p.unended, p.pending = true, member, 0, [table.Lanes]uint64{}, 0, counts{}
	channel := p.channels + 1 // only handler calls of the peer change it
	for i := range n.lanes {
		l := &n.lanes[i]
		l.mu.Lock()
		l.channel[member.Number], l.next[member.Number] = channel, 0
		l.mu.Unlock()
	}
	if n.mu.Lock(); !n.listed[member] && !n.listed[replication.Member{Number: member.Number}] {
		n.mu.Unlock()
		n.fail("PeerUp(%v), which has not been listed", member)
		n.mu.Lock()
	}
	n.mu.Unlock()
	// From here on the test may know of the channel: what it sends then is not lost.
	n.mu.Lock()
	p.channels = channel
	p.current, p.channel = member, counts{}
	n.check()
	n.mu.Unlock()
	// What is sent here must arrive although nobody flushes after it.
	if n.resend != nil {
		n.resend()
	}
	n.send(member.Number, opening, replication.Message{Kind: replication.MARK})
	n.transport.Flush()
	n.mu.Lock()
	n.event.Broadcast()
	n.mu.Unlock()
	return nil
}

// Receive implements replication.Handler.
func (n *node) Receive(m *replication.Message) {
	p := &n.peers[m.From.Number]
	switch {
	case !p.up:
		n.fail("%v received while its sender %v is not up", m.Kind, m.From)
	case m.From != p.member:
		n.fail("%v from %v in the channel of %v", m.Kind, m.From, p.member)
	case p.theirs != 0 && m.Epoch != p.theirs:
		n.fail("%v sent in channel %d of member %d received in its channel %d", m.Kind, m.Epoch, m.From.Number, p.theirs)
	case m.ID != p.expected[m.Lane]:
		n.fail("lane %d of member %d: message %d where %d was due", m.Lane, m.From.Number, m.ID, p.expected[m.Lane])
	case len(m.Value) > 0 && m.CAS != crc64.Checksum(m.Value, crcTable):
		n.fail("lane %d of member %d: message %d came damaged", m.Lane, m.From.Number, m.ID)
	}
	p.theirs = m.Epoch
	p.expected[m.Lane]++
	p.unended++
	if m.Kind == replication.INV {
		p.pending.messages++
	}
	if m.Kind == replication.ACK {
		p.pending.echoes++
		p.pending.echoed[m.Lane-firstEcho] = m.TS.Version()
	}
	if n.block != nil {
		n.block(m)
	}
	if m.Flags&wantsEcho != 0 {
		// The version of an echo is the number after the echoed one.
		n.send(m.From.Number, m.Lane+firstEcho, replication.Message{Kind: replication.ACK, TS: table.Timestamp{Write: (m.ID+1)<<8 | 1}})
	}
}

// EndBatch implements replication.Handler. Only here what was received is made known, so that a wait depends on it.
func (n *node) EndBatch(member replication.Member) {
	p := &n.peers[member.Number]
	if !p.up || p.member != member || p.unended == 0 {
		n.fail("EndBatch(%v) after %d messages, up %v as %v", member, p.unended, p.up, p.member)
	}
	p.unended = 0
	n.transport.Flush()
	n.mu.Lock()
	p.total.add(&p.pending)
	p.channel.add(&p.pending)
	n.check()
	n.event.Broadcast()
	n.mu.Unlock()
	p.pending = counts{}
}

func (c *counts) add(d *counts) {
	c.messages += d.messages
	c.echoes += d.echoes
	for i, e := range d.echoed {
		c.echoed[i] = max(c.echoed[i], e)
	}
}

// PeerDown implements replication.Handler.
func (n *node) PeerDown(member replication.Member, err error) {
	p := &n.peers[member.Number]
	if !p.up || p.member != member {
		n.fail("PeerDown(%v) while up is %v with %v", member, p.up, p.member)
	}
	if err == nil {
		n.fail("PeerDown(%v) without a reason", member)
		err = errors.New("none")
	}
	if p.unended != 0 {
		n.fail("PeerDown(%v) after %d messages without EndBatch", member, p.unended)
	}
	p.up = false
	for i := range n.lanes {
		l := &n.lanes[i]
		l.mu.Lock()
		l.channel[member.Number] = 0
		l.mu.Unlock()
	}
	n.mu.Lock()
	p.downs++
	p.reason = err
	n.check()
	n.event.Broadcast()
	n.mu.Unlock()
}

// Interrupt implements replication.Interrupter.
func (n *node) Interrupt(member replication.Member) {
	p := &n.peers[member.Number]
	if !p.up || p.member != member {
		n.fail("Interrupt(%v) while up is %v with %v", member, p.up, p.member)
	}
	n.transport.Flush() // is allowed
	n.mu.Lock()
	defer n.mu.Unlock()
	if p.breaks++; p.breaks > p.channels && !n.failed {
		n.failed = true
		n.t.Errorf("member %d: %d Interrupt calls for %d channels", n.self.Number, p.breaks, p.channels)
	}
	n.check()
	n.event.Broadcast()
}

// check is called in every handler call, with n.mu locked.
func (n *node) check() {
	if n.silent && !n.failed {
		n.failed = true
		n.t.Errorf("member %d: a handler call after Close or Reset returned", n.self.Number)
	}
}
