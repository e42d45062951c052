package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"hermesd/bench/history"
)

// ProbeConfig describes a client that asks one server for one operation at a time, to notice when it is not answered.
type ProbeConfig struct {
	Server string
	// Pause is between an answer and the next question, and after a connection that failed: the resolution of what is measured.
	Pause time.Duration
	// Wait bounds connecting and each answer. After it the probe connects again.
	Wait time.Duration
	// Next gives the next operation. It is called on the probe's goroutine.
	Next func() history.Input
	// Judge, unless nil, sees each answer that is one, and returns an error if it may not be.
	Judge func(history.Input, history.Output) error
}

// Served is an operation that was answered. SERVER_ERROR is no answer.
type Served struct{ Called, Answered time.Duration } // since the start of the Probe

// Probe collects when operations were answered. Its methods may be called from any goroutine.
type Probe struct {
	cfg   ProbeConfig
	start time.Time

	mu     sync.Mutex
	served []Served
	wrong  error
	failed int
}

// NewProbe returns a probe whose times count from start.
func NewProbe(cfg ProbeConfig, start time.Time) *Probe { return &Probe{cfg: cfg, start: start} }

// Run asks until ctx ends, or an answer was wrong: see Wrong.
func (p *Probe) Run(ctx context.Context) {
	var conn *Client
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	for ctx.Err() == nil && p.Wrong() == nil {
		if conn == nil {
			c, err := Dial(p.cfg.Server, p.cfg.Wait)
			if err != nil {
				p.fail(nil)
				p.pause(ctx)
				continue
			}
			conn = c
		}
		in := p.cfg.Next()
		called := time.Since(p.start)
		outs, err := conn.Do(in)
		p.answered(in, outs[0], Served{called, time.Since(p.start)}, err)
		if err != nil {
			conn.Close()
			conn = nil
		}
		p.pause(ctx)
	}
}

func (p *Probe) pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(p.cfg.Pause):
	}
}

func (p *Probe) answered(in history.Input, out history.Output, s Served, err error) {
	switch {
	case errors.Is(err, ErrAnswer):
		p.fail(fmt.Errorf("%s: %w", p.cfg.Server, err))
	case err != nil || out.Status == history.Unknown:
		p.fail(nil)
	default:
		if p.cfg.Judge != nil {
			if err := p.cfg.Judge(in, out); err != nil {
				p.fail(fmt.Errorf("%s: %w", p.cfg.Server, err))
				return
			}
		}
		p.mu.Lock()
		p.served = append(p.served, s)
		p.mu.Unlock()
	}
}

// fail notes an operation without an answer, or a wrong answer.
func (p *Probe) fail(wrong error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed++
	if wrong != nil {
		p.wrong = wrong
	}
}

// Wrong is the error of Judge, or that an answer was not of the protocol; nil while all is well.
func (p *Probe) Wrong() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wrong
}

// Failed counts the operations that had no answer, and the attempts to connect that failed.
func (p *Probe) Failed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed
}

// Served returns what was answered since the last call of Forget, in order.
func (p *Probe) Served() []Served {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.served)
}

// Forget drops what was answered so far, but for the last.
func (p *Probe) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.served); n > 1 {
		p.served = append(p.served[:0], p.served[n-1])
	}
}

// Stall returns the longest time that the probe waited for an answer within [from, to]: see LongestStall.
func (p *Probe) Stall(from, to time.Duration) time.Duration {
	return LongestStall(p.Served(), from, to, p.cfg.Pause)
}

// LongestStall returns the longest time within [from, to] in which a client that pauses for pause after each answer waited for one,
// over however many attempts. What is waited for at from or at to counts only as far as it lies between. served is in order.
func LongestStall(served []Served, from, to, pause time.Duration) time.Duration {
	longest, since := time.Duration(0), from // the client would have been answered from since on, had there been no stall
	for _, s := range served {
		if s.Answered <= from {
			since = max(from, s.Answered+pause)
			continue
		}
		if s.Answered >= to {
			break
		}
		longest = max(longest, s.Answered-since)
		since = max(since, s.Answered+pause)
	}
	return max(longest, to-since)
}

// Quantile returns the value below or at which a share q, 0 to 1, of the values lie; 0 of none. It sorts them.
func Quantile(values []time.Duration, q float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[min(len(values)-1, int(q*float64(len(values))))]
}

// probeKeys is how many keys each probe goes through.
const probeKeys = 64

