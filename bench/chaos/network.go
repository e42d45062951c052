package main

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// Network is the namespaces of a run: one for each replica, one of the clients, and one with the two bridges that join them. Replicas talk to
// each other over the one, "repl", and to clients over the other, "clients", on which nothing is ever broken. The clients' namespace is on
// both, for questions to the control plane.
type Network struct {
	Prefix   string // of the namespaces' names
	Replicas int
}

const (
	replicationNet = "10.99.1." // and the number of the replica
	clientNet      = "10.99.2."
	clientsHost    = 254 // of the clients' namespace, in both
	replPort       = 11311
	clientPort     = 11211
	replLink       = "repl"    // a replica's interface to the others
	clientLink     = "clients" // and to the clients
)

func (n Network) hub() string               { return n.Prefix + "-hub" }
func (n Network) clients() string           { return n.Prefix + "-clients" }
func (n Network) replica(number int) string { return fmt.Sprintf("%s-r%d", n.Prefix, number) }

func replAddr(number int) string   { return fmt.Sprintf("%s%d:%d", replicationNet, number, replPort) }
func clientAddr(number int) string { return fmt.Sprintf("%s%d:%d", clientNet, number, clientPort) }

// namespaces are the names of all.
func (n Network) namespaces() []string {
	all := []string{n.hub(), n.clients()}
	for i := 1; i <= n.Replicas; i++ {
		all = append(all, n.replica(i))
	}
	return all
}

// createCommands are the commands that make it, each a program and its arguments.
func (n Network) createCommands() (all [][]string) {
	add := func(format string, args ...any) { all = append(all, strings.Fields(fmt.Sprintf(format, args...))) }
	for _, ns := range n.namespaces() {
		add("ip netns add %s", ns)
		add("ip -n %s link set lo up", ns)
	}
	for _, bridge := range []string{replLink, clientLink} {
		add("ip -n %s link add %s type bridge", n.hub(), bridge)
		add("ip -n %s link set %s up", n.hub(), bridge)
	}
	join := func(ns string, host int) {
		for _, link := range []struct{ name, net string }{{replLink, replicationNet}, {clientLink, clientNet}} {
			add("ip -n %s link add %s type veth peer name %s netns %s", n.hub(), port(link.name, host), link.name, ns)
			add("ip -n %s link set %s master %s up", n.hub(), port(link.name, host), link.name)
			add("ip -n %s addr add %s%d/24 dev %s", ns, link.net, host, link.name)
			add("ip -n %s link set %s up", ns, link.name)
		}
	}
	join(n.clients(), clientsHost)
	for i := 1; i <= n.Replicas; i++ {
		join(n.replica(i), i)
		all = append(all, n.inside(i, "nft", "add table inet chaos"),
			n.inside(i, "nft", "add chain inet chaos in { type filter hook input priority 0 ; }"))
	}
	return all
}

// port is the bridge's end of a link.
func port(link string, host int) string { return fmt.Sprintf("%s%d", link, host) }

// inside is a command in the namespace of a replica.
func (n Network) inside(number int, command ...string) []string {
	return append([]string{"ip", "netns", "exec", n.replica(number)}, command...)
}

// cableCommand plugs or pulls the cable of a replica, at the bridge's end.
func (n Network) cableCommand(number int, in bool) []string {
	state := "down"
	if in {
		state = "up"
	}
	return []string{"ip", "-n", n.hub(), "link", "set", port(replLink, number), state}
}

// Rules are what a replica's namespace drops of what arrives over the replication network. All act on arrival: to the sender it is as if
// the network had lost it.
type Rules struct {
	DropFrom []int // numbers of replicas
	LossPer  int   // per cent of the packets
	// SlowFrom are replicas of which no more than SlowKB kilobytes per second arrive (together).
	SlowFrom []int
	SlowKB   int
}

// text is an nft script that puts the rules in the place of those before.
func (r Rules) text() string {
	var b strings.Builder
	b.WriteString("flush chain inet chaos in\n")
	rule := func(format string, args ...any) {
		fmt.Fprintf(&b, "add rule inet chaos in iifname %q ", replLink)
		fmt.Fprintf(&b, format+" drop\n", args...)
	}
	for _, from := range r.DropFrom {
		rule("ip saddr %s%d", replicationNet, from)
	}
	if r.LossPer > 0 {
		rule("ip saddr != %s%d numgen random mod 100 < %d", replicationNet, clientsHost, r.LossPer)
	}
	if len(r.SlowFrom) > 0 {
		var from []string
		for _, number := range r.SlowFrom {
			from = append(from, fmt.Sprintf("%s%d", replicationNet, number))
		}
		rule("ip saddr { %s } limit rate over %d kbytes/second burst %d kbytes", strings.Join(from, ", "), r.SlowKB, max(16, r.SlowKB/4))
	}
	return b.String()
}

// add joins rules.
func (r Rules) add(o Rules) Rules {
	r.DropFrom = append(append([]int(nil), r.DropFrom...), o.DropFrom...)
	r.LossPer = max(r.LossPer, o.LossPer)
	if o.SlowKB > 0 {
		r.SlowFrom, r.SlowKB = append(append([]int(nil), r.SlowFrom...), o.SlowFrom...), o.SlowKB
	}
	return r
}

// run runs a command, with a text on its standard input. The error has what it printed.
func run(input string, command []string) error {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin = strings.NewReader(input)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, strings.TrimSpace(string(output)))
	}
	return nil
}

// Create makes the network. What an attempt that failed has made is for Remove.
func (n Network) Create() error {
	for _, command := range n.createCommands() {
		if err := run("", command); err != nil {
			return err
		}
	}
	return nil
}

// Remove removes the namespaces that there are, and with them all that is in them. Processes in them must have ended.
func (n Network) Remove() error {
	var errs []error
	for _, ns := range n.namespaces() {
		if exists(ns) {
			errs = append(errs, run("", []string{"ip", "netns", "del", ns}))
		}
	}
	return errors.Join(errs...)
}

// SetRules puts rules in force at a replica.
func (n Network) SetRules(number int, r Rules) error {
	return run(r.text(), n.inside(number, "nft", "-f", "-"))
}

// SetCable plugs or pulls the cable of a replica.
func (n Network) SetCable(number int, in bool) error { return run("", n.cableCommand(number, in)) }
