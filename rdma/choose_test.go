package rdma

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

// Which port and GID are chosen of devices that no test machine has.
func TestChoosePort(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.1")
	of := func(index int, kind gidKind, text string) gid {
		return gid{raw: netip.MustParseAddr(text).As16(), index: index, kind: kind}
	}
	eth := func(number int, active bool, gids ...gid) port {
		return port{number: number, active: active, state: map[bool]string{true: "active", false: "down"}[active], mtu: 3, linkIsEth: true, gids: gids}
	}
	ib := func(number int, active bool) port {
		p := eth(number, active, of(0, gidInfiniBand, "fe80::1"))
		p.linkIsEth = false
		return p
	}
	both := []gid{of(0, gidRoCE1, "fe80::1"), of(1, gidRoCE2, "fe80::1"), of(2, gidRoCE1, "10.0.0.1"), of(3, gidRoCE2, "10.0.0.1")}
	for name, c := range map[string]struct {
		ports  []port
		number int
		o      Options
		addr   netip.Addr

		port, gid int    // chosen
		reason    string // or why not
		is        error
	}{
		"RoCE v2 before v1":                   {ports: []port{eth(1, true, both...)}, port: 1, gid: 3},
		"v1 where there is no v2":             {ports: []port{eth(1, true, both[:3]...)}, port: 1, gid: 2},
		"an IPv4 address written as IPv6":     {ports: []port{eth(1, true, both...)}, addr: netip.MustParseAddr("::ffff:10.0.0.1"), port: 1, gid: 3},
		"an IPv6 address with a zone":         {ports: []port{eth(1, true, both...)}, addr: netip.MustParseAddr("fe80::1%eth0"), port: 1, gid: 1},
		"the port that has the address":       {ports: []port{eth(1, true, both[:2]...), eth(2, true, both...)}, port: 2, gid: 3},
		"by index, the port that is active":   {ports: []port{eth(1, false, both...), eth(2, true, both...)}, o: Options{GIDIndex: "0"}, port: 2, gid: 0},
		"InfiniBand, the port that is active": {ports: []port{ib(1, false), ib(2, true)}, port: 2, gid: 0},
		"none is active": {ports: []port{eth(1, false, both...), eth(2, false)}, is: errInactive,
			reason: "port 1 of dev0 is not active (down): see its cable and interface; rdma: port 2 of dev0 is not active (down)"},
		"not active, and so without GIDs":           {ports: []port{eth(1, false)}, is: errInactive, reason: "port 1 of dev0 is not active"},
		"no GID yet":                                {ports: []port{eth(1, true, both[:2]...)}, is: errNoGID, reason: "port 1 of dev0 has no GID for the address 10.0.0.1"},
		"only a GID that no queue pair can be told": {ports: []port{eth(1, true, of(256, gidRoCE2, "10.0.0.1"))}, reason: "has the index 256, and a queue pair takes 255 at most"},
		"v1, as v2 has an index that is too great":  {ports: []port{eth(1, true, of(256, gidRoCE2, "10.0.0.1"), of(2, gidRoCE1, "10.0.0.1"))}, port: 1, gid: 2},
		"another port is named":                     {ports: []port{eth(1, true, both...)}, number: 2, reason: "has no port 2: it has 1"},
		"an index beyond":                           {ports: []port{eth(1, true, both...)}, o: Options{GIDIndex: "256"}, reason: `GID index "256": give a number, 0 to 255`},
		"an index that is none":                     {ports: []port{eth(1, true, both...)}, o: Options{GIDIndex: "x"}, reason: `GID index "x"`},
	} {
		if !c.addr.IsValid() {
			c.addr = addr
		}
		got, err := choosePort("dev0", c.ports, c.number, c.addr, &c.o)
		switch {
		case c.reason == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.reason == "" && (got.port.number != c.port || got.gid.index != c.gid):
			t.Errorf("%s: %v", name, got)
		case c.reason != "" && (err == nil || !strings.Contains(err.Error(), c.reason) || strings.Contains(err.Error(), "\n")):
			t.Errorf("%s: %v, %v", name, got, err)
		case c.is != nil && !errors.Is(err, c.is):
			t.Errorf("%s: %v is not what is waited for: %v", name, err, c.is)
		}
	}
}
