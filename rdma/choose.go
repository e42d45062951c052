package rdma

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
)

// port is one port of a device as it is now.
type port struct {
	number    int
	active    bool
	state     string
	mtu       uint32
	lid       uint32
	gids      []gid
	linkIsEth bool
}

type gid struct {
	raw     [16]byte
	index   int
	kind    gidKind
	ifindex int
}

// gidKind is as verbs count, which device.go sees to.
type gidKind uint32

const (
	gidInfiniBand gidKind = iota
	gidRoCE1
	gidRoCE2
)

func (k gidKind) String() string {
	switch k {
	case gidInfiniBand:
		return "InfiniBand"
	case gidRoCE1:
		return "RoCE v1"
	case gidRoCE2:
		return "RoCE v2"
	}
	return "unknown"
}

// gidIndexMax is the greatest index that a queue pair can be told: verbs have a byte for it, though tables may be longer.
const gidIndexMax = 255

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

var (
	errNoGID    = errors.New("no such GID")
	errInactive = errors.New("not active")
)

// choosePort finds the port and the GID of a device that has these ports. number is that of the port, or 0. The error is errNoGID or errInactive if one of
// those is why a port was not chosen.
func choosePort(device string, ports []port, number int, addr netip.Addr, o *Options) (*choice, error) {
	var reasons error
	for i := range ports {
		p := &ports[i]
		if number != 0 && p.number != number {
			continue
		}
		g, why, err := chooseGID(device, p, addr, o)
		if !p.active { // it may have lost its GIDs for that, and nobody should wait for them
			err = fmt.Errorf("rdma: port %d of %s is %w (%s): see its cable and interface", p.number, device, errInactive, p.state)
		}
		switch {
		case err == nil:
			return &choice{device: device, port: *p, gid: g, why: why}, nil
		case reasons == nil:
			reasons = err
		default:
			reasons = fmt.Errorf("%w; %w", reasons, err) // in one line, as it goes into stats
		}
	}
	if reasons == nil {
		return nil, fmt.Errorf("rdma: %s has no port %d: it has %d", device, number, len(ports))
	}
	return nil, reasons
}

func chooseGID(name string, p *port, addr netip.Addr, o *Options) (g gid, why string, err error) {
	if o.GIDIndex != "" {
		index, err := strconv.Atoi(o.GIDIndex)
		if err != nil || index < 0 || index > gidIndexMax {
			return g, "", fmt.Errorf("rdma: GID index %q: give a number, 0 to %d", o.GIDIndex, gidIndexMax)
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
	best, beyond := -1, -1
	for i := range p.gids {
		switch {
		case netip.AddrFrom16(p.gids[i].raw).Unmap() != addr.Unmap().WithZone(""):
		case p.gids[i].index > gidIndexMax:
			beyond = p.gids[i].index
		case best < 0 || p.gids[i].kind > p.gids[best].kind:
			best = i // RoCE v2 is greater than v1
		}
	}
	if best < 0 && beyond >= 0 {
		return g, "", fmt.Errorf("rdma: the GID of port %d of %s for the address %s has the index %d, and a queue pair takes %d at most: its interfaces have too many addresses",
			p.number, name, addr, beyond, gidIndexMax)
	}
	if best < 0 {
		return g, "", fmt.Errorf("rdma: port %d of %s has no GID for the address %s: is that its interface's? --rdma-gid-index chooses another (%w)",
			p.number, name, addr, errNoGID)
	}
	return p.gids[best], fmt.Sprintf("its GID for the address is %s", p.gids[best].kind), nil
}
