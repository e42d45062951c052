package replication

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hermesd/table"
)

// keyOfLane is a key that lies in a lane.
func keyOfLane(lane int) string {
	for i := 0; ; i++ {
		if key := fmt.Sprintf("key%d", i); laneOf(table.Hash([]byte(key))) == lane {
			return key
		}
	}
}

// TestUpdateOfAnEarlierLife: an update that has passed Submit's look at ready when its replica is restarted must not be run by the lane of the
// next life, which is alone in a view of its own: it would be answered STORED and be in no other replica.
//
// The client is in makeRoomFor (memory is short), waiting for the lock of lane 40, while Restart goes through the lanes: it has renewed lane 3 when the
// client comes to it.
func TestUpdateOfAnEarlierLife(t *testing.T) {
	c := newCluster(t, clusterOptions{replicas: 3, memoryBytes: 16 << 20, itemSizeMax: 64 << 10, opTimeout: steady, proxied: true})
	node := c.nodes[1]
	const busy, lane = 40, 3
	key := keyOfLane(lane)
	newCaller(c.nodes[0]).want(t, Stored, "", OpSet, key, "of the group")
	before := node.lanes[lane].lane
	c.remove(1) // the others go on without it
	await(t, "its channels have ended", func() bool { _, connected := node.Members(); return connected == 1 })
	node.lanes[busy].lock()
	node.room.at.Store(busy + 1) // a segment of it is being collected
	node.room.low.Store(1 << 40) // memory is short
	answer := make(chan Result)
	go func() { answer <- newCaller(node).do(OpSet, key, "lost") }()
	await(t, "the client waits for the lock of lane 40", func() bool { return strings.Contains(goroutines(), "replication.(*Node).makeSomeRoom") })
	restarted := make(chan struct{})
	go func() {
		node.Restart(Member{Number: 2, Incarnation: uint64(time.Now().UnixNano())})
		close(restarted)
	}()
	await(t, "Restart has come to lane 40", func() bool {
		nl := &node.lanes[lane]
		nl.lock()
		defer nl.unlock(nil)
		return nl.lane != before
	})
	node.room.low.Store(0) // enough for the test: nothing is to be evicted
	node.lanes[busy].unlock(nil)
	r := <-answer
	<-restarted
	if r.Status == Stored {
		t.Errorf("a removed replica has answered STORED, alone")
	}
	if held := dump(node); len(held) != 0 {
		t.Errorf("the next life begins with %v", held)
	}
	newCaller(c.nodes[0]).want(t, Deleted, "", OpDelete, key, "")
	await(t, "the tombstone is dropped", func() bool { return len(dump(c.nodes[0])) == 0 })
	node.Renew(forever)
	c.list(1)
	c.awaitCaughtUp(1)
	c.serve(1)
	r = newCaller(node).do(OpGet, key, "")
	if r.Status == Hit {
		t.Errorf("and after it has joined it serves %q, which no other replica has", r.Value)
	}
}

// TestReadOfAnEarlierLife: the same for a read without the lock: it must not take the empty memory of the next life for a miss. View's look at ready
// is made before; here it is what lies between the look and the confirmation that is taken apart.
func TestReadOfAnEarlierLife(t *testing.T) {
	c := newCluster(t, clusterOptions{replicas: 3, memoryBytes: 16 << 20, itemSizeMax: 64 << 10, opTimeout: steady, proxied: true})
	node := c.nodes[1]
	newCaller(c.nodes[0]).want(t, Stored, "", OpSet, "key", "value")
	misses := 0
	for round := range 10 {
		c.remove(1)
		stop := make(chan struct{})
		miss := make(chan int, 8)
		for range 8 {
			go func() {
				n := 0
				var it table.Item
				for {
					select {
					case <-stop:
						miss <- n
						return
					default:
					}
					if _, st := node.View(table.Hash([]byte("key")), []byte("key"), 1, &it); st == ReadMiss {
						n++
					}
				}
			}()
		}
		node.Restart(Member{Number: 2, Incarnation: uint64(time.Now().UnixNano()) + uint64(round)})
		close(stop)
		for range 8 {
			misses += <-miss
		}
		node.Renew(forever)
		c.join(1)
	}
	if misses > 0 {
		t.Errorf("%d reads missed a key that was there all the time", misses)
	}
}

// TestJoinerOfAFullGroup: a group with full memory evicts all the time that a member catches up, which gets a tombstone for every key that is evicted. These
// must not gather until its memory is full: sets would find no credit, and deletes no memory.
func TestJoinerOfAFullGroup(t *testing.T) {
	c := newCluster(t, clusterOptions{replicas: 3, memoryBytes: 8 << 20, itemSizeMax: 32 << 10, opTimeout: 5 * time.Second, proxied: true})
	value := strings.Repeat("v", 100)
	var n, failed atomic.Int64
	var over atomic.Bool
	var load sync.WaitGroup
	evictions := func() uint64 { return c.nodes[0].counters.evictions.Load() + c.nodes[1].counters.evictions.Load() }
	for i := range 2 {
		for range 8 {
			load.Go(func() {
				caller := newCaller(c.nodes[i])
				for !over.Load() {
					if r := caller.do(OpSet, fmt.Sprintf("key%d", n.Add(1)), value); r.Status != Stored {
						failed.Add(1)
					}
				}
			})
		}
	}
	defer func() {
		over.Store(true)
		load.Wait()
	}()
	await(t, "memory is full", func() bool { return evictions() > 5_000 })
	c.restart(2)
	j := c.nodes[2]
	c.list(2)
	j.catchUp.end() // the stream is held back
	before := evictions()
	await(t, "many items are evicted", func() bool { return evictions()-before > 45_000 || failed.Load() > 0 })
	if failed.Load() > 0 {
		t.Errorf("%d sets failed", failed.Load())
	}
	tombstones := 0
	for i := range j.lanes {
		nl := &j.lanes[i]
		nl.lock()
		tombstones += len(nl.lane.tombs.pending)
		nl.unlock(nil)
	}
	if tombstones > 20_000 {
		t.Errorf("the joiner keeps %d tombstones", tombstones)
	}
	j.catchUp.begin(j)
	c.awaitCaughtUp(2)
	c.serve(2)
}
