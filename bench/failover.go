package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"hermesd/replication/views"
)

// FailoverConfig describes what is measured when replicas die and return.
type FailoverConfig struct {
	Hermesd  string   `json:"hermesd"`  // binary
	Replicas []int    `json:"replicas"` // sizes of the groups, 3 or more
	Timings  []string `json:"timings"`  // "default", "tuned"
	Kills    int      `json:"kills"`    // for each size and timing; every second one is of the control plane's leader
	Threads  int      `json:"threads"`  // -t of each replica
	Idle     float64  `json:"idle_seconds"`
	CopyMB   int      `json:"copy_mb"` // of what a returning replica has to copy; 0: that is not measured
	// CopyConnections and CopyPause make the load of the clients meanwhile: each connection asks, and pauses.
	CopyConnections int           `json:"copy_connections"` // to each replica
	CopyPause       time.Duration `json:"copy_pause_ns"`
}

// DefaultFailoverConfig is what `hermesd bench failover` does without flags.
func DefaultFailoverConfig() FailoverConfig {
	return FailoverConfig{Replicas: []int{3, 5, 7}, Timings: []string{"default", "tuned"}, Kills: 10, Threads: 2, Idle: 30, CopyMB: 1024,
		CopyConnections: 8, CopyPause: time.Millisecond}
}

// timingArgs are the options of a timing of the report.
func timingArgs(name string) ([]string, error) {
	switch name {
	case "default":
		return nil, nil
	case "tuned":
		t := views.TunedTiming
		return []string{"--heartbeat", t.Heartbeat.String(), "--lease", t.Lease.String(), "--suspect-after", t.SuspectAfter.String(),
			"--election-timeout", t.Election.String(), "--unreachable-after", t.Unreachable.String()}, nil
	}
	return nil, fmt.Errorf("timing %q: give default or tuned", name)
}

// FailoverRow is what clients of the surviving replicas saw when a replica was killed, over several kills.
type FailoverRow struct {
	Replicas int    `json:"replicas"`
	Timing   string `json:"timing"`
	Leader   bool   `json:"leader"` // the killed one led the control plane
	Kills    int    `json:"kills"`
	// Longest waits for an answer from the kill on, over all surviving replicas: median and greatest of the kills.
	Writes, Reads, ReadsInFlight StallSpan
	// Quiet is the longest wait in as much time before the kill: what the machine adds.
	Quiet StallSpan `json:"before"`
	// Return is from the restart until the replica serves.
	Return StallSpan `json:"return"`
}

// StallSpan sums up durations: one of each kill.
type StallSpan struct {
	Median  time.Duration `json:"median_ns"`
	Longest time.Duration `json:"longest_ns"`
}

func newStallSpan(all []time.Duration) StallSpan {
	return StallSpan{Median: Quantile(all, 0.5), Longest: Quantile(all, 1)}
}

func (s StallSpan) String() string { return milliseconds(s.Median) + " / " + milliseconds(s.Longest) }

func milliseconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds()*1e3, 'f', 1, 64) }

// IdleRow is the processor time of each replica of a group that nobody uses, as a share of a processor.
type IdleRow struct {
	Replicas int       `json:"replicas"`
	Timing   string    `json:"timing"`
	Leader   float64   `json:"leader"`
	Others   []float64 `json:"others"`
}

// FailoverReport is the outcome of Failover.
type FailoverReport struct {
	Config FailoverConfig `json:"config"`
	Rows   []FailoverRow  `json:"rows"`
	Idle   []IdleRow      `json:"idle"`
	Copy   *CopyRow       `json:"copy,omitempty"`
	// LoadBefore and LoadAfter are the machine's load averages (1, 5, 15 minutes): other programs disturb what is measured.
	LoadBefore string `json:"load_before"`
	LoadAfter  string `json:"load_after"`
}

// How a kill is measured.
const (
	probePause    = time.Millisecond
	probeWait     = 10 * time.Second
	beforeKill    = time.Second             // of quiet measurement
	afterKill     = 1500 * time.Millisecond // the same for the time after
	returnLimit   = 2 * time.Minute
	betweenProbes = 10 * time.Millisecond // of looking whether a replica serves
)

// Failover measures groups of all sizes with all timings, on the loopback interface.
func Failover(ctx context.Context, cfg FailoverConfig, progress io.Writer) (FailoverReport, error) {
	report := FailoverReport{Config: cfg, LoadBefore: loadAverage()}
	path, err := exec.LookPath(cfg.Hermesd)
	if err != nil {
		return report, fmt.Errorf("server %q: %w: give the path of a binary", cfg.Hermesd, err)
	}
	cfg.Hermesd = path
	for _, replicas := range cfg.Replicas {
		if replicas < 3 {
			return report, fmt.Errorf("a group of %d cannot lose a replica: give 3 or more", replicas)
		}
		for _, timing := range cfg.Timings {
			if err := cfg.measure(ctx, replicas, timing, &report, progress); err != nil {
				return report, fmt.Errorf("%d replicas, %s timing: %w", replicas, timing, err)
			}
		}
	}
	if cfg.CopyMB > 0 {
		row, err := cfg.copy(ctx, progress)
		if err != nil {
			return report, fmt.Errorf("a returning replica that copies %d MB: %w", cfg.CopyMB, err)
		}
		report.Copy = &row
	}
	report.LoadAfter = loadAverage()
	return report, nil
}

