// hermesd is a memcached whose replicas are kept linearizable by the Hermes protocol. This file is its command line; what the
// commands do lies in serve.go, local.go, group.go and transport.go, and in package bench.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"hermesd/bench"
	"hermesd/server"
)

func main() {
	if err := newCommand().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "hermesd:", err)
		status := 1
		if e := (exitError{}); errors.As(err, &e) {
			status = e.status
		}
		os.Exit(status)
	}
}

// newCommand returns the whole command line.
func newCommand() *cobra.Command {
	root := serveCommand("hermesd")
	root.Long = `hermesd is a memcached whose replicas are kept linearizable by the Hermes protocol.

Without a command it serves: on its own as a plain memcached, or, with --id and --group, as one replica of a group. Clients may
talk to any replica of a group.`
	root.Example = `  hermesd                                    # 127.0.0.1:11211, a group of one
  hermesd local --replicas 3                 # three replicas on this machine: 11211, 11212, 11213
  hermesd -l 10.0.0.1 -m 1024 --id 1 --group 1=10.0.0.1:11311,2=10.0.0.2:11311,3=10.0.0.3:11311 --data-dir /var/lib/hermesd
  hermesd group status --at 10.0.0.1:11311   # who is in the group, and what each replica is doing`
	root.SilenceErrors, root.SilenceUsage = true, true
	root.Version = server.Version
	root.SetVersionTemplate("hermesd " + server.Version + " (memcached's text protocol " + server.ProtocolVersion + ")\n")
	root.Flags().BoolP("version", "V", false, "print the version and exit")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w (see '%s --help')", err, cmd.CommandPath())
	})
	root.AddCommand(serveCommand("serve"), localCommand(), groupCommand(), rdmaCommand(), bench.Command(), &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintf(cmd.OutOrStdout(), "hermesd %s (memcached's text protocol %s)\n", server.Version, server.ProtocolVersion)
		},
	})
	return root
}

// noArguments is cobra.NoArgs with words that help who has mistyped a command or an option.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if !cmd.HasParent() {
		return fmt.Errorf("unknown command %q (see 'hermesd --help')", args[0])
	}
	return errors.New(cmd.CommandPath() + ": takes options only, not " + fmt.Sprintf("%q", args[0]))
}
