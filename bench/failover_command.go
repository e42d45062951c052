package bench

import (
	"github.com/spf13/cobra"
)

// failoverCommand is `bench failover`.
func failoverCommand() *cobra.Command {
	cfg, jsonFile, strict := DefaultFailoverConfig(), "", false
	cmd := &cobra.Command{
		Use:   "failover",
		Short: "Measure what clients notice when a replica is killed and returns, and what idle groups cost",
		Long: `Measure what clients notice when a replica is killed and returns, and what idle groups cost.

For each size and timing a group is started on the loopback interface. First nobody asks it for anything, and the processor time of each
replica is read. Then, --kills times, one replica is killed (SIGKILL; in turn a follower and the leader of the control plane) while three
clients of each replica ask for one thing after the other, a millisecond apart: one writes, one reads keys that nobody writes, one reads
keys that are just being written. What is printed is how long they waited, at the replicas that live on. The killed one is started again and
must serve before the next is killed.

The timing "default" is that of hermesd's options, "tuned" one for machines that run nothing else: --heartbeat 20ms --lease 100ms
--suspect-after 115ms --election-timeout 20ms --unreachable-after 500ms. On a machine that is busy with other things, or has
fewer processors than replicas, all of this says little: see the column "before" and the load averages.

At last one of three replicas that hold --copy MB is killed and started again: how long until it serves, and how long clients of the two others
wait for an answer meanwhile, against before.`,
		Example: `  hermesd bench failover
  hermesd bench failover --replicas 3 --timings tuned --kills 20 --idle 0 --copy 0`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel, err := measuring(cmd, &cfg.Hermesd)
			if err != nil {
				return err
			}
			defer cancel()
			report, err := Failover(ctx, cfg, cmd.ErrOrStderr())
			if err != nil {
				_ = report.WriteText(cmd.OutOrStdout()) // what was measured before it went wrong
				return err
			}
			if err := writeReport(cmd, jsonFile, &report); err != nil || !strict {
				return err
			}
			return report.Slow()
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Hermesd, "hermesd", "", "binary of hermesd (default: this one)")
	f.IntSliceVar(&cfg.Replicas, "replicas", cfg.Replicas, "sizes of the groups")
	f.StringSliceVar(&cfg.Timings, "timings", cfg.Timings, "timings of the groups: default, tuned")
	f.IntVar(&cfg.Kills, "kills", cfg.Kills, "replicas to kill, for each size and timing")
	f.IntVar(&cfg.Threads, "server-threads", cfg.Threads, "-t of each replica")
	f.Float64Var(&cfg.Idle, "idle", cfg.Idle, "seconds of idleness to measure, for each size and timing; 0: none")
	f.IntVar(&cfg.CopyMB, "copy", cfg.CopyMB, "megabytes that a returning replica has to copy; 0: not measured")
	f.IntVar(&cfg.CopyConnections, "copy-connections", cfg.CopyConnections, "clients of each replica meanwhile")
	f.DurationVar(&cfg.CopyPause, "copy-pause", cfg.CopyPause, "pause of these clients after each answer")
	f.StringVar(&jsonFile, "json-file", "", "write the report as JSON to this file")
	f.BoolVar(&strict, "strict", false, "fail where writes stall for 500 ms (tuned: 200 ms) or more, or an idle replica takes 1% of a processor")
	return cmd
}
