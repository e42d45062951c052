package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"hermesd/bench"
	"hermesd/bench/history"
)

// chaos is a run: rounds, each with a group of its own, of episodes.
type chaos struct {
	*options
	place  *Place
	shapes []Shape
	report Report
}

const (
	startLimit   = 30 * time.Second // for a group to serve for the first time
	calm         = 500 * time.Millisecond
	afterHealing = 300 * time.Millisecond
	probePause   = time.Millisecond
)

// run runs rounds until the time is up, or something is wrong.
func (c *chaos) run(ctx context.Context) error {
	if c.python == "" {
		fmt.Println("pymemcache is left out: no -python that has it")
	}
	fmt.Printf("seed %d, %v, groups %v; load average %s\n", c.seed, c.time, c.shapes, loadAverage())
	begun, each := time.Now(), c.time/time.Duration(len(c.shapes))
	var failures []error
	for n := 0; n < len(c.shapes) || c.keepGoing && len(failures) > 0; n++ {
		left := c.time - time.Since(begun)
		if left <= 0 || ctx.Err() != nil {
			break
		}
		shape := c.shapes[n%len(c.shapes)]
		err := c.round(ctx, n, shape, min(each, left))
		if err != nil && ctx.Err() == nil {
			failures = append(failures, fmt.Errorf("round %d, group %v: %w", n+1, shape, err))
			fmt.Println("FAILED:", failures[len(failures)-1])
			if !c.keepGoing {
				break
			}
		}
	}
	fmt.Printf("\n%d operations recorded, %d without an answer; %d times a group at rest did not answer at first; load average %s\n\n",
		c.report.total.operations, c.report.total.unanswered, c.report.restless, loadAverage())
	if err := c.report.WriteText(os.Stdout); err != nil {
		return err
	}
	if n := c.report.timeouts; n > 0 {
		failures = append(failures, fmt.Errorf("%d histories were not judged in time", n))
	}
	if ctx.Err() != nil {
		failures = append(failures, errors.New("ended by a signal before its time"))
	}
	if len(failures) > 0 {
		return fmt.Errorf("%d failures, the first: %w", len(failures), failures[0])
	}
	fmt.Println("\nnothing is wrong")
	return nil
}

// round is what a group goes through.
type round struct {
	*chaos
	shape    Shape
	seed     uint64
	group    *Group
	schedule *Schedule
	random   *rand.Rand
	kept     Kept
	begun    time.Time
}

// round starts a group and breaks it for a time.
func (c *chaos) round(ctx context.Context, n int, shape Shape, lasts time.Duration) (err error) {
	kinds, err := ParseKinds(c.faults)
	if err != nil {
		return err
	}
	r := &round{chaos: c, shape: shape, seed: c.options.seed + uint64(n)<<32, begun: time.Now()}
	r.random = rand.New(rand.NewPCG(r.seed, 1))
	if r.schedule, err = NewSchedule(r.seed, shape, kinds); err != nil {
		return err
	}
	if r.group, err = newGroup(shape, c.place, c.hermesd, filepath.Join(c.logs, fmt.Sprintf("round%d", n+1))); err != nil {
		return err
	}
	defer r.group.kill()
	if err := r.group.start(ctx, startLimit); err != nil {
		return err
	}
	fmt.Printf("\nround %d: group %v serves, for %v\n", n+1, shape, lasts.Round(time.Second))
	libraries, err := startLibraries(ctx, r.group.servers(), c.python, c.script)
	if err != nil {
		return err
	}
	for err == nil && time.Since(r.begun) < lasts && ctx.Err() == nil {
		err = r.episode(ctx)
	}
	if err == nil {
		err = r.agree(ctx)
	}
	err = errors.Join(err, libraries.Stop(os.Stdout))
	if err == nil && ctx.Err() == nil {
		err = r.group.stop()
	}
	return err
}

