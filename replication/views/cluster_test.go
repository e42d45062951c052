package views

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// port is a listening address that outlives the processes behind it.
type port struct {
	listener net.Listener
	mu       sync.Mutex
	to       *side
}

// side is what one process gets of its port.
type side struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (s *side) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}
func (s *side) Close() error   { s.once.Do(func() { close(s.done) }); return nil }
func (s *side) Addr() net.Addr { return address("") }

func newPort(t *testing.T) *port {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &port{listener: l}
	go p.run()
	t.Cleanup(func() { l.Close() })
	return p
}

func (p *port) run() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		go func() {
			magic := make([]byte, len(Magic))
			p.mu.Lock()
			to := p.to
			p.mu.Unlock()
			if _, err := io.ReadFull(c, magic); err != nil || string(magic) != Magic || to == nil {
				c.Close()
				return
			}
			select {
			case to.conns <- c:
			case <-to.done:
				c.Close()
			}
		}()
	}
}

// fakeHost is a replica that has nothing to do: it settles at once, and has caught up when the test says so.
type fakeHost struct {
	c *cluster

	mu       sync.Mutex
	self     Member
	restarts int
	view     View
	until    int64
	status   Status
	slow     bool // it does not catch up
}

func (h *fakeHost) Enter(v View) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !v.Has(h.self) {
		h.c.fail("replica %v is to enter %v", h.self, v)
	}
	if v.Epoch <= h.view.Epoch {
		h.c.fail("replica %v is to enter epoch %d after %d", h.self, v.Epoch, h.view.Epoch)
	}
	h.view = v
	h.status.Epoch, h.status.Settled, h.status.CaughtUp = v.Epoch, true, !h.slow
	h.c.changed()
}

func (h *fakeHost) Renew(until int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.until = until
	h.c.changed()
}

func (h *fakeHost) Restart(self Member) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if self.Incarnation <= h.self.Incarnation {
		h.c.fail("replica %v is to be %v", h.self, self)
	}
	h.self, h.view, h.until, h.status = self, View{}, 0, Status{}
	h.restarts++
	h.c.changed()
}

func (h *fakeHost) Status() Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.status
}

// serves reports whether the replica answers clients now.
func (h *fakeHost) serves() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	r, ok := h.view.Find(h.self.Number)
	return ok && r.Serving && Now() < h.until
}

// lease is until when it may serve; 0: it was given up, or there was none.
func (h *fakeHost) lease() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.until
}

func (h *fakeHost) setUnreachable(set uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.status.Unreachable = set
}

func (h *fakeHost) lives() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.restarts
}

func (h *fakeHost) member() Member { m, _ := h.get(); return m }

func (h *fakeHost) get() (Member, View) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.self, h.view
}

// server is one process: what stays of it when it is killed, and the Driver while it runs.
type server struct {
	number  uint8
	witness bool
	port    *port
	dir     string
	host    *fakeHost
	driver  *Driver
	side    *side
}

type cluster struct {
	t       testing.TB
	timing  Timing
	seeds   map[uint8]string
	servers map[uint8]*server
	log     zerolog.Logger
	network *network
	// patience is raft's; 0: as always.
	patience time.Duration

	mu    sync.Mutex
	event chan struct{} // closed at the next change
	err   string
}

func newCluster(t *testing.T, timing Timing, witness uint8, numbers ...uint8) *cluster {
	c := &cluster{t: t, timing: timing, seeds: map[uint8]string{}, servers: map[uint8]*server{}, event: make(chan struct{}), log: zerolog.Nop(),
		network: newNetwork()}
	if os.Getenv("VIEWS_LOG") != "" {
		zerolog.TimeFieldFormat = time.RFC3339Nano
		c.log = zerolog.New(zerolog.ConsoleWriter{Out: os.Stderr, TimeFormat: "05.000"}).With().Timestamp().Logger()
	}
	for _, n := range numbers {
		c.place(t, n, n == witness)
		c.seeds[n] = c.address(n)
	}
	t.Cleanup(c.closeAll)
	return c
}

func (c *cluster) place(t *testing.T, n uint8, witness bool) {
	c.servers[n] = &server{number: n, witness: witness, port: newPort(t), dir: filepath.Join(t.TempDir(), "data")}
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	c.network.owner[c.address(n)] = n
}

func (c *cluster) address(n uint8) string { return c.servers[n].port.listener.Addr().String() }

func (c *cluster) fail(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == "" {
		c.err = fmt.Sprintf(format, args...)
	}
}

func (c *cluster) changed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.event)
	c.event = make(chan struct{})
}

func (c *cluster) start(numbers ...uint8) {
	c.t.Helper()
	c.startThem(false, numbers...)
}

// startSlow starts replicas that do not catch up.
func (c *cluster) startSlow(numbers ...uint8) {
	c.t.Helper()
	c.startThem(true, numbers...)
}

