package replication

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"hermesd/replication/views"
	"hermesd/table"
)

// TestFullMemory fills groups far beyond their memory, through all replicas at once, with values of all sizes: every set is stored, nothing
// waits for ever, and in the end all replicas hold the same. It is what credit and eviction are for.
func TestFullMemory(t *testing.T) {
	for _, c := range []struct {
		name        string
		memory      uint64
		itemSizeMax uint32
		valueMin    int
		valueMax    int
		keys        int // drawn at random; 0: every set has a key of its own
		fills       int // how many times the memory is written
	}{
		{"small values", 4 << 20, 32 << 10, 1, 200, 0, 2},
		{"small values, few keys again and again", 4 << 20, 32 << 10, 1, 200, 30_000, 2},
		{"all sizes", 16 << 20, 256 << 10, 1, 255 << 10, 0, 4},
		{"large values", 32 << 20, 1 << 20, 600 << 10, 1000 << 10, 0, 4},
		{"large values, few keys again and again", 32 << 20, 1 << 20, 1, 1000 << 10, 40, 4},
		{"many segments", 64 << 20, 1 << 20, 1, 40 << 10, 0, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			fills := c.fills
			if testing.Short() {
				fills = 1 // and more than fits all the same: a good part of the memory is kept free
			}
			cl := newCluster(t, clusterOptions{replicas: 3, memoryBytes: c.memory, itemSizeMax: c.itemSizeMax})
			const callers = 6 // of each replica
			var left, number atomic.Int64
			left.Store(int64(fills) * int64(c.memory))
			var wg sync.WaitGroup
			for i, node := range cl.nodes {
				for j := range callers {
					wg.Go(func() {
						r := rand.New(rand.NewPCG(uint64(i), uint64(j)))
						caller := newCaller(node)
						value := make([]byte, c.valueMax)
						for left.Load() > 0 {
							n := number.Add(1)
							if c.keys > 0 {
								n = r.Int64N(int64(c.keys))
							}
							size := c.valueMin + r.IntN(c.valueMax-c.valueMin)
							if r.IntN(4) > 0 {
								size = c.valueMin + r.IntN(1+size/20)
							}
							left.Add(-int64(size + 60))
							if got := caller.do(OpSet, fmt.Sprintf("key%d", n), string(value[:size])); got.Status != Stored {
								t.Errorf("set of %d bytes: status %d %s\n%s", size, got.Status, got.Err, cl.describe())
								left.Store(0)
							}
						}
					})
				}
			}
			wg.Wait()
			held := cl.requireSame()
			evictions := uint64(0)
			for i, n := range cl.nodes {
				evictions += n.counters.evictions.Load()
				if stalled := n.counters.stalled.Load(); stalled != 0 {
					t.Errorf("replica %d had no memory for %d updates that had credit", i+1, stalled)
				}
			}
			if c.keys == 0 && (len(held) == 0 || evictions == 0) {
				t.Errorf("%d items are left after %d evictions: the memory was to be too small, and used", len(held), evictions)
			}
			t.Logf("%d sets, %d items left, %d evictions\n%s", number.Load(), len(held), evictions, cl.describe())
		})
	}
}

