package server

import (
	"bytes"
	"context"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hermesd/textproto"
)

// alive fails unless another client is served, by the only poller that there is.
func alive(t *testing.T, s *Server) {
	t.Helper()
	c := dial(t, s)
	c.send("version\r\n")
	c.want("VERSION " + ProtocolVersion + "-hermesd-" + Version + "\r\n")
}

// A client that never reads stalls nobody, costs bounded memory, and gets all its replies once it does read.
func TestClientThatNeverReads(t *testing.T) {
	s := startAlone(t)
	c := dial(t, s)
	value := strings.Repeat("v", 100_000)
	c.send(set("k", value))
	c.want("STORED\r\n")
	const gets = 5000 // half a gigabyte of replies
	var sent sync.WaitGroup
	sent.Go(func() {
		if _, err := io.WriteString(c, strings.Repeat("get k\r\n", gets)); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "the client is in trouble", func() bool { return s.keepers.Load() == 1 })
	before := heap()
	for range 20 {
		alive(t, s)
	}
	if after := heap(); after > before+8<<20 {
		t.Errorf("the heap grew from %d to %d bytes while a client did not read", before, after)
	}
	want := []byte(valueOf("k", value) + "END\r\n")
	got := make([]byte, len(want))
	for i := range gets {
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("reply %d: %.60q, %v", i, got, err)
		}
	}
	sent.Wait()
	eventually(t, "the client is out of trouble", func() bool { return s.keepers.Load() == 0 })
	c.send("get k\r\n")
	c.want(string(want))
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A client that goes away in the middle of anything leaves nothing.
func TestClientsThatVanish(t *testing.T) {
	store := newFakeStore(1, 0.5)
	store.shuffle(t)
	s := startServer(t, store)
	for _, in := range []string{"", "get", "set k 0 0 10\r\nabc", "set k 0 0 900000\r\n" + strings.Repeat("x", 500_000), set("k", "v") + "get k k k\r\n",
		strings.Repeat(set("k", strings.Repeat("y", 5000))+"get k\r\n", 400)} {
		for _, reset := range []bool{false, true} {
			c := dial(t, s)
			go func() {
				_, _ = io.WriteString(c, in)
				if reset {
					_ = c.SetLinger(0)
				}
				_ = c.Close()
			}()
		}
	}
	eventually(t, "all have come and are gone", func() bool {
		return s.total.Load() == 12 && s.current.Load() == 0 && s.keepers.Load() == 0 && store.holds() == 0
	})
	alive(t, s)
}

// A client may close its sending side after its last request, and still gets the replies.
func TestHalfClosedClientGetsItsReplies(t *testing.T) {
	store := newFakeStore(1, 0)
	s := startServer(t, store)
	c := dial(t, s)
	c.send(set("k", "v") + "get k\r\n")
	eventually(t, "both are submitted", func() bool { return store.holds() == 2 })
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	alive2 := dial(t, s) // the poller has seen the end of the stream by the time that it serves another
	alive2.send("version\r\n")
	alive2.want("VERSION ")
	store.complete(2)
	c.want("STORED\r\n" + valueOf("k", "v") + "END\r\n")
	c.wantEnd()
}

func TestConnectionLimit(t *testing.T) {
	const limit = 10
	s := startAlone(t, func(cfg *Config) { cfg.ConnLimit = limit })
	var clients []client
	for range limit {
		c := dial(t, s)
		c.send("version\r\n")
		c.want("VERSION ")
		clients = append(clients, c)
	}
	over := dial(t, s)
	over.want(textproto.ReplyTooManyConns)
	over.wantEnd()
	_ = clients[0].Close()
	eventually(t, "there is room for another", func() bool { return s.current.Load() < limit })
	alive(t, s)
	if n := s.rejected.Load(); n != 1 {
		t.Errorf("%d clients were rejected", n)
	}
}

// A thousand connections at rest cost what netpoll's buffer and a few structures cost.
func TestIdleConnectionsCostLittle(t *testing.T) {
	const conns, most = 500, 2*netpollBytes + 4<<10
	s := startAlone(t)
	before := heap()
	value := strings.Repeat("v", 20_000)
	for i := range conns {
		c := dial(t, s)
		c.send(set("k", value) + "get k\r\nget no")
		c.want("STORED\r\n" + valueOf("k", value) + "END\r\n")
		if i == 0 { // what is made once
			before = heap()
		}
	}
	if each := (int64(heap()) - int64(before)) / conns; each > most {
		t.Errorf("a connection at rest costs %d bytes, more than %d", each, most)
	}
}

// Shutdown answers what was read, takes nothing new, and ends the connections.
func TestShutdownAnswersWhatWasRead(t *testing.T) {
	store := newFakeStore(1, 0)
	s := startServer(t, store)
	idle, busy := dial(t, s), dial(t, s)
	idle.send("version\r\n")
	idle.want("VERSION ")
	busy.send(set("a", "v") + set("b", "v"))
	eventually(t, "both are submitted", func() bool { return store.holds() == 2 })
	ended := make(chan error)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		ended <- s.Shutdown(ctx)
	}()
	eventually(t, "nobody is accepted any more", func() bool {
		conn, err := net.Dial("tcp", s.Addr().String())
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	select {
	case err := <-ended:
		t.Fatalf("Shutdown returned (%v) before the operations were done", err)
	default:
	}
	store.complete(2)
	busy.want("STORED\r\nSTORED\r\n")
	busy.wantEnd()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// Close does not wait for clients that do not take their replies.
func TestCloseCutsOffWhoDoesNotRead(t *testing.T) {
	s := startAlone(t)
	c := dial(t, s)
	c.send(set("k", strings.Repeat("v", 500_000)) + strings.Repeat("get k\r\n", 100))
	eventually(t, "the client is in trouble", func() bool { return s.keepers.Load() == 1 })
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Shutdown(ctx); err == nil {
		t.Error("Shutdown says that all is answered")
	}
	s.Close()
	if n := s.current.Load(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

// Thousands of clients that come, ask and go leave no descriptor behind.
func TestDescriptorsAreGivenBack(t *testing.T) {
	s := startAlone(t)
	count := func() (n int) {
		for fd := range 1024 {
			var st syscall.Stat_t
			if syscall.Fstat(fd, &st) == nil {
				n++
			}
		}
		return n
	}
	before := 0
	for i := range 300 {
		conn, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(conn, "get a\r\nquit\r\n")
		if rest, err := io.ReadAll(conn); string(rest) != "END\r\n" {
			t.Fatalf("%q, %v", rest, err)
		}
		_ = conn.Close()
		if i == 0 { // what is made once
			eventually(t, "the first is gone", func() bool { return s.current.Load() == 0 })
			before = count()
		}
	}
	eventually(t, "all are gone", func() bool { return s.current.Load() == 0 })
	if after := count(); after > before {
		t.Errorf("%d descriptors were open, now %d", before, after)
	}
}

// TestPauseWhileSwallowing: a client whose input has to wait just where a data block begins that nobody wants costs nothing while it sends no
// more, and does not keep the server from ending.
func TestPauseWhileSwallowing(t *testing.T) {
	s := startAlone(t)
	// The pass ends with more than passOutputBytes written, at the reply to the refused set: before it there is a little less than outputBytes to be written.
	a := strings.Repeat("a", 184_000)
	b := strings.Repeat("b", outputBytes-len("VALUE b 0 131000\r\n\r\nEND\r\n")-10)
	c := dial(t, s)
	c.send(set("a", a) + set("b", b))
	c.want("STORED\r\nSTORED\r\n")
	c = dial(t, s)
	_ = c.SetReadBuffer(4 << 20)
	requests := strings.Repeat("get a\r\n", 4) + "get b\r\nset x 0 0 2000000\r\n"
	c.send("get a" + strings.Repeat(" ", netpollBytes-len("get a\r\n")-len(requests)) + "\r\n" + requests) // a full buffer: there may be more in the socket
	c.want(strings.Repeat(valueOf("a", a)+"END\r\n", 5) + valueOf("b", b) + "END\r\n" + textproto.ReplyTooLarge)
	eventually(t, "the client is out of trouble", func() bool { return s.keepers.Load() == 0 })
}

// netpoll asks for the descriptor of a client that it has put into a poller already, whose end another poller may have seen by then: the
// answer stays what it was, since netpoll takes its own entry for the connection by it.
func TestDescriptorOfClientThatIsGone(t *testing.T) {
	s := startAlone(t)
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(pair[1])
	a := acceptor{s: s}
	admitted, err := a.admit(pair[0], &syscall.SockaddrInet4{})
	if err != nil || admitted == nil {
		t.Fatalf("%v, %v", admitted, err)
	}
	c := admitted.(admission).c
	c.mu.Lock()
	c.closing, c.gone = true, true
	c.settle()
	c.unlock()
	if got := admitted.(admission).Fd(); got != pair[0] || c.fd != -1 {
		t.Errorf("netpoll is told %d for the client at %d, whose socket is %d now", got, pair[0], c.fd)
	}
}
