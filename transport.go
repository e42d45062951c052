package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hermesd/rdma"
	"hermesd/replication"
)

// transportOptions say how the messages between replicas go.
type transportOptions struct {
	kind     string
	device   string
	gidIndex string
	ring     byteSize
	depth    int
}

const (
	transportAuto = "auto"
	transportRDMA = "rdma"
	transportTCP  = "tcp"
)

func defaultTransport() transportOptions {
	return transportOptions{kind: transportAuto, ring: rdma.DefaultRingBytes, depth: rdma.DefaultDepth}
}

func (t *transportOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&t.kind, "transport", t.kind,
		"how messages to the other replicas go: auto is RDMA where both have it, or else TCP; rdma is refused where that cannot be; tcp")
	t.deviceFlags(f)
	f.Var(&t.ring, "rdma-ring", "bytes of each of the two rings of locked memory for each other replica, a power of two, 64k to 1024m; the same in the whole group")
	f.IntVar(&t.depth, "rdma-depth", t.depth, "batches on their way to a replica at most, a power of two, 16 to 8192; the same in the whole group")
}

func (t *transportOptions) deviceFlags(f *pflag.FlagSet) {
	f.StringVar(&t.device, "rdma-device", "", "RDMA device, name or name:port; empty: that of the interface with the replication address")
	f.StringVar(&t.gidIndex, "rdma-gid-index", "", "index of the GID on its port; empty: that of the replication address")
}

func (t *transportOptions) validate() error {
	switch t.kind {
	case transportAuto, transportRDMA, transportTCP:
	default:
		return fmt.Errorf("--transport %q: give auto, rdma or tcp", t.kind)
	}
	if !rdma.ValidRingBytes(int(t.ring)) {
		return fmt.Errorf("--rdma-ring %s: give a power of two, 64k to 1024m", t.ring.String())
	}
	if !rdma.ValidDepth(t.depth) {
		return fmt.Errorf("--rdma-depth %d: give a power of two, 16 to 8192", t.depth)
	}
	return nil
}

// openPath is the path of channels with the other replicas, or why there is none. An error is one of --transport rdma.
func (o *options) openPath(listens net.Addr, replicas int, log zerolog.Logger) (path replication.Path, none string, err error) {
	if o.transport.kind == transportTCP {
		return nil, "it runs with --transport tcp", nil
	}
	path, err = rdma.New(rdma.Options{Address: addressOf(listens), Device: o.transport.device, GIDIndex: o.transport.gidIndex, RingBytes: int(o.transport.ring),
		Depth: o.transport.depth, AwaitPort: o.transport.kind == transportAuto, Peers: replicas - 1, Detection: o.timing.SuspectAfter, Logger: log})
	switch {
	case err == nil:
		return path, "", nil
	case o.transport.kind == transportRDMA:
		return nil, "", fmt.Errorf("--transport rdma: %w", err)
	}
	event := log.Info()
	if rdma.Built && !errors.Is(err, rdma.ErrNoDevice) {
		event = log.Warn() // there seems to be something
	}
	event.Str("reason", err.Error()).Msg("replication goes over TCP")
	return nil, err.Error(), nil
}

func addressOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

func rdmaCommand() *cobra.Command {
	t := defaultTransport()
	cmd := &cobra.Command{
		Use:   "rdma [address]...",
		Short: "List the RDMA devices, and which would be used",
		Long: `List the RDMA devices of this machine with their ports, GIDs and links, the limit of locked memory, and which device, port and GID would be used
for each address, as a replication address, and why. Without addresses: for those of all interfaces.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var addrs []netip.Addr
			for _, arg := range args {
				addr, err := netip.ParseAddr(arg)
				if err != nil {
					return fmt.Errorf("%q is not an address, as 10.0.0.1", arg)
				}
				addrs = append(addrs, addr.Unmap())
			}
			if err := t.validate(); err != nil {
				return err
			}
			return rdma.List(cmd.OutOrStdout(), addrs, rdma.Options{Device: t.device, GIDIndex: t.gidIndex, RingBytes: int(t.ring), Depth: t.depth})
		},
	}
	t.deviceFlags(cmd.Flags())
	cmd.Flags().SortFlags = false
	return cmd
}
