package replication

import (
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"hermesd/table"
)

// startNodes starts a group of n replicas in this process, over real sockets, and waits until all serve.
func startNodes(t testing.TB, n int, memoryBytes uint64) []*Node {
	t.Helper()
	return newCluster(t, clusterOptions{replicas: n, memoryBytes: memoryBytes, itemSizeMax: 1 << 20}).nodes
}

// caller runs operations one at a time.
type caller struct {
	node *Node
	done chan *Op
}

func newCaller(n *Node) *caller { return &caller{node: n, done: make(chan *Op, 1)} }

func (c *caller) Done(op *Op) Flusher {
	c.done <- op
	return nil
}

// do runs an operation to its end and returns its result; the value is the caller's.
func (c *caller) do(kind OpKind, key, value string, set ...func(*Op)) Result {
	op := c.node.NewOp()
	op.Kind, op.Client, op.Now = kind, c, uint32(time.Now().Unix())
	if kind != OpFlush {
		op.Key, op.Value, op.Hash = []byte(key), []byte(value), table.Hash([]byte(key))
	}
	for _, f := range set {
		f(op)
	}
	done := false
	if kind == OpFlush {
		done = c.node.FlushAll(op)
	} else {
		done = c.node.Submit(op)
	}
	c.node.Flush()
	if !done {
		op = <-c.done
	}
	r := op.Result
	r.Value = append([]byte(nil), r.Value...)
	c.node.FreeOp(op)
	return r
}

func (c *caller) want(t *testing.T, status Status, value string, kind OpKind, key, arg string, set ...func(*Op)) Result {
	t.Helper()
	r := c.do(kind, key, arg, set...)
	if r.Status != status || string(r.Value) != value {
		t.Fatalf("operation %d on %q: status %d value %.40q (%s), want %d %.40q", kind, key, r.Status, r.Value, r.Err, status, value)
	}
	return r
}

// read is a get without the lock, as the server does it.
func read(n *Node, key string) (string, ReadStatus) {
	var it table.Item
	hash := table.Hash([]byte(key))
	for {
		ticket, status := n.View(hash, []byte(key), uint32(time.Now().Unix()), &it)
		if status != ReadHit {
			return "", status
		}
		value := n.AppendValue(nil, hash, &it)
		if n.Confirm(ticket) {
			return string(value), ReadHit
		}
	}
}

func TestEveryOperationThroughEveryReplica(t *testing.T) {
	for _, size := range []int{1, 2, 3} {
		t.Run(strconv.Itoa(size), func(t *testing.T) {
			nodes := startNodes(t, size, 64<<20)
			for i, node := range nodes {
				a, b := newCaller(node), newCaller(nodes[(i+1)%size])
				k := func(s string) string { return fmt.Sprintf("%s%d", s, i) }
				delta := func(d uint64) func(*Op) { return func(op *Op) { op.Delta = d } }

				a.want(t, Stored, "", OpSet, k("k"), "v1")
				b.want(t, Hit, "v1", OpGet, k("k"), "")
				b.want(t, NotStored, "", OpAdd, k("k"), "v2")
				b.want(t, Stored, "", OpReplace, k("k"), "v3")
				a.want(t, Stored, "", OpAppend, k("k"), "-end")
				a.want(t, Stored, "", OpPrepend, k("k"), "begin-")
				cas := b.want(t, Hit, "begin-v3-end", OpGet, k("k"), "").CAS
				a.want(t, Exists, "", OpCAS, k("k"), "no", func(op *Op) { op.CAS = cas + 1 })
				a.want(t, Stored, "", OpCAS, k("k"), "10", func(op *Op) { op.CAS = cas })
				b.want(t, Exists, "", OpCAS, k("k"), "no", func(op *Op) { op.CAS = cas })
				if r := b.want(t, Number, "", OpIncr, k("k"), "", delta(5)); r.Number != 15 {
					t.Fatalf("incr: %d", r.Number)
				}
				if r := a.want(t, Number, "", OpDecr, k("k"), "", delta(100)); r.Number != 0 {
					t.Fatalf("decr: %d", r.Number)
				}
				b.want(t, Hit, "0 ", OpGet, k("k"), "")
				a.want(t, Touched, "", OpTouch, k("k"), "", func(op *Op) { op.Exptime = op.Now + 100 })
				b.want(t, Hit, "0 ", OpGat, k("k"), "", func(op *Op) { op.Exptime = op.Now + 200 })
				b.want(t, Deleted, "", OpDelete, k("k"), "")
				a.want(t, NotFound, "", OpDelete, k("k"), "")
				a.want(t, Miss, "", OpGet, k("k"), "")
				a.want(t, NotStored, "", OpReplace, k("k"), "x")
				a.want(t, NotFound, "", OpIncr, k("k"), "", delta(1))
				a.want(t, Stored, "", OpAdd, k("k"), "again")
				b.want(t, NotStored, "", OpAdd, k("k"), "twice")
				b.want(t, NonNumeric, "", OpIncr, k("k"), "", delta(1))
				a.want(t, Stored, "", OpSet, k("gone"), "x", func(op *Op) { op.Exptime = 1 })
				b.want(t, Miss, "", OpGet, k("gone"), "")
				b.want(t, Stored, "", OpAdd, k("gone"), "back")
				a.want(t, Flushed, "", OpFlush, "", "")
				b.want(t, Miss, "", OpGet, k("k"), "")
				b.want(t, Stored, "", OpAdd, k("k"), "after")
				a.want(t, Hit, "after", OpGet, k("k"), "")
				if v, st := read(nodes[(i+1)%size], k("k")); v != "after" || st != ReadHit {
					t.Fatalf("read without the lock: %q, %d", v, st)
				}
			}
		})
	}
}

