package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Distribution says how keys are drawn.
type Distribution string

const (
	// Uniform draws every key equally often.
	Uniform Distribution = "uniform"
	// Zipf draws key number k (from 0) with a probability in proportion to 1/(k+1)^s, s being LoadConfig.ZipfExponent.
	Zipf Distribution = "zipf"
)

// Limits of LoadConfig. They keep a mistyped flag from becoming an attack on the machine.
const (
	MaxConnections = 65536
	MaxThreads     = 256
	MaxPipeline    = 4096
	MaxKeySize     = 250
	MaxValueSize   = 1 << 30
	MaxDuration    = 24 * time.Hour
)

// prefillLimit bounds the time that storing every key once may take.
const prefillLimit = 15 * time.Minute

// LoadConfig describes a load. Every connection is a closed loop: it writes a batch of Pipeline requests in one
// write, waits for all the replies, and writes the next batch.
type LoadConfig struct {
	// Servers are host:port addresses. Connections are dealt out to them in turn.
	Servers []string `json:"servers"`
	// Connections to all servers together, 1..MaxConnections. They are dealt out to the threads in turn.
	Connections int `json:"connections"`
	// Threads that drive the connections, 1..MaxThreads and at most Connections. Each is an operating system thread.
	Threads int `json:"threads"`
	// Pipeline is the number of requests of a batch, 1..MaxPipeline.
	Pipeline int `json:"pipeline"`
	// Sets and Gets are weights: of Sets+Gets requests, on average so many are of that kind. Not both 0.
	Sets int `json:"sets"`
	Gets int `json:"gets"`
	// Values gives the sizes of the values written, in bytes.
	Values ValueSizes `json:"value_sizes"`
	// Keys is the number of different keys, 1..2^40. Their texts are KeySize bytes long, 1..MaxKeySize.
	Keys    uint64 `json:"keys"`
	KeySize int    `json:"key_size"`
	// Distribution of the keys, and the exponent for Zipf (> 0; 0 stands for 0.99, YCSB's and the Hermes paper's).
	Distribution Distribution `json:"distribution"`
	ZipfExponent float64      `json:"zipf_exponent,omitempty"`
	// Duration bounds the measured time, and Operations, unless 0, the number of operations: whichever comes first.
	Duration   time.Duration `json:"-"`
	Operations uint64        `json:"operations,omitempty"`
	// Prefill stores every key once before the measuring starts.
	Prefill bool `json:"prefill"`
	// Check compares every byte of every value got with what this program wrote under that key, by this run or an
	// earlier one. Key, flags, length and framing of replies are always checked.
	Check bool `json:"check"`
	// CPUs, unless empty, are the processors that the threads are pinned to, in turn.
	CPUs []int `json:"cpus,omitempty"`
	// Seed of the random draws: the same seed draws the same requests.
	Seed uint64 `json:"seed"`
}

// DefaultLoadConfig is what `hermesd bench load` does without flags.
func DefaultLoadConfig() LoadConfig {
	return LoadConfig{
		Servers: []string{"127.0.0.1:11211"}, Connections: 50, Threads: 1, Pipeline: 1,
		Sets: 1, Gets: 10, Values: ValueSizes{Sizes: []int{100}}, Keys: 100000, KeySize: 16,
		Distribution: Uniform, Duration: 10 * time.Second, Seed: 1,
	}
}

// validate says what is wrong with the configuration and what would be right, or returns nil.
func (cfg *LoadConfig) validate() error {
	between := func(what string, v, lo, hi int) error {
		if v < lo || v > hi {
			return fmt.Errorf("%s is %d: give %d to %d", what, v, lo, hi)
		}
		return nil
	}
	err := errors.Join(
		between("the number of servers", len(cfg.Servers), 1, 1000),
		between("the number of connections", cfg.Connections, 1, MaxConnections),
		between("the number of threads", cfg.Threads, 1, min(MaxThreads, max(1, cfg.Connections))),
		between("the pipeline", cfg.Pipeline, 1, MaxPipeline),
		between("the weight of sets", cfg.Sets, 0, 1<<20),
		between("the weight of gets", cfg.Gets, 0, 1<<20),
		between("the key size", cfg.KeySize, 1, MaxKeySize),
		cfg.Values.validate())
	if err != nil {
		return err
	}
	switch {
	case cfg.Sets+cfg.Gets == 0:
		return errors.New("the ratio of sets to gets is 0:0: give one of them a weight")
	case cfg.Keys < 1 || cfg.Keys > 1<<40:
		return fmt.Errorf("the number of keys is %d: give 1 to %d", cfg.Keys, uint64(1)<<40)
	case decimalDigits(cfg.Keys-1) > cfg.KeySize:
		return fmt.Errorf("%d keys do not fit into key texts of %d bytes: give a key size of at least %d",
			cfg.Keys, cfg.KeySize, decimalDigits(cfg.Keys-1))
	case cfg.Distribution != Uniform && cfg.Distribution != Zipf:
		return fmt.Errorf("the distribution is %q: give %q or %q", cfg.Distribution, Uniform, Zipf)
	case cfg.Distribution == Zipf && !(cfg.ZipfExponent >= 0 && cfg.ZipfExponent <= 10):
		return fmt.Errorf("the zipf exponent is %v: give one above 0 and at most 10", cfg.ZipfExponent)
	case cfg.Duration <= 0 || cfg.Duration > MaxDuration:
		return fmt.Errorf("the duration is %v: give more than 0 and at most %v", cfg.Duration, MaxDuration)
	}
	return nil
}

