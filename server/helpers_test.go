package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"hermesd/replication"
	"hermesd/table"
	"hermesd/textproto"
)

// patience is how long a test waits for what must happen before it fails.
const patience = 30 * time.Second

// testThreads is the number of pollers of all servers in these tests, which share netpoll's: one, so that a poller that stands still is
// noticed by every client.
const testThreads = 1

// startServer starts a server on a port of its own, with what configure changes of the defaults.
func startServer(t testing.TB, store Store, configure ...func(*Config)) *Server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Store: store, Listeners: []net.Listener{ln}, Threads: testThreads, ConnLimit: 1024, ItemSizeMax: 1 << 20,
		MemoryBytes: 64 << 20, Logger: zerolog.Nop()}
	for _, f := range configure {
		f(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			s.Close()
			t.Error(err)
		}
		eventually(t, "all keepers have ended", func() bool { return s.keepers.Load() == 0 })
	})
	return s
}

// startAlone starts a server on a real group of one.
func startAlone(t testing.TB, configure ...func(*Config)) *Server {
	t.Helper()
	tab, err := table.New(table.Config{MemoryBytes: 64 << 20, ItemSizeMax: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	node, err := replication.New(replication.Config{Table: tab, ItemSizeMax: 1 << 20, Logger: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after the server's
		_ = node.Close()
		_ = tab.Close()
	})
	return startServer(t, node, configure...)
}

// client is a test's connection.
type client struct {
	t testing.TB
	*net.TCPConn
}

func dial(t testing.TB, s *Server) client {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return client{t, conn.(*net.TCPConn)}
}

func (c client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
}

// want reads exactly as many bytes as text has, and fails unless they are text.
func (c client) want(text string) {
	c.t.Helper()
	got := make([]byte, len(text))
	n, err := io.ReadFull(c, got)
	if string(got[:n]) != text {
		c.t.Fatalf("the reply is\n%q\nand not\n%q (%v)", shorten(got[:n]), shorten([]byte(text)), err)
	}
}

func shorten(b []byte) []byte {
	const most = 600
	if len(b) > most {
		return append(append([]byte(nil), b[:most]...), "..."...)
	}
	return b
}

// wantEnd fails unless the server has closed the connection, and nothing comes before.
func (c client) wantEnd() {
	c.t.Helper()
	if rest, err := io.ReadAll(c); len(rest) > 0 || err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !isReset(err) {
		c.t.Fatalf("instead of the end of the connection came %q, %v", shorten(rest), err)
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatal("the connection is not closed")
	}
}

func isReset(err error) bool { return strings.Contains(err.Error(), "reset") }

// eventually waits until done says so.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("gave up waiting until %s", what)
		}
	}
}

// fakeStore is a Store whose operations take effect in the order of submission, and complete when and in which order the test likes:
// by release, or by a goroutine that completes them at random (shuffle).
type fakeStore struct {
	mu      sync.Mutex
	items   map[string]fakeItem
	unique  uint64
	held    []*replication.Op // submitted, with their results, and not handed back
	pending map[string]int    // by key: how many of held
	random  *rand.Rand
	// direct is the chance that an operation, or a read of a key for which nothing is held, is answered at once.
	direct float64
	ops    int // given out
	// hold, if not nil, is waited for in Submit.
	hold    chan struct{}
	flushes int
	noLease atomic.Bool
}

type fakeItem struct {
	value string
	flags uint32
	cas   uint64
}

func newFakeStore(seed uint64, direct float64) *fakeStore {
	return &fakeStore{items: map[string]fakeItem{}, pending: map[string]int{}, random: rand.New(rand.NewPCG(seed, 1)), direct: direct}
}

func (f *fakeStore) NewOp() *replication.Op {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ops++
	return new(replication.Op)
}

func (f *fakeStore) FreeOp(*replication.Op) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ops--
}

func (f *fakeStore) Submit(op *replication.Op) bool {
	f.mu.Lock()
	if hold := f.hold; hold != nil {
		f.mu.Unlock()
		<-hold
		f.mu.Lock()
	}
	defer f.mu.Unlock()
	f.run(op)
	if f.pending[string(op.Key)] == 0 && f.random.Float64() < f.direct {
		return true
	}
	op.Key, op.Value = bytes.Clone(op.Key), nil
	f.pending[string(op.Key)]++
	f.held = append(f.held, op)
	return false
}

func (f *fakeStore) FlushAll(op *replication.Op) bool { return f.Submit(op) }

func (f *fakeStore) Flush() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flushes++
}

// bad is the beginning of keys for which every operation fails.
const bad = "bad"

