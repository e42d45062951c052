package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"hermesd/bench/history"
)

// RecordConfig describes clients whose operations are recorded.
type RecordConfig struct {
	// Servers are host:port addresses of replicas of one group. Each client talks to one of them, and each has clients.
	Servers []string
	// Clients run at the same time, at least one for each server. Keys are few, so that they conflict.
	Clients int
	Keys    []string
	// Pipeline is the most requests that a client has under way at once: each batch has 1 to Pipeline, on different keys.
	Pipeline int
	// Operations bounds what all clients together ask for, and Duration, unless 0, the time.
	Operations int
	Duration   time.Duration
	// Wait bounds connecting and the wait for the answers of a batch.
	Wait time.Duration
	// Pace is between the batches of a client, and AfterTrouble (0: 50 ms) instead of it after an error or SERVER_ERROR: updates without an answer
	// make the history harder to judge.
	Pace, AfterTrouble time.Duration
	// FlushWeight is the weight of flush_all: see history.Workload.
	FlushWeight int
	Seed        uint64
	// Trouble is called with each error of a connection, on any goroutine, and may be nil. The client connects again.
	Trouble func(client int, err error)
}

// pauseAfterTrouble keeps a client from asking a server that is down, or refuses, thousands of times.
const pauseAfterTrouble = 50 * time.Millisecond

// Record runs clients and records what they ask and are answered. It returns when the operations are done, the time is up, or
// ctx has ended; or with an error as soon as a server gives an answer that the protocol does not know. Operations that are
// under way then are recorded as far as they got.
func Record(ctx context.Context, cfg RecordConfig, h *history.History) error {
	if len(cfg.Servers) == 0 || cfg.Clients < len(cfg.Servers) || cfg.Pipeline < 1 || cfg.Pipeline > len(cfg.Keys) {
		return fmt.Errorf("%d clients on %d servers, pipeline %d on %d keys: give each server a client, and at least as many keys as the pipeline",
			cfg.Clients, len(cfg.Servers), cfg.Pipeline, len(cfg.Keys))
	}
	if cfg.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, cfg.Duration)
		defer cancel()
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var clients sync.WaitGroup
	for i := range cfg.Clients {
		r := &recorder{cfg: &cfg, h: h, client: i, server: cfg.Servers[i%len(cfg.Servers)],
			workload: history.NewWorkload(i, cfg.Seed, cfg.Keys), random: rand.New(rand.NewPCG(cfg.Seed, ^uint64(i)))}
		r.workload.FlushWeight = cfg.FlushWeight
		r.left = cfg.Operations / cfg.Clients
		clients.Go(func() {
			if err := r.run(ctx); err != nil {
				fail(err)
			}
		})
	}
	clients.Wait()
	if err := context.Cause(ctx); errors.Is(err, ErrAnswer) {
		return err
	}
	return nil
}

// recorder is one client of Record.
type recorder struct {
	cfg      *RecordConfig
	h        *history.History
	client   int
	server   string
	workload *history.Workload
	random   *rand.Rand
	left     int
	conn     *Client
}

func (r *recorder) run(ctx context.Context) error {
	defer func() {
		if r.conn != nil {
			r.conn.Close()
		}
	}()
	for r.left > 0 && ctx.Err() == nil {
		refused, err := r.batch()
		if errors.Is(err, ErrAnswer) {
			return fmt.Errorf("client %d of %s: %w", r.client, r.server, err)
		}
		if err != nil && r.cfg.Trouble != nil {
			r.cfg.Trouble(r.client, err)
		}
		if err != nil && r.conn != nil {
			r.conn.Close()
			r.conn = nil
		}
		wait := r.cfg.Pace
		if err != nil || refused {
			wait = cmp.Or(r.cfg.AfterTrouble, pauseAfterTrouble)
		}
		if wait > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
	}
	return nil
}

// batch runs and records one batch. refused tells that an answer was SERVER_ERROR.
func (r *recorder) batch() (refused bool, err error) {
	if r.conn == nil {
		if r.conn, err = Dial(r.server, r.cfg.Wait); err != nil {
			return false, err
		}
	}
	ins := r.draw()
	ids := make([]int, len(ins))
	for i, in := range ins {
		ids[i] = r.h.Call(r.client, in)
	}
	outs, err := r.conn.Do(ins...)
	for i, out := range outs {
		r.h.Return(ids[i], out)
		r.workload.Observe(ins[i], out)
		refused = refused || out.Status == history.Unknown
	}
	return refused, err
}

// draw draws a batch. Its operations are recorded as concurrent, since all are written before any is answered: so that nothing
// is lost by that they are on different keys, and flush_all is alone.
func (r *recorder) draw() []history.Input {
	var ins []history.Input
	keys := make(map[string]bool)
	for n := 1 + r.random.IntN(r.cfg.Pipeline); len(ins) < n && r.left > 0; {
		in := r.workload.Next()
		r.left--
		if in.Kind == history.Flush {
			if len(ins) == 0 {
				return []history.Input{in}
			}
			continue
		}
		if !keys[in.Key] {
			keys[in.Key] = true
			ins = append(ins, in)
		}
	}
	return ins
}
