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
	return chooseOn(name, number, why, addr, o, open, gidPatience)
}

// chooseOn is choose where the device is known, and with a patience of one's own.
func chooseOn(name string, number int, why string, addr netip.Addr, o *Options, open func(name string) (*device, error), patience time.Duration) (*choice, error) {
	d, err := open(name)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(gidInterval) {
		ports, err := d.ports()
		if err != nil {
			return nil, err
		}
		c, err := choosePort(name, ports, number, addr, o)
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
				if found, ok := netip.AddrFromSlice(n.IP); ok && found.Unmap() == addr.Unmap().WithZone("") {
					return links[i].Name, nil
				}
			}
		}
	}
	return "", fmt.Errorf("rdma: no interface of this machine has the address %s", addr)
}