// run does what memcached would.
func (f *fakeStore) run(op *replication.Op) {
	key := string(op.Key)
	it, present := f.items[key]
	r := &op.Result
	*r = replication.Result{Value: r.Value[:0]}
	if strings.HasPrefix(key, bad) {
		r.Status, r.Err = replication.Unavailable, f.Reason()
		return
	}
	store := func(value string) {
		f.unique++
		f.items[key] = fakeItem{value, op.Flags, f.unique}
		r.Status = replication.Stored
	}
	switch op.Kind {
	case replication.OpSet:
		store(string(op.Value))
	case replication.OpAdd:
		if r.Status = replication.NotStored; !present {
			store(string(op.Value))
		}
	case replication.OpAppend:
		if r.Status = replication.NotStored; present {
			op.Flags = it.flags
			store(it.value + string(op.Value))
		}
	case replication.OpDelete:
		if r.Status = replication.NotFound; present {
			delete(f.items, key)
			r.Status = replication.Deleted
		}
	case replication.OpGet, replication.OpGat:
		if r.Status = replication.Miss; present {
			r.Status, r.Flags, r.CAS = replication.Hit, it.flags, it.cas
			r.Value = append(r.Value, it.value...)
		}
	case replication.OpFlush:
		clear(f.items)
		r.Status = replication.Flushed
	default:
		panic("fakeStore: no such operation")
	}
}

func (f *fakeStore) View(_ uint64, key []byte, _ uint32, it *table.Item) (replication.Ticket, replication.ReadStatus) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pending[string(key)] > 0 || f.random.Float64() >= f.direct {
		return replication.Ticket{}, replication.ReadWait
	}
	if strings.HasPrefix(string(key), bad) {
		return replication.Ticket{}, replication.ReadUnavailable
	}
	stored, present := f.items[string(key)]
	if !present {
		return replication.Ticket{}, replication.ReadMiss
	}
	*it = table.Item{Flags: stored.flags, CAS: stored.cas, ValueLen: len(stored.value)}
	return replication.Ticket{}, replication.ReadHit
}

func (f *fakeStore) AppendValue(dst []byte, hash uint64, _ *table.Item) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, it := range f.items {
		if table.Hash([]byte(key)) == hash {
			return append(dst, it.value...)
		}
	}
	panic("fakeStore: AppendValue of an item that is not there")
}

func (f *fakeStore) Confirm(replication.Ticket) bool                           { return true }
func (f *fakeStore) Serves() bool                                              { return !f.noLease.Load() }
func (f *fakeStore) Reason() string                                            { return "the fake says so" }
func (f *fakeStore) ItemStats() (items table.Stats, evictions, expired uint64) { return items, 0, 0 }
func (f *fakeStore) Stats(func(name, value string))                            {}

// take removes operation i from those held.
func (f *fakeStore) take(i int) *replication.Op {
	op := f.held[i]
	f.held = append(f.held[:i], f.held[i+1:]...)
	if f.pending[string(op.Key)]--; f.pending[string(op.Key)] == 0 {
		delete(f.pending, string(op.Key))
	}
	return op
}

// complete hands back up to n operations, drawn at random, in one pass, and returns how many.
func (f *fakeStore) complete(n int) int {
	f.mu.Lock()
	var done []*replication.Op
	for len(done) < n && len(f.held) > 0 {
		done = append(done, f.take(f.random.IntN(len(f.held))))
	}
	f.mu.Unlock()
	var flushers []replication.Flusher
	for _, op := range done {
		if fl := op.Client.Done(op); fl != nil {
			flushers = append(flushers, fl)
		}
	}
	for _, fl := range flushers {
		fl.Flush()
	}
	return len(done)
}

// shuffle completes operations on two goroutines until the test ends. It is called before startServer, so that the server, which waits
// for its operations, ends first.
func (f *fakeStore) shuffle(t testing.TB) {
	var stopped sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		stopped.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					f.mu.Lock()
					n := 1 + f.random.IntN(8)
					f.mu.Unlock()
					if f.complete(n) == 0 {
						time.Sleep(100 * time.Microsecond)
					}
				}
			}
		})
	}
	t.Cleanup(func() { close(stop); stopped.Wait() })
}

func (f *fakeStore) holds() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.held)
}

// set is the text of a set.
func set(key, value string) string {
	return string(append(appendSet(nil, key, value), '\r', '\n'))
}

func appendSet(dst []byte, key, value string) []byte {
	dst = append(dst, "set "+key+" 0 0 "...)
	dst = textproto.AppendNumber(dst, uint64(len(value)))
	return append(dst, value...)
}

// valueOf is the text of a hit, without END.
func valueOf(key, value string) string {
	return string(textproto.AppendValueHeader(nil, []byte(key), 0, len(value))) + value + "\r\n"
}
