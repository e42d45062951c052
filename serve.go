package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hermesd/replication"
	"hermesd/replication/views"
	"hermesd/server"
	"hermesd/table"
)

// options are those of `hermesd serve`. Where memcached has the same, they have its names and defaults.
type options struct {
	listen           []string
	port             int
	memoryMB         int
	connLimit        int
	threads          int
	itemSizeMax      byteSize
	disableEvictions bool
	verbosity        int

	id    int
	group string
	// replicationAddress is where this replica listens for the others, if not at its own address in group.
	replicationAddress string
	opTimeout          time.Duration
	trace              string // file
	dataDir            string
	witness            bool
	timing             views.Timing
	transport          transportOptions

	readyFD int // a descriptor that is told "ready"; -1: none
}

func defaultOptions() options {
	return options{listen: []string{"127.0.0.1"}, port: 11211, memoryMB: 64, connLimit: 1024, threads: 4, itemSizeMax: 1 << 20,
		opTimeout: 3 * time.Second, timing: views.DefaultTiming, transport: defaultTransport(), readyFD: -1}
}

// clientFlags are the options that `serve` and `local` share.
func (o *options) clientFlags(f *pflag.FlagSet) {
	f.IntVarP(&o.memoryMB, "memory-limit", "m", o.memoryMB, "memory for items and index, in megabytes")
	f.IntVarP(&o.connLimit, "conn-limit", "c", o.connLimit, "clients at one time")
	f.IntVarP(&o.threads, "threads", "t", o.threads, "threads that serve clients")
	f.VarP(&o.itemSizeMax, "max-item-size", "I", "largest item, in bytes, or with k or m behind it; 1k to 1024m")
	f.BoolVarP(&o.disableEvictions, "disable-evictions", "M", false, "answer an error when memory is full, instead of evicting items")
	f.CountVarP(&o.verbosity, "verbose", "v", "say more in the log; -vv still more")
	f.DurationVar(&o.opTimeout, "op-timeout", o.opTimeout, "how long an operation may wait for the other replicas before it is answered SERVER_ERROR")
	f.DurationVar(&o.timing.Heartbeat, "heartbeat", o.timing.Heartbeat, "how often a replica renews its lease")
	f.DurationVar(&o.timing.Lease, "lease", o.timing.Lease, "how long a replica may serve after a heartbeat that was answered; the same in the whole group, as all of these")
	f.DurationVar(&o.timing.SuspectAfter, "suspect-after", o.timing.SuspectAfter, "a replica that has been silent for so long is removed from the group's view")
	f.DurationVar(&o.timing.Unreachable, "unreachable-after", o.timing.Unreachable, "of two replicas that cannot reach each other for so long, one is removed")
	f.DurationVar(&o.timing.Election, "election-timeout", o.timing.Election, "silence of the group's leader after which another replica stands for it")
	f.Float64Var(&o.timing.Drift, "clock-drift", o.timing.Drift, "bound of the difference in rate of any two replicas' clocks: 0.01 is a hundredth")
	f.SortFlags = false
}

func serveCommand(name string) *cobra.Command {
	o := defaultOptions()
	cmd := &cobra.Command{
		Use:   name,
		Short: "Serve memcached's clients, alone or as a replica of a group",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if v, err := cmd.Flags().GetBool("version"); err == nil && v {
				return nil // cobra has printed it
			}
			return serve(&o)
		},
	}
	f := cmd.Flags()
	f.IntVarP(&o.port, "port", "p", o.port, "TCP port for clients; 0: any that is free")
	f.StringSliceVarP(&o.listen, "listen", "l", o.listen, "addresses to listen on: host or host:port, several with commas between")
	o.clientFlags(f)
	f.IntVar(&o.id, "id", 0, "number of this replica in the group, 1 to 63")
	f.StringVar(&o.group, "group", "", "the replicas and their replication addresses, this one's too: 1=host:port,2=host:port,3=host:port")
	f.StringVar(&o.replicationAddress, "replication-address", "",
		"host:port to listen on for the other replicas, where it is not this replica's in --group: behind a proxy or in a container")
	f.StringVar(&o.dataDir, "data-dir", "", "directory of this replica's own for what it must remember when it is started again; needed with --group")
	f.BoolVar(&o.witness, "witness", false, "vote in the group and hold no data: the third of a group of two")
	o.transport.flags(f)
	f.StringVar(&o.trace, "trace", "", "file to append every step of the replication protocol to, a line of JSON each; it is slow, and for tests")
	f.IntVar(&o.readyFD, "ready-fd", o.readyFD, "descriptor to write \"ready\" to when serving")
	_ = f.MarkHidden("ready-fd")
	return cmd
}

