package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"hermesd/replication/views"
)

// groupOptions are those of all commands of `hermesd group`.
type groupOptions struct {
	at      []string
	timeout time.Duration
}

// Exit statuses of `hermesd group status --wait`; others are 1.
const exitNotYet = 2

// exitError ends the process with a status of its own.
type exitError struct {
	error
	status int
}

func groupCommand() *cobra.Command {
	o := groupOptions{timeout: 30 * time.Second}
	cmd := &cobra.Command{
		Use:   "group",
		Short: "See how a group is, and change who is in it",
		Long: `See how a group is, and change who is in it.

The commands talk to any of its replicas, at their replication addresses: the first of --at that answers. They need no access to the replicas' data.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	f := cmd.PersistentFlags()
	f.StringSliceVar(&o.at, "at", nil, "replication addresses of replicas of the group, host:port, several with commas between")
	f.DurationVar(&o.timeout, "timeout", o.timeout, "how long to wait for the group")
	cmd.AddCommand(groupStatusCommand(&o), groupAddCommand(&o), groupRemoveCommand(&o), groupReplaceCommand(&o))
	return cmd
}

// with calls f with a connection to the first of the addresses that answers.
func (o *groupOptions) with(f func(ctx context.Context, c *views.Client) error) error {
	if len(o.at) == 0 {
		return errors.New("give --at: the replication address of a replica of the group")
	}
	ctx, cancel := context.WithTimeout(context.Background(), o.timeout)
	defer cancel()
	var errs []error
	for _, addr := range o.at {
		if !isHostPort(addr, false) {
			return fmt.Errorf("--at %q is not host:port", addr)
		}
		c, err := views.Dial(ctx, addr)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		defer c.Close()
		return f(ctx, c)
	}
	return errors.Join(errs...)
}

func groupStatusCommand(o *groupOptions) *cobra.Command {
	var wait string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Print the group's view, and what each replica is doing",
		Long: `Print the group's view, and what each replica is doing.

With --wait serving it returns when every replica that belongs to the group serves, with --wait 2 when replica 2 does; it exits with
status 2 if that does not come about within --timeout, and with 1 if no replica answers.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			done, err := waitFor(wait)
			if err != nil {
				return err
			}
			return o.status(cmd.OutOrStdout(), done, asJSON)
		},
	}
	cmd.Flags().StringVar(&wait, "wait", "", "wait until all replicas serve (serving), or that of a number")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// missing says what is missing for what is waited for, or nothing, after so long a wait.
type missing func(s *views.GroupStatus, waited time.Duration) string

// waitFor is what --wait waits for.
func waitFor(wait string) (missing, error) {
	switch n, err := strconv.Atoi(wait); {
	case wait == "":
		return nil, nil
	case wait == "serving":
		return allServe, nil
	case err != nil || n < 1 || n > views.MaxMember:
		return nil, fmt.Errorf("--wait %q: give serving, or the number of a replica", wait)
	default:
		return func(s *views.GroupStatus, waited time.Duration) string {
			slot, ok := s.Slot(uint8(n))
			if !ok {
				return fmt.Sprintf("replica %d does not belong to the group", n)
			}
			return notServing(s, slot, waited)
		}, nil
	}
}

func allServe(s *views.GroupStatus, waited time.Duration) string {
	if len(s.Slots) == 0 {
		return "the group has not formed"
	}
	for _, slot := range s.Slots {
		if why := notServing(s, slot, waited); why != "" {
			return why
		}
	}
	return ""
}

