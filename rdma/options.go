package rdma

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/rs/zerolog"
)

// Options say which device is used, and with how much memory. The zero value of each field stands for its default.
type Options struct {
	// Address is this replica's own for replication: the device is that of the interface that has it. Where it is unset or every address (0.0.0.0),
	// each channel's connection says which.
	Address netip.Addr
	// Device is the name of the device to use whatever the address, as rxe1 or mlx5_0, or with the port behind it, mlx5_0:2.
	Device string
	// GIDIndex is the index of the GID to use whatever the address, as a decimal number; empty: the one of the address.
	GIDIndex string

	RingBytes int // bytes of a ring, of which there are two for each peer: a power of two, 64 KiB to 1 GiB; 0: 1 MiB
	Depth     int // frames on their way to a peer at most: a power of two, 16 to 8192; 0: 256
	// AwaitPort is for those who can do without: New succeeds though the port of the address is not active; no channel can be had until it is, which Revived tells.
	AwaitPort bool
	// Peers is how many other replicas there are, for checking the limit of locked memory.
	Peers int

	// Detection is after how long without an answer the queue pair gives up; 0: 260 ms. It is rounded up to a multiple of 67 ms, 3 to 8 times that: what is
	// longer becomes 537 ms.
	Detection time.Duration
	// Silence is how long the device may take to say that something was sent, or could not be, before the channel is broken; 0: four times Detection,
	// at least 2 s. It covers what Detection does not: devices that say nothing.
	Silence time.Duration
	// Spin is for how long a receiver that finds nothing polls before it sleeps; 0: 10 µs, what a sleep and a wake-up cost; negative: not at all.
	Spin time.Duration

	Logger zerolog.Logger
}

// Defaults and limits of Options.
const (
	DefaultRingBytes = 1 << 20
	DefaultDepth     = 256
	defaultDetection = 260 * time.Millisecond
	minSilence       = 2 * time.Second
	defaultSpin      = 10 * time.Microsecond
)

// ErrNoDevice is why New fails where there is nothing that could be used.
var ErrNoDevice = errors.New("rdma: this machine has no RDMA device that libibverbs can use")

func isPowerOfTwo(n int) bool { return n > 0 && n&(n-1) == 0 }

// ValidRingBytes reports whether a ring may have n bytes.
func ValidRingBytes(n int) bool { return isPowerOfTwo(n) && n >= 64<<10 && n <= 1<<30 }

// ValidDepth reports whether n frames may be on their way to a peer.
func ValidDepth(n int) bool { return isPowerOfTwo(n) && n >= 16 && n <= 8192 }

// complete checks the options and fills in defaults.
func (o *Options) complete() error {
	if o.RingBytes == 0 {
		o.RingBytes = DefaultRingBytes
	}
	if o.Depth == 0 {
		o.Depth = DefaultDepth
	}
	switch {
	case !ValidRingBytes(o.RingBytes):
		return fmt.Errorf("rdma: a ring of %d bytes: give a power of two, 64k to 1024m", o.RingBytes)
	case !ValidDepth(o.Depth):
		return fmt.Errorf("rdma: a depth of %d frames: give a power of two, 16 to 8192", o.Depth)
	case o.Detection < 0 || o.Silence < 0 || o.Peers < 0:
		return errors.New("rdma: Detection, Silence and Peers cannot be negative")
	}
	if o.Detection == 0 {
		o.Detection = defaultDetection
	}
	if o.Silence == 0 {
		o.Silence = max(4*o.Detection, minSilence)
	}
	if o.Spin == 0 {
		o.Spin = defaultSpin
	}
	return nil
}

// What a queue pair holds besides frames.
const (
	reservedSends    = 16 // send requests that frames leave free for credit and signs of life
	reservedReceives = 16 // receive requests beyond the frames' for credit and the probe: see sendRing.credit
)

// MemoryPerPeer is how many bytes of locked memory a peer takes: two rings, and the device's queues, of which a request takes up to 256 bytes with
// its inlined data and a completion 64.
func (o *Options) MemoryPerPeer() int {
	sends, receives := o.Depth+reservedSends, o.Depth+reservedReceives+pollMax
	return 2*o.RingBytes + 256*sends + 16*receives + 64*(sends+receives)
}

// timeouts are a queue pair's, as ibv_modify_qp takes them: 4.096 µs · 2^timeout for each of retries + 1 tries. Below 2^14, 67 ms, a busy machine
// that is only late counts as lost.
func (o *Options) timeouts() (timeout, retries uint8) {
	const exponent, each = 14, 4096 << 14 * time.Nanosecond
	return exponent, uint8(min(max((o.Detection+each-1)/each-1, 2), 7))
}
