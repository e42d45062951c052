package replication

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hermesd/bench/history"
	"hermesd/replication/transporttest/proxy"
	"hermesd/table"
)

// steady is how long operations may take in tests that want to know the outcome of every one.
const steady = 2 * patience

// perform runs an operation of a history through a replica, the way a server does: reads try without the lock first.
func (c *caller) perform(in history.Input) history.Output {
	if in.Kind == history.Get || in.Kind == history.Gets {
		if out, ok := c.view(in); ok {
			return out
		}
	}
	kind := [...]OpKind{history.Get: OpGet, history.Gets: OpGet, history.Gat: OpGat, history.Gats: OpGat, history.Set: OpSet, history.Add: OpAdd,
		history.Replace: OpReplace, history.Append: OpAppend, history.Prepend: OpPrepend, history.CAS: OpCAS, history.Incr: OpIncr,
		history.Decr: OpDecr, history.Touch: OpTouch, history.Delete: OpDelete}[in.Kind]
	r := c.do(kind, in.Key, in.Value, func(op *Op) {
		op.Flags, op.CAS, op.Delta = in.Flags, in.CAS, in.Delta
		if in.Expired {
			op.Exptime = 1
		}
	})
	status := [...]history.Status{Hit: history.Hit, Miss: history.Miss, Stored: history.Stored, NotStored: history.NotStored, Exists: history.Exists,
		NotFound: history.NotFound, Deleted: history.Deleted, Touched: history.Touched, Number: history.Number, NonNumeric: history.NonNumeric,
		Unavailable: history.Unknown, OutOfMemory: history.Unknown}[r.Status]
	return output(in, status, string(r.Value), r.Flags, r.CAS, r.Number)
}

func (c *caller) view(in history.Input) (out history.Output, ok bool) {
	var it table.Item
	hash := table.Hash([]byte(in.Key))
	ticket, status := c.node.View(hash, []byte(in.Key), uint32(time.Now().Unix()), &it)
	switch status {
	case ReadMiss:
		return history.Output{Status: history.Miss}, true
	case ReadHit:
		value := c.node.AppendValue(nil, hash, &it)
		if c.node.Confirm(ticket) {
			return output(in, history.Hit, string(value), it.Flags, it.CAS, 0), true
		}
	}
	return history.Output{}, false
}

// output leaves out what the command does not answer.
func output(in history.Input, status history.Status, value string, flags uint32, cas, number uint64) history.Output {
	out := history.Output{Status: status}
	switch status {
	case history.Hit:
		out.Value, out.Flags = value, flags
		if in.Kind == history.Gets || in.Kind == history.Gats {
			out.CAS = cas
		}
	case history.Number:
		out.Number = number
	}
	return out
}

// TestBreaksUnderLoad breaks connections at random while clients of all replicas run all commands: increments are exact, the history is
// linearizable, and in the end all replicas hold the same.
func TestBreaksUnderLoad(t *testing.T) {
	breaks := int64(25)
	if testing.Short() {
		breaks = 8
	}
	c := newCluster(t, clusterOptions{replicas: 3, memoryBytes: 64 << 20, itemSizeMax: 1<<20 + 1<<10, opTimeout: steady, proxied: true})
	newCaller(c.nodes[0]).want(t, Stored, "", OpSet, "count", "0")
	h := history.New(nil)
	var broken, added atomic.Int64
	over := func() bool { return broken.Load() >= breaks || t.Failed() }
	var load sync.WaitGroup
	for i, node := range c.nodes {
		for j := range 2 {
			client := 2*i + j
			load.Go(func() { c.record(h, node, client, over) })
		}
		load.Go(func() {
			for !over() {
				if r := newCaller(node).do(OpIncr, "count", "", func(op *Op) { op.Delta = 1 }); r.Status == Number {
					added.Add(1)
				} else if !notBegun(r) {
					t.Errorf("incr: status %d %s", r.Status, r.Err)
				}
			}
		})
		load.Go(func() { c.large(node, i, over) })
	}
	c.breakOften(breaks, &broken, &added)
	load.Wait()
	if r := newCaller(c.nodes[2]).do(OpGet, "count", ""); string(r.Value) != fmt.Sprint(added.Load()) {
		t.Errorf("count is %s after %d increments", r.Value, added.Load())
	}
	c.requireSame()
	requireLinearizable(t, h)
	t.Logf("%d breaks, %d increments, %d operations recorded", broken.Load(), added.Load(), len(h.Operations()))
}

