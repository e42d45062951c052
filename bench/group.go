package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"hermesd/bench/ports"
	"hermesd/replication/views"
)

// GroupConfig describes loads on whole groups of hermesd, each replica a process on the loopback interface.
type GroupConfig struct {
	Hermesd       string   `json:"hermesd"` // binary
	Replicas      []int    `json:"replicas"`
	ServerThreads int      `json:"server_threads"` // -t of each replica
	MemoryMB      int      `json:"memory_mb"`      // -m of each replica
	Ratios        []string `json:"ratios"`         // sets:gets
	Values        string   `json:"values"`         // as ParseValueSizes reads them
	Pipelines     []int    `json:"pipelines"`
	Connections   int      `json:"connections"` // to all replicas together
	ClientThreads int      `json:"client_threads"`
	Keys          uint64   `json:"keys"`
	// Duration is how long each row is measured. A row of minutes is how to see whether memory grows.
	Duration time.Duration `json:"-"`

	timing []string // arguments of the replicas of a group, for tests
}

// DefaultGroupConfig is what `hermesd bench group` does without flags.
func DefaultGroupConfig() GroupConfig {
	return GroupConfig{Replicas: []int{1, 3}, ServerThreads: 1, MemoryMB: 256, Ratios: []string{"1:0", "0:1", "1:10"}, Values: "32",
		Pipelines: []int{1, 16, 64}, Connections: 48, ClientThreads: 1, Keys: 100000, Duration: 3 * time.Second}
}

// GroupRow is one load on one group. "All" figures are sums over the replicas.
type GroupRow struct {
	Replicas int    `json:"replicas"`
	Ratio    string `json:"ratio"`
	Pipeline int    `json:"pipeline"`

	PerSecond             float64    `json:"operations_per_second"`
	CPUMicrosPerOperation float64    `json:"cpu_us_per_operation"`      // of all replicas, for one operation of a client
	PerCPUSecond          float64    `json:"operations_per_cpu_second"` // of all replicas
	Load                  LoadReport `json:"load"`

	// For each set, in all replicas: protocol messages and frames sent, and system calls that sent or received frames; for each operation,
	// system calls that read from or write to clients. epoll_wait and futex are not counted.
	MessagesPerSet   float64 `json:"messages_per_set"`
	FramesPerSet     float64 `json:"frames_per_set"`
	PeerCallsPerSet  float64 `json:"peer_system_calls_per_set"`
	ClientCallsPerOp float64 `json:"client_system_calls_per_operation"`
	WaitedShare      float64 `json:"waited_share"` // of the operations, how many could not be answered in the pass that read them
	RSSBytes         []Span  `json:"rss_bytes"`    // of each replica, in each tenth of the time
}

// Span is the least and the greatest of something, over the replicas.
type Span struct {
	Least    uint64 `json:"least"`
	Greatest uint64 `json:"greatest"`
}

// GroupReport is the outcome of Group.
type GroupReport struct {
	Config GroupConfig `json:"config"`
	Rows   []GroupRow  `json:"rows"`
}

// Group starts a group for each row, fills it, loads it through all replicas, and ends it. Rows are told to progress as they are done.
func Group(ctx context.Context, cfg GroupConfig, progress io.Writer) (GroupReport, error) {
	report := GroupReport{Config: cfg}
	path, err := exec.LookPath(cfg.Hermesd)
	if err != nil {
		return report, fmt.Errorf("server %q: %w: give the path of a binary", cfg.Hermesd, err)
	}
	cfg.Hermesd = path
	if len(cfg.Replicas)*len(cfg.Ratios)*len(cfg.Pipelines) == 0 {
		return report, errors.New("replicas, ratios and pipelines: give at least one of each")
	}
	for _, replicas := range cfg.Replicas {
		for _, ratio := range cfg.Ratios {
			for _, pipeline := range cfg.Pipelines {
				row := GroupRow{Replicas: replicas, Ratio: ratio, Pipeline: pipeline}
				if err := cfg.run(ctx, &row); err != nil {
					return report, fmt.Errorf("%d replicas, %s, pipeline %d: %w", replicas, ratio, pipeline, err)
				}
				report.Rows = append(report.Rows, row)
				fmt.Fprintf(progress, "%d replicas, %s, pipeline %d: %.0f operations per second\n", replicas, ratio, pipeline, row.PerSecond)
			}
		}
	}
	return report, nil
}

// group is the processes of one.
type group struct {
	processes   []*process
	replication []string // addresses for the other replicas, and operators
	dataDir     string
}

func (cfg *GroupConfig) start(ctx context.Context, replicas int) (*group, error) {
	args := []string{"-t", strconv.Itoa(cfg.ServerThreads), "-m", strconv.Itoa(cfg.MemoryMB), "-c", strconv.Itoa(cfg.Connections + 100)}
	if replicas > 1 {
		args = append(args, cfg.timing...)
	}
	return startGroup(ctx, cfg.Hermesd, replicas, args...)
}

