package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"hermesd/bench/child"
)

// Libraries are other people's clients, which do simple things on every replica all the while, each on keys of its own, so that it
// knows what it must be answered: what it has stored is there, also at the next replica; its counter goes up by one; its cas succeeds; a counter that all
// share grows. After an operation without an answer it goes on with a new key.
type Libraries struct {
	stops []func() (string, error)
	wrong atomic.Pointer[error] // the first wrong answer that gomemcache had
}

const (
	libraryPause = 5 * time.Millisecond
	sharedKey    = "lib:shared"
)

// startLibraries starts them. python is the interpreter that has pymemcache, empty: none; script is the client for it.
func startLibraries(ctx context.Context, servers []string, python, script string) (*Libraries, error) {
	setup := memcache.New(servers[0])
	setup.Timeout = clientWait
	defer setup.Close()
	if err := setup.Set(&memcache.Item{Key: sharedKey, Value: []byte("0")}); err != nil {
		return nil, fmt.Errorf("%s: set %s: %w", servers[0], sharedKey, err)
	}
	l := new(Libraries)
	l.stops = append(l.stops, l.startGomemcache(ctx, servers))
	if python != "" {
		stop, err := startPymemcache(servers, python, script)
		if err != nil {
			_ = l.Stop(io.Discard)
			return nil, err
		}
		l.stops = append(l.stops, stop)
	}
	return l, nil
}

// Wrong is a wrong answer that they have had so far. (What pymemcache has had is known when it stops.)
func (l *Libraries) Wrong() error {
	if err := l.wrong.Load(); err != nil {
		return *err
	}
	return nil
}