// plan is what the threads of a load share: read-only once the load has started, but for stop.
type plan struct {
	cfg     LoadConfig
	servers []*net.TCPAddr
	keys    keySpace
	values  *valueSource
	zipf    *zipf // nil for uniform draws
	setCut  uint32
	base    time.Time // of all times that threads handle, which are durations since base
	stop    atomic.Bool
}

// Load runs the load and reports what it measured. It fails when the configuration is wrong, a server cannot be
// reached at the start, or ctx ends before the measuring has started; once it measures, trouble is counted in the
// report instead (connections are opened again), and the end of ctx only ends the measuring early.
func Load(ctx context.Context, cfg LoadConfig) (LoadReport, error) {
	if err := cfg.validate(); err != nil {
		return LoadReport{}, err
	}
	p, err := newPlan(cfg)
	if err != nil {
		return LoadReport{}, err
	}
	defer context.AfterFunc(ctx, func() { p.stop.Store(true) })()
	report := LoadReport{Config: cfg}
	if cfg.Prefill {
		threads, elapsed, err := p.phase(true)
		if err != nil {
			return LoadReport{}, fmt.Errorf("prefill: %w", err)
		}
		report.Prefill = prefillReport(threads, elapsed, cfg.Keys)
	}
	if ctx.Err() != nil {
		return LoadReport{}, ctx.Err()
	}
	threads, elapsed, err := p.phase(false)
	if err != nil {
		return LoadReport{}, err
	}
	report.fill(threads, elapsed)
	return report, nil
}

// newPlan resolves the servers and builds what requests are made of.
func newPlan(cfg LoadConfig) (*plan, error) {
	p := &plan{cfg: cfg, keys: newKeySpace(cfg.Keys, cfg.KeySize), values: newValueSource(cfg.Values), base: time.Now()}
	p.setCut = uint32(uint64(cfg.Sets) * (1<<32 - 1) / uint64(cfg.Sets+cfg.Gets))
	if cfg.Distribution == Zipf {
		s := cfg.ZipfExponent
		if s == 0 {
			s = 0.99
		}
		p.zipf = newZipf(cfg.Keys, s)
	}
	for _, server := range cfg.Servers {
		addr, err := net.ResolveTCPAddr("tcp", server)
		if err != nil {
			return nil, fmt.Errorf("server %q: %w: give host:port", server, err)
		}
		p.servers = append(p.servers, addr)
	}
	return p, nil
}

// phase runs all threads once, over fresh connections: the prefill, or the measured load.
func (p *plan) phase(prefill bool) ([]*thread, time.Duration, error) {
	threads := make([]*thread, p.cfg.Threads)
	for i := range threads {
		threads[i] = newThread(p, i, prefill)
	}
	// All connections are open before the first request is sent, so that connecting is not measured.
	var connected, ended sync.WaitGroup
	var failed atomic.Bool
	start := make(chan struct{})
	connected.Add(len(threads))
	for _, t := range threads {
		ended.Go(func() {
			// Never unlocked: the thread may have been pinned to a processor, and ends with the goroutine.
			runtime.LockOSThread()
			t.err = t.open()
			if t.err != nil {
				failed.Store(true)
			}
			connected.Done()
			<-start
			if !failed.Load() {
				t.run()
			}
			t.close()
		})
	}
	connected.Wait()
	begun := time.Since(p.base)
	limit := p.cfg.Duration
	if prefill {
		limit = prefillLimit
	}
	for _, t := range threads {
		t.begun, t.stopAt = begun, begun+limit
	}
	close(start)
	ended.Wait()
	var errs []error
	elapsed := time.Duration(1)
	for _, t := range threads {
		errs = append(errs, t.err)
		elapsed = max(elapsed, t.ended-begun)
	}
	return threads, elapsed, errors.Join(errs...)
}
