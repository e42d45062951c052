package replication

import (
	"fmt"
	"runtime"
	"sync"
	"testing"

	"hermesd/table"
)

// looper runs one kind of operation again and again, and allocates nothing itself.
type looper struct {
	node *Node
	done chan *Op
	keys [][]byte
	next int
}

func newLooper(n *Node) *looper {
	l := &looper{node: n, done: make(chan *Op, 1)}
	for i := range 16 {
		l.keys = append(l.keys, fmt.Appendf(nil, "key%d", i))
	}
	return l
}

func (l *looper) Done(op *Op) Flusher {
	l.done <- op
	return nil
}

func (l *looper) do(t testing.TB, kind OpKind, value []byte, want Status) {
	op := l.node.NewOp()
	l.next++
	op.Kind, op.Key, op.Value, op.Client, op.Now, op.Delta = kind, l.keys[l.next%len(l.keys)], value, l, 1_000_000, 1
	op.Hash = table.Hash(op.Key)
	done := l.node.Submit(op)
	l.node.Flush()
	if !done {
		op = <-l.done
	}
	if op.Result.Status != want {
		t.Fatalf("operation %d: status %d %s", kind, op.Result.Status, op.Result.Err)
	}
	l.node.FreeOp(op)
}

// get is a read as the server does it.
func (l *looper) get(t testing.TB, buf []byte) []byte {
	l.next++
	key := l.keys[l.next%len(l.keys)]
	hash := table.Hash(key)
	var it table.Item
	for {
		ticket, status := l.node.View(hash, key, 1_000_000, &it)
		if status != ReadHit {
			t.Fatalf("read: status %d", status)
		}
		if buf = l.node.AppendValue(buf[:0], hash, &it); l.node.Confirm(ticket) {
			return buf
		}
	}
}

// TestOperationsDoNotAllocate: once buffers have grown, no operation allocates, in a group of one, or in any of three replicas together: what is
// counted is the whole process, the INVs, acknowledgements and validations of an update on their way through sockets included.
func TestOperationsDoNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, replicas := range []int{1, 3} {
		t.Run(fmt.Sprint(replicas), func(t *testing.T) {
			l := newLooper(newCluster(t, clusterOptions{replicas: replicas, memoryBytes: 64 << 20, itemSizeMax: 1 << 20}).nodes[0])
			const runs = 2000
			var value, number = make([]byte, 1000), []byte("1000000")
			buf := make([]byte, 0, len(value))
			for _, c := range []struct {
				name string
				run  func()
			}{
				{"set", func() { l.do(t, OpSet, value, Stored) }},
				{"read", func() { buf = l.get(t, buf) }},
				{"get that may wait", func() { l.do(t, OpGet, nil, Hit) }},
				{"append and set", func() { l.do(t, OpAppend, number, Stored); l.next--; l.do(t, OpSet, number, Stored) }},
				{"incr", func() { l.do(t, OpIncr, nil, Number) }},
				{"delete and add", func() { l.do(t, OpDelete, nil, Deleted); l.next--; l.do(t, OpAdd, number, Stored) }},
			} {
				for range runs {
					c.run()
				}
				if n := testing.AllocsPerRun(runs, c.run); n != 0 {
					t.Errorf("%s: %v allocations each", c.name, n)
				}
			}
		})
	}
}

// BenchmarkSetThroughThree is a set from one client through three replicas in this process: with -benchmem, the bytes and allocations of all three.
func BenchmarkSetThroughThree(b *testing.B) {
	l := newLooper(newCluster(b, clusterOptions{replicas: 3, memoryBytes: 64 << 20, itemSizeMax: 1 << 20}).nodes[0])
	value := make([]byte, 100)
	b.ReportAllocs()
	for b.Loop() {
		l.do(b, OpSet, value, Stored)
	}
}

// TestHeapStaysSmall runs many callers on many keys, with deletes, timeouts of nobody, and values of all sizes up to the limit, and then looks at what is
// left on Go's heap: operations, queues and tombstones that are done leave their memory to the next, or to nobody.
func TestHeapStaysSmall(t *testing.T) {
	c := newCluster(t, clusterOptions{replicas: 3, memoryBytes: 32 << 20, itemSizeMax: 1 << 20})
	large := string(make([]byte, 1<<20-200))
	round := func(callers int) {
		var load sync.WaitGroup
		for i, node := range c.nodes {
			for j := range callers {
				load.Go(func() {
					caller := newCaller(node)
					for n := range 300 {
						key := fmt.Sprintf("key%d", (n*7+j)%50)
						switch (n + i + j) % 4 {
						case 0:
							caller.do(OpSet, key, large[:n%2000])
						case 1:
							caller.do(OpDelete, key, "")
						case 2:
							caller.do(OpAdd, key, "1")
						case 3:
							caller.do(OpSet, fmt.Sprintf("own%d.%d.%d", i, j, n), large[:n*2])
						}
						if n%100 == 0 {
							caller.do(OpSet, key, large)
						}
					}
				})
			}
		}
		load.Wait()
		c.awaitRest()
	}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC() // what the pools kept goes with the second
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	round(20)
	before := heap()
	rounds := 2
	if testing.Short() {
		rounds = 1
	}
	for range rounds {
		round(20)
	}
	const allowed = 8 << 20 // buffers of channels and lanes that have grown for other values, and what the test holds
	if after := heap(); after > before+allowed {
		t.Errorf("the heap has grown from %d to %d bytes", before, after)
	}
	if after := heap(); after > 32<<20 {
		t.Errorf("the heap is %d bytes: three replicas, whose items lie outside of it", after)
	}
	for i, n := range c.nodes {
		for j := range n.lanes {
			l := n.lanes[j].lane
			if len(l.queues.byHash) != 0 || l.flight.count != 0 || len(l.tombs.pending) != 0 {
				t.Errorf("replica %d lane %d: %d queues, %d in flight, %d tombstones at rest", i+1, j, len(l.queues.byHash), l.flight.count, len(l.tombs.pending))
			}
		}
	}
}