// TestReadsWaitForAFlush: while a flush is under way, not even a key that is not stored can be read without the lock. An older update of it may
// be complete elsewhere.
func TestReadsWaitForAFlush(t *testing.T) {
	nodes := startNodes(t, 2, 64<<20)
	const key = "never stored"
	nl := &nodes[1].lanes[laneOf(table.Hash([]byte(key)))]
	fromFirst := func(kind Kind) {
		nl.lock()
		nl.lane.Receive(&Message{Kind: kind, Bits: BitFlush, Lane: nl.lane.number, From: nodes[0].self, Epoch: nl.lane.epoch, TS: table.Timestamp{Write: 5<<8 | 1}})
		nl.unlock(nil)
	}
	if _, status := read(nodes[1], key); status != ReadMiss {
		t.Errorf("before the flush: %d, want a miss", status)
	}
	fromFirst(INV)
	if _, status := read(nodes[1], key); status != ReadWait {
		t.Errorf("during the flush: %d, want to wait", status)
	}
	fromFirst(VAL)
	if _, status := read(nodes[1], key); status != ReadMiss {
		t.Errorf("after the flush: %d, want a miss", status)
	}
}

// TestIncrIsExact runs incr and add from all replicas at once on few keys.
func TestIncrIsExact(t *testing.T) {
	const replicas, callers, rounds = 3, 4, 200
	nodes := startNodes(t, replicas, 64<<20)
	newCaller(nodes[0]).want(t, Stored, "", OpSet, "n", "0")
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen, added := map[uint64]bool{}, map[string]int{}
	for _, node := range nodes {
		for range callers {
			wg.Add(1)
			go func() {
				defer wg.Done()
				c := newCaller(node)
				for i := range rounds {
					n := c.do(OpIncr, "n", "", func(op *Op) { op.Delta = 1 })
					lock := "lock" + strconv.Itoa(i)
					a := c.do(OpAdd, lock, "mine")
					mu.Lock()
					if n.Status != Number || seen[n.Number] {
						t.Errorf("incr answered %d twice (status %d %s)", n.Number, n.Status, n.Err)
					}
					seen[n.Number] = true
					if a.Status == Stored {
						added[lock]++
					} else if a.Status != NotStored {
						t.Errorf("add: %d %s", a.Status, a.Err)
					}
					mu.Unlock()
				}
			}()
		}
	}
	wg.Wait()
	want := strconv.Itoa(replicas * callers * rounds)
	for _, node := range nodes {
		newCaller(node).want(t, Hit, want, OpGet, "n", "")
	}
	for i := range rounds {
		if lock := "lock" + strconv.Itoa(i); added[lock] != 1 {
			t.Errorf("%s was added %d times", lock, added[lock])
		}
	}
}

// TestItemsBelowAFlushAreGivenBack: a set that a flush has overtaken is never validated: the item stays invalid below the flush. Nobody can read it
// any more, and its memory must come back like that of the others.
func TestItemsBelowAFlushAreGivenBack(t *testing.T) {
	n := lonely(t)
	nl := &n.lanes[0]
	nl.lock()
	defer nl.unlock(nil)
	key := []byte("k")
	it := table.Item{TS: table.Timestamp{Write: 1<<8 | 2}, State: table.Invalid, Finisher: 2}
	for hash := table.Hash(key); laneOf(hash) != 0; hash = table.Hash(key) {
		key = append(key, 'x')
	}
	if err := nl.items.Put(table.Hash(key), key, &it, []byte("v")); err != nil {
		t.Fatal(err)
	}
	nl.lane.floor = floor{ts: table.Timestamp{Write: 2<<8 | 1}}
	before := nl.items.Stats().Items
	for nl.items.Collect(simNow, func(key []byte, hash uint64, it *table.Item) table.Verdict {
		return nl.verdict(key, hash, it, simNow, true)
	}) {
	}
	if after := nl.items.Stats().Items; after != 0 {
		t.Errorf("%d of %d items are left below a flush that is over", after, before)
	}
}
