package views

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/rs/zerolog"

	"hermesd/replication/alarm"
)

// Config is what a Driver needs. The driver takes the Listener and the Store over: it closes both.
type Config struct {
	Number  uint8            // of this replica, 1 to MaxMember
	Address string           // host:port, where the others reach Listener; as in Seeds and in the group
	Witness bool             // votes only: Host is nil
	Seeds   map[uint8]string // addresses by number of those who may form the group, or know it; this one may be among them
	Store   *Store
	// Listener delivers control connections, from which Magic has been read.
	Listener net.Listener
	Host     Host
	// Channels says for operators how messages go to other members, from any goroutine; nil: there are none.
	Channels func() []Channel
	// Alike is in words what all replicas of a group must have been started with alike. One that differs from the members of the view is not let in:
	// it could not have channels with them, or would hold leases of another length than they expect.
	Alike  string
	Timing Timing // zero: DefaultTiming
	Logger zerolog.Logger

	// For tests, with networks that break, and without raft's own elections.
	dial     dialer        // nil: TCP
	patience time.Duration // of raft; 0: what raftPatience says
}

// Driver is the control plane of one process: it feeds Leader and Holder with time, messages and what raft says, and does what they
// want done. They are called with the driver's state locked (see do): by the goroutine run, for which everything else leaves notes in the mail, or by who has a heartbeat
// or the answer to one, since to wake another goroutine costs more than all that it would do.
type Driver struct {
	cfg    Config
	timing Timing
	log    zerolog.Logger

	raft      *raft.Raft
	raftNow   atomic.Pointer[raft.Raft] // the same, for those who may ask before raft has been started
	addresses sync.Map                  // raft.ServerID -> string
	raftLog   *raftStore
	transport *transport
	streams   *streams
	fsm       *fsm
	mail      mailbox
	quit      chan struct{}
	closing   sync.Once
	closed    error
	running   sync.WaitGroup

	linksMu sync.Mutex
	links   map[linkID]*link

	timer *alarm.Alarm // when something is due

	state      sync.Mutex // what follows
	leader     *Leader
	reign      uint64 // counts elections of this server; 0: it does not lead
	reigns     uint64
	term       uint64 // of raft, in which it was elected
	acceded    int64  // when its reign began
	ticks      int64  // when Leader.Tick is due
	rounds     map[uint64]*round
	answers    map[heartbeatID]func(Answer)
	early      map[uint8]earlyBeat // by the sender's number; see arrives
	outbox     []answer            // to be sent once the state is unlocked
	operators  map[uint64]func(error)
	operations uint64
	voters     map[string]int64 // when each raft server has last confirmed this leader
	lookAt     int64            // when to look which have not lately
	matching   bool             // raft's configuration is being made to match the group's slots
	matchAt    int64            // when to look again

	elector  *Elector
	named    string // the leader's address as another server has named it, until raft hears from a leader
	holder   *Holder
	host     *hostWorker
	reborn   bool // the host is being restarted
	pongs    map[Member]pong
	left     chan struct{}
	whyMu    sync.Mutex
	why      string
	lastNote string // of the goroutine form
	noted    int
	outWhy   string // what keeps this replica out of the view, since when, and whether that is in the log
	outSince int64
	outSaid  bool
}

// heartbeatID names a heartbeat that waits for its answer.
type heartbeatID struct {
	from Member
	sent int64
}

// earlyBeat is a heartbeat that waits for the reign of this server to begin.
type earlyBeat struct {
	beat  Heartbeat
	reply func(Answer)
}

