package rdma

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// offer is what one end tells the other of itself in the handshake.
type offer struct {
	mtu    uint32 // as verbs count: 1 is 256 bytes, 5 is 4096
	global bool   // RoCE, or InfiniBand by GID: otherwise by LID
	kind   gidKind
	depth  uint32
	ring   uint32 // bytes
	qpn    uint32
	psn    uint32
	lid    uint32
	rkey   uint32
	at     uint64 // address of the ring that is written to
	gid    [16]byte
}

// On the wire: version 1 byte, mtu 1, global 1, kind of the GID 1, then the words as above, all little-endian.
const (
	offerVersion = 2
	offerSize    = 4 + 6*4 + 8 + 16
	mtuLeast     = 1
	mtuMost      = 5
)

func mtuBytes(mtu uint32) int { return 128 << mtu }

func (o *offer) append(b []byte) []byte {
	global := byte(0)
	if o.global {
		global = 1
	}
	b = append(b, offerVersion, byte(o.mtu), global, byte(o.kind))
	for _, word := range []uint32{o.depth, o.ring, o.qpn, o.psn, o.lid, o.rkey} {
		b = binary.LittleEndian.AppendUint32(b, word)
	}
	return append(binary.LittleEndian.AppendUint64(b, o.at), o.gid[:]...)
}

var errOffer = errors.New("its offer is not one that this version of hermesd understands")

// parseOffer reads the peer's offer, and says what is wrong with it where ours is own.
func parseOffer(b []byte, own *offer) (o offer, err error) {
	if len(b) > 0 && b[0] != offerVersion {
		return o, fmt.Errorf("it speaks version %d of RDMA channels and this replica version %d: run the same hermesd everywhere", b[0], offerVersion)
	}
	if len(b) != offerSize || b[1] < mtuLeast || b[1] > mtuMost || b[2] > 1 || b[3] > byte(gidRoCE2) {
		return o, errOffer
	}
	o.mtu, o.global, o.kind = uint32(b[1]), b[2] == 1, gidKind(b[3])
	for i, word := range []*uint32{&o.depth, &o.ring, &o.qpn, &o.psn, &o.lid, &o.rkey} {
		*word = binary.LittleEndian.Uint32(b[4+4*i:])
	}
	o.at = binary.LittleEndian.Uint64(b[28:])
	copy(o.gid[:], b[36:])
	switch {
	case o.ring != own.ring:
		return o, fmt.Errorf("its rings have %d bytes and this replica's %d: give all the same --rdma-ring", o.ring, own.ring)
	case o.depth != own.depth:
		return o, fmt.Errorf("its queues hold %d frames and this replica's %d: give all the same --rdma-depth", o.depth, own.depth)
	case o.qpn >= 1<<24 || o.psn >= 1<<24 || o.lid >= 1<<16:
		return o, errOffer
	case o.kind != own.kind || o.kind != gidInfiniBand && isIPv4(o.gid) != isIPv4(own.gid):
		// Their packets differ, so nothing would arrive.
		return o, fmt.Errorf("its GID %s is one of %s and this replica's %s one of %s: give all replicas GIDs of one kind, and all IPv4 or all IPv6 (--rdma-gid-index)",
			gidText(o.gid), o.kind, gidText(own.gid), own.kind)
	}
	return o, nil
}

func isIPv4(gid [16]byte) bool { return netip.AddrFrom16(gid).Is4In6() }