func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	return strings.Join(strings.Fields(string(text))[:min(3, len(strings.Fields(string(text))))], " ")
}

// measure measures one group: idle, then kill by kill.
func (cfg *FailoverConfig) measure(ctx context.Context, replicas int, timing string, report *FailoverReport, progress io.Writer) error {
	args, err := timingArgs(timing)
	if err != nil {
		return err
	}
	g, err := startGroup(ctx, cfg.Hermesd, replicas, append(args, "-t", strconv.Itoa(cfg.Threads))...)
	if err != nil {
		return err
	}
	defer g.stop()
	if cfg.Idle > 0 {
		row, err := g.idle(ctx, cfg.Idle)
		if err != nil {
			return err
		}
		row.Replicas, row.Timing = replicas, timing
		report.Idle = append(report.Idle, row)
	}
	var outcomes [2][]killOutcome // of followers, of leaders
	for k := range cfg.Kills {
		leader, err := g.leader(ctx)
		if err != nil {
			return err
		}
		victim, kind := leader, k%2
		if kind == 0 {
			victim = (leader + 1 + k/2%(replicas-1)) % replicas
		}
		o, err := g.killOne(ctx, victim)
		if err != nil {
			return fmt.Errorf("kill %d, of replica %d: %w", k+1, victim+1, err)
		}
		outcomes[kind] = append(outcomes[kind], o)
		fmt.Fprintf(progress, "%d replicas, %s timing, replica %d killed (leader: %v): writes stalled %v ms, reads of other keys %v, of keys in flight %v; served again after %v\n",
			replicas, timing, victim+1, kind == 1, milliseconds(o.writes), milliseconds(o.reads), milliseconds(o.inFlight), milliseconds(o.back))
	}
	for kind, all := range outcomes {
		if len(all) > 0 {
			report.Rows = append(report.Rows, newFailoverRow(replicas, timing, kind == 1, all))
		}
	}
	return nil
}

// killOutcome is what one kill cost.
type killOutcome struct{ writes, reads, inFlight, quiet, back time.Duration }

func newFailoverRow(replicas int, timing string, leader bool, all []killOutcome) FailoverRow {
	row := FailoverRow{Replicas: replicas, Timing: timing, Leader: leader, Kills: len(all)}
	sum := func(of func(killOutcome) time.Duration) StallSpan {
		var values []time.Duration
		for _, o := range all {
			values = append(values, of(o))
		}
		return newStallSpan(values)
	}
	row.Writes = sum(func(o killOutcome) time.Duration { return o.writes })
	row.Reads = sum(func(o killOutcome) time.Duration { return o.reads })
	row.ReadsInFlight = sum(func(o killOutcome) time.Duration { return o.inFlight })
	row.Quiet = sum(func(o killOutcome) time.Duration { return o.quiet })
	row.Return = sum(func(o killOutcome) time.Duration { return o.back })
	return row
}

// killOne kills a replica while the probes run on all, starts it again and waits until it serves.
func (g *group) killOne(ctx context.Context, victim int) (o killOutcome, err error) {
	probes := NewProbeSet(g.addrs(), "failover", probePause, probeWait, time.Now())
	if err := probes.Prepare(g.addrs()[0], probeWait); err != nil {
		return o, err
	}
	stop := probes.Start(ctx)
	defer stop()
	if err := sleep(ctx, beforeKill); err != nil {
		return o, err
	}
	killed := probes.Now()
	g.kill(victim)
	if err := sleep(ctx, afterKill); err != nil {
		return o, err
	}
	to := probes.Now()
	others := func(all []*Probe, from, to time.Duration) (longest time.Duration) {
		for i, p := range all {
			if i != victim {
				longest = max(longest, p.Stall(from, to))
			}
		}
		return longest
	}
	o.writes, o.reads, o.inFlight = others(probes.Writes, killed, to), others(probes.Reads, killed, to), others(probes.InFlight, killed, to)
	const settling = 200 * time.Millisecond // of the probes' connecting
	o.quiet = others(probes.all()[:len(g.processes)], settling, killed)
	begun := time.Now()
	if err := g.restart(ctx, victim); err != nil {
		return o, err
	}
	if err := g.awaitOne(ctx, victim); err != nil {
		return o, err
	}
	o.back = time.Since(begun)
	return o, probes.Wrong()
}