// Start begins to take part in the group: forms it with the seeds, joins it, or goes on where the data directory left off. It returns at
// once; Host is called from then on.
func Start(cfg Config) (*Driver, error) {
	if cfg.Timing == (Timing{}) {
		cfg.Timing = DefaultTiming
	}
	if cfg.dial == nil {
		cfg.dial = dialTCP
	}
	if cfg.patience == 0 {
		cfg.patience = cfg.Timing.raftPatience()
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	d := &Driver{cfg: cfg, timing: cfg.Timing, log: cfg.Logger, quit: make(chan struct{}), links: map[linkID]*link{},
		leader: NewLeader(cfg.Timing), elector: NewElector(cfg.Timing, cfg.Store.Server()), rounds: map[uint64]*round{}, answers: map[heartbeatID]func(Answer){},
		early:     map[uint8]earlyBeat{},
		operators: map[uint64]func(error){}, voters: map[string]int64{}, pongs: map[Member]pong{}, left: make(chan struct{})}
	d.mail.bell = make(chan struct{}, 1)
	if cfg.Host != nil {
		self, err := cfg.Store.NextIncarnation(0)
		if err != nil {
			return nil, err
		}
		d.holder = NewHolder(cfg.Timing, cfg.Store.Server(), self)
		d.holder.alike = cfg.Alike
		d.host = newHostWorker(d)
		cfg.Host.Restart(self)
	}
	var err error
	if d.timer, err = alarm.New(); err != nil {
		return nil, err
	}
	if err := d.startRaft(); err != nil {
		return nil, errors.Join(err, d.timer.Close())
	}
	d.spawn(func() { d.streams.serve(cfg.Listener, d.serving()) })
	d.spawn(d.run)
	d.spawn(d.keepTime)
	d.spawn(d.form)
	if d.host != nil {
		d.spawn(d.host.run)
	}
	return d, nil
}

func (c *Config) check() error {
	if err := c.Timing.Validate(); err != nil {
		return err
	}
	if c.Number == 0 || c.Number > MaxMember {
		return fmt.Errorf("a replica's number is 1 to %d, not %d", MaxMember, c.Number)
	}
	if err := checkAddress(c.Address); err != nil {
		return err
	}
	if (c.Host == nil) != c.Witness {
		return errors.New("a witness has no host, and every other replica has one")
	}
	for number, a := range c.Seeds {
		if number == 0 || number > MaxMember {
			return fmt.Errorf("a replica's number is 1 to %d, not %d", MaxMember, number)
		}
		if err := checkAddress(a); err != nil {
			return err
		}
	}
	if a, ok := c.Seeds[c.Number]; ok && a != c.Address {
		return fmt.Errorf("this is replica %d at %s, but the group says that %d is at %s", c.Number, c.Address, c.Number, a)
	}
	return nil
}

func (d *Driver) startRaft() (err error) {
	logger := quietLogger(d.log)
	if d.raftLog, err = d.cfg.Store.openRaft(d.log, logger); err != nil {
		return err
	}
	d.fsm = &fsm{d: d}
	d.streams = newStreams(d.cfg.Address, d.cfg.Store.Server(), d.cfg.dial)
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(d.cfg.Store.Server())
	patience := d.cfg.patience
	rc.HeartbeatTimeout, rc.ElectionTimeout, rc.LeaderLeaseTimeout = patience, patience, patience
	rc.CommitTimeout = time.Second // only for laggards: news of views go with the rounds and with answers to heartbeats
	rc.SnapshotThreshold, rc.TrailingLogs = 512, 256
	rc.ShutdownOnRemove = false
	rc.NoLegacyTelemetry = true
	rc.Logger = logger
	leads := make(chan bool, 8)
	rc.NotifyCh = leads
	inner := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: d.streams, Logger: logger, MaxPool: 3,
		Timeout: d.callTimeout(), ServerAddressProvider: targets{d.addressOf}})
	d.transport = newTransport(inner, d.cfg.Store.Server(), 4*d.timing.Election, d.quit)
	d.spawn(d.transport.run)
	d.raft, err = raft.NewRaft(rc, d.fsm, d.raftLog, d.raftLog.stable, d.raftLog.snapshots, d.transport)
	if err != nil {
		close(d.quit)
		return errors.Join(fmt.Errorf("raft: %w", err), d.transport.Close(), d.raftLog.Close())
	}
	d.raftNow.Store(d.raft)
	leaderSeen := make(chan raft.Observation, 16)
	d.raft.RegisterObserver(raft.NewObserver(leaderSeen, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	}))
	d.spawn(func() { d.watch(leads, leaderSeen) })
	return nil
}

