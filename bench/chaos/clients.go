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

// readEverywhere gets every key through every server, one server after the other, and records it. All must answer.
func readEverywhere(servers, keys []string, h *history.History) error {
	for i, server := range servers {
		outs, err := getAll(server, keys, func(in history.Input) int { return h.Call(1000+i, in) }, h.Return)
		if err != nil {
			return err
		}
		for j, out := range outs {
			if out.Status == history.Unknown {
				return fmt.Errorf("%s, at rest, has not answered get %s", server, keys[j])
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
type Kept struct{ keys, values []string }

// store stores some more, through one of the servers.
func (k *Kept) store(servers []string, random *rand.Rand) error {
	c, err := bench.Dial(servers[random.IntN(len(servers))], quietReadLimit)
	if err != nil {
		return err
	}
	defer c.Close()
	for range keepEach {
		in := history.Input{Kind: history.Set, Key: fmt.Sprintf("kept:%d", len(k.keys)), Value: fmt.Sprint(random.Uint64())}
		outs, err := c.Do(in)
		if err != nil || outs[0].Status != history.Stored {
			return fmt.Errorf("the group at rest has answered set %s %v: %w", in.Key, outs[0].Status, err)
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
			if out.Status != history.Hit || out.Value != k.values[i] {
				return fmt.Errorf("LOST: %s answers get %s %v %q; %q was stored, with an answer, and never written again", server, k.keys[i], out.Status, out.Value, k.values[i])
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
