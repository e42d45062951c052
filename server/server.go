package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudwego/netpoll"
	"github.com/rs/zerolog"
)

// Version is what hermesd calls itself.
const Version = "0.1.0"

// ProtocolVersion is the memcached whose text protocol is followed. Client libraries look at its numbers to know what
// they may ask, so the version command gives it first.
const ProtocolVersion = "1.6.45"

// Config says how to serve.
type Config struct {
	Store     Store
	Listeners []net.Listener // *net.TCPListener; the server takes them over
	Threads   int            // pollers: memcached's -t; 1 to 256. Servers of one process share them, and so must have the same number
	ConnLimit int            // clients at one time: memcached's -c
	// ItemSizeMax is memcached's -I in bytes, and MemoryBytes its -m. The Store has its own word on both; here they are for refusing
	// early, and for stats.
	ItemSizeMax uint32
	MemoryBytes uint64
	// NoEvictions is memcached's -M, for stats.
	NoEvictions bool
	// Verbosity is memcached's -v as given at the start, and SetVerbosity is called when a client changes it (0 to 2). It may be nil.
	Verbosity    int
	SetVerbosity func(level int)
	Logger       zerolog.Logger
}

func (cfg *Config) validate() error {
	switch {
	case cfg.Store == nil:
		return errors.New("server: Config.Store is nil")
	case len(cfg.Listeners) == 0:
		return errors.New("server: no address to listen on")
	case cfg.Threads < 1 || cfg.Threads > maxThreads:
		return fmt.Errorf("server: %d threads: give 1 to %d", cfg.Threads, maxThreads)
	case cfg.ConnLimit < 1:
		return fmt.Errorf("server: a limit of %d connections: give at least 1", cfg.ConnLimit)
	}
	return nil
}

const maxThreads = 256

// Server serves clients from New to Shutdown or Close.
type Server struct {
	cfg     Config
	store   Store
	started time.Time
	log     zerolog.Logger

	workers    []*worker // by thread
	acceptors  []*acceptor
	readmitter *readmitter
	flushers   []*flusher     // by thread
	loops      sync.WaitGroup // netpoll's event loops: one for each of these

	admitted atomic.Uint64 // sockets given to netpoll
	current  atomic.Int64  // connections
	total    atomic.Uint64
	rejected atomic.Uint64
	keepers  atomic.Int64
	stopping atomic.Bool
	ending   atomic.Bool   // all connections are gone, and none will come
	idle     chan struct{} // there was a moment without connections while stopping

	mu           sync.Mutex
	conns        map[*conn]struct{}
	spareWorkers []*worker
	allWorkers   []*worker
	ended        bool

	verbosity atomic.Int64
	flush     delayedFlush
	reset     statsReset
}

// New begins to serve. On an error it closes the listeners.
func New(cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, store: cfg.Store, started: time.Now(), log: cfg.Logger,
		idle: make(chan struct{}, 1), conns: make(map[*conn]struct{})}
	if err := s.open(); err != nil {
		for _, ln := range cfg.Listeners {
			_ = ln.Close()
		}
		return nil, err
	}
	s.verbosity.Store(int64(cfg.Verbosity))
	s.flush.s = s
	for range cfg.Threads {
		s.workers = append(s.workers, s.newWorker())
	}
	s.allWorkers = append(s.allWorkers, s.workers...)
	// netpoll deals out its pollers in turn. So the flushers come first, one after the other; then clients go to the pollers in the flushers'
	// order, as long as everything that has a poller is counted (prepare).
	for _, f := range s.flushers {
		s.serve(f)
		<-f.serving
	}
	s.admitted.Store(uint64(len(s.acceptors)))
	s.serve(s.readmitter)
	for _, a := range s.acceptors {
		s.serve(a)
	}
	return s, nil
}

// open makes everything that can fail.
func (s *Server) open() (err error) {
	if err := s.cfg.validate(); err != nil {
		return err
	}
	if err := pollers.join(s.cfg.Threads); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.free()
		}
	}()
	if s.readmitter, err = newReadmitter(s); err != nil {
		return err
	}
	for range s.cfg.Threads {
		f, err := newFlusher(s)
		if err != nil {
			return fmt.Errorf("server: eventfd: %w", err)
		}
		s.flushers = append(s.flushers, f)
	}
	for _, ln := range s.cfg.Listeners {
		a, err := newAcceptor(s, ln)
		if err != nil {
			return err
		}
		s.acceptors = append(s.acceptors, a)
	}
	return nil
}