// addressOf is where raft finds one of its servers. raft asks for each message; a server's address never changes.
func (d *Driver) addressOf(id raft.ServerID) string {
	if a, ok := d.addresses.Load(id); ok {
		return a.(string)
	}
	if string(id) == d.cfg.Store.Server() {
		return d.cfg.Address
	}
	if r := d.raftNow.Load(); r != nil {
		for _, s := range r.GetConfiguration().Configuration().Servers {
			if s.ID == id {
				d.addresses.Store(id, string(s.Address))
				return string(s.Address)
			}
		}
	}
	return ""
}

// callTimeout is after which a connection without answers is taken for dead.
func (d *Driver) callTimeout() time.Duration {
	return max(500*time.Millisecond, 2*d.timing.SuspectAfter)
}

func (d *Driver) spawn(f func()) {
	d.running.Add(1)
	go func() {
		defer d.running.Done()
		f()
	}()
}

// watch tells of elections won and lost, and of other leaders.
func (d *Driver) watch(leads <-chan bool, seen <-chan raft.Observation) {
	for {
		select {
		case lead := <-leads:
			d.mail.post(func() { d.led(lead) })
		case <-seen:
			d.mail.post(d.newLeader)
		case <-d.quit:
			return
		}
	}
}

// run does what the mail brings.
func (d *Driver) run() {
	for {
		select {
		case <-d.mail.bell:
		case <-d.quit:
			return
		}
		d.do(func() {})
	}
}

// keepTime does what is due.
func (d *Driver) keepTime() {
	for d.timer.Set(0); d.timer.Wait() == nil; {
		d.do(func() {})
	}
}

// do locks the state, reads the mail, calls note, and does what follows from it. The caller holds no lock: the host is asked for its Status, for instance.
// Once stop has begun it does nothing: calls of others, and answers to calls, have goroutines for which Close does not wait, and the host may be gone after that.
func (d *Driver) do(note func()) {
	d.state.Lock()
	select {
	case <-d.quit:
		d.state.Unlock()
		return
	default:
	}
	for _, note := range d.mail.take() {
		note()
	}
	note()
	d.timer.Set(d.pump())
	answers := d.outbox
	d.outbox = nil
	d.state.Unlock()
	d.send(answers)
}

// pump does what time has brought, and what Leader wants done; it returns for how long to sleep.
func (d *Driver) pump() time.Duration {
	now := Now()
	next := now + int64(time.Second)
	if d.holder != nil {
		next = min(next, d.beat(now))
	}
	d.streams.expire(now)
	next = min(next, d.elect(now)) // after a heartbeat has been sent, whose answer it waits for
	if d.reign != 0 {
		if now >= d.ticks {
			d.leader.Tick(now)
		}
		d.overdue(now)
		d.match(now)
		d.lookIn(now)
	}
	for d.carryOut() {
	}
	if d.reign != 0 {
		d.ticks = d.leader.Wake()
		next = min(next, d.ticks)
	}
	return time.Duration(max(next-now, 0))
}

type linkID struct {
	hello   byte
	address string
}

// link returns the connection for calls to an address.
func (d *Driver) link(address string) *link { return d.linkFor(calls, address) }

func (d *Driver) linkFor(kind linkKind, address string) *link {
	d.linksMu.Lock()
	defer d.linksMu.Unlock()
	id := linkID{kind.hello, address}
	l := d.links[id]
	if l == nil {
		l = newLink(address, kind, d.callTimeout(), d.cfg.dial)
		d.links[id] = l
		select {
		case <-d.quit:
			l.close()
		default:
		}
	}
	return l
}