// validate says what is wrong with the options, or returns the group.
func (o *options) validate() (map[uint8]string, error) {
	switch {
	case o.port < 0 || o.port > 65535:
		return nil, fmt.Errorf("port %d: give 0 to 65535", o.port)
	case o.memoryMB < 1 || o.memoryMB > 1<<20:
		return nil, fmt.Errorf("memory limit of %d megabytes: give 1 to %d", o.memoryMB, 1<<20)
	case o.connLimit < 1:
		return nil, fmt.Errorf("limit of %d connections: give at least 1", o.connLimit)
	case o.threads < 1 || o.threads > 256:
		return nil, fmt.Errorf("%d threads: give 1 to 256", o.threads)
	case o.itemSizeMax < 1<<10:
		return nil, fmt.Errorf("item size limit of %d bytes: give at least 1024", o.itemSizeMax)
	case o.itemSizeMax > 1<<30:
		return nil, fmt.Errorf("item size limit of %d bytes: give at most a gigabyte", o.itemSizeMax)
	case uint64(o.itemSizeMax) > uint64(o.memoryMB)<<19:
		return nil, fmt.Errorf("item size limit of %d bytes is more than half of the memory limit of %d megabytes", o.itemSizeMax, o.memoryMB)
	case o.opTimeout < 10*time.Millisecond || o.opTimeout > time.Minute:
		return nil, fmt.Errorf("operation timeout of %v: give 10ms to 1m", o.opTimeout)
	}
	if err := o.transport.validate(); err != nil {
		return nil, err
	}
	if o.group == "" {
		if o.witness {
			return nil, errors.New("--witness is for groups: give --id and --group too")
		}
		if o.trace != "" {
			return nil, errors.New("--trace without --group: a replica for itself takes no steps that others see")
		}
		if o.replicationAddress != "" {
			return nil, errors.New("--replication-address without --group: there are no other replicas to listen for")
		}
		if o.id != 0 {
			return nil, fmt.Errorf("--id %d without --group: give the replicas of the group too", o.id)
		}
		return nil, nil
	}
	group, err := parseGroup(o.group)
	if err != nil {
		return nil, err
	}
	if o.id == 0 {
		return nil, errors.New("--group without --id: say which of its replicas this is")
	}
	if o.id < 1 || o.id > replication.MaxMember || group[uint8(o.id)] == "" {
		return nil, fmt.Errorf("replica %d is not in the group %s", o.id, o.group)
	}
	if o.witness && o.trace != "" {
		return nil, errors.New("--witness with --trace: a witness has no lanes, and takes no steps that could be written: give --trace to the replicas")
	}
	if o.replicationAddress != "" && !isHostPort(o.replicationAddress, true) {
		return nil, fmt.Errorf("--replication-address %q is not host:port", o.replicationAddress)
	}
	if o.dataDir == "" {
		return nil, errors.New("--group without --data-dir: give each replica a directory of its own, for what it must not forget when it is started again")
	}
	if err := o.timing.Validate(); err != nil {
		return nil, err
	}
	return group, nil
}

// isHostPort reports whether text is an address to dial, or, with anyHost, to listen on: then the host may be missing.
func isHostPort(text string, anyHost bool) bool {
	host, port, err := net.SplitHostPort(text)
	n, bad := strconv.Atoi(port)
	return err == nil && bad == nil && (anyHost || host != "") && n >= 1 && n <= 65535
}

