package bench

import (
	"time"

	"github.com/spf13/cobra"
)

// peerCommand is `bench peer`.
func peerCommand() *cobra.Command {
	cfg := DefaultPeerConfig()
	seconds, jsonFile := cfg.Duration.Seconds(), ""
	cmd := &cobra.Command{
		Use:   "peer",
		Short: "Compare hermesd's CPU time per operation with another server's",
		Long: `Compare hermesd, a group of one, with another server of memcached's protocol: server CPU time per operation
(all threads of the server's process, from the kernel's accounts) and throughput.

For each combination of ratio, value size and pipeline the two take turns: start, fill, load, stop. The table has medians,
and the medians of the pairs' ratios. Server and client run on different processors. Where "busy" is near 100% the client
was the bottleneck and throughput says little; CPU time per operation is the figure to look at.`,
		Example: `  hermesd bench peer --peer /usr/bin/memcached
  hermesd bench peer --pipelines 16 --values 32 --ratios 0:1 --pairs 9 --seconds 2 --json-file peer.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Duration = time.Duration(seconds * float64(time.Second))
			ctx, cancel, err := measuring(cmd, &cfg.Hermesd)
			if err != nil {
				return err
			}
			defer cancel()
			report, err := Compare(ctx, cfg, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			return writeReport(cmd, jsonFile, &report)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Hermesd, "hermesd", "", "binary of hermesd (default: this one)")
	f.StringVar(&cfg.Peer, "peer", cfg.Peer, "binary of the other server")
	f.IntVar(&cfg.ServerThreads, "server-threads", cfg.ServerThreads, "-t of both servers")
	f.IntVar(&cfg.MemoryMB, "memory", cfg.MemoryMB, "-m of both servers, in MB")
	f.StringSliceVar(&cfg.Ratios, "ratios", cfg.Ratios, "sets to gets")
	f.IntSliceVar(&cfg.Values, "values", cfg.Values, "bytes of values")
	f.IntSliceVar(&cfg.Pipelines, "pipelines", cfg.Pipelines, "requests that are written together")
	f.IntVar(&cfg.Pairs, "pairs", cfg.Pairs, "how often the servers take turns in each combination")
	f.Float64Var(&seconds, "seconds", seconds, "how long each turn is measured")
	f.IntVar(&cfg.Connections, "connections", cfg.Connections, "connections")
	f.IntVar(&cfg.ClientThreads, "client-threads", 0, "threads that make the load (default: one for each client processor)")
	f.Uint64Var(&cfg.Keys, "keys", cfg.Keys, "number of different keys")
	f.IntSliceVar(&cfg.ServerCPUs, "server-cpus", nil, "processors of the servers (default: the processors are divided)")
	f.IntSliceVar(&cfg.ClientCPUs, "client-cpus", nil, "processors of the client")
	f.StringVar(&jsonFile, "json-file", "", "write the report, with every turn, as JSON to this file")
	return cmd
}