// Close ends the control plane of this process. The lease is given up; the others find a new leader at once if this was it. It is not
// a Leave, which waits until the view is without the replica: the others may have to miss it first. Host is not called any more when it has returned.
func (d *Driver) Close() error {
	d.closing.Do(func() {
		if d.cfg.Host != nil {
			d.cfg.Host.Renew(0)
			d.do(func() {
				d.holder.Leave(Now())
				d.cfg.Host.Renew(0) // one may have been under way
			})
		}
		if d.raft.State() == raft.Leader {
			within(d.callTimeout(), func() { d.raft.LeadershipTransfer().Error() })
		}
		d.stop()
	})
	return d.closed
}

// stop ends everything at once, as the end of the process does.
func (d *Driver) stop() {
	d.state.Lock() // what is being done, see do, is done before anything that it uses is closed
	close(d.quit)
	d.state.Unlock()
	d.raftLog.stable.closing.Store(true)
	stopped := within(5*time.Second, func() { d.raft.Shutdown().Error() })
	d.linksMu.Lock()
	for _, l := range d.links {
		l.close()
	}
	d.linksMu.Unlock()
	errs := []error{d.timer.Close(), d.cfg.Listener.Close(), d.transport.Close(), d.streams.Close()}
	if stopped { // else raft is stuck in a write, and its file is let be
		errs = append(errs, d.raftLog.Close())
	}
	d.running.Wait()
	d.closed = errors.Join(append(errs, d.cfg.Store.Close())...)
}

// within calls f and reports whether it has returned in time.
func within(timeout time.Duration, f func()) bool {
	done := make(chan struct{})
	go func() { f(); close(done) }()
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

// mailbox takes notes for the goroutine run. They are read with the driver's state locked. Posting never blocks.
type mailbox struct {
	mu    sync.Mutex
	notes []func()
	bell  chan struct{}
}

func (m *mailbox) post(note func()) {
	m.mu.Lock()
	m.notes = append(m.notes, note)
	m.mu.Unlock()
	select {
	case m.bell <- struct{}{}:
	default:
	}
}

func (m *mailbox) take() []func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	notes := m.notes
	m.notes = nil
	return notes
}

// fsm is raft's view of the Group.
type fsm struct {
	d     *Driver
	mu    sync.Mutex
	group Group
}

func (f *fsm) get() Group {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.group
}

// Apply returns nil or an error: why the command has changed nothing.
func (f *fsm) Apply(l *raft.Log) any {
	c, err := DecodeCommand(l.Data)
	if err != nil {
		return err
	}
	// What a leader has decided rests on the leases that it has granted in its reign. In a later one, even its own, others may have been.
	if c.Term != 0 && c.Term != l.Term {
		return fmt.Errorf("it was decided in term %d, and comes in term %d", c.Term, l.Term)
	}
	f.mu.Lock()
	err = f.group.Apply(c)
	group := f.group
	f.mu.Unlock()
	if err != nil {
		return err
	}
	f.d.mail.post(func() { f.d.committed(group) })
	return nil
}

func (f *fsm) Snapshot() (raft.FSMSnapshot, error) { return snapshot(f.get().Snapshot()), nil }

func (f *fsm) Restore(r io.ReadCloser) error {
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	group, err := RestoreGroup(b)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.group = group
	f.mu.Unlock()
	f.d.mail.post(func() { f.d.committed(group) })
	return nil
}

type snapshot []byte

func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := sink.Write(s); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

func (s snapshot) Release() {}

// ask posts a note and waits until it has been read.
func (d *Driver) ask(ctx context.Context, note func()) error {
	done := make(chan struct{})
	d.mail.post(func() { note(); close(done) })
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-d.quit:
		return errClosing
	}
}