// parseGroup reads 1=host:port,2=host:port.
func parseGroup(text string) (map[uint8]string, error) {
	group, owners := make(map[uint8]string), make(map[string]uint8)
	for part := range strings.SplitSeq(text, ",") {
		id, addr, ok := strings.Cut(strings.TrimSpace(part), "=")
		number, err := strconv.Atoi(id)
		if !ok || err != nil {
			return nil, fmt.Errorf("group member %q: give number=host:port", part)
		}
		if number < 1 || number > replication.MaxMember {
			return nil, fmt.Errorf("group member %q: numbers are 1 to %d", part, replication.MaxMember)
		}
		if !isHostPort(addr, false) {
			return nil, fmt.Errorf("group member %q: %q is not host:port", part, addr)
		}
		if _, twice := group[uint8(number)]; twice {
			return nil, fmt.Errorf("group %s: replica %d is given twice", text, number)
		}
		if other, twice := owners[addr]; twice {
			return nil, fmt.Errorf("group %s: replicas %d and %d have the same address", text, other, number)
		}
		group[uint8(number)], owners[addr] = addr, uint8(number)
	}
	return group, nil
}

// serve runs a replica until a signal ends it.
func serve(o *options) error {
	group, err := o.validate()
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	signal.Ignore(syscall.SIGPIPE)
	log := newLogger(o)
	tuneRuntime(o)
	warnOfDescriptors(log, o.connLimit)

	r := &replica{log: log}
	if o.witness {
		return r.witness(o, group, signals)
	}
	clients, err := listenClients(o)
	if err != nil {
		return err
	}
	if err := r.start(o, group, clients); err != nil {
		closeAll(clients)
		r.stop()
		return err
	}
	for _, ln := range clients {
		log.Info().Str("clients", ln.Addr().String()).Int("threads", o.threads).Int("memory_mb", o.memoryMB).Msg("listening")
	}
	ctx, cancel := context.WithCancel(context.Background())
	go r.announce(ctx, o.readyFD)
	sig := <-signals
	cancel()
	log.Info().Stringer("signal", sig).Msg("stopping")
	go func() {
		<-signals
		log.Warn().Msg("stopped at once, by a second signal")
		os.Exit(1)
	}()
	r.stop()
	log.Info().Msg("stopped")
	return nil
}

// replica is what a process consists of, from the inside out.
type replica struct {
	log    zerolog.Logger
	table  *table.Table
	node   *replication.Node
	server *server.Server
	store  *views.Store
	driver *views.Driver
	trace  *trace
}

// trace is the file of --trace.
type trace struct {
	*replication.TraceWriter
	file *os.File
}

func openTrace(path string) (*trace, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o666)
	if err != nil {
		return nil, fmt.Errorf("--trace: %w", err)
	}
	return &trace{replication.NewTraceWriter(file), file}, nil
}

func (t *trace) close() error { return errors.Join(t.Err(), t.file.Close()) }

func (r *replica) start(o *options, group map[uint8]string, clients []net.Listener) (err error) {
	memory := uint64(o.memoryMB) << 20
	if r.table, err = table.New(table.Config{MemoryBytes: memory, ItemSizeMax: uint32(o.itemSizeMax)}); err != nil {
		return err
	}
	cfg := replication.Config{Table: r.table, ItemSizeMax: uint32(o.itemSizeMax), DisableEvictions: o.disableEvictions, OpTimeout: o.opTimeout,
		Unreachable: o.timing.Unreachable, Logger: r.log}
	if o.trace != "" {
		if r.trace, err = openTrace(o.trace); err != nil {
			return err
		}
		cfg.Tracer = r.trace
	}
	var control net.Listener
	if group != nil {
		if r.store, err = views.OpenStore(o.dataDir, uint8(o.id), false); err != nil {
			return err
		}
		var ln net.Listener
		if ln, err = o.listenReplication(group); err != nil {
			return err
		}
		if cfg.Path, cfg.NoPath, err = o.openPath(ln.Addr(), len(group), r.log); err != nil {
			_ = ln.Close()
			return err
		}
		cfg.PathOnly = o.transport.kind == transportRDMA
		cfg.Listener, control = replication.Split(ln)
		cfg.Self, cfg.Replicas, cfg.ReserveUnique = replication.Member{Number: uint8(o.id), Incarnation: 1}, len(group), r.store.ReserveUnique
	}
	if r.node, err = replication.New(cfg); err != nil {
		if cfg.Listener != nil {
			_, _ = cfg.Listener.Close(), control.Close()
		}
		return err
	}
	r.server, err = server.New(server.Config{Store: r.node, Listeners: clients, Threads: o.threads, ConnLimit: o.connLimit,
		ItemSizeMax: uint32(o.itemSizeMax), MemoryBytes: memory, NoEvictions: o.disableEvictions,
		Verbosity: o.verbosity, SetVerbosity: setVerbosity, Logger: r.log})
	if err != nil || group == nil {
		return err
	}
	r.driver, err = views.Start(views.Config{Number: uint8(o.id), Address: group[uint8(o.id)], Seeds: group, Store: r.store, Listener: control,
		Host: r.node, Channels: r.node.Channels, Alike: o.alike(), Timing: o.timing, Logger: r.log})
	if err == nil {
		r.node.Explain(r.driver.Why)
		r.node.OnNews(r.driver.Hurry)
	}
	return err
}

