package replication

import (
	"math/rand/v2"
	"testing"

	"github.com/rs/zerolog"

	"hermesd/table"
)

// creditNode is a member of a group of three that nothing drives, and what it sends.
func creditNode(t *testing.T, memoryBytes uint64) (*Node, *sink) {
	t.Helper()
	tab, err := table.New(table.Config{MemoryBytes: memoryBytes, ItemSizeMax: 32 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tab.Close() })
	n, err := assemble(Config{Self: Member{Number: 3, Incarnation: 7}, Replicas: 3, Table: tab, ItemSizeMax: 32 << 10, Unique: 1000, Logger: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	wire := new(sink)
	n.transport = wire
	n.Enter(viewOf(Member{Number: 1, Incarnation: 5}, Member{Number: 2, Incarnation: 6}, Member{Number: 3, Incarnation: 7}))
	return n, wire
}

// TestClaim: an update that was refused is not overtaken by smaller ones for ever. What comes back is kept for it.
func TestClaim(t *testing.T) {
	n, _ := creditNode(t, 4<<20)
	c := &n.credit
	const small, large, free = 100, 5_000, 3 << 20
	peers := n.membership.peers.Load()
	c.came(1, 1_000)
	c.came(2, 1_000)
	if c.admit(peers, 5, large, free) {
		t.Fatal("admitted without credit")
	}
	limit := int64(1_000)
	for rounds := 0; !c.admit(peers, 5, large, free); rounds++ {
		if rounds > 20 {
			t.Fatalf("the large update was refused %d times: sent %d, limit %d", rounds, c.sent[1], limit)
		}
		for c.admit(peers, 9, small, free) {
		}
		limit += 1_000
		c.came(1, limit)
		c.came(2, limit)
	}
	if c.claim != (claim{}) || !c.admit(peers, 9, small, free) == (c.sent[1]+small <= limit) {
		t.Errorf("the claim goes on: %+v", c.claim)
	}
	// One whose operation has gone away holds nobody up.
	if c.admit(peers, 5, 1<<20, free) {
		t.Fatal("admitted without credit")
	}
	c.waive(5)
	c.came(1, limit+small)
	c.came(2, limit+small)
	if !c.admit(peers, 9, small, free) {
		t.Error("a claim that was given up holds others up")
	}
}

// TestAdmitIsAllOrNothing: an update that one peer has no room for takes nothing from the others.
func TestAdmitIsAllOrNothing(t *testing.T) {
	n, _ := creditNode(t, 4<<20)
	c := &n.credit
	c.came(1, 1_000)
	c.came(2, 10)
	if c.admit(n.membership.peers.Load(), 1, 500, 3<<20) {
		t.Error("admitted though member 2 grants only 10 bytes")
	}
	if c.sent[1] != 0 || c.taken.Load() != 0 {
		t.Errorf("%d bytes were taken from member 1, %d here", c.sent[1], c.taken.Load())
	}
	c.came(2, 1_000)
	c.waive(1)
	if c.admit(n.membership.peers.Load(), 1, 500, c.reserve(n.peerCount())+499) {
		t.Error("admitted though the memory is the peers'")
	}
}

// TestPromises has peers send what they were granted, lose channels at any time, and send again what was under way, while the member's own updates
// take what they are admitted for: what is promised and taken is free at all times, but for the slack.
func TestPromises(t *testing.T) {
	for seed := range uint64(200) {
		n, wire := creditNode(t, 1<<20)
		c := &n.credit
		r := rand.New(rand.NewPCG(seed, 1))
		type link struct {
			up          bool
			sent, limit int64
			unreceived  []int // lengths of values on their way
		}
		var links [3]link
		number := 0
		store := func(lane, length int) bool {
			number++
			key := []byte{byte(lane), byte(number), byte(number >> 8), byte(number >> 16)}
			l := n.lanes[lane].items
			l.Lock()
			defer l.Unlock()
			var it table.Item
			return l.Put(uint64(lane)<<58, key, &it, make([]byte, length)) == nil
		}
		for range 3_000 {
			peer := uint8(1 + r.IntN(2))
			k := &links[peer]
			switch p := r.IntN(100); {
			case p < 3:
				if k.up {
					c.down(peer)
				} else {
					c.reset(peer)
					k.sent, k.limit = 0, 0
					for _, length := range k.unreceived { // again, before anything else
						k.sent += itemCost(4, length)
					}
				}
				k.up = !k.up
			case p < 40 && k.up:
				if length := r.IntN(4_000); k.sent+itemCost(4, length) <= k.limit {
					k.sent += itemCost(4, length)
					k.unreceived = append(k.unreceived, length)
				}
			case p < 75 && k.up && len(k.unreceived) > 0:
				length := k.unreceived[0]
				k.unreceived = k.unreceived[1:]
				if !store(r.IntN(8), length) {
					t.Fatalf("seed %d: no memory for %d bytes that member %d was granted", seed, length, peer)
				}
				c.stored(peer, &Message{Key: make([]byte, 4), Value: make([]byte, length)})
			case p < 90:
				n.grant(peer)
				for _, m := range wire.sent {
					links[peer].limit = int64(m.ID)
				}
				wire.sent = nil
			default:
				length := r.IntN(4_000)
				if free := int64(n.table.FreeBytes()); free-c.reserve(n.peerCount()) >= itemCost(4, length) {
					store(r.IntN(8), length)
				}
			}
			onTheWay := int64(0)
			for i := range links {
				for _, length := range links[i].unreceived {
					onTheWay += itemCost(4, length)
				}
			}
			if free := int64(n.table.FreeBytes()); c.promised.Load() > free || onTheWay > c.promised.Load() {
				t.Fatalf("seed %d: %d bytes are on their way, %d promised, and %d free", seed, onTheWay, c.promised.Load(), free)
			}
		}
	}
}
