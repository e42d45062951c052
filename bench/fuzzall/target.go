package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// target is a Fuzz function.
type target struct {
	pkg  string // import path
	dir  string // of the package, relative to the module's root
	name string
}

func (t target) String() string { return t.pkg + " " + t.name }

// result is what fuzzing a target came to.
type result struct {
	target target
	// progress is the last account that the go command gave: time, executions, new inputs.
	progress string
	err      error // nil when the function held
	crasher  string
}

func (r result) String() string {
	if r.err == nil {
		return fmt.Sprintf("ok    %s: %s", r.target, r.progress)
	}
	where := "no input was written: see above"
	if r.crasher != "" {
		where = fmt.Sprintf("the input is in %s: go test -run '^%s$/^%s$' ./%s", r.crasher, r.target.name, filepath.Base(r.crasher),
			filepath.ToSlash(r.target.dir))
	}
	return fmt.Sprintf("FAIL  %s: %s (%v)", r.target, where, r.err)
}

// findTargets lists the Fuzz functions of all packages of the module. A package that does not compile is an error.
func findTargets(ctx context.Context, dir string) ([]target, error) {
	root, err := goCommand(ctx, dir, "list", "-m", "-f", "{{.Path}}").Output()
	if err != nil {
		return nil, explainExit("go list -m", err)
	}
	module := strings.TrimSpace(string(root))
	// Compile the tests of a module in one go: it takes seconds for each package by itself. JSON says which package a name belongs to.
	listing, err := goCommand(ctx, dir, "test", "-json", "-list", "^Fuzz", "./...").Output()
	if err != nil {
		_, _ = os.Stderr.Write(listing)
		return nil, explainExit("go test -list", err)
	}
	var targets []target
	for decoder := json.NewDecoder(strings.NewReader(string(listing))); ; {
		var event struct{ Action, Package, Output string }
		if err := decoder.Decode(&event); errors.Is(err, io.EOF) {
			// The go command lists packages in the order in which they are done.
			slices.SortFunc(targets, func(a, b target) int { return cmp.Or(strings.Compare(a.pkg, b.pkg), strings.Compare(a.name, b.name)) })
			return targets, nil
		} else if err != nil {
			return nil, fmt.Errorf("go test -json -list: %w", err)
		}
		name := strings.TrimSpace(event.Output)
		if event.Action == "output" && fuzzName.MatchString(name) {
			relative := strings.TrimPrefix(strings.TrimPrefix(event.Package, module), "/")
			targets = append(targets, target{pkg: event.Package, dir: filepath.FromSlash(relative), name: name})
		}
	}
}

var (
	fuzzName = regexp.MustCompile(`^Fuzz\w*$`)
	progress = regexp.MustCompile(`^fuzz: elapsed: (.*)$`)
	crasher  = regexp.MustCompile(`Failing input written to (\S+)$`)
)

// minimizeTime bounds how often the go command tries to make an interesting input smaller. Its own bound, a minute for each input, takes all
// the time of a run as short as these.
const minimizeTime = "100x"

// fuzz runs one function and copies what the go command says to out.
func (t target) fuzz(ctx context.Context, dir string, limit time.Duration, out io.Writer) result {
	r := result{target: t}
	cmd := goCommand(ctx, dir, "test", "-run", "^$", "-fuzz", "^"+t.name+"$", "-fuzztime", limit.String(), "-fuzzminimizetime", minimizeTime, t.pkg)
	reader, writer := io.Pipe()
	cmd.Stdout, cmd.Stderr = writer, writer
	ended := make(chan error, 1)
	go func() {
		err := cmd.Run()
		writer.Close()
		ended <- err
	}()
	lines := bufio.NewReader(reader)
	for {
		line, err := lines.ReadString('\n')
		_, _ = io.WriteString(out, line)
		r.read(strings.TrimRight(line, "\n"))
		if err != nil {
			break // the writer has closed it
		}
	}
	r.err = <-ended
	if r.err == nil && r.progress == "" {
		r.err = errors.New("the go command gave no account of having fuzzed")
	}
	return r
}

// read takes what a line of the go command's output tells.
func (r *result) read(line string) {
	if m := progress.FindStringSubmatch(line); m != nil {
		r.progress = m[1]
	}
	if m := crasher.FindStringSubmatch(line); m != nil {
		r.crasher = filepath.Join(r.target.dir, m[1])
	}
}

// goCommand prepares a go command. When ctx ends it is interrupted, so that it can stop its own children, and killed if that takes long.
func goCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// explainExit adds what a command has written to its standard error.
func explainExit(what string, err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return fmt.Errorf("%s: %w: %s", what, err, strings.TrimSpace(string(exit.Stderr)))
	}
	return fmt.Errorf("%s: %w", what, err)
}