// notServing counts only what a replica has said since the wait began: it may have been killed and started again a moment before.
func notServing(s *views.GroupStatus, slot views.SlotStatus, waited time.Duration) string {
	is := slot.State
	switch {
	case s.Leader == 0:
		return s.Note
	case slot.Why != "" && slot.Witness:
		is = "a witness"
	case slot.Why != "" && slot.State == "serving":
		is = "about to leave the view"
	case slot.State == "serving" && slot.Heard > waited:
		return fmt.Sprintf("replica %d has not been heard since", slot.Number)
	case slot.Witness || slot.State == "serving" && slot.Entered == s.Epoch && slot.Leased:
		return ""
	case slot.State == "serving" && slot.Entered != s.Epoch:
		return fmt.Sprintf("replica %d has not entered the present view", slot.Number)
	case slot.State == "serving":
		return fmt.Sprintf("replica %d has no lease yet", slot.Number)
	}
	why := fmt.Sprintf("replica %d is %s", slot.Number, is)
	if slot.Why != "" {
		why += ": " + slot.Why
	}
	return why
}

// statusInterval is after which status --wait looks again.
const statusInterval = 50 * time.Millisecond

func (o *groupOptions) status(out io.Writer, missing missing, asJSON bool) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), o.timeout)
	defer cancel()
	tick := time.NewTicker(statusInterval)
	defer tick.Stop()
	for {
		var s views.GroupStatus
		err := o.with(func(ctx context.Context, c *views.Client) (err error) {
			s, err = c.Status(ctx)
			return err
		})
		why := ""
		if err == nil && missing != nil {
			why = missing(&s, time.Since(began))
		}
		switch {
		case err == nil && why == "":
			return printStatus(ctx, out, &s, asJSON)
		case err != nil && missing == nil:
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if err != nil {
				return err
			}
			return errors.Join(printStatus(context.Background(), out, &s, asJSON), exitError{fmt.Errorf("after %v: %s", o.timeout, why), exitNotYet})
		}
	}
}

// channelsTimeout is for how long a replica that does not answer may hold up what is known of the others.
const channelsTimeout = time.Second