// TestWithoutEvictions fills a group that may not evict: what finds no room is refused soon, nothing that was stored is lost, and when something
// is deleted, or has expired, the group goes on.
func TestWithoutEvictions(t *testing.T) {
	c := newCluster(t, clusterOptions{replicas: 3, memoryBytes: 8 << 20, itemSizeMax: 64 << 10, opTimeout: steady, disableEvictions: true})
	value := strings.Repeat("v", 1000)
	fill := func(prefix string, exptime uint32) (stored []string) {
		for refused := 0; refused < 3; {
			key := fmt.Sprintf("%s%d", prefix, len(stored))
			n := len(stored) % 3
			switch r := newCaller(c.nodes[n]).do(OpSet, key, value, func(op *Op) { op.Exptime = exptime }); r.Status {
			case Stored:
				stored = append(stored, key)
			case OutOfMemory:
				refused++
			default:
				t.Fatalf("set %s: status %d %s\n%s", key, r.Status, r.Err, c.describe())
			}
		}
		return stored
	}
	first := fill("first", 0)
	if got, least := len(first), 8<<20/2/len(value); got < least {
		t.Errorf("%d values of %d bytes were stored, not even %d", got, len(value), least)
	}
	// Also where the room is missed only after the operation has begun.
	if r := newCaller(c.nodes[0]).do(OpTouch, first[0], "", func(op *Op) { op.Exptime = op.Now + 1000 }); r.Status != OutOfMemory && r.Status != Touched {
		t.Errorf("touch: status %d %s", r.Status, r.Err)
	}
	for i, key := range first {
		newCaller(c.nodes[i%3]).want(t, Hit, value, OpGet, key, "")
	}
	for i, key := range first {
		newCaller(c.nodes[i%3]).want(t, Deleted, "", OpDelete, key, "")
	}
	// The tombstones have to go first.
	await(t, "a set is stored again", func() bool { return newCaller(c.nodes[1]).do(OpSet, "again", value).Status == Stored })
	expiry := uint32(time.Now().Unix()) + 10_000
	second := fill("second", expiry)
	if len(second) < len(first)*3/4 {
		t.Errorf("%d values were stored in the memory of %d", len(second), len(first))
	}
	var pass pass
	await(t, "what has expired is given back", func() bool {
		for _, n := range c.nodes { // as the clock will
			n.keepRoom(expiry, &pass)
			n.Flush()
		}
		return newCaller(c.nodes[2]).do(OpSet, "more", value).Status == Stored && dumpHasNone(c.nodes[0], second)
	})
	if third := fill("third", 0); len(third) < len(second)*3/4 {
		t.Errorf("%d values were stored in the memory of %d that have expired", len(third), len(second))
	}
	c.requireSame()
	for i, n := range c.nodes {
		if evicted := n.counters.evictions.Load(); evicted != 0 {
			t.Errorf("replica %d has evicted %d items", i+1, evicted)
		}
	}
}

// dumpHasNone reports whether a replica holds none of the keys.
func dumpHasNone(n *Node, keys []string) bool {
	held := dump(n)
	for _, key := range keys {
		if _, ok := held[key]; ok {
			return false
		}
	}
	return true
}

// TestLargeAmongSmall has one client set values of the greatest size while others set small ones as fast as they can, in a full group: the large
// ones get through too, though memory and credit come back in small portions.
func TestLargeAmongSmall(t *testing.T) {
	c := newCluster(t, clusterOptions{replicas: 3, memoryBytes: 16 << 20, itemSizeMax: 512 << 10, opTimeout: steady})
	large := strings.Repeat("L", 512<<10-100)
	small := strings.Repeat("s", 2000)
	var left atomic.Int64
	left.Store(40)
	if testing.Short() {
		left.Store(10)
	}
	var load sync.WaitGroup
	for i, node := range c.nodes {
		for j := range 8 {
			load.Go(func() {
				caller := newCaller(node)
				for n := 0; left.Load() > 0; n++ {
					if r := caller.do(OpSet, fmt.Sprintf("small%d.%d.%d", i, j, n), small); r.Status != Stored {
						t.Errorf("small: status %d %s", r.Status, r.Err)
						return
					}
				}
			})
		}
	}
	load.Go(func() {
		caller := newCaller(c.nodes[1])
		for n := 0; left.Add(-1) >= 0; n++ {
			if r := caller.do(OpSet, fmt.Sprintf("large%d", n), large); r.Status != Stored {
				t.Errorf("large: status %d %s\n%s", r.Status, r.Err, c.describe())
				left.Store(0)
			}
		}
	})
	load.Wait()
	c.requireSame()
}

// sink is a Transport that keeps what is sent.
type sink struct{ sent []Message }

func (s *sink) Start(Handler) error { return nil }
func (s *sink) SetPeers([]Peer)     {}
func (s *sink) Reset(Member)        {}
func (s *sink) Send(_ uint8, m *Message) {
	c := *m
	c.Key, c.Value = bytes.Clone(m.Key), bytes.Clone(m.Value)
	s.sent = append(s.sent, c)
}
func (s *sink) Flush()                     {}
func (s *sink) Stats(func(string, uint64)) {}
func (s *sink) Close() error               { return nil }

