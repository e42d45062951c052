package rdma

import (
	"net/netip"
	"strings"
	"testing"
)

func testOffer() offer {
	return offer{mtu: 5, global: true, kind: gidRoCE2, depth: 256, ring: 1 << 20, qpn: 17, psn: 99, rkey: 7, at: 1 << 40, gid: netip.MustParseAddr("10.0.0.1").As16()}
}

// Ends that are configured differently say what is different, and what to do.
func TestOffersThatDoNotFit(t *testing.T) {
	for _, c := range []struct {
		change func(o *offer)
		want   string // empty: it fits
	}{
		{func(o *offer) {}, ""},
		{func(o *offer) { o.mtu, o.qpn, o.psn, o.at = 1, 1<<24-1, 0, 0 }, ""},
		{func(o *offer) { o.gid = netip.MustParseAddr("10.9.9.9").As16() }, ""},
		{func(o *offer) { o.ring *= 2 }, "its rings have 2097152 bytes and this replica's 1048576: give all the same --rdma-ring"},
		{func(o *offer) { o.depth = 16 }, "its queues hold 16 frames and this replica's 256: give all the same --rdma-depth"},
		{func(o *offer) { o.kind = gidRoCE1 }, "its GID ::ffff:10.0.0.1 is one of RoCE v1 and this replica's ::ffff:10.0.0.1 one of RoCE v2"},
		{func(o *offer) { o.kind = gidInfiniBand }, "one of InfiniBand"},
		{func(o *offer) { o.gid = netip.MustParseAddr("fe80::1").As16() }, "all IPv4 or all IPv6 (--rdma-gid-index)"},
		{func(o *offer) { o.qpn = 1 << 24 }, errOffer.Error()},
		{func(o *offer) { o.psn = 1 << 24 }, errOffer.Error()},
		{func(o *offer) { o.lid = 1 << 16 }, errOffer.Error()},
		{func(o *offer) { o.mtu = 6 }, errOffer.Error()},
		{func(o *offer) { o.kind = 3 }, errOffer.Error()},
	} {
		own, its := testOffer(), testOffer()
		c.change(&its)
		_, err := parseOffer(its.append(nil), &own)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v instead of %q", its, err, c.want)
		}
	}
	own := testOffer()
	if _, err := parseOffer([]byte{offerVersion + 1}, &own); err == nil || !strings.Contains(err.Error(), "run the same hermesd everywhere") {
		t.Errorf("an offer of another version: %v", err)
	}
}

// Whatever comes as an offer, it is refused in words or is one that the end can use.
func FuzzParseOffer(f *testing.F) {
	o := testOffer()
	f.Add(o.append(nil))
	f.Add([]byte{})
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		own := testOffer()
		got, err := parseOffer(b, &own)
		if err != nil {
			return
		}
		if again := got.append(nil); string(again) != string(b) {
			t.Errorf("%x becomes %x", b, again)
		}
		if got.mtu < 1 || got.mtu > 5 || got.ring != own.ring || got.depth != own.depth || got.kind != own.kind {
			t.Errorf("accepted: %+v", got)
		}
	})
}