// Stop ends them. What they did is written to w; the error is what they were answered wrongly.
func (l *Libraries) Stop(w io.Writer) error {
	var errs []error
	for _, stop := range l.stops {
		text, err := stop()
		fmt.Fprintf(w, "  %s\n", text)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// startGomemcache runs a worker for each server.
func (l *Libraries) startGomemcache(ctx context.Context, servers []string) (stop func() (string, error)) {
	ctx, cancel := context.WithCancel(ctx)
	workers := make([]*gomemcacheWorker, len(servers))
	var running sync.WaitGroup
	for i := range servers {
		w := &gomemcacheWorker{name: fmt.Sprintf("lib:go:%d", i), own: newGomemcache(servers[i]), next: newGomemcache(servers[(i+1)%len(servers)])}
		workers[i] = w
		running.Go(func() {
			if w.run(ctx); w.wrong != nil {
				l.wrong.CompareAndSwap(nil, &w.wrong)
			}
		})
	}
	return func() (string, error) {
		cancel()
		running.Wait()
		answered, unanswered := 0, 0
		var errs []error
		for i, w := range workers {
			answered, unanswered = answered+w.answered, unanswered+w.unanswered
			if w.wrong != nil {
				errs = append(errs, fmt.Errorf("gomemcache at %s: %w", servers[i], w.wrong))
			}
			w.own.Close()
			w.next.Close()
		}
		return fmt.Sprintf("gomemcache: %d operations answered, %d not", answered, unanswered), errors.Join(errs...)
	}
}

func newGomemcache(server string) *memcache.Client {
	c := memcache.New(server)
	c.Timeout = clientWait
	return c
}

// gomemcacheWorker is one client. Its replica is own; next is another one, which is only read.
type gomemcacheWorker struct {
	name      string
	own, next *memcache.Client

	keys                 int    // how many keys it has given up: part of the names of those it uses
	n                    uint64 // what its counter, its stored value and its cas value are
	shared               uint64 // the greatest number that it saw of the shared counter
	answered, unanswered int
	wrong                error
}

func (w *gomemcacheWorker) run(ctx context.Context) {
	for ctx.Err() == nil && w.wrong == nil {
		if known := w.fresh(); known {
			for ctx.Err() == nil && w.step() {
				w.n++
				_ = pause(ctx, libraryPause)
			}
		}
		w.keys++
		_ = pause(ctx, afterTrouble)
	}
}

func (w *gomemcacheWorker) key(what string) string {
	return fmt.Sprintf("%s:%d:%s", w.name, w.keys, what)
}

// fresh stores the first values of a new set of keys. It returns false where it got no answer.
func (w *gomemcacheWorker) fresh() bool {
	w.n = 1
	for _, what := range []string{"counter", "cas", "value"} {
		if !w.done("set", w.own.Set(&memcache.Item{Key: w.key(what), Value: []byte("0")}), nil) {
			return false
		}
	}
	return true
}

// done judges how an operation ended: true: it was answered as it should. Errors that the library makes of a well-formed answer, and which it should
// not have got, are wrong; others are none.
func (w *gomemcacheWorker) done(what string, err, want error) bool {
	if errors.Is(err, want) || err == nil && want == nil {
		w.answered++
		return true
	}
	for _, answer := range []error{memcache.ErrCacheMiss, memcache.ErrCASConflict, memcache.ErrNotStored, nil} {
		if err == answer {
			w.wrong = fmt.Errorf("%s of %s (number %d): %v, want %v", what, w.name, w.n, err, want)
			return false
		}
	}
	w.unanswered++
	return false
}

// step does everything once. It returns false as soon as something was not answered, or wrongly.
func (w *gomemcacheWorker) step() bool {
	value := strconv.FormatUint(w.n, 10)
	if !w.done("set", w.own.Set(&memcache.Item{Key: w.key("value"), Value: []byte(value)}), nil) {
		return false
	}
	for _, c := range []*memcache.Client{w.own, w.next} {
		item, err := c.Get(w.key("value"))
		if err != nil && c == w.next && !errors.Is(err, memcache.ErrCacheMiss) {
			w.unanswered++ // another replica's trouble
			continue
		}
		if !w.done("get", err, nil) || !w.expect("get", string(item.Value), value) {
			return false
		}
	}
	counter, err := w.own.Increment(w.key("counter"), 1)
	if !w.done("incr", err, nil) || !w.expect("incr", strconv.FormatUint(counter, 10), value) {
		return false
	}
	item, err := w.own.Get(w.key("cas"))
	if !w.done("gets", err, nil) || !w.expect("gets", string(item.Value), strconv.FormatUint(w.n-1, 10)) {
		return false
	}
	item.Value = []byte(value)
	if !w.done("cas", w.own.CompareAndSwap(item), nil) {
		return false
	}
	shared, err := w.own.Increment(sharedKey, 1)
	if !w.done("incr of "+sharedKey, err, nil) {
		return false
	}
	if shared <= w.shared {
		w.wrong = fmt.Errorf("incr of %s gave %d after %d", sharedKey, shared, w.shared)
		return false
	}
	w.shared = shared
	return true
}

func (w *gomemcacheWorker) expect(what, got, want string) bool {
	if got != want {
		w.wrong = fmt.Errorf("%s of %s, %d: got %q, want %q", what, w.name, w.keys, got, want)
	}
	return got == want
}

// startPymemcache starts the Python client, which ends when its standard input does.
func startPymemcache(servers []string, python, script string) (stop func() (string, error), err error) {
	cmd := exec.Command(python, append([]string{script}, servers...)...)
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	var said strings.Builder
	cmd.Stdout = &said
	ended := make(chan error, 1)
	if err := child.Start(cmd, nil, func(err error) { ended <- err }); err != nil {
		return nil, fmt.Errorf("%s: %w", python, err)
	}
	return func() (string, error) {
		_ = in.Close()
		select {
		case err = <-ended:
		case <-time.After(4 * clientWait):
			_ = cmd.Process.Kill()
			err = <-ended
		}
		text := strings.TrimSpace(said.String())
		if err != nil {
			return "pymemcache: see below", fmt.Errorf("pymemcache: %w: %s", err, text)
		}
		return text, nil
	}, nil
}