// TestFollowerWithoutMemory sends a replica more than it has granted, without ever waiting: it neither ends nor answers for what it has no memory for,
// it takes everything in order, and acknowledges it once its evictions have come through.
func TestFollowerWithoutMemory(t *testing.T) {
	const valueBytes, updates = 3000, 4000 // 12 MB
	tab, err := table.New(table.Config{MemoryBytes: 4 << 20, ItemSizeMax: 32 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer tab.Close()
	n, err := assemble(Config{Self: Member{Number: 2, Incarnation: 7}, Replicas: 2, Table: tab, ItemSizeMax: 32 << 10, OpTimeout: steady, Unique: 1000, Logger: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	wire := new(sink)
	n.transport = wire
	peer := Member{Number: 1, Incarnation: 3}
	n.Enter(viewOf(peer, n.self))
	if err := n.PeerUp(peer); err != nil {
		t.Fatal(err)
	}
	for lane := range table.Lanes {
		n.Receive(&Message{Kind: MARK, From: peer, Epoch: 1, Lane: uint8(lane)})
	}
	acked := make(map[uint64]bool)
	var last [table.Lanes]uint64
	// answer reads what the replica has sent, and acknowledges its evictions if it may.
	answer := func(evictions bool) {
		sent := wire.sent
		wire.sent = nil
		for _, m := range sent {
			switch m.Kind {
			case ACK:
				if m.ID > updates {
					continue // of the deletes below
				}
				if acked[m.ID] || m.ID < last[m.Lane] {
					t.Fatalf("lane %d: update %d is acknowledged after %d", m.Lane, m.ID, last[m.Lane])
				}
				acked[m.ID], last[m.Lane] = true, m.ID
				n.Receive(&Message{Kind: VAL, From: peer, Epoch: 1, Lane: m.Lane, TS: m.TS, Clock: m.ID, Key: fmt.Appendf(nil, "key%d", m.ID)})
			case INV:
				if !evictions {
					wire.sent = append(wire.sent, m)
					continue
				}
				n.Receive(&Message{Kind: ACK, From: peer, Epoch: 1, Lane: m.Lane, ID: m.ID, TS: m.TS, Clock: m.TS.Version()})
			}
		}
		n.EndBatch(peer)
	}
	value := make([]byte, valueBytes)
	for id := uint64(1); id <= updates; id++ {
		key := fmt.Appendf(nil, "key%d", id)
		n.Receive(&Message{Kind: INV, From: peer, Epoch: 1, Lane: uint8(laneOf(table.Hash(key))), Clock: id, Key: key, ID: id,
			TS: table.Timestamp{Write: id<<8 | 1}, CAS: id<<8 | 1, Value: value})
		if id%8 == 0 {
			answer(false)
		}
	}
	if stalled := n.counters.stalled.Load(); stalled == 0 || len(acked) == updates {
		t.Fatalf("%d lanes stalled, %d of %d updates were acknowledged: the memory was to be too small", stalled, len(acked), updates)
	}
	// The peer may be full too, and evict: its deletes of what is stored here must not wait behind its updates, or each would wait for the other.
	deletes := uint64(0)
	for id := range acked {
		key := fmt.Appendf(nil, "key%d", id)
		lane := laneOf(table.Hash(key))
		if n.membership.stalls[1].lanes.Load()&bit(uint8(lane)) == 0 {
			continue
		}
		if _, ok := dump(n)[string(key)]; !ok {
			continue
		}
		deletes++
		n.Receive(&Message{Kind: INV, From: peer, Epoch: 1, Lane: uint8(lane), Clock: updates, Key: key, ID: updates + deletes, Bits: BitTombstone,
			TS: table.Timestamp{Write: id<<8 | 1, Step: 1<<8 | 1}})
		if !slices.ContainsFunc(wire.sent, func(m Message) bool { return (m.Kind == ACK || m.Kind == NACK) && m.ID == updates+deletes }) {
			t.Fatalf("a delete of key %q waits behind updates that there is no memory for", key)
		}
		if deletes == 20 {
			break
		}
	}
	if deletes == 0 {
		t.Fatal("no stalled lane has an item")
	}
	for round := 0; len(acked) < updates; round++ {
		if round > 5_000 {
			t.Fatalf("%d of %d updates are acknowledged, and no more", len(acked), updates)
		}
		answer(true)
	}
	if lanes := n.membership.stalls[1].lanes.Load(); lanes != 0 {
		t.Errorf("lanes %b are stalled still", lanes)
	}
	n.PeerDown(peer, errors.New("over"))
}

// viewOf is a first view in which all serve.
func viewOf(members ...Member) views.View {
	v := views.View{Epoch: 1}
	for _, m := range members {
		v.Members = append(v.Members, views.Replica{Member: m, Serving: true})
	}
	return v
}