// alike is what all replicas of the group must have been given.
func (o *options) alike() string {
	return fmt.Sprintf("-I %v, --lease %v, --clock-drift %v and replication protocol %d", &o.itemSizeMax, o.timing.Lease, o.timing.Drift,
		replication.ProtocolVersion)
}

// listenReplication listens for the other replicas.
func (o *options) listenReplication(group map[uint8]string) (net.Listener, error) {
	addr := group[uint8(o.id)]
	if o.replicationAddress != "" {
		addr = o.replicationAddress
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("replication address of replica %d: %w", o.id, err)
	}
	return ln, nil
}

// witness votes until a signal ends it.
func (r *replica) witness(o *options, group map[uint8]string, signals <-chan os.Signal) (err error) {
	if r.store, err = views.OpenStore(o.dataDir, uint8(o.id), true); err != nil {
		return err
	}
	ln, err := o.listenReplication(group)
	if err != nil {
		return err
	}
	data, control := replication.Split(ln)
	_ = data.Close() // a witness has no channels
	r.driver, err = views.Start(views.Config{Number: uint8(o.id), Address: group[uint8(o.id)], Witness: true, Seeds: group, Store: r.store,
		Listener: control, Timing: o.timing, Logger: r.log})
	if err != nil {
		_ = control.Close()
		return err
	}
	r.log.Info().Str("address", ln.Addr().String()).Msg("witness: voting, holding no data")
	tellReady(o.readyFD)
	sig := <-signals
	r.log.Info().Stringer("signal", sig).Msg("stopping")
	return r.driver.Close()
}

// announce says when the replica serves.
func (r *replica) announce(ctx context.Context, readyFD int) {
	if err := r.node.WaitReady(ctx); err != nil {
		return
	}
	members, _ := r.node.Members()
	r.log.Info().Int("members", members).Msg("serving")
	tellReady(readyFD)
}

func tellReady(fd int) {
	if fd >= 0 {
		f := os.NewFile(uintptr(fd), "ready")
		_, _ = f.WriteString("ready\n")
		_ = f.Close()
	}
}

// drainLimit bounds how long a stopping replica waits for what is being answered, before it says Unavailable to the rest.
const drainLimit = 2 * time.Second

// leaveLimit bounds how long a stopping replica waits for the group to go on without it.
const leaveLimit = 3 * time.Second

// stop ends the replica from the outside in: clients are answered, then the group is left.
func (r *replica) stop() {
	if r.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), drainLimit)
		err := r.server.Shutdown(ctx)
		cancel()
		if err != nil {
			r.log.Warn().Err(err).Msg("stopping without them")
		}
	}
	if r.driver != nil {
		ctx, cancel := context.WithTimeout(context.Background(), leaveLimit)
		if err := r.driver.Leave(ctx); err != nil {
			r.log.Warn().Err(err).Msg("leaving the group: the others will remove this replica when they miss it")
		}
		cancel()
		if err := r.driver.Close(); err != nil {
			r.log.Warn().Err(err).Msg("leaving the group")
		}
	}
	if r.node != nil {
		if err := r.node.Close(); err != nil {
			r.log.Warn().Err(err).Msg("closing channels")
		}
	}
	if r.server != nil {
		r.server.Close() // what is left; the node has given back its operations
	}
	if r.table != nil {
		_ = r.table.Close()
	}
	if r.trace != nil {
		if err := r.trace.close(); err != nil {
			r.log.Error().Err(err).Msg("the trace is not complete")
		}
	}
}