// requireLinearizable fails the test unless the history is linearizable. A machine that is so slow that this cannot be decided in a minute has shown nothing.
func requireLinearizable(t *testing.T, h *history.History) {
	t.Helper()
	err := h.Check(patience)
	if undecided := (*history.Undecided)(nil); errors.As(err, &undecided) {
		t.Skipf("all else is well, but on this machine the history cannot be judged within %v: %v", patience, err)
	}
	if err != nil {
		t.Error(err)
	}
}

// notBegun reports whether an operation had no effect because the replica does not serve.
func notBegun(r Result) bool {
	return r.Status == Unavailable && (strings.Contains(r.Err, "has not joined") || strings.Contains(r.Err, "catching up"))
}

// record runs a client that writes its operations into the history.
func (c *cluster) record(h *history.History, node *Node, client int, over func() bool) {
	const operations = 1_500 // of each client: a key must not have more than the checker is comfortable with
	w := history.NewWorkload(client, 1, []string{"a", "b", "c", "d", "e", "f"})
	caller := newCaller(node)
	for range operations {
		if over() {
			return
		}
		in := w.Next()
		id := h.Call(client, in)
		out := caller.perform(in)
		if out.Status == history.Unknown && !node.Serves() {
			h.Return(id, out)
			await(c.t, "the group is complete again", func() bool { return node.Serves() || over() })
			continue
		}
		h.Return(id, out)
		w.Observe(in, out)
	}
}

// large sets and reads values of a megabyte, each in one piece of its own letter.
func (c *cluster) large(node *Node, i int, over func() bool) {
	caller := newCaller(node)
	for n := 0; !over(); n++ {
		key := fmt.Sprintf("large%d", n%4)
		letter := string(rune('a' + (n*3+i)%26))
		r := caller.do(OpSet, key, strings.Repeat(letter, 1<<20-n%1000))
		if r.Status != Stored && !notBegun(r) {
			c.t.Errorf("set of a megabyte: status %d %s", r.Status, r.Err)
		}
		r = caller.do(OpGet, key, "")
		if r.Status == Hit && strings.Count(string(r.Value), string(r.Value[:1])) != len(r.Value) {
			c.t.Errorf("%s is mixed of several values", key)
		}
	}
}

// breakOften breaks connections between two random replicas, or all of one's, each time some more work has been done.
func (c *cluster) breakOften(breaks int64, broken, work *atomic.Int64) {
	r := rand.New(rand.NewPCG(1, 2))
	for broken.Load() < breaks && !c.t.Failed() {
		goal := work.Load() + int64(1+r.IntN(40))
		await(c.t, "increments come through", func() bool { return work.Load() >= goal || c.t.Failed() })
		i := r.IntN(len(c.nodes))
		j := (i + 1) % len(c.nodes)
		c.between(i, j, (*proxy.Proxy).Break)
		if r.IntN(3) == 0 {
			c.between(i, (i+2)%len(c.nodes), (*proxy.Proxy).Break)
		}
		broken.Add(1)
	}
}

// TestMemberAway cuts one replica off from the others while the view stays: updates wait and nothing else does; when it is back, everything goes on
// where it was.
func TestMemberAway(t *testing.T) {
	for away := range 3 {
		t.Run(fmt.Sprintf("replica %d", away+1), func(t *testing.T) {
			c := newCluster(t, clusterOptions{replicas: 3, memoryBytes: 16 << 20, itemSizeMax: 64 << 10, opTimeout: steady, proxied: true})
			for i, n := range c.nodes {
				newCaller(n).want(t, Stored, "", OpSet, fmt.Sprintf("key%d", i), "before")
			}
			newCaller(c.nodes[0]).want(t, Stored, "", OpSet, "quiet", "value")
			for _, n := range c.nodes {
				newCaller(n).want(t, Hit, "value", OpGet, "quiet", "") // validated everywhere
			}
			c.isolate(away)
			var flying sync.WaitGroup
			var answered atomic.Int64
			for i, n := range c.nodes {
				flying.Go(func() {
					if r := newCaller(n).do(OpSet, fmt.Sprintf("key%d", i), "during"); r.Status != Stored {
						t.Errorf("set through replica %d: status %d %s", i+1, r.Status, r.Err)
					}
					answered.Add(1)
				})
			}
			for i, n := range c.nodes {
				if value, status := read(n, "quiet"); status != ReadHit || value != "value" {
					t.Errorf("read at replica %d: status %d %q", i+1, status, value)
				}
				await(t, "the outage is reported", func() bool { return n.Status().Unreachable != 0 })
			}
			if answered.Load() != 0 {
				t.Errorf("%d updates were answered though a member was away", answered.Load())
			}
			c.heal(away)
			flying.Wait()
			for i, n := range c.nodes {
				newCaller(n).want(t, Stored, "", OpAppend, fmt.Sprintf("key%d", i), " and after")
			}
			c.requireSame()
		})
	}
}