// awaitOne waits until a replica serves.
func (g *group) awaitOne(ctx context.Context, i int) error {
	ctx, cancel := context.WithTimeout(ctx, returnLimit)
	defer cancel()
	p := g.processes[i]
	for {
		stats, err := replicationStats(p.addr)
		if err == nil && stats["state"] == "serving" {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("replica %d has ended: %s", i+1, p.output)
		default:
		}
		if sleep(ctx, betweenProbes) != nil {
			return fmt.Errorf("replica %d does not serve within %v: %s: %s", i+1, returnLimit, stats["reason"], p.output)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// idle measures what the replicas cost while nobody asks them for anything.
func (g *group) idle(ctx context.Context, seconds float64) (row IdleRow, err error) {
	if err := sleep(ctx, time.Second); err != nil { // the end of the start
		return row, err
	}
	leader, err := g.leader(ctx)
	if err != nil {
		return row, err
	}
	before, err := g.cpuOfEach()
	if err != nil {
		return row, err
	}
	begun := time.Now()
	if err := sleep(ctx, time.Duration(seconds*float64(time.Second))); err != nil {
		return row, err
	}
	after, err := g.cpuOfEach()
	if err != nil {
		return row, err
	}
	for i := range after {
		share := (after[i] - before[i]).Seconds() / time.Since(begun).Seconds()
		if i == leader {
			row.Leader = share
		} else {
			row.Others = append(row.Others, share)
		}
	}
	return row, nil
}

func (g *group) cpuOfEach() (all []time.Duration, err error) {
	for _, p := range g.processes {
		cpu, err := p.cpuTicks() // also of threads that have ended
		if err != nil {
			return nil, err
		}
		all = append(all, cpu)
	}
	return all, nil
}

// Slow says which figures miss what the documentation promises, in words.
func (r *FailoverReport) Slow() error {
	var errs []error
	for i := range r.Rows {
		row := &r.Rows[i]
		bound := 500 * time.Millisecond
		if row.Timing == "tuned" {
			bound = 200 * time.Millisecond
		}
		if row.Writes.Longest > bound {
			errs = append(errs, fmt.Errorf("%d replicas, %s timing: writes stalled for %v ms, more than %v", row.Replicas, row.Timing,
				milliseconds(row.Writes.Longest), bound))
		}
	}
	for i := range r.Idle {
		row := &r.Idle[i]
		if busiest := max(row.Leader, slices.Max(row.Others)); busiest > 0.01 {
			errs = append(errs, fmt.Errorf("%d replicas, %s timing: an idle replica takes %.2f%% of a processor, more than 1%%", row.Replicas, row.Timing, 100*busiest))
		}
	}
	return errors.Join(errs...)
}

// WriteText writes the report as tables.
func (r *FailoverReport) WriteText(w io.Writer) error {
	fmt.Fprintf(w, "-t %d for each replica, all on this machine; load average before: %s, after: %s\n\n", r.Config.Threads, r.LoadBefore, r.LoadAfter)
	if len(r.Rows) > 0 {
		if err := r.writeKills(w); err != nil {
			return err
		}
	}
	if len(r.Idle) > 0 {
		if err := r.writeIdle(w); err != nil {
			return err
		}
	}
	if r.Copy != nil {
		return r.Copy.writeText(w)
	}
	return nil
}

func (r *FailoverReport) writeKills(w io.Writer) error {
	fmt.Fprint(w, "Replica killed: longest wait for an answer at the other replicas, in ms, median / longest of the kills.\n")
	fmt.Fprint(w, "\"before\" is the longest wait for a write in the second before the kill.\n\n")
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(tw, "replicas\ttiming\tkilled\tkills\twrites\treads of keys in flight\treads of others\tbefore\tback after\t\n")
	for i := range r.Rows {
		row := &r.Rows[i]
		killed := "follower"
		if row.Leader {
			killed = "leader"
		}
		fmt.Fprintf(tw, "%d\t%s\t%s\t%d\t%v\t%v\t%v\t%v\t%v\t\n", row.Replicas, row.Timing, killed, row.Kills, row.Writes, row.ReadsInFlight, row.Reads, row.Quiet, row.Return)
	}
	return tw.Flush()
}

func (r *FailoverReport) writeIdle(w io.Writer) error {
	fmt.Fprintf(w, "\nIdle for %v s: processor time of a replica, in %% of a processor.\n\n", r.Config.Idle)
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(tw, "replicas\ttiming\tleader\tothers\t\n")
	for i := range r.Idle {
		row := &r.Idle[i]
		fmt.Fprintf(tw, "%d\t%s\t%.2f\t%.2f to %.2f\t\n", row.Replicas, row.Timing, 100*row.Leader, 100*slices.Min(row.Others), 100*slices.Max(row.Others))
	}
	return tw.Flush()
}

// WriteJSON writes the report as one JSON object, indented.
func (r *FailoverReport) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}
