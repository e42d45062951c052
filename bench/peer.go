package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"hermesd/bench/ports"
)

// PeerConfig describes a comparison of hermesd, a group of one, with another server of memcached's protocol.
type PeerConfig struct {
	// Hermesd and Peer are the binaries, looked for in PATH when they are names. Both are started with -p -l -t -m -c, and one
	// that is called memcached with -u too, when this process is root's.
	Hermesd string `json:"hermesd"`
	Peer    string `json:"peer"`
	// ServerThreads is -t of both, and MemoryMB -m.
	ServerThreads int `json:"server_threads"`
	MemoryMB      int `json:"memory_mb"`
	// Ratios (sets:gets), Values (sizes in bytes) and Pipelines: each combination is a row of the report.
	Ratios    []string `json:"ratios"`
	Values    []int    `json:"values"`
	Pipelines []int    `json:"pipelines"`
	// Pairs is how often hermesd and the peer take turns in each row; each turn is a fresh server, filled and then measured for
	// Duration.
	Pairs    int           `json:"pairs"`
	Duration time.Duration `json:"-"`
	// Connections and ClientThreads (0: one for each client processor) make the load over Keys keys.
	Connections   int    `json:"connections"`
	ClientThreads int    `json:"client_threads"`
	Keys          uint64 `json:"keys"`
	// ServerCPUs and ClientCPUs are the processors to pin to. With both empty the processors of this machine are divided; on a machine
	// with one, nothing is pinned.
	ServerCPUs []int `json:"server_cpus"`
	ClientCPUs []int `json:"client_cpus"`
}

// DefaultPeerConfig is what `hermesd bench peer` does without flags.
func DefaultPeerConfig() PeerConfig {
	return PeerConfig{
		Peer: "memcached", ServerThreads: 1, MemoryMB: 1024,
		Ratios: []string{"0:1", "1:0", "1:10"}, Values: []int{32, 1024}, Pipelines: []int{1, 16, 64},
		Pairs: 5, Duration: time.Second, Connections: 50, Keys: 100000,
	}
}

// Turn is one measurement of one server.
type Turn struct {
	CPUMicrosPerOperation       float64 `json:"cpu_us_per_operation"` // of the server
	PerSecond                   float64 `json:"operations_per_second"`
	ServerCPUShare              float64 `json:"server_cpu_share"` // of one processor
	ClientCPUShare              float64 `json:"client_cpu_share"` // of each client thread: near 1, throughput is the client's
	ClientCPUMicrosPerOperation float64 `json:"client_cpu_us_per_operation"`
}

// PeerRow compares both servers under one load. Ratios are hermesd's figure over the peer's: the median of the pairs', with
// the least and the greatest.
type PeerRow struct {
	Ratio           string     `json:"ratio"`
	Value           int        `json:"value"`
	Pipeline        int        `json:"pipeline"`
	Hermesd         Turn       `json:"hermesd"` // medians, each figure by itself
	Peer            Turn       `json:"peer"`
	CPURatio        float64    `json:"cpu_ratio"`
	CPURatioRange   [2]float64 `json:"cpu_ratio_range"`
	ThroughputRatio float64    `json:"throughput_ratio"`
	HermesdTurns    []Turn     `json:"hermesd_turns"`
	PeerTurns       []Turn     `json:"peer_turns"`
}

// PeerReport is the outcome of a comparison.
type PeerReport struct {
	Config         PeerConfig `json:"config"`
	HermesdVersion string     `json:"hermesd_version"`
	PeerVersion    string     `json:"peer_version"`
	Rows           []PeerRow  `json:"rows"`
}

// Compare runs the comparison. A row is written to progress when it is done.
func Compare(ctx context.Context, cfg PeerConfig, progress io.Writer) (PeerReport, error) {
	if err := cfg.complete(); err != nil {
		return PeerReport{}, err
	}
	report := PeerReport{Config: cfg}
	for _, value := range cfg.Values {
		for _, ratio := range cfg.Ratios {
			for _, pipeline := range cfg.Pipelines {
				row := PeerRow{Ratio: ratio, Value: value, Pipeline: pipeline}
				for range cfg.Pairs {
					turn, version, err := cfg.turn(ctx, cfg.Hermesd, &row)
					if err != nil {
						return report, err
					}
					report.HermesdVersion = version
					row.HermesdTurns = append(row.HermesdTurns, turn)
					if turn, version, err = cfg.turn(ctx, cfg.Peer, &row); err != nil {
						return report, err
					}
					report.PeerVersion = version
					row.PeerTurns = append(row.PeerTurns, turn)
				}
				row.summarize()
				report.Rows = append(report.Rows, row)
				fmt.Fprintf(progress, "%s, values of %d bytes, pipeline %d: %.3f of the peer's CPU time per operation\n",
					ratio, value, pipeline, row.CPURatio)
			}
		}
	}
	return report, nil
}

