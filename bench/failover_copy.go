package bench

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"hermesd/bench/history"
)

// CopyRow is what the return of a replica that has everything to copy takes, and what clients of the other two notice.
type CopyRow struct {
	Items      uint64        `json:"items"`
	ValueBytes int           `json:"value_bytes"`
	Connected  time.Duration `json:"start_ns"`   // from the start of the process until it answers anything
	ToServing  time.Duration `json:"serving_ns"` // from the start of the process until it serves
	// Latencies of single operations at the two other replicas: in the seconds before the replica was killed, and from its restart until it
	// served.
	BeforeGets, BeforeSets, DuringGets, DuringSets Latencies
}

// Latencies sums up the times from a question to its answer.
type Latencies struct {
	Count int           `json:"count"`
	P50   time.Duration `json:"p50_ns"`
	P99   time.Duration `json:"p99_ns"`
	Max   time.Duration `json:"max_ns"`
}

const (
	copyValueBytes = 4096
	copyBefore     = 10 * time.Second // of measurement before the kill
)

// copy kills one of three full replicas, starts it again and measures until it serves.
func (cfg *FailoverConfig) copy(ctx context.Context, progress io.Writer) (row CopyRow, err error) {
	// A quarter more than the items need is enough, with what is kept free for updates under way.
	g, err := startGroup(ctx, cfg.Hermesd, 3, "-t", strconv.Itoa(cfg.Threads), "-m", strconv.Itoa(cfg.CopyMB*3/2+64))
	if err != nil {
		return row, err
	}
	defer g.stop()
	load := DefaultLoadConfig()
	// Not at full speed: a group whose processors are all taken loses its leases.
	load.Servers, load.Connections, load.Pipeline = g.addrs()[:1], 2, 8
	load.Keys, load.Values = uint64(cfg.CopyMB)<<20/copyValueBytes, ValueSizes{Sizes: []int{copyValueBytes}}
	load.Prefill, load.Duration = true, time.Millisecond
	for attempt := 1; ; attempt++ {
		const attempts = 5
		if err = loadWithoutFailures(ctx, load, nil); err == nil {
			break
		}
		if attempt == attempts || ctx.Err() != nil {
			return row, fmt.Errorf("filling: %w", err)
		}
		fmt.Fprintf(progress, "filling once more: %v\n", err)
	}
	row.Items, row.ValueBytes = load.Keys, copyValueBytes
	fmt.Fprintf(progress, "%d MB are stored in each of three replicas\n", cfg.CopyMB)

	c := newCopyClients(g.addrs()[:2], load.Keys, load.KeySize, cfg)
	stop := c.start(ctx)
	defer stop()
	from := c.now()
	if err := sleep(ctx, copyBefore); err != nil {
		return row, err
	}
	row.BeforeGets, row.BeforeSets = c.latencies(from, c.now())
	g.kill(2)
	const removed = 2 * time.Second // by then the others go on without it
	if err := sleep(ctx, removed); err != nil {
		return row, err
	}
	begun, from := time.Now(), c.now()
	if err := g.restart(ctx, 2); err != nil {
		return row, err
	}
	row.Connected = time.Since(begun)
	if err := g.awaitOne(ctx, 2); err != nil {
		return row, err
	}
	row.ToServing = time.Since(begun)
	row.DuringGets, row.DuringSets = c.latencies(from, c.now())
	return row, c.wrong()
}

// copyClients ask for keys that are stored, four gets for each set, one operation at a time.
type copyClients struct {
	gets, sets []*Probe
	begun      time.Time
}

func newCopyClients(servers []string, keys uint64, keySize int, cfg *FailoverConfig) *copyClients {
	c := &copyClients{begun: time.Now()}
	space, value := newKeySpace(keys, keySize), strings.Repeat("v", copyValueBytes)
	for i, server := range servers {
		for j := range cfg.CopyConnections {
			random := rand.New(rand.NewPCG(uint64(i), uint64(j)))
			probe := ProbeConfig{Server: server, Pause: cfg.CopyPause, Wait: probeWait}
			write := j%5 == 0
			probe.Next = func() history.Input {
				in := history.Input{Kind: history.Get, Key: string(space.append(nil, random.Uint64N(keys)))}
				if write {
					in.Kind, in.Value = history.Set, value
				}
				return in
			}
			if write {
				probe.Judge = expectStatus(history.Stored)
				c.sets = append(c.sets, NewProbe(probe, c.begun))
			} else {
				probe.Judge = expectStatus(history.Hit)
				c.gets = append(c.gets, NewProbe(probe, c.begun))
			}
		}
	}
	return c
}

func (c *copyClients) now() time.Duration { return time.Since(c.begun) }

func (c *copyClients) start(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	for _, p := range append(append([]*Probe(nil), c.gets...), c.sets...) {
		running.Go(func() { p.Run(ctx) })
	}
	return func() { cancel(); running.Wait() }
}

func (c *copyClients) wrong() error {
	for _, p := range append(append([]*Probe(nil), c.gets...), c.sets...) {
		if err := p.Wrong(); err != nil {
			return err
		}
	}
	return nil
}

func (c *copyClients) latencies(from, to time.Duration) (gets, sets Latencies) {
	return newLatencies(c.gets, from, to), newLatencies(c.sets, from, to)
}

// newLatencies sums up what was asked and answered within [from, to].
func newLatencies(probes []*Probe, from, to time.Duration) Latencies {
	var all []time.Duration
	for _, p := range probes {
		for _, s := range p.Served() {
			if s.Called >= from && s.Answered <= to {
				all = append(all, s.Answered-s.Called)
			}
		}
	}
	return Latencies{Count: len(all), P50: Quantile(all, 0.5), P99: Quantile(all, 0.99), Max: Quantile(all, 1)}
}

func (row *CopyRow) writeText(w io.Writer) error {
	fmt.Fprintf(w, "\nA replica of three returns, and copies %d items of %d bytes: it answers after %.2f s and serves after %.2f s.\n",
		row.Items, row.ValueBytes, row.Connected.Seconds(), row.ToServing.Seconds())
	fmt.Fprint(w, "Clients of the two others meanwhile, in ms:\n\n")
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(tw, "\tbefore: count\tp50\tp99\tmax\tduring: count\tp50\tp99\tmax\tp99 ratio\t\n")
	for _, of := range []struct {
		name           string
		before, during Latencies
	}{{"gets", row.BeforeGets, row.DuringGets}, {"sets", row.BeforeSets, row.DuringSets}} {
		b, d := of.before, of.during
		fmt.Fprintf(tw, "%s\t%d\t%s\t%s\t%s\t%d\t%s\t%s\t%s\t%.2f\t\n", of.name, b.Count, milliseconds(b.P50), milliseconds(b.P99), milliseconds(b.Max),
			d.Count, milliseconds(d.P50), milliseconds(d.P99), milliseconds(d.Max), d.P99.Seconds()/max(b.P99.Seconds(), 1e-9))
	}
	return tw.Flush()
}
