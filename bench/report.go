package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"sort"
	"text/tabwriter"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// LoadReport is what a load measured. Times have their unit in their name.
type LoadReport struct {
	Config LoadConfig `json:"config"`
	// Prefill is nil where there was none.
	Prefill *PrefillReport `json:"prefill,omitempty"`
	// Seconds from the first request to the last reply.
	Seconds float64 `json:"seconds"`
	// Operations answered as asked: Hits + Misses + Sets; and per second.
	Operations uint64  `json:"operations"`
	PerSecond  float64 `json:"operations_per_second"`
	Hits       uint64  `json:"hits"`
	Misses     uint64  `json:"misses"`
	Sets       uint64  `json:"sets"`
	// Failed operations were answered with an error, Unanswered ones not at all (the connection was lost, or the time was up).
	Failed     uint64 `json:"failed"`
	Unanswered uint64 `json:"unanswered"`
	// Corrupt counts those Hits whose value differs from what was written (only with LoadConfig.Check).
	Corrupt     uint64 `json:"corrupt"`
	Disconnects uint64 `json:"disconnects"`
	// Errors counts the texts of error replies and of causes of disconnects.
	Errors map[string]uint64 `json:"errors,omitempty"`
	// Latency from the writing of a batch to the reading of the reply, in microseconds.
	Get *Latency `json:"get_latency,omitempty"`
	Set *Latency `json:"set_latency,omitempty"`
	// Megabytes (10^6) per second to and from the servers.
	MegabytesOutPerSecond float64 `json:"megabytes_out_per_second"`
	MegabytesInPerSecond  float64 `json:"megabytes_in_per_second"`
	// Client is what the load cost this side.
	Client ClientCost `json:"client"`
}

// PrefillReport tells how the storing of every key went.
type PrefillReport struct {
	Seconds    float64           `json:"seconds"`
	Stored     uint64            `json:"stored"`
	NotStored  uint64            `json:"not_stored"`
	Errors     map[string]uint64 `json:"errors,omitempty"`
	SetLatency *Latency          `json:"set_latency,omitempty"`
}

// Latency is a distribution, in microseconds.
type Latency struct {
	Count uint64  `json:"count"`
	Mean  float64 `json:"mean_us"`
	P50   float64 `json:"p50_us"`
	P90   float64 `json:"p90_us"`
	P99   float64 `json:"p99_us"`
	P999  float64 `json:"p99.9_us"`
	P9999 float64 `json:"p99.99_us"`
	Max   float64 `json:"max_us"`
}

// ClientCost is the processor time and the system calls of the threads that made the load.
type ClientCost struct {
	UserMicrosPerOperation   float64 `json:"user_us_per_operation"`
	SystemMicrosPerOperation float64 `json:"system_us_per_operation"`
	CPUMicrosPerOperation    float64 `json:"cpu_us_per_operation"`
	// CPUShare is the processor time over time and threads: 1 says that this side was the bottleneck.
	CPUShare float64 `json:"cpu_share"`
	Reads    uint64  `json:"reads"`
	Writes   uint64  `json:"writes"`
	Waits    uint64  `json:"waits"`
	// PartialReads is the number of reads that did not complete a batch.
	PartialReads uint64 `json:"partial_reads"`
}

// Trouble is the number of operations that did not go as they should, misses aside, and of lost connections.
func (r *LoadReport) Trouble() uint64 {
	n := r.Failed + r.Unanswered + r.Corrupt + r.Disconnects
	if r.Prefill != nil {
		n += r.Prefill.NotStored
	}
	return n
}

func (c *counts) add(o *counts) {
	c.hits += o.hits
	c.misses += o.misses
	c.sets += o.sets
	c.failed += o.failed
	c.unanswered += o.unanswered
	c.corrupt += o.corrupt
	c.disconnects += o.disconnects
	c.bytesOut += o.bytesOut
	c.bytesIn += o.bytesIn
	c.reads += o.reads
	c.writes += o.writes
	c.waits += o.waits
	c.partialReads += o.partialReads
	for text, n := range o.texts {
		c.texts[text] += n
	}
}

// sum adds up what the threads counted.
func sum(threads []*thread) (all counts, get, set *hdrhistogram.Histogram, user, system time.Duration) {
	all.texts = make(map[string]uint64)
	get, set = hdrhistogram.New(1000, int64(latencyMax), 3), hdrhistogram.New(1000, int64(latencyMax), 3)
	for _, t := range threads {
		all.add(&t.counts)
		get.Merge(t.latencyGet)
		set.Merge(t.latencySet)
		user += t.userCPU
		system += t.systemCPU
	}
	return all, get, set, user, system
}

func prefillReport(threads []*thread, elapsed time.Duration, keys uint64) *PrefillReport {
	all, _, set, _, _ := sum(threads)
	return &PrefillReport{Seconds: elapsed.Seconds(), Stored: all.sets, NotStored: keys - min(keys, all.sets),
		Errors: all.texts, SetLatency: newLatency(set)}
}