// complete checks the configuration and fills in what depends on the machine.
func (cfg *PeerConfig) complete() error {
	for _, binary := range []*string{&cfg.Hermesd, &cfg.Peer} {
		path, err := exec.LookPath(*binary)
		if err != nil {
			return fmt.Errorf("server %q: %w: give the path of a binary", *binary, err)
		}
		*binary = path
	}
	if cfg.Pairs < 1 || cfg.ServerThreads < 1 || len(cfg.Ratios)*len(cfg.Values)*len(cfg.Pipelines) == 0 {
		return errors.New("pairs, server threads, ratios, values and pipelines: give at least one of each")
	}
	if len(cfg.ServerCPUs) == 0 && len(cfg.ClientCPUs) == 0 {
		cpus, err := availableCPUs()
		if err != nil {
			return err
		}
		if len(cpus) > 1 {
			n := min(cfg.ServerThreads, len(cpus)-1)
			cfg.ServerCPUs, cfg.ClientCPUs = cpus[:n], cpus[n:min(len(cpus), 2*n)]
		}
	}
	if cfg.ClientThreads == 0 {
		cfg.ClientThreads = min(max(1, len(cfg.ClientCPUs)), cfg.Connections)
	}
	if len(cfg.ClientCPUs) > 0 {
		// The threads of the load are pinned by Load; this is for the runtime's other threads.
		return pinProcess(cfg.ClientCPUs)
	}
	return nil
}

// load is the load of a row.
func (cfg *PeerConfig) load(addr string, row *PeerRow) (LoadConfig, error) {
	load := DefaultLoadConfig()
	load.Servers = []string{addr}
	load.Connections, load.Threads, load.Pipeline = cfg.Connections, cfg.ClientThreads, row.Pipeline
	load.Values, load.Keys, load.CPUs = ValueSizes{Sizes: []int{row.Value}}, cfg.Keys, cfg.ClientCPUs
	var err error
	load.Sets, load.Gets, err = parseRatio(row.Ratio)
	return load, err
}

// turn starts a server, fills it, warms it up, measures it and ends it.
func (cfg *PeerConfig) turn(ctx context.Context, binary string, row *PeerRow) (Turn, string, error) {
	port, err := ports.Reserve(1)
	if err != nil {
		return Turn{}, "", err
	}
	addr := ports.Loopback(port)
	load, err := cfg.load(addr, row)
	if err != nil {
		return Turn{}, "", err
	}
	server, err := startProcess(ctx, addr, cfg.ServerCPUs, binary, cfg.arguments(binary, port)...)
	if err != nil {
		return Turn{}, "", err
	}
	defer server.stop()
	version, err := serverVersion(addr)
	if err != nil {
		return Turn{}, "", err
	}
	turn, err := measure(ctx, server, load, cfg.Duration)
	return turn, version, err
}

func (cfg *PeerConfig) arguments(binary string, port int) []string {
	args := []string{"-p", fmt.Sprint(port), "-l", "127.0.0.1", "-t", fmt.Sprint(cfg.ServerThreads), "-m", fmt.Sprint(cfg.MemoryMB),
		"-c", fmt.Sprint(max(1024, cfg.Connections+100))}
	if strings.HasPrefix(filepath.Base(binary), "memcached") && os.Geteuid() == 0 {
		args = append(args, "-u", "root")
	}
	return args
}

// measure fills the server, loads it for a moment without measuring, and then measures.
func measure(ctx context.Context, server *process, load LoadConfig, duration time.Duration) (Turn, error) {
	warm := load
	warm.Prefill, warm.Duration = true, duration/5
	if err := loadWithoutTrouble(ctx, warm, nil); err != nil {
		return Turn{}, err
	}
	before, err := server.cpu()
	if err != nil {
		return Turn{}, err
	}
	load.Duration = duration
	var report LoadReport
	if err := loadWithoutTrouble(ctx, load, &report); err != nil {
		return Turn{}, err
	}
	after, err := server.cpu()
	if err != nil {
		return Turn{}, err
	}
	used := (after - before).Seconds()
	return Turn{
		CPUMicrosPerOperation: used * 1e6 / float64(max(1, report.Operations)), PerSecond: report.PerSecond,
		ServerCPUShare: used / report.Seconds, ClientCPUShare: report.Client.CPUShare,
		ClientCPUMicrosPerOperation: report.Client.CPUMicrosPerOperation,
	}, nil
}