// startGroup starts replicas, all with the same further arguments, and waits until they serve.
func startGroup(ctx context.Context, binary string, replicas int, args ...string) (*group, error) {
	first, err := ports.Reserve(2 * replicas)
	if err != nil {
		return nil, err
	}
	g := new(group)
	var members []string
	for i := range replicas {
		g.replication = append(g.replication, ports.Loopback(first+replicas+i))
		members = append(members, fmt.Sprintf("%d=%s", i+1, g.replication[i]))
	}
	if g.dataDir, err = os.MkdirTemp("", "hermesd-bench-"); err != nil {
		return nil, err
	}
	for i := range replicas {
		args := append([]string{"-p", strconv.Itoa(first + i), "-l", "127.0.0.1"}, args...)
		if replicas > 1 {
			args = append(args, "--id", strconv.Itoa(i+1), "--group", strings.Join(members, ","),
				"--data-dir", filepath.Join(g.dataDir, strconv.Itoa(i+1)))
		}
		p, err := startProcess(ctx, ports.Loopback(first+i), nil, binary, args...)
		if err != nil {
			g.stop()
			return nil, err
		}
		g.processes = append(g.processes, p)
	}
	if err := g.awaitServing(ctx); err != nil {
		g.stop()
		return nil, err
	}
	return g, nil
}

// kill ends a replica, counted from 0, by SIGKILL.
func (g *group) kill(i int) {
	_ = g.processes[i].cmd.Process.Kill() // fails only where it has ended
	<-g.processes[i].ended
}

// restart starts a replica that has ended, with the arguments that it had. It does not wait for it to serve.
func (g *group) restart(ctx context.Context, i int) error {
	old := g.processes[i]
	p, err := startProcess(ctx, old.addr, nil, old.cmd.Path, old.cmd.Args[1:]...)
	if err == nil {
		g.processes[i] = p
	}
	return err
}

// leader is the replica, counted from 0, that leads the control plane. It waits until there is one.
func (g *group) leader(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		var errs []error
		for _, addr := range g.replication {
			status, err := groupStatus(ctx, addr)
			if err == nil && status.Leader != 0 {
				return int(status.Leader) - 1, nil
			}
			errs = append(errs, err)
		}
		if sleep(ctx, 10*time.Millisecond) != nil {
			return 0, fmt.Errorf("nobody leads the group: %w", errors.Join(errs...))
		}
	}
}

func groupStatus(ctx context.Context, addr string) (views.GroupStatus, error) {
	c, err := views.Dial(ctx, addr)
	if err != nil {
		return views.GroupStatus{}, err
	}
	defer c.Close()
	return c.Status(ctx)
}

// stop ends all replicas at once, as one that waits for the others would take longer.
func (g *group) stop() {
	done := make(chan struct{})
	for _, p := range g.processes {
		go func() { p.stop(); done <- struct{}{} }()
	}
	for range g.processes {
		<-done
	}
	_ = os.RemoveAll(g.dataDir)
}