func printStatus(ctx context.Context, out io.Writer, s *views.GroupStatus, asJSON bool) error {
	ctx, cancel := context.WithTimeout(ctx, channelsTimeout)
	defer cancel()
	s.LearnChannels(ctx)
	if asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(s)
	}
	switch {
	case s.Group == "":
		fmt.Fprintln(out, "the group has not formed")
	case s.Leader == 0:
		fmt.Fprintf(out, "group %s, epoch %d, generation %d, as this replica remembers\n", s.Group, s.Epoch, s.Generation)
	default:
		fmt.Fprintf(out, "group %s, epoch %d, generation %d, leader %d (term %d)\n", s.Group, s.Epoch, s.Generation, s.Leader, s.Term)
	}
	if s.Note != "" {
		fmt.Fprintln(out, s.Note)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "replica\taddress\tstate\theartbeat\tchannels\tremarks")
	slots := slices.Clone(s.Slots)
	slices.SortFunc(slots, func(a, b views.SlotStatus) int { return int(a.Number) - int(b.Number) })
	for _, slot := range slots {
		heard := "-"
		if slot.Heard >= 0 {
			heard = slot.Heard.Round(time.Millisecond).String() + " ago"
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", slot.Number, slot.Address, slot.State, heard, channels(&slot), remarks(s, &slot))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	printReasons(out, slots)
	return nil
}

// channels says to whom a replica is connected, and how: tcp to 2,3.
func channels(slot *views.SlotStatus) string {
	peers := map[string][]string{}
	for _, ch := range slot.Channels {
		peers[ch.Transport] = append(peers[ch.Transport], strconv.Itoa(int(ch.Peer)))
	}
	var all []string
	for _, transport := range slices.Sorted(maps.Keys(peers)) {
		all = append(all, transport+" to "+strings.Join(peers[transport], ","))
	}
	if len(all) == 0 {
		return "-"
	}
	return strings.Join(all, ", ")
}

// printReasons says why messages do not go as well as they might: each reason once for each transport, with the channels that it holds for.
func printReasons(out io.Writer, slots []views.SlotStatus) {
	type way struct{ transport, why string }
	of := map[way][]string{}
	for _, slot := range slots {
		for _, ch := range slot.Channels {
			if ch.Reason != "" {
				w := way{ch.Transport, ch.Reason}
				of[w] = append(of[w], fmt.Sprintf("%d to %d", slot.Number, ch.Peer))
			}
		}
	}
	order := func(a, b way) int {
		return cmp.Or(strings.Compare(a.transport, b.transport), strings.Compare(a.why, b.why))
	}
	for _, w := range slices.SortedFunc(maps.Keys(of), order) {
		fmt.Fprintf(out, "%s, %s: %s\n", w.transport, strings.Join(of[w], ", "), w.why)
	}
}

func remarks(s *views.GroupStatus, slot *views.SlotStatus) string {
	var all []string
	add := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if slot.Why != "" {
		add("%s", slot.Why)
	}
	if (slot.State == "serving" || slot.State == "catching up") && slot.Entered != 0 && slot.Entered != s.Epoch {
		add("in the view of epoch %d", slot.Entered)
	}
	if len(slot.Unreachable) != 0 {
		add("does not reach %v", slot.Unreachable)
	}
	if slot.Removing {
		add("is being removed")
	}
	if slot.Next != "" {
		add("moves to %s", slot.Next)
	}
	return strings.Join(all, "; ")
}

func groupAddCommand(o *groupOptions) *cobra.Command {
	witness := false
	cmd := &cobra.Command{
		Use:   "add number=host:port",
		Short: "Make a place for a replica",
		Long: `Make a place for a replica. A process started with that --id, and --group with its own address and that of any other replica, fills
it: it gets its memory from the others, and serves.`,
		Args: onePlace,
		RunE: func(cmd *cobra.Command, args []string) error {
			number, addr, err := parsePlace(args[0])
			if err != nil {
				return err
			}
			return o.with(func(ctx context.Context, c *views.Client) error { return c.Add(ctx, number, addr, witness) })
		},
	}
	cmd.Flags().BoolVar(&witness, "witness", false, "it votes and holds no data")
	return cmd
}

func groupRemoveCommand(o *groupOptions) *cobra.Command {
	force := false
	cmd := &cobra.Command{
		Use:   "remove number",
		Short: "Have the group go on without a replica, for good",
		Long: `Have the group go on without a replica, for good. It returns when the others have gone on; the process may be ended then. The last replica that
serves is not removed, since everything would be lost, unless --force is given.`,
		Args: onePlace,
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.Atoi(args[0])
			if err != nil || n < 1 || n > views.MaxMember {
				return fmt.Errorf("%q is not the number of a replica, 1 to %d", args[0], views.MaxMember)
			}
			return o.with(func(ctx context.Context, c *views.Client) error { return c.Remove(ctx, uint8(n), force) })
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "also if everything is lost with it")
	return cmd
}

func groupReplaceCommand(o *groupOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "replace number=host:port",
		Short: "Move a replica's place to another address",
		Long: `Move a replica's place to another address. The replica that has it leaves the group; a process started there with the same --id takes its place.
To have no fewer replicas meanwhile, add one under a new number, wait until it serves, and remove the old one.`,
		Args: onePlace,
		RunE: func(cmd *cobra.Command, args []string) error {
			number, addr, err := parsePlace(args[0])
			if err != nil {
				return err
			}
			return o.with(func(ctx context.Context, c *views.Client) error { return c.Replace(ctx, number, addr) })
		},
	}
}

func onePlace(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s: give one replica, as in '%s'", cmd.CommandPath(), cmd.UseLine())
	}
	return nil
}

// parsePlace reads number=host:port.
func parsePlace(text string) (number uint8, addr string, err error) {
	group, err := parseGroup(text)
	if err != nil {
		return 0, "", err
	}
	if len(group) != 1 {
		return 0, "", fmt.Errorf("%q: give one replica", text)
	}
	for number, addr = range group {
	}
	return number, addr, nil
}