// TestLateUpdateHappensAll: the client of an update that the group does not finish in time is told so; the update is still
// finished once all are back.
func TestLateUpdateHappensAll(t *testing.T) {
	c := newCluster(t, clusterOptions{replicas: 3, memoryBytes: 16 << 20, itemSizeMax: 64 << 10, opTimeout: 100 * time.Millisecond, proxied: true})
	newCaller(c.nodes[0]).want(t, Stored, "", OpSet, "key", "1")
	c.isolate(2)
	if r := newCaller(c.nodes[0]).do(OpIncr, "key", "", func(op *Op) { op.Delta = 1 }); r.Status != Unavailable || r.Err != timedOut {
		t.Fatalf("incr: status %d %q", r.Status, r.Err)
	}
	// A read must not answer before it is known which it is.
	if r := newCaller(c.nodes[1]).do(OpGet, "key", ""); r.Status != Unavailable {
		t.Errorf("get: status %d %q", r.Status, r.Value)
	}
	c.heal(2)
	c.awaitRest()
	for _, n := range c.nodes {
		newCaller(n).want(t, Hit, "2", OpGet, "key", "")
	}
	c.requireSame()
}

// TestCloseAnswersAll closes a replica with operations of every kind in flight and waiting: all are answered, what comes later is refused, and no
// goroutine is left.
func TestCloseAnswersAll(t *testing.T) {
	c := newCluster(t, clusterOptions{replicas: 3, memoryBytes: 16 << 20, itemSizeMax: 64 << 10, opTimeout: steady, proxied: true})
	node := c.nodes[0]
	newCaller(node).want(t, Stored, "", OpSet, "key", "1")
	c.isolate(2)
	var all sync.WaitGroup
	var answered atomic.Int64
	const each = 20
	for i := range each {
		for _, kind := range []OpKind{OpSet, OpIncr, OpGet, OpAdd, OpDelete, OpFlush} {
			all.Go(func() {
				key := "key"
				if i%2 == 1 {
					key += fmt.Sprint(i)
				}
				r := newCaller(node).do(kind, key, "1")
				if r.Status == Unavailable && r.Err == "" {
					t.Errorf("operation %d: Unavailable without a reason", kind)
				}
				answered.Add(1)
			})
		}
	}
	await(t, "operations wait", func() bool {
		waiting := 0
		for i := range node.lanes {
			nl := &node.lanes[i]
			nl.lock()
			waiting += nl.lane.queues.waiting
			nl.unlock(nil)
		}
		return waiting > each || !node.Serves()
	})
	if err := node.Close(); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	for _, kind := range []OpKind{OpSet, OpGet, OpFlush} {
		if r := newCaller(node).do(kind, "key", "1"); r.Status != Unavailable || r.Err != shuttingDown {
			t.Errorf("operation %d after Close: status %d %q", kind, r.Status, r.Err)
		}
	}
	if err := node.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	node.ready.Store(true) // as an operation has seen it that comes to its lane only now
	for _, kind := range []OpKind{OpSet, OpGet, OpFlush} {
		if r := newCaller(node).do(kind, "key", "1"); r.Status != Unavailable {
			t.Errorf("operation %d that was late: status %d", kind, r.Status)
		}
	}
	node.ready.Store(false)
	for i := range c.nodes {
		c.stop(i)
	}
	await(t, "no goroutine is left", func() bool {
		stacks := goroutines()
		return !strings.Contains(stacks, "replication.(*Node)") && !strings.Contains(stacks, "replication.(*tcp")
	})
}