func (g *group) awaitServing(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for _, p := range g.processes {
		for {
			stats, err := replicationStats(p.addr)
			if err == nil && stats["state"] == "serving" {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s does not serve: %s: %w: %s", p.addr, stats["reason"], ctx.Err(), p.output)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	return nil
}

func (g *group) addrs() (all []string) {
	for _, p := range g.processes {
		all = append(all, p.addr)
	}
	return all
}

// account is what the replicas have used and counted.
type account struct {
	cpu    time.Duration
	counts map[string]uint64
}

func (g *group) account() (account, error) {
	a := account{counts: map[string]uint64{}}
	for _, p := range g.processes {
		cpu, err := p.cpu()
		if err != nil {
			return a, err
		}
		a.cpu += cpu
		stats, err := replicationStats(p.addr)
		if err != nil {
			return a, err
		}
		for name, value := range stats {
			if n, err := strconv.ParseUint(value, 10, 64); err == nil {
				a.counts[name] += n
			}
		}
	}
	return a, nil
}

// run measures a row.
func (cfg *GroupConfig) run(ctx context.Context, row *GroupRow) error {
	g, err := cfg.start(ctx, row.Replicas)
	if err != nil {
		return err
	}
	defer g.stop()
	load := DefaultLoadConfig()
	load.Servers, load.Connections, load.Threads, load.Pipeline = g.addrs(), cfg.Connections, cfg.ClientThreads, row.Pipeline
	load.Keys, load.Duration = cfg.Keys, cfg.Duration
	if load.Values, err = ParseValueSizes(cfg.Values); err != nil {
		return err
	}
	if load.Sets, load.Gets, err = parseRatio(row.Ratio); err != nil {
		return err
	}
	warm := load
	warm.Prefill, warm.Duration = true, min(cfg.Duration/5, time.Second)
	if err := loadWithoutFailures(ctx, warm, nil); err != nil {
		return err
	}
	before, err := g.account()
	if err != nil {
		return err
	}
	watch := g.watchMemory(cfg.Duration / 10)
	err = loadWithoutFailures(ctx, load, &row.Load)
	row.RSSBytes = watch()
	if err != nil {
		return err
	}
	after, err := g.account()
	if err != nil {
		return err
	}
	row.fill(before, after)
	return nil
}

// loadWithoutFailures runs a load of which every operation must be answered; gets may miss, where memory is full.
func loadWithoutFailures(ctx context.Context, load LoadConfig, into *LoadReport) error {
	report, err := Load(ctx, load)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil && report.Trouble() > 0 {
		errs := map[string]uint64{}
		maps.Copy(errs, report.Errors)
		if report.Prefill != nil {
			maps.Copy(errs, report.Prefill.Errors)
		}
		err = fmt.Errorf("%d operations went wrong: %v", report.Trouble(), errs)
	}
	if into != nil {
		*into = report
	}
	return err
}

func (row *GroupRow) fill(before, after account) {
	count := func(name string) float64 { return float64(after.counts[name] - before.counts[name]) }
	operations, sets := float64(max(1, row.Load.Operations)), float64(max(1, row.Load.Sets))
	cpu := (after.cpu - before.cpu).Seconds()
	row.PerSecond = row.Load.PerSecond
	row.CPUMicrosPerOperation, row.PerCPUSecond = cpu*1e6/operations, operations/cpu
	row.ClientCallsPerOp = (count("client_read_calls") + count("client_write_calls")) / operations
	row.WaitedShare = count("client_operations_waited") / operations
	if row.Load.Sets > 0 {
		row.MessagesPerSet = count("transport_messages_sent") / sets
		row.FramesPerSet = count("transport_batches_sent") / sets
		row.PeerCallsPerSet = (count("transport_write_calls") + count("transport_read_calls")) / sets
	}
}

// watchMemory samples the replicas' resident memory until the function that it returns is called.
func (g *group) watchMemory(every time.Duration) (stop func() []Span) {
	quit, result := make(chan struct{}), make(chan []Span)
	go func() {
		var spans []Span
		tick := time.NewTicker(max(every, 10*time.Millisecond))
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				spans = append(spans, g.memory())
			case <-quit:
				result <- append(spans, g.memory())
				return
			}
		}
	}()
	return func() []Span { close(quit); return <-result }
}

// memory is the resident memory of the replicas.
func (g *group) memory() Span {
	var s Span
	for i, p := range g.processes {
		rss := residentBytes(p.cmd.Process.Pid)
		if i == 0 || rss < s.Least {
			s.Least = rss
		}
		s.Greatest = max(s.Greatest, rss)
	}
	return s
}

// residentBytes reads VmRSS, in kB, of proc(5)'s status; 0 if there is no such process.
func residentBytes(pid int) uint64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kb, _ := strconv.ParseUint(fields[0], 10, 64)
	return kb << 10
}

// replicationStats asks a replica for its stats replication.
func replicationStats(addr string) (map[string]string, error) {
	s := map[string]string{}
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return s, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(conn, "stats replication\r\n"); err != nil {
		return s, err
	}
	for r := bufio.NewReader(conn); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return s, err
		}
		if line == "END\r\n" {
			return s, nil
		}
		if part := strings.SplitN(strings.TrimSpace(line), " ", 3); len(part) == 3 {
			s[part[1]] = part[2]
		}
	}
}

// WriteText writes the report as a table.
func (r *GroupReport) WriteText(w io.Writer) error {
	cfg := &r.Config
	fmt.Fprintf(w, "-t %d and -m %d for each replica, %d connections, values of %s bytes, %d keys, %v for each row\n", cfg.ServerThreads, cfg.MemoryMB,
		cfg.Connections, cfg.Values, cfg.Keys, cfg.Duration)
	fmt.Fprint(w, "CPU: of all replicas together, µs for each operation of a client. Calls: system calls without epoll_wait and futex.\n\n")
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(tw, "replicas\tset:get\tpipeline\tk/s\tCPU\tk/CPU-s\tclient calls/op\tmessages/set\tframes/set\tpeer calls/set\twaited\tp50 µs\tp99 µs\tRSS MB first\tlast\t\n")
	for i := range r.Rows {
		row := &r.Rows[i]
		latency := row.Load.Set
		if latency == nil {
			latency = row.Load.Get
		}
		first, last := row.RSSBytes[0].Greatest, row.RSSBytes[len(row.RSSBytes)-1].Greatest
		fmt.Fprintf(tw, "%d\t%s\t%d\t%.1f\t%.2f\t%.1f\t%.2f\t%.2f\t%.2f\t%.2f\t%.0f%%\t%.0f\t%.0f\t%d\t%d\t\n", row.Replicas, row.Ratio, row.Pipeline, row.PerSecond/1e3,
			row.CPUMicrosPerOperation, row.PerCPUSecond/1e3, row.ClientCallsPerOp, row.MessagesPerSet, row.FramesPerSet, row.PeerCallsPerSet,
			100*row.WaitedShare, latency.P50, latency.P99, first>>20, last>>20)
	}
	return tw.Flush()
}

// WriteJSON writes the report as one JSON object, indented.
func (r *GroupReport) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// MarshalJSON writes the duration in seconds.
func (cfg GroupConfig) MarshalJSON() ([]byte, error) {
	type plain GroupConfig
	return json.Marshal(struct {
		plain
		Seconds float64 `json:"seconds"`
	}{plain(cfg), cfg.Duration.Seconds()})
}
