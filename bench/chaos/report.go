package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"hermesd/bench"
)

// Stalls is what an episode cost: the longest waits at the replicas that it did not strike, and how long after the healing all served.
type Stalls struct {
	Writes, Reads, InFlight time.Duration
	Healing                 time.Duration
	Unstruck                int // replicas; 0: the first three say nothing
}

// Report sums up the stalls of all episodes of a run, by their kinds.
type Report struct {
	episodes map[string][]Stalls
	total    counted
	timeouts int // histories that the checker could not judge in time
	restless int // how often a group at rest did not answer at first
}

func (r *Report) add(e Episode, s Stalls) {
	if r.episodes == nil {
		r.episodes = map[string][]Stalls{}
	}
	name := string(e.Faults[0].Kind)
	if len(e.Faults) > 1 {
		name += " + another"
	}
	r.episodes[name] = append(r.episodes[name], s)
}

// names are the kinds of the episodes that had one fault, then those that had two.
func (r *Report) names() []string {
	return slices.SortedFunc(maps.Keys(r.episodes), func(a, b string) int {
		if two := strings.Count(a, "+") - strings.Count(b, "+"); two != 0 {
			return two
		}
		return strings.Compare(a, b)
	})
}

// WriteText writes a table.
func (r *Report) WriteText(w io.Writer) error {
	fmt.Fprintln(w, "The longest wait for an answer at replicas that were not struck, in ms; p50, p99 and the longest are over the episodes.")
	fmt.Fprintln(w, "Reads: of keys that nobody writes; in flight: of keys that are just being written. Healing: from the end of the fault until all serve.")
	fmt.Fprintln(w)
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "fault\ttimes\twrites p50\tp99\tmax\treads p50\tp99\tmax\tin flight p50\tp99\tmax\thealing p50\tp99\tmax\t")
	for _, name := range r.names() {
		all := r.episodes[name]
		fmt.Fprintf(tw, "%s\t%d\t", name, len(all))
		for i, of := range []func(Stalls) time.Duration{
			func(s Stalls) time.Duration { return s.Writes }, func(s Stalls) time.Duration { return s.Reads },
			func(s Stalls) time.Duration { return s.InFlight }, func(s Stalls) time.Duration { return s.Healing },
		} {
			var values []time.Duration
			for _, s := range all {
				if i == 3 || s.Unstruck > 0 {
					values = append(values, of(s))
				}
			}
			if len(values) == 0 {
				fmt.Fprint(tw, "-\t-\t-\t")
				continue
			}
			for _, q := range []float64{0.5, 0.99, 1} {
				fmt.Fprintf(tw, "%d\t", bench.Quantile(values, q).Milliseconds())
			}
		}
		fmt.Fprintln(tw)
	}
	return tw.Flush()
}

// stallsOf are the stalls between two moments at the replicas, counted from 0, that were not struck.
func stallsOf(probes *bench.ProbeSet, struck func(int) bool, from, to time.Duration) (s Stalls) {
	for i := range probes.Writes {
		if struck(i) {
			continue
		}
		s.Unstruck++
		s.Writes = max(s.Writes, probes.Writes[i].Stall(from, to))
		s.Reads = max(s.Reads, probes.Reads[i].Stall(from, to))
		s.InFlight = max(s.InFlight, probes.InFlight[i].Stall(from, to))
	}
	return s
}