func (c *cluster) startThem(slow bool, numbers ...uint8) {
	c.t.Helper()
	for _, n := range numbers {
		s := c.servers[n]
		store, err := OpenStore(s.dir, n, s.witness)
		if err != nil {
			c.t.Fatal(err)
		}
		s.side = &side{conns: make(chan net.Conn), done: make(chan struct{})}
		cfg := Config{Number: n, Address: c.address(n), Witness: s.witness, Seeds: c.seeds, Store: store, Listener: s.side, Timing: c.timing,
			Logger: c.log.With().Uint8("server", n).Logger(), dial: c.network.dialer(n), patience: c.patience}
		if !s.witness {
			s.host = &fakeHost{c: c, slow: slow}
			cfg.Host = s.host
		}
		s.port.mu.Lock()
		s.port.to = s.side
		s.port.mu.Unlock()
		if s.driver, err = Start(cfg); err != nil {
			c.t.Fatal(err)
		}
	}
}

// kill ends a process as kill -9 does: nobody is told.
func (c *cluster) kill(n uint8) {
	s := c.servers[n]
	if s.driver != nil {
		s.driver.closing.Do(s.driver.stop)
		s.driver = nil
	}
}

func (c *cluster) stop(n uint8) {
	s := c.servers[n]
	if err := s.driver.Close(); err != nil {
		c.t.Errorf("closing replica %d: %v", n, err)
	}
	s.driver = nil
}

func (c *cluster) closeAll() {
	var all sync.WaitGroup
	for _, s := range c.servers {
		if s.driver != nil {
			all.Go(func() { s.driver.closing.Do(s.driver.stop) })
		}
	}
	all.Wait()
	if c.err != "" {
		c.t.Error(c.err)
	}
}

// leadsNot waits until another server than n leads, to which n hands over if it has to.
func (c *cluster) leadsNot(n uint8) {
	c.until(fmt.Sprintf("another server than %d leads", n), func() bool {
		if c.leader() == n {
			c.servers[n].driver.raft.LeadershipTransfer().Error()
			return false
		}
		return true
	})
}

// patience bounds every wait: a test that has to wait for so long has failed.
const patience = 30 * time.Second

// until waits for something to be so; it looks when anything changes, and now and then.
func (c *cluster) until(what string, so func() bool) time.Duration {
	c.t.Helper()
	began := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		c.mu.Lock()
		event := c.event
		c.mu.Unlock()
		if so() {
			return time.Since(began)
		}
		if time.Since(began) > patience {
			c.t.Fatalf("not in %v: %s\n%s", patience, what, c.describe())
		}
		select {
		case <-event:
		case <-tick.C:
		}
	}
}

func (c *cluster) describe() string {
	text := ""
	for _, s := range c.servers {
		if s.driver != nil {
			st, err := s.driver.Status()
			text += fmt.Sprintf("server %d: %+v %v why=%q\n", s.number, st, err, s.driver.Why())
		}
	}
	return text
}

// serve waits until exactly these replicas are in the view, serving, as each of them sees it.
func (c *cluster) serve(numbers ...uint8) time.Duration {
	c.t.Helper()
	return c.until(fmt.Sprintf("replicas %v serve", numbers), func() bool { return c.serving(numbers...) })
}

func (c *cluster) serving(numbers ...uint8) bool {
	var set uint64
	for _, n := range numbers {
		set |= bit(n)
	}
	var epoch uint64
	for _, n := range numbers {
		h := c.servers[n].host
		_, v := h.get()
		if v.Serving() != set || v.Numbers() != set || !h.serves() || epoch != 0 && v.Epoch != epoch {
			return false
		}
		epoch = v.Epoch
	}
	return true
}

// leader waits for one and returns its number.
func (c *cluster) leader() (leader uint8) {
	c.t.Helper()
	c.until("somebody leads", func() bool {
		for _, s := range c.servers {
			if s.driver == nil {
				continue
			}
			if st, err := s.driver.Status(); err == nil && st.Leader != 0 && c.servers[st.Leader].driver != nil {
				leader = st.Leader
				return true
			}
		}
		return false
	})
	return leader
}

// follower is a server with a host that does not lead.
func (c *cluster) follower() uint8 {
	leader := c.leader()
	for n, s := range c.servers {
		if n != leader && s.driver != nil && !s.witness {
			return n
		}
	}
	c.t.Fatal("no follower")
	return 0
}

func (c *cluster) others(than uint8) (ns []uint8) {
	for n, s := range c.servers {
		if n != than && !s.witness {
			ns = append(ns, n)
		}
	}
	return ns
}

func (c *cluster) client(to uint8) *Client {
	c.t.Helper()
	client, err := Dial(context.Background(), c.address(to))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { client.Close() })
	return client
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}