// free gives back what open has made, once netpoll has let go of it.
func (s *Server) free() {
	for _, a := range s.acceptors {
		a.free()
	}
	for _, f := range s.flushers {
		f.free()
	}
	if s.readmitter != nil {
		s.readmitter.free()
	}
	pollers.leave()
}

// serve has netpoll take sockets from ln until ln says that it is closed.
func (s *Server) serve(ln net.Listener) {
	loop, err := netpoll.NewEventLoop(onRequest,
		netpoll.WithOnPrepare(func(nc netpoll.Connection) context.Context { return s.prepare(nc) }))
	if err != nil {
		panic("server: netpoll: " + err.Error()) // it has no reason to
	}
	s.loops.Go(func() { _ = loop.Serve(ln) })
}

// Addr is the address of the first listener.
func (s *Server) Addr() net.Addr { return s.acceptors[0].Addr() }

// Shutdown stops to serve: no client is accepted any more, no request is begun any more, those that have been begun are answered, and each
// connection is closed when it has got its replies. When ctx ends before that is done, Shutdown returns its error, and Close must
// follow.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	for _, c := range s.connections() {
		c.mu.Lock()
		c.closing = true
		c.settle()
		c.unlock()
		c.wakeKeeper()
	}
	if err := s.awaitIdle(ctx); err != nil {
		return err
	}
	s.end()
	return nil
}

// Close is Shutdown for clients that do not take their replies and operations that do not end: it cuts all connections. The Store
// must have given back its operations, or do so while Close waits.
func (s *Server) Close() {
	s.stop()
	for _, c := range s.connections() {
		c.mu.Lock()
		c.fail()
		c.closing = true
		if c.fd >= 0 {
			shutdownSocket(c.fd) // wakes the keeper that waits for it to take output
		}
		c.settle()
		c.unlock()
		c.wakeKeeper()
	}
	_ = s.awaitIdle(context.Background())
	s.end()
}

// stop ends accepting.
func (s *Server) stop() {
	if s.stopping.Swap(true) {
		return
	}
	s.flush.cancel()
	for _, a := range s.acceptors {
		a.stop()
	}
}

func (s *Server) connections() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		all = append(all, c)
	}
	return all
}

// awaitIdle waits until there are no connections.
func (s *Server) awaitIdle(ctx context.Context) error {
	for s.current.Load() > 0 {
		select {
		case <-s.idle:
		case <-ctx.Done():
			return fmt.Errorf("server: %d connections are still being answered: %w", s.current.Load(), ctx.Err())
		}
	}
	return nil
}

// end gives back what the server had of netpoll.
func (s *Server) end() {
	s.mu.Lock()
	ended := s.ended
	s.ended = true
	s.mu.Unlock()
	if ended {
		return
	}
	s.ending.Store(true)
	s.readmitter.stop()
	for _, f := range s.flushers {
		f.stop()
	}
	s.loops.Wait()
	s.free()
}

// netpollBytes is the size of netpoll's input buffers; a power of two. A connection at rest owns one.
const netpollBytes = 8 << 10

// pollers are netpoll's: it has one set of them for the process, and of configurations too.
var pollers pollerSet

type pollerSet struct {
	mu      sync.Mutex
	servers int
	threads int
}

// join has netpoll run so many pollers, if no server needs another number.
func (p *pollerSet) join(threads int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.servers > 0 && p.threads != threads {
		return fmt.Errorf("server: another server of this process runs on %d threads, so this one cannot have %d", p.threads, threads)
	}
	if p.threads != threads {
		err := netpoll.Configure(netpoll.Config{PollerNum: threads, BufferSize: netpollBytes, Runner: runTask, LoggerOutput: io.Discard,
			LoadBalance: netpoll.RoundRobin})
		if err != nil {
			return fmt.Errorf("server: netpoll with %d pollers: %w", threads, err)
		}
		p.threads = threads
	}
	p.servers++
	return nil
}

func (p *pollerSet) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.servers--
}
