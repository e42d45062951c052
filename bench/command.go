package bench

import (
	"context"
	"fmt"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// Command returns `bench` with its subcommands, for the command line of hermesd.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure servers of memcached's protocol",
	}
	cmd.AddCommand(loadCommand(), peerCommand(), groupCommand(), failoverCommand())
	return cmd
}

// loadCommand is `bench load`. It fails when the report has trouble.
func loadCommand() *cobra.Command {
	cfg := DefaultLoadConfig()
	seconds, ratio, values, distribution := cfg.Duration.Seconds(), "1:10", cfg.Values.String(), string(cfg.Distribution)
	asJSON := false
	cmd := &cobra.Command{
		Use:   "load",
		Short: "Load servers with sets and gets, and print throughput and latencies",
		Long: `Load servers with sets and gets, and print throughput and latencies.

Each connection writes a batch of --pipeline requests in one write, waits for all the replies, and writes
the next batch. Latency is from the writing of a batch to the reading of a reply: under a load that
saturates the server it says how long the queue is, not how long one request takes on an idle server.
The exit status is 1 when an operation failed, stayed unanswered or got a wrong value, or a connection was lost. Misses
are not failures.`,
		Example: `  hermesd bench load --prefill --pipeline 16 --seconds 5
  hermesd bench load --servers 127.0.0.1:11211,127.0.0.1:11212 --ratio 1:1 --value-size 10-2000 --check --prefill
  hermesd bench load --ratio 0:1 --distribution zipf --keys 1000000 --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if cfg.Sets, cfg.Gets, err = parseRatio(ratio); err != nil {
				return err
			}
			if cfg.Values, err = ParseValueSizes(values); err != nil {
				return err
			}
			cfg.Distribution = Distribution(distribution)
			cfg.Duration = time.Duration(seconds * float64(time.Second))
			if cfg.Operations > 0 && !cmd.Flags().Changed("seconds") {
				cfg.Duration = MaxDuration
			}
			cmd.SilenceUsage = true
			ctx, cancel := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer cancel()
			return runLoad(ctx, cmd, cfg, asJSON)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&cfg.Servers, "servers", cfg.Servers, "servers, host:port, separated by commas; connections are dealt out to them in turn")
	f.IntVar(&cfg.Connections, "connections", cfg.Connections, "connections to all servers together")
	f.IntVar(&cfg.Threads, "threads", cfg.Threads, "threads that drive the connections")
	f.IntVar(&cfg.Pipeline, "pipeline", cfg.Pipeline, "requests that are written together")
	f.StringVar(&ratio, "ratio", ratio, "sets to gets")
	f.StringVar(&values, "value-size", values, "bytes of values: one size, a list (32,1024) or a range (10-2000)")
	f.Uint64Var(&cfg.Keys, "keys", cfg.Keys, "number of different keys")
	f.IntVar(&cfg.KeySize, "key-size", cfg.KeySize, "bytes of each key")
	f.StringVar(&distribution, "distribution", distribution, "how keys are drawn: uniform or zipf")
	f.Float64Var(&cfg.ZipfExponent, "zipf-exponent", 0.99, "exponent of the zipf distribution")
	f.Float64Var(&seconds, "seconds", seconds, "how long to measure")
	f.Uint64Var(&cfg.Operations, "operations", 0, "end after so many operations (without --seconds, only then)")
	f.BoolVar(&cfg.Prefill, "prefill", false, "store every key once before measuring")
	f.BoolVar(&cfg.Check, "check", false, "compare every byte of the values got with what this program writes")
	f.IntSliceVar(&cfg.CPUs, "cpus", nil, "processors to pin the threads to, in turn")
	f.Uint64Var(&cfg.Seed, "seed", cfg.Seed, "seed of the random draws")
	f.BoolVar(&asJSON, "json", false, "print the report as JSON")
	return cmd
}

func runLoad(ctx context.Context, cmd *cobra.Command, cfg LoadConfig, asJSON bool) error {
	report, err := Load(ctx, cfg)
	if err != nil {
		return err
	}
	write := report.WriteText
	if asJSON {
		write = report.WriteJSON
	}
	if err := write(cmd.OutOrStdout()); err != nil {
		return err
	}
	if n := report.Trouble(); n > 0 {
		return fmt.Errorf("%d times an operation failed, stayed unanswered or got a wrong value, or a connection was lost", n)
	}
	return nil
}

// parseRatio reads "sets:gets".
func parseRatio(text string) (sets, gets int, err error) {
	a, b, ok := strings.Cut(text, ":")
	if ok {
		if sets, err = strconv.Atoi(a); err == nil {
			gets, err = strconv.Atoi(b)
		}
	}
	if !ok || err != nil {
		return 0, 0, fmt.Errorf("ratio %q: give sets:gets, like 1:10", text)
	}
	return sets, gets, nil
}
