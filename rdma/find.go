//go:build rdma

package rdma

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/Mellanox/rdmamap"
)

// choice is the device, port and GID that belong to an address.
type choice struct {
	device string
	port   port
	gid    gid
	why    string // for people
	known  string // of why, what is said of the device
}

func (c *choice) String() string {
	return fmt.Sprintf("%s port %d GID %d (%s, %s, MTU %d)", c.device, c.port.number, c.gid.index, c.gid.kind, gidText(c.gid.raw), mtuBytes(c.port.mtu))
}

func gidText(raw [16]byte) string { return netip.AddrFrom16(raw).String() }

// A GID appears a moment after its device, and goes and comes back with its address.
const (
	gidPatience = 1 * time.Second
	gidInterval = 20 * time.Millisecond
)

// choose finds the device of an address, or takes the one that the options name, and waits for its GID if that is not there yet.
func choose(addr netip.Addr, o *Options, open func(name string) (*device, error)) (*choice, error) {
	name, number, why, err := chooseDevice(addr, o)
	if err != nil {
		return nil, err
	}
	return chooseOn(name, number, why, addr, o, open)
}

// chooseOn is choose where the device is known.
func chooseOn(name string, number int, why string, addr netip.Addr, o *Options, open func(name string) (*device, error)) (*choice, error) {
	d, err := open(name)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(gidPatience); ; time.Sleep(gidInterval) {
		c, err := choosePort(d, number, addr, o)
		if err == nil {
			c.known, c.why = why, why+"; "+c.why
			return c, nil
		}
		if !errors.Is(err, errNoGID) || time.Now().After(deadline) {
			return nil, err
		}
	}
}

// chooseDevice is the first part: the device, and its port if that is known already.
func chooseDevice(addr netip.Addr, o *Options) (name string, number int, why string, err error) {
	if o.Device != "" {
		name, text, hasPort := strings.Cut(o.Device, ":")
		if hasPort {
			if number, err = strconv.Atoi(text); err != nil || number < 1 || number > 255 {
				return "", 0, "", fmt.Errorf("rdma: device %q: give a name, or name:port", o.Device)
			}
		}
		return name, number, "--rdma-device names it", nil
	}
	if !addr.IsValid() || addr.IsUnspecified() {
		return "", 0, "", errors.New("rdma: the replication address is that of no interface: give one, or --rdma-device")
	}
	link, err := interfaceOf(addr)
	if err != nil {
		return "", 0, "", err
	}
	name, err = rdmamap.GetRdmaDeviceForNetdevice(link)
	if err != nil || name == "" {
		return "", 0, "", fmt.Errorf("rdma: the interface %s, which has the address %s, belongs to no RDMA device: 'hermesd rdma' lists those there are", link, addr)
	}
	return name, 0, fmt.Sprintf("the interface %s, which has the address %s, belongs to %s", link, addr, name), nil
}

// interfaceOf is the interface that has an address.
func interfaceOf(addr netip.Addr) (string, error) {
	links, err := net.Interfaces()
	if err != nil {
		return "", fmt.Errorf("rdma: list the interfaces: %w", err)
	}
	for i := range links {
		addrs, err := links[i].Addrs()
		if err != nil {
			continue // it is gone
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				if found, ok := netip.AddrFromSlice(n.IP); ok && found.Unmap() == addr.WithZone("") {
					return links[i].Name, nil
				}
			}
		}
	}
	return "", fmt.Errorf("rdma: no interface of this machine has the address %s", addr)
}

var errNoGID = errors.New("no such GID")

// choosePort finds the port and the GID of a device.
func choosePort(d *device, number int, addr netip.Addr, o *Options) (*choice, error) {
	var reasons error
	for n := 1; n <= int(d.limits.ports); n++ {
		if number != 0 && n != number {
			continue
		}
		p, err := d.port(n)
		if err == nil {
			var g gid
			var why string
			if g, why, err = chooseGID(d.name, &p, addr, o); err == nil {
				if !p.active {
					return nil, fmt.Errorf("rdma: port %d of %s is not active (%s): see its cable and interface", n, d.name, p.state)
				}
				return &choice{device: d.name, port: p, gid: g, why: why}, nil
			}
		}
		reasons = errors.Join(reasons, err)
	}
	if reasons == nil {
		return nil, fmt.Errorf("rdma: %s has no port %d: it has %d", d.name, number, d.limits.ports)
	}
	return nil, reasons
}

func chooseGID(name string, p *port, addr netip.Addr, o *Options) (g gid, why string, err error) {
	if o.GIDIndex != "" {
		index, err := strconv.Atoi(o.GIDIndex)
		if err != nil {
			return g, "", fmt.Errorf("rdma: GID index %q is no number", o.GIDIndex)
		}
		for _, g := range p.gids {
			if g.index == index {
				return g, "--rdma-gid-index names it", nil
			}
		}
		return g, "", fmt.Errorf("rdma: port %d of %s has no GID %d: %w", p.number, name, index, errNoGID)
	}
	if !p.linkIsEth {
		// Within a subnet InfiniBand goes by LID; the first GID is the port's own.
		for _, g := range p.gids {
			if g.kind == gidInfiniBand {
				return g, "the port's own GID, as it is InfiniBand", nil
			}
		}
		return g, "", fmt.Errorf("rdma: port %d of %s has no GID yet: is a subnet manager running? (%w)", p.number, name, errNoGID)
	}
	best := -1
	for i := range p.gids {
		if netip.AddrFrom16(p.gids[i].raw).Unmap() == addr.WithZone("") && (best < 0 || p.gids[i].kind > p.gids[best].kind) {
			best = i // RoCE v2 is greater than v1
		}
	}
	if best < 0 {
		return g, "", fmt.Errorf("rdma: port %d of %s has no GID for the address %s: is that its interface's? --rdma-gid-index chooses another (%w)",
			p.number, name, addr, errNoGID)
	}
	return p.gids[best], fmt.Sprintf("its GID for the address is %s", p.gids[best].kind), nil
}
