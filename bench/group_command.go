package bench

import (
	"time"

	"github.com/spf13/cobra"
)

// groupCommand is `bench group`.
func groupCommand() *cobra.Command {
	cfg := DefaultGroupConfig()
	seconds, jsonFile := cfg.Duration.Seconds(), ""
	cmd := &cobra.Command{
		Use:   "group",
		Short: "Measure groups of replicas on this machine: CPU, messages and system calls of an operation, and memory",
		Long: `Measure groups of replicas on this machine.

For each number of replicas, ratio and pipeline a group is started, filled, loaded through all of its replicas, and ended. Every operation must
be answered as asked; with less memory than the keys need, gets may miss.`,
		Example: `  hermesd bench group
  hermesd bench group --replicas 3 --ratios 1:4 --values 10-100000 --keys 200000 --pipelines 4 --memory 128 --seconds 600`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Duration = time.Duration(seconds * float64(time.Second))
			ctx, cancel, err := measuring(cmd, &cfg.Hermesd)
			if err != nil {
				return err
			}
			defer cancel()
			report, err := Group(ctx, cfg, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			return writeReport(cmd, jsonFile, &report)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Hermesd, "hermesd", "", "binary of hermesd (default: this one)")
	f.IntSliceVar(&cfg.Replicas, "replicas", cfg.Replicas, "sizes of the groups")
	f.IntVar(&cfg.ServerThreads, "server-threads", cfg.ServerThreads, "-t of each replica")
	f.IntVar(&cfg.MemoryMB, "memory", cfg.MemoryMB, "-m of each replica, in MB")
	f.StringSliceVar(&cfg.Ratios, "ratios", cfg.Ratios, "sets to gets")
	f.StringVar(&cfg.Values, "values", cfg.Values, "bytes of values: one size, a list (32,1024) or a range (10-2000)")
	f.IntSliceVar(&cfg.Pipelines, "pipelines", cfg.Pipelines, "requests that are written together")
	f.IntVar(&cfg.Connections, "connections", cfg.Connections, "connections to all replicas together")
	f.IntVar(&cfg.ClientThreads, "client-threads", cfg.ClientThreads, "threads that make the load")
	f.Uint64Var(&cfg.Keys, "keys", cfg.Keys, "number of different keys")
	f.Float64Var(&seconds, "seconds", seconds, "how long each row is measured")
	f.StringVar(&jsonFile, "json-file", "", "write the report as JSON to this file")
	return cmd
}