// ProbeSet is the probes of the replicas of one group: for each replica one that writes, one that reads keys that nobody writes, and one that reads
// keys while they are written.
type ProbeSet struct {
	// Writes, Reads and InFlight are in the order of the servers.
	Writes, Reads, InFlight []*Probe

	prefix string
	start  time.Time
	// writing is the key that each writer writes at the moment.
	writing []atomic.Pointer[string]
}

// NewProbeSet makes probes whose keys begin with prefix. Times count from start.
func NewProbeSet(servers []string, prefix string, pause, wait time.Duration, start time.Time) *ProbeSet {
	s := &ProbeSet{prefix: prefix, start: start, writing: make([]atomic.Pointer[string], len(servers))}
	for i, server := range servers {
		cfg := ProbeConfig{Server: server, Pause: pause, Wait: wait}
		cfg.Next, cfg.Judge = s.write(i), expectStatus(history.Stored)
		s.Writes = append(s.Writes, NewProbe(cfg, start))
		cfg.Next, cfg.Judge = s.read(), s.judgeRead
		s.Reads = append(s.Reads, NewProbe(cfg, start))
		cfg.Next, cfg.Judge = s.readInFlight(i), nil
		s.InFlight = append(s.InFlight, NewProbe(cfg, start))
	}
	return s
}

func expectStatus(want history.Status) func(history.Input, history.Output) error {
	return func(in history.Input, out history.Output) error {
		if out.Status != want {
			return fmt.Errorf("%v %s was answered %v, want %v", in.Kind, in.Key, out.Status, want)
		}
		return nil
	}
}

func (s *ProbeSet) keyRead(n int) string { return fmt.Sprintf("%s:read:%d", s.prefix, n%probeKeys) }

// write gives sets of one key after the other, which are the writer's own.
func (s *ProbeSet) write(writer int) func() history.Input {
	n := 0
	return func() history.Input {
		n++
		key := fmt.Sprintf("%s:write:%d:%d", s.prefix, writer, n%probeKeys)
		s.writing[writer].Store(&key)
		return history.Input{Kind: history.Set, Key: key, Value: fmt.Sprint(n)}
	}
}

func (s *ProbeSet) read() func() history.Input {
	n := 0
	return func() history.Input {
		n++
		return history.Input{Kind: history.Get, Key: s.keyRead(n)}
	}
}

// judgeRead: what was stored before the probes began must be there.
func (s *ProbeSet) judgeRead(in history.Input, out history.Output) error {
	if out.Status != history.Hit || out.Value != in.Key {
		return fmt.Errorf("get %s was answered %v %q, want a hit of %q", in.Key, out.Status, out.Value, in.Key)
	}
	return nil
}

// readInFlight gives gets of what the writers are writing at the moment, one writer after the other.
func (s *ProbeSet) readInFlight(n int) func() history.Input {
	return func() history.Input {
		n++
		if key := s.writing[n%len(s.writing)].Load(); key != nil {
			return history.Input{Kind: history.Get, Key: *key}
		}
		return history.Input{Kind: history.Get, Key: s.keyRead(n)}
	}
}

// Prepare stores what the probes read, through a server.
func (s *ProbeSet) Prepare(server string, wait time.Duration) error {
	c, err := Dial(server, wait)
	if err != nil {
		return err
	}
	defer c.Close()
	for i := range probeKeys {
		in := history.Input{Kind: history.Set, Key: s.keyRead(i), Value: s.keyRead(i)}
		outs, err := c.Do(in)
		if err == nil {
			err = expectStatus(history.Stored)(in, outs[0])
		}
		if err != nil {
			return fmt.Errorf("%s: %w", server, err)
		}
	}
	return nil
}

// Start runs all probes. stop ends them and waits for that.
func (s *ProbeSet) Start(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	for _, p := range s.all() {
		running.Go(func() { p.Run(ctx) })
	}
	return func() { cancel(); running.Wait() }
}

func (s *ProbeSet) all() []*Probe { return slices.Concat(s.Writes, s.Reads, s.InFlight) }

// Now is the time on the probes' clock.
func (s *ProbeSet) Now() time.Duration { return time.Since(s.start) }

// Forget drops what was answered so far.
func (s *ProbeSet) Forget() {
	for _, p := range s.all() {
		p.Forget()
	}
}

// Wrong is the first wrong answer.
func (s *ProbeSet) Wrong() error {
	for _, p := range s.all() {
		if err := p.Wrong(); err != nil {
			return err
		}
	}
	return nil
}
