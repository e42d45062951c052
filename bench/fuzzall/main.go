// Command fuzzall runs all Fuzz functions of the module, one after the other, each for the same time:
//
//	go run ./bench/fuzzall -time 30s
//
// `go test -fuzz` takes one function of one package; a fuzz test that somebody adds is found here without being entered anywhere. The
// last lines are a summary. The exit status is 1 when a function failed, with the place where the go command has written the
// input that does it (to be committed with the repair: from then on `go test` runs it), or when there was nothing to run.
//
// It fuzzes nothing itself and knows no function by name: it lists the module's packages and their tests with the go command, runs `go test -fuzz` for each, and
// reads what that prints. `make fuzz` runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	perFunction := flag.Duration("time", 30*time.Second, "how long each function is fuzzed")
	flag.Parse()
	if flag.NArg() > 0 || *perFunction <= 0 {
		fmt.Fprintln(os.Stderr, "usage: fuzzall [-time 30s]")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := fuzzAll(ctx, ".", *perFunction, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "fuzzall:", err)
		os.Exit(1)
	}
}

// fuzzAll fuzzes the module whose root is dir. It goes on after a function that failed, and its error says how many did.
func fuzzAll(ctx context.Context, dir string, perFunction time.Duration, out io.Writer) error {
	targets, err := findTargets(ctx, dir)
	if err != nil {
		return err
	}
	if len(targets) == 0 {
		return errors.New("there is no Fuzz function: nothing was tested")
	}
	results := make([]result, 0, len(targets))
	failed := 0
	for i, t := range targets {
		fmt.Fprintf(out, "== %d of %d: %s for %v\n", i+1, len(targets), t, perFunction)
		r := t.fuzz(ctx, dir, perFunction, out)
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted in %s", t)
		}
		results = append(results, r)
		if r.err != nil {
			failed++
		}
	}
	fmt.Fprintln(out, "== summary")
	for _, r := range results {
		fmt.Fprintln(out, r)
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d functions failed", failed, len(targets))
	}
	return nil
}
