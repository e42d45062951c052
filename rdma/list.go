//go:build rdma

package rdma

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// List writes what there is of RDMA on this machine, and what would be chosen for each address and why; without addresses, for those of all interfaces.
func List(out io.Writer, addrs []netip.Addr, o Options) error {
	if err := o.complete(); err != nil {
		return err
	}
	names, err := deviceNames()
	if err != nil {
		return err
	}
	if len(names) == 0 {
		fmt.Fprintln(out, "no RDMA device that libibverbs can use: is the driver loaded, and its library installed (ibverbs-providers)?")
	}
	for _, name := range names {
		if err := listDevice(out, name); err != nil {
			fmt.Fprintf(out, "%s: %v\n", name, err)
		}
	}
	listMemory(out, &o)
	if len(addrs) == 0 {
		addrs = allAddresses()
	}
	opened := make(map[string]*device)
	defer func() {
		for _, d := range opened {
			d.close()
		}
	}()
	open := func(name string) (*device, error) {
		if d := opened[name]; d != nil {
			return d, nil
		}
		d, err := openDevice(name)
		if err == nil {
			opened[name] = d
		}
		return d, err
	}
	for _, addr := range addrs {
		if c, err := choose(addr, &o, open); err != nil {
			fmt.Fprintf(out, "for %s: TCP: %s\n", addr, strings.TrimPrefix(err.Error(), "rdma: "))
		} else {
			fmt.Fprintf(out, "for %s: %s: %s\n", addr, c, c.why)
		}
	}
	return nil
}

func listDevice(out io.Writer, name string) error {
	d, err := openDevice(name)
	if err != nil {
		return err
	}
	defer d.close()
	fmt.Fprintf(out, "%s: %d port(s), up to %d queue pairs of %d requests, completion queues of %d\n", name, d.limits.ports, d.limits.max_pairs,
		d.limits.max_requests, d.limits.max_completions)
	ports, err := d.ports()
	if err != nil {
		return err
	}
	for _, p := range ports {
		kind := "InfiniBand"
		if p.linkIsEth {
			kind = "Ethernet"
		}
		fmt.Fprintf(out, "  port %d: %s, %s, MTU %d, LID %d\n", p.number, p.state, kind, mtuBytes(p.mtu), p.lid)
		for _, g := range p.gids {
			link := "no interface"
			if i, err := net.InterfaceByIndex(g.ifindex); err == nil {
				link = i.Name
			}
			fmt.Fprintf(out, "    GID %d: %s, %s, %s\n", g.index, gidText(g.raw), g.kind, link)
		}
	}
	return nil
}

func listMemory(out io.Writer, o *Options) {
	var limit unix.Rlimit
	text := "no limit"
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit) == nil && limit.Cur != unix.RLIM_INFINITY {
		text = fmt.Sprintf("limit %d KiB", limit.Cur>>10)
		if mayLock() {
			text += ", which does not hold for this process (CAP_IPC_LOCK)"
		}
	}
	fmt.Fprintf(out, "locked memory: %d KiB for each other replica; %s\n", o.MemoryPerPeer()>>10, text)
}

// allAddresses are those of all interfaces that other machines may know.
func allAddresses() []netip.Addr {
	var all []netip.Addr
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok && !addr.IsLoopback() && !addr.IsLinkLocalUnicast() {
				all = append(all, addr.Unmap())
			}
		}
	}
	return all
}