func (r *LoadReport) fill(threads []*thread, elapsed time.Duration) {
	all, get, set, user, system := sum(threads)
	seconds := elapsed.Seconds()
	r.Seconds = seconds
	r.Hits, r.Misses, r.Sets = all.hits, all.misses, all.sets
	r.Operations = all.hits + all.misses + all.sets
	r.PerSecond = float64(r.Operations) / seconds
	r.Failed, r.Unanswered, r.Corrupt, r.Disconnects = all.failed, all.unanswered, all.corrupt, all.disconnects
	r.Errors = all.texts
	r.Get, r.Set = newLatency(get), newLatency(set)
	r.MegabytesOutPerSecond = float64(all.bytesOut) / seconds / 1e6
	r.MegabytesInPerSecond = float64(all.bytesIn) / seconds / 1e6
	perOperation := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 / float64(max(r.Operations, 1)) }
	r.Client = ClientCost{
		UserMicrosPerOperation: perOperation(user), SystemMicrosPerOperation: perOperation(system),
		CPUMicrosPerOperation: perOperation(user + system),
		CPUShare:              (user + system).Seconds() / seconds / float64(len(threads)),
		Reads:                 all.reads, Writes: all.writes, Waits: all.waits, PartialReads: all.partialReads,
	}
}

// newLatency reads a histogram of nanoseconds; nil if it is empty.
func newLatency(h *hdrhistogram.Histogram) *Latency {
	if h.TotalCount() == 0 {
		return nil
	}
	at := func(percentile float64) float64 { return float64(h.ValueAtPercentile(percentile)) / 1e3 }
	return &Latency{Count: uint64(h.TotalCount()), Mean: h.Mean() / 1e3, P50: at(50), P90: at(90), P99: at(99),
		P999: at(99.9), P9999: at(99.99), Max: float64(h.Max()) / 1e3}
}

// MarshalJSON writes the duration in seconds.
func (cfg LoadConfig) MarshalJSON() ([]byte, error) {
	type plain LoadConfig
	return json.Marshal(struct {
		plain
		Seconds float64 `json:"seconds"`
	}{plain(cfg), cfg.Duration.Seconds()})
}

// WriteText writes the report for people.
func (r *LoadReport) WriteText(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	cfg := &r.Config
	fmt.Fprintf(tw, "%d connections, %d threads, pipeline %d, set:get %d:%d, values of %v bytes, %d keys of %d bytes (%s)\n",
		cfg.Connections, cfg.Threads, cfg.Pipeline, cfg.Sets, cfg.Gets, cfg.Values, cfg.Keys, cfg.KeySize, cfg.Distribution)
	if p := r.Prefill; p != nil {
		fmt.Fprintf(tw, "prefill: %d keys stored in %.2f s, %d not stored\n", p.Stored, p.Seconds, p.NotStored)
		writeTexts(tw, p.Errors)
	}
	fmt.Fprintf(tw, "%d operations in %.2f s: %.0f per second; %.1f MB/s out, %.1f MB/s in\n",
		r.Operations, r.Seconds, r.PerSecond, r.MegabytesOutPerSecond, r.MegabytesInPerSecond)
	fmt.Fprintf(tw, "%d hits, %d misses, %d sets; %d failed, %d unanswered, %d corrupt, %d disconnects\n",
		r.Hits, r.Misses, r.Sets, r.Failed, r.Unanswered, r.Corrupt, r.Disconnects)
	writeTexts(tw, r.Errors)
	fmt.Fprintf(tw, "latency, µs\tcount\tmean\tp50\tp90\tp99\tp99.9\tp99.99\tmax\t\n")
	for _, row := range []struct {
		name string
		l    *Latency
	}{{"get", r.Get}, {"set", r.Set}} {
		if l := row.l; l != nil {
			fmt.Fprintf(tw, "%s\t%d\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t\n",
				row.name, l.Count, l.Mean, l.P50, l.P90, l.P99, l.P999, l.P9999, l.Max)
		}
	}
	c := &r.Client
	fmt.Fprintf(tw, "this side: %.3f µs of CPU per operation (user %.3f, system %.3f), %.0f%% busy; %d reads, %d writes, %d waits\n",
		c.CPUMicrosPerOperation, c.UserMicrosPerOperation, c.SystemMicrosPerOperation, 100*c.CPUShare, c.Reads, c.Writes, c.Waits)
	return tw.Flush()
}

// writeTexts writes the commonest texts first.
func writeTexts(w io.Writer, texts map[string]uint64) {
	names := make([]string, 0, len(texts))
	for text := range texts {
		names = append(names, text)
	}
	sort.Slice(names, func(i, j int) bool {
		return texts[names[i]] > texts[names[j]] || texts[names[i]] == texts[names[j]] && names[i] < names[j]
	})
	for _, text := range names {
		fmt.Fprintf(w, "  %d × %s\n", texts[text], text)
	}
}

// WriteJSON writes the report as one JSON object, indented.
func (r *LoadReport) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}