// episode strikes once and heals, and judges what was seen.
func (r *round) episode(ctx context.Context) error {
	e := r.schedule.Next()
	e.Aim(r.group.leader(ctx), r.shape)
	servers := r.group.servers()
	probes := bench.NewProbeSet(servers, fmt.Sprintf("probe%d", e.Number), probePause, clientWait, time.Now())
	preparing := servers[r.random.IntN(len(servers))]
	err := atRest(ctx, r.serveLimit, &r.report.restless, func() error { return probes.Prepare(preparing, quietReadLimit) })
	if err != nil {
		return fmt.Errorf("before episode %d: %w", e.Number, err)
	}
	cfg := recordConfig(servers, e.Number, r.seed)
	h := history.New(probes.Now)
	stopRecording, stopProbes := recording(ctx, cfg, h), probes.Start(ctx)
	_ = pause(ctx, calm)
	from := probes.Now()
	err = r.strikeAll(ctx, &e)
	healed := probes.Now()
	if err == nil {
		err = r.group.awaitServing(ctx, r.serveLimit)
	}
	to := probes.Now()
	_ = pause(ctx, afterHealing)
	stopProbes()
	err = errors.Join(err, stopRecording(), probes.Wrong(), r.group.fallen())
	stalls := stallsOf(probes, func(i int) bool { return slices.Contains(e.Victims(), i+1) }, from, to)
	stalls.Healing = to - healed
	c := count(h)
	fmt.Printf("%6.1fs episode %d: %v: stalls writes %v reads %v in flight %v, healed after %v; %d operations, %d unanswered\n", time.Since(r.begun).Seconds(),
		e.Number, e.Faults, rounded(stalls.Writes), rounded(stalls.Reads), rounded(stalls.InFlight), rounded(stalls.Healing), c.operations, c.unanswered)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		err = r.quiet(ctx, cfg.Keys, h)
	} else {
		// What was answered until it went wrong may be wrong too.
		err = errors.Join(err, r.judge(h))
	}
	if err != nil {
		return fmt.Errorf("episode %d, %v: %w", e.Number, e.Faults, err)
	}
	r.report.add(e, stalls)
	r.report.total.operations += c.operations
	r.report.total.unanswered += c.unanswered
	return nil
}

func rounded(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

// strikeAll runs all faults of an episode, and returns when all are healed.
func (r *round) strikeAll(ctx context.Context, e *Episode) error {
	results := make(chan error)
	for i := range e.Faults {
		f := &e.Faults[i]
		go func() {
			err := r.group.strike(ctx, f, r.serveLimit)
			if err != nil {
				err = fmt.Errorf("%v: %w", *f, err)
			}
			results <- err
		}()
	}
	var errs []error
	for range e.Faults {
		errs = append(errs, <-results)
	}
	return errors.Join(errs...)
}

// quiet judges an episode while nobody writes: every key is read through every replica, as part of the history; and what was stored in
// earlier episodes is still there.
func (r *round) quiet(ctx context.Context, keys []string, h *history.History) error {
	servers := r.group.servers()
	for _, do := range []func() error{
		func() error { return readEverywhere(servers, keys, h) },
		func() error { return r.kept.check(servers) },
		func() error { return r.kept.store(servers, r.random) },
	} {
		if err := atRest(ctx, r.serveLimit, &r.report.restless, do); err != nil {
			return errors.Join(err, r.judge(h))
		}
	}
	return r.judge(h)
}

// judge has a history judged.
func (r *round) judge(h *history.History) error {
	err := h.Check(checkLimit)
	if undecided(err) {
		r.report.timeouts++
		fmt.Println("  ", err)
		return nil
	}
	if violation, ok := errors.AsType[*history.Violation](err); ok {
		path := filepath.Join(r.logs, "violation.html")
		if file, createErr := os.Create(path); createErr == nil {
			_ = violation.WriteHTML(file)
			_ = file.Close()
		}
	}
	return err
}

// agree checks at the end of a round that all replicas answer the same for all keys of all episodes, and have all that was kept.
func (r *round) agree(ctx context.Context) error {
	servers := r.group.servers()
	if err := atRest(ctx, r.serveLimit, &r.report.restless, func() error { return r.kept.check(servers) }); err != nil {
		return err
	}
	var keys []string
	for episode := 1; episode <= r.schedule.number; episode++ {
		keys = append(keys, recordConfig(servers, episode, 0).Keys...)
	}
	if err := atRest(ctx, r.serveLimit, &r.report.restless, func() error { return sameEverywhere(servers, keys) }); err != nil {
		return err
	}
	fmt.Printf("  %d keys are the same at all replicas\n", len(keys)+len(r.kept.keys))
	return nil
}

func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	return string(text[:min(len(text), 14)])
}
