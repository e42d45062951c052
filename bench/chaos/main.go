package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"hermesd/bench/child"
)

// options are those of the command line.
type options struct {
	hermesd    string
	time       time.Duration
	groups     string
	faults     string
	seed       uint64
	logs       string
	python     string
	script     string
	serveLimit time.Duration
	keepGoing  bool
	inside     string // the place, where this is the inner process
}

func (o *options) flags() *flag.FlagSet {
	f := flag.NewFlagSet("chaos", flag.ContinueOnError)
	f.StringVar(&o.hermesd, "hermesd", "bin/hermesd", "binary of hermesd")
	f.DurationVar(&o.time, "time", 20*time.Minute, "how long to go on; it is divided between the groups")
	f.StringVar(&o.groups, "groups", "3,5,2w,3t,5t", "groups, one after the other: number of replicas, w: and a witness, t: with tuned timing")
	f.StringVar(&o.faults, "faults", "", "only these kinds of faults, separated by commas")
	f.Uint64Var(&o.seed, "seed", 0, "seed of the faults and of what recording clients ask for; 0: another one in each run")
	f.StringVar(&o.logs, "logs", "", "directory for the replicas' logs, which are kept (default: one that is removed if all went well)")
	f.StringVar(&o.python, "python", "", "python that has pymemcache; empty: that client is left out")
	f.StringVar(&o.script, "pymemcache-client", "bench/clients/pymemcache_chaos.py", "the client that python runs")
	f.DurationVar(&o.serveLimit, "serve-within", 20*time.Second, "after a fault has been healed all replicas must serve within so long")
	f.BoolVar(&o.keepGoing, "keep-going", false, "after a failure go on with a new group, until the time is up")
	f.StringVar(&o.inside, "inside", "", "for this program's own use")
	return f
}

func main() {
	var o options
	switch err := o.flags().Parse(os.Args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		os.Exit(2)
	}
	var err error
	if o.inside != "" {
		err = runInside(&o)
	} else {
		err = runOutside(&o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

// missing says what the machine lacks, all of it.
func missing(o *options) error {
	var errs []error
	if os.Geteuid() != 0 {
		errs = append(errs, errors.New("not root: network namespaces need it"))
	}
	for _, program := range []struct{ name, in string }{{"ip", "iproute2"}, {"nft", "nftables"}} {
		if _, err := exec.LookPath(program.name); err != nil {
			errs = append(errs, fmt.Errorf("no %s: install %s", program.name, program.in))
		}
	}
	if _, err := exec.LookPath(o.hermesd); err != nil {
		errs = append(errs, fmt.Errorf("no hermesd at %s: `make build`, or give -hermesd", o.hermesd))
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("cannot run: %w", errors.Join(errs...))
}

// absolute makes the paths independent of where the inner process is.
func (o *options) absolute() error {
	var err error
	if o.hermesd, err = exec.LookPath(o.hermesd); err != nil {
		return err
	}
	for _, path := range []*string{&o.hermesd, &o.script, &o.logs} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	return nil
}

// runOutside makes the namespaces and disks, runs the inner process and removes everything, whatever happens to that.
func runOutside(o *options) error {
	if _, err := parseRounds(o); err != nil {
		return err
	}
	if err := missing(o); err != nil {
		return err
	}
	if err := o.absolute(); err != nil {
		return err
	}
	for o.seed == 0 {
		o.seed = rand.Uint64() >> 32
	}
	ownLogs := o.logs == ""
	if ownLogs {
		var err error
		if o.logs, err = os.MkdirTemp("", "hermesd-chaos-logs-"); err != nil {
			return err
		}
	}
	// Signals end the inner process; this one lives to clean up.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	if err := Sweep(); err != nil {
		return fmt.Errorf("removing what an earlier run has left: %w", err)
	}
	place, err := NewPlace()
	if err != nil {
		return err
	}
	err = errors.Join(place.network().Create(), place.mountDisks())
	if err == nil {
		err = o.startInside(place, signals)
	}
	err = errors.Join(err, place.Remove())
	switch {
	case err == nil && ownLogs:
		_ = os.RemoveAll(o.logs)
	case err != nil:
		err = fmt.Errorf("%w\nthe replicas' logs are in %s; this seed again: -seed %d", err, o.logs, o.seed)
	}
	return err
}

// startInside runs this program in the clients' namespace, and waits for it.
func (o *options) startInside(place *Place, signals <-chan os.Signal) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{"netns", "exec", place.network().clients(), self, "-inside", place.dir, "-hermesd", o.hermesd, "-time", o.time.String(),
		"-groups", o.groups, "-faults", o.faults, "-seed", strconv.FormatUint(o.seed, 10), "-logs", o.logs, "-python", o.python,
		"-pymemcache-client", o.script, "-serve-within", o.serveLimit.String(), "-keep-going=" + strconv.FormatBool(o.keepGoing)}
	cmd := exec.Command("ip", args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// Its own process group: a Ctrl-C on the terminal reaches it through this process only.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	ended := make(chan error, 1)
	if err := child.Start(cmd, nil, func(err error) { ended <- err }); err != nil {
		return err
	}
	for {
		select {
		case sig := <-signals:
			_ = cmd.Process.Signal(sig)
		case err := <-ended:
			if err != nil {
				return errors.New("failed, see above")
			}
			return nil
		}
	}
}

// parseRounds reads the groups and faults.
func parseRounds(o *options) (shapes []Shape, err error) {
	kinds, err := ParseKinds(o.faults)
	if err != nil {
		return nil, err
	}
	for text := range strings.SplitSeq(o.groups, ",") {
		s, err := ParseShape(text)
		if err != nil {
			return nil, err
		}
		if _, err := NewSchedule(0, s, kinds); err != nil {
			return nil, err
		}
		shapes = append(shapes, s)
	}
	return shapes, nil
}

// runInside runs in the clients' namespace.
func runInside(o *options) error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer cancel()
	shapes, err := parseRounds(o)
	if err != nil {
		return err
	}
	return (&chaos{options: o, place: &Place{dir: o.inside}, shapes: shapes}).run(ctx)
}
