package replication

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hermesd/bench/history"
)

// TestMembersComeAndGo: while clients of the others go on, each replica in turn dies, is removed from the view, and comes back empty: it catches up and
// serves again. Nothing that was answered is lost, the history is linearizable, and in the end all hold the same.
func TestMembersComeAndGo(t *testing.T) {
	c := newCluster(t, clusterOptions{replicas: 3, memoryBytes: 64 << 20, itemSizeMax: 1<<20 + 1<<10, opTimeout: steady, proxied: true})
	value := strings.Repeat("v", 1000)
	for i := range 5_000 {
		newCaller(c.nodes[i%3]).want(t, Stored, "", OpSet, fmt.Sprintf("bulk%d", i), value)
	}
	h := history.New(nil)
	for victim := range 3 {
		var load sync.WaitGroup
		var over atomic.Bool
		for i, node := range c.nodes {
			if i == victim {
				continue
			}
			for j := range 2 {
				load.Go(func() { c.record(h, node, 6*victim+2*i+j, over.Load) })
			}
			load.Go(func() { c.large(node, i, over.Load) })
		}
		c.restart(victim)
		c.join(victim)
		for i := 0; i < 5_000; i += 7 {
			newCaller(c.nodes[victim]).want(t, Hit, value, OpGet, fmt.Sprintf("bulk%d", i), "")
		}
		over.Store(true)
		load.Wait()
		c.requireSame()
	}
	requireLinearizable(t, h)
}

// TestUpdatesOfTheDead: what a replica had in flight when it died is finished by the others, without anybody asking for it.
func TestUpdatesOfTheDead(t *testing.T) {
	c := newCluster(t, clusterOptions{replicas: 3, memoryBytes: 16 << 20, itemSizeMax: 64 << 10, opTimeout: steady, proxied: true})
	const updates = 200
	for i := range updates {
		newCaller(c.nodes[1]).want(t, Stored, "", OpSet, fmt.Sprintf("key%d", i), "1")
	}
	// Replica 2 hears replica 1, and replica 3 does not: nothing that replica 1 begins is complete.
	c.between(0, 2, proxyCut)
	caller := newCaller(c.nodes[0])
	for i := range updates {
		op := c.nodes[0].NewOp()
		op.Kind, op.Key, op.Client = OpSet, fmt.Appendf(nil, "key%d", i), caller
		op.Value = []byte("2")
		if i%3 == 1 {
			op.Kind, op.Delta = OpIncr, 1
		} else if i%3 == 2 {
			op.Kind = OpDelete
		}
		op.Hash = hashOf(op.Key)
		if c.nodes[0].Submit(op) {
			t.Fatalf("update %d was answered without replica 3: %d", i, op.Result.Status)
		}
	}
	c.nodes[0].Flush()
	await(t, "replica 2 has all of them", func() bool {
		invalid := 0
		for _, held := range dump(c.nodes[1]) {
			invalid += int(held.state & 1)
		}
		return invalid == updates
	})
	go func() {
		for range updates { // they are answered when it closes
			<-caller.done
		}
	}()
	c.stop(0)
	c.remove(0)
	for _, i := range []int{1, 2} {
		await(t, "all is settled", func() bool { return c.nodes[i].Status().Settled })
	}
	for _, i := range []int{1, 2} {
		for k := range updates {
			want, status := "2", Hit
			if k%3 == 2 {
				want, status = "", Miss
			}
			newCaller(c.nodes[i]).want(t, status, want, OpGet, fmt.Sprintf("key%d", k), "")
		}
	}
	c.requireSame()
}

// TestRestartInPlace: a replica that was removed though it lives begins a new life, catches up, and serves again.
func TestRestartInPlace(t *testing.T) {
	c := newCluster(t, clusterOptions{replicas: 3, memoryBytes: 16 << 20, itemSizeMax: 64 << 10, opTimeout: steady, proxied: true})
	for i := range 300 {
		newCaller(c.nodes[i%3]).want(t, Stored, "", OpSet, fmt.Sprintf("key%d", i), "before")
	}
	node := c.nodes[1]
	c.remove(1)
	newCaller(c.nodes[0]).want(t, Stored, "", OpSet, "key7", "after") // without it
	node.Restart(Member{Number: 2, Incarnation: uint64(time.Now().UnixNano())})
	if node.Serves() {
		t.Error("it serves")
	}
	if r := newCaller(node).do(OpGet, "key7", ""); r.Status != Unavailable {
		t.Errorf("get: status %d %q", r.Status, r.Value)
	}
	if held := dump(node); len(held) != 0 {
		t.Errorf("it holds %d keys of its earlier life", len(held))
	}
	node.Renew(forever)
	c.join(1)
	newCaller(node).want(t, Hit, "after", OpGet, "key7", "")
	newCaller(node).want(t, Hit, "before", OpGet, "key8", "")
	newCaller(node).want(t, Stored, "", OpAppend, "key8", " and after")
	c.requireSame()
}

// TestLease: a replica whose lease has run out does not serve, whatever it holds.
func TestLease(t *testing.T) {
	c := newCluster(t, clusterOptions{replicas: 3, memoryBytes: 16 << 20, itemSizeMax: 64 << 10})
	n := c.nodes[0]
	n.Renew(viewsNow() + int64(time.Hour))
	if !n.Serves() {
		t.Error("it does not serve under a lease")
	}
	n.Renew(viewsNow() - 1)
	if n.Serves() {
		t.Error("it serves after its lease")
	}
}
