package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"hermesd/bench"
	"hermesd/bench/history"
)

const (
	episodeKeys    = 40 // new ones in each episode: the checker's time grows with the operations on a key
	clientsEach    = 2  // recording clients of each replica
	clientPace     = 3 * time.Millisecond
	afterTrouble   = 200 * time.Millisecond
	clientWait     = 8 * time.Second // for an answer: longer than --op-timeout
	checkLimit     = 20 * time.Second
	keepEach       = 5 // keys that are stored in each episode and must be there until the end
	quietReadLimit = 10 * time.Second
)

// recordConfig is what recording clients ask for in an episode.
func recordConfig(servers []string, episode int, seed uint64) bench.RecordConfig {
	keys := make([]string, episodeKeys)
	for i := range keys {
		keys[i] = fmt.Sprintf("e%d:%d", episode, i)
	}
	return bench.RecordConfig{Servers: servers, Clients: clientsEach * len(servers), Keys: keys, Pipeline: 1, Operations: 1 << 40,
		Wait: clientWait, Pace: clientPace, AfterTrouble: afterTrouble, Seed: seed + uint64(episode)}
}

// atRest does something that a group at rest must do, again and again until it succeeds: where the processors are busy with other things, a
// lease may run out though nothing is broken. trials counts how often it did not succeed.
func atRest(ctx context.Context, limit time.Duration, trials *int, do func() error) error {
	for begun := time.Now(); ; {
		err := do()
		if wrong := (*wrongAnswer)(nil); err == nil || errors.As(err, &wrong) || time.Since(begun) > limit {
			return err
		}
		*trials++
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// wrongAnswer is an error that no other trial makes good.
type wrongAnswer struct{ text string }

func (w *wrongAnswer) Error() string { return w.text }

// readEverywhere gets every key through every server, one server after the other, and records it. All must answer.
func readEverywhere(servers, keys []string, h *history.History) error {
	for i, server := range servers {
		outs, err := getAll(server, keys, func(in history.Input) int { return h.Call(1000+i, in) }, h.Return)
		if err != nil {
			return err
		}
		for j, out := range outs {
			if out.Status == history.Unknown {
				return fmt.Errorf("%s, at rest, does not answer get %s", server, keys[j])
			}
		}
	}
	return nil
}

// getAll gets keys through a server, in pipelines. Calls and returns are recorded if call is not nil.
func getAll(server string, keys []string, call func(history.Input) int, done func(int, history.Output)) (all []history.Output, err error) {
	c, err := bench.Dial(server, quietReadLimit)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	const pipeline = 100
	for len(keys) > 0 {
		n := min(pipeline, len(keys))
		ins, ids := make([]history.Input, n), make([]int, n)
		for i, key := range keys[:n] {
			ins[i] = history.Input{Kind: history.Get, Key: key}
			if call != nil {
				ids[i] = call(ins[i])
			}
		}
		outs, err := c.Do(ins...)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", server, err)
		}
		if call != nil {
			for i, out := range outs {
				done(ids[i], out)
			}
		}
		all, keys = append(all, outs...), keys[n:]
	}
	return all, nil
}

// Kept are keys that were stored once, with an answer, and are never written again.
type Kept struct {
	keys, values []string
	stored       int // also those that were not answered
}

// store stores some more, through one of the servers.
func (k *Kept) store(servers []string, random *rand.Rand) error {
	c, err := bench.Dial(servers[random.IntN(len(servers))], quietReadLimit)
	if err != nil {
		return err
	}
	defer c.Close()
	for range keepEach {
		in := history.Input{Kind: history.Set, Key: fmt.Sprintf("kept:%d", k.stored), Value: fmt.Sprint(random.Uint64())}
		outs, err := c.Do(in)
		k.stored++
		if err != nil {
			return err
		}
		if outs[0].Status != history.Stored {
			return fmt.Errorf("the group, at rest, has answered set %s %v", in.Key, outs[0].Status)
		}
		k.keys, k.values = append(k.keys, in.Key), append(k.values, in.Value)
	}
	return nil
}

// check gets all of them through every server.
func (k *Kept) check(servers []string) error {
	for _, server := range servers {
		outs, err := getAll(server, k.keys, nil, nil)
		if err != nil {
			return err
		}
		for i, out := range outs {
			if out.Status == history.Unknown {
				return fmt.Errorf("%s, at rest, does not answer get %s", server, k.keys[i])
			}
			if out.Status != history.Hit || out.Value != k.values[i] {
				return &wrongAnswer{fmt.Sprintf("LOST: %s answers get %s %v %q; %q was stored, with an answer, and never written again",
					server, k.keys[i], out.Status, out.Value, k.values[i])}
			}
		}
	}
	return nil
}

// sameEverywhere checks that all servers answer the same for all keys.
func sameEverywhere(servers, keys []string) error {
	first, err := getAll(servers[0], keys, nil, nil)
	if err != nil {
		return err
	}
	for _, server := range servers[1:] {
		other, err := getAll(server, keys, nil, nil)
		if err != nil {
			return err
		}
		for i := range keys {
			if first[i].Status == history.Unknown || other[i].Status == history.Unknown {
				return fmt.Errorf("%s or %s, at rest, does not answer get %s", servers[0], server, keys[i])
			}
			if other[i] != first[i] {
				return &wrongAnswer{fmt.Sprintf("%s answers get %s %v %q, but %s %v %q", servers[0], keys[i], first[i].Status, first[i].Value,
					server, other[i].Status, other[i].Value)}
			}
		}
	}
	return nil
}

// counted is what a history came to.
type counted struct{ operations, unanswered int }

func count(h *history.History) (c counted) {
	for _, o := range h.Operations() {
		c.operations++
		if o.Out.Status == history.Unknown {
			c.unanswered++
		}
	}
	return c
}

// recording runs the recording clients until stop.
func recording(ctx context.Context, cfg bench.RecordConfig, h *history.History) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- bench.Record(ctx, cfg, h) }()
	return func() error { cancel(); return <-ended }
}

// undecided reports whether an error says no more than that the checker ran out of time.
func undecided(err error) bool {
	_, is := errors.AsType[*history.Undecided](err)
	return is
}