// listenClients opens every client address.
func listenClients(o *options) ([]net.Listener, error) {
	var all []net.Listener
	for _, where := range o.listen {
		where = strings.TrimSpace(where)
		addr := where
		if _, _, err := net.SplitHostPort(where); err != nil {
			addr = net.JoinHostPort(strings.Trim(where, "[]"), strconv.Itoa(o.port))
		}
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			closeAll(all)
			return nil, fmt.Errorf("client address %s: %w", addr, err)
		}
		all = append(all, ln)
	}
	if len(all) == 0 {
		return nil, errors.New("no address to listen on: give --listen")
	}
	return all, nil
}

func closeAll(lns []net.Listener) {
	for _, ln := range lns {
		_ = ln.Close()
	}
}

// newLogger logs for people on a terminal, and as JSON otherwise.
func newLogger(o *options) zerolog.Logger {
	setVerbosity(o.verbosity)
	out := zerolog.New(os.Stderr)
	if isatty.IsTerminal(os.Stderr.Fd()) {
		out = zerolog.New(zerolog.ConsoleWriter{Out: os.Stderr, TimeFormat: time.TimeOnly})
	}
	ctx := out.With().Timestamp()
	if o.id != 0 {
		ctx = ctx.Int("replica", o.id)
	}
	return ctx.Logger()
}

// setVerbosity is -v, and the verbosity command.
func setVerbosity(level int) {
	switch {
	case level <= 0:
		zerolog.SetGlobalLevel(zerolog.InfoLevel)
	case level == 1:
		zerolog.SetGlobalLevel(zerolog.DebugLevel)
	default:
		zerolog.SetGlobalLevel(zerolog.TraceLevel)
	}
}

// ballast is memory that is never touched, and so costs none, but counts for Go's collector.
var ballast []byte

// tuneRuntime makes the collector run rarely. Items lie outside its heap, so that what it looks after is small, and by its own rule
// it would run after every few megabytes of garbage; with the ballast it runs after ballastBytes or more.
//
// In a group it gives the runtime a processor more for each thread that serves clients. Such a thread waits in a system call of its own and keeps its
// processor meanwhile, for up to 10 ms; if all are kept so, nobody looks at the connections of the other replicas.
func tuneRuntime(o *options) {
	const ballastBytes = 32 << 20
	ballast = make([]byte, ballastBytes)
	if o.group != "" && os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.NumCPU() + o.threads)
	}
}

// warnOfDescriptors says so if the process may not open as many sockets as -c promises. Go has raised the limit as far as it goes.
func warnOfDescriptors(log zerolog.Logger, connLimit int) {
	var limit syscall.Rlimit
	const each, others = 2, 64 // a client that does not read its replies takes a second one; listeners, replication, pollers
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err == nil && limit.Cur < uint64(each*connLimit+others) {
		log.Warn().Uint64("limit", limit.Cur).Int("conn_limit", connLimit).
			Msg("fewer descriptors than clients may need, which is two for each: raise the limit of open files (ulimit -n) or lower --conn-limit")
	}
}

// byteSize is a number of bytes as memcached's -I takes it: 1048576, 1024k, 1m.
type byteSize uint64

func (b *byteSize) String() string {
	switch n := uint64(*b); {
	case n%(1<<20) == 0:
		return strconv.FormatUint(n>>20, 10) + "m"
	case n%(1<<10) == 0:
		return strconv.FormatUint(n>>10, 10) + "k"
	default:
		return strconv.FormatUint(n, 10)
	}
}

func (b *byteSize) Set(text string) error {
	digits, shift := text, 0
	if n := len(text); n > 0 {
		switch text[n-1] {
		case 'k', 'K':
			digits, shift = text[:n-1], 10
		case 'm', 'M':
			digits, shift = text[:n-1], 20
		}
	}
	n, err := strconv.ParseUint(digits, 10, 40)
	if err != nil {
		return errors.New("give a number of bytes, or of k or m, like 2m")
	}
	*b = byteSize(n << shift)
	return nil
}

func (b *byteSize) Type() string { return "size" }