// loadWithoutTrouble runs a load of which every operation must succeed, and every get must find its key.
func loadWithoutTrouble(ctx context.Context, load LoadConfig, into *LoadReport) error {
	report, err := Load(ctx, load)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil && report.Trouble()+report.Misses > 0 {
		err = fmt.Errorf("%s: %d operations went wrong and %d gets missed: %v: give the servers more memory?",
			load.Servers[0], report.Trouble(), report.Misses, report.Errors)
	}
	if into != nil {
		*into = report
	}
	return err
}

func (row *PeerRow) summarize() {
	row.Hermesd, row.Peer = medianTurn(row.HermesdTurns), medianTurn(row.PeerTurns)
	var cpu, throughput []float64
	for i := range row.HermesdTurns {
		cpu = append(cpu, row.HermesdTurns[i].CPUMicrosPerOperation/row.PeerTurns[i].CPUMicrosPerOperation)
		throughput = append(throughput, row.HermesdTurns[i].PerSecond/row.PeerTurns[i].PerSecond)
	}
	row.CPURatio, row.ThroughputRatio = median(cpu), median(throughput)
	row.CPURatioRange = [2]float64{slices.Min(cpu), slices.Max(cpu)}
}

func medianTurn(turns []Turn) Turn {
	of := func(figure func(Turn) float64) float64 {
		var all []float64
		for _, t := range turns {
			all = append(all, figure(t))
		}
		return median(all)
	}
	return Turn{
		CPUMicrosPerOperation:       of(func(t Turn) float64 { return t.CPUMicrosPerOperation }),
		PerSecond:                   of(func(t Turn) float64 { return t.PerSecond }),
		ServerCPUShare:              of(func(t Turn) float64 { return t.ServerCPUShare }),
		ClientCPUShare:              of(func(t Turn) float64 { return t.ClientCPUShare }),
		ClientCPUMicrosPerOperation: of(func(t Turn) float64 { return t.ClientCPUMicrosPerOperation }),
	}
}

// median of at least one number.
func median(numbers []float64) float64 {
	s := slices.Sorted(slices.Values(numbers))
	n := len(s)
	return (s[(n-1)/2] + s[n/2]) / 2
}

// WriteText writes the report as a table.
func (r *PeerReport) WriteText(w io.Writer) error {
	cfg := &r.Config
	fmt.Fprintf(w, "hermesd: %s (%s)\npeer: %s (%s)\n", r.HermesdVersion, cfg.Hermesd, r.PeerVersion, cfg.Peer)
	fmt.Fprintf(w, "-t %d, %d connections, %d client threads; servers on processors %v, client on %v; medians of %d pairs of %v\n",
		cfg.ServerThreads, cfg.Connections, cfg.ClientThreads, cfg.ServerCPUs, cfg.ClientCPUs, cfg.Pairs, cfg.Duration)
	fmt.Fprint(w, "Server CPU time per operation in µs, thousands of operations per second; busy: processor time of the client over time\n\n")
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(tw, "set:get\tbytes\tpipeline\tCPU hermesd\tpeer\tratio\t(range)\tk/s hermesd\tpeer\tratio\tbusy\tpeer\t\n")
	for i := range r.Rows {
		row := &r.Rows[i]
		fmt.Fprintf(tw, "%s\t%d\t%d\t%.3f\t%.3f\t%.3f\t(%.2f-%.2f)\t%.0f\t%.0f\t%.3f\t%.0f%%\t%.0f%%\t\n",
			row.Ratio, row.Value, row.Pipeline,
			row.Hermesd.CPUMicrosPerOperation, row.Peer.CPUMicrosPerOperation, row.CPURatio, row.CPURatioRange[0], row.CPURatioRange[1],
			row.Hermesd.PerSecond/1e3, row.Peer.PerSecond/1e3, row.ThroughputRatio,
			100*row.Hermesd.ClientCPUShare, 100*row.Peer.ClientCPUShare)
	}
	return tw.Flush()
}

// WriteJSON writes the report as one JSON object, indented.
func (r *PeerReport) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// MarshalJSON writes the duration in seconds.
func (cfg PeerConfig) MarshalJSON() ([]byte, error) {
	type plain PeerConfig
	return json.Marshal(struct {
		plain
		Seconds float64 `json:"seconds"`
	}{plain(cfg), cfg.Duration.Seconds()})
}
