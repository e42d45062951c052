package replication

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
)

// Path is a way for the messages of a channel that is faster than its TCP connection: package rdma has one. The connection stays what sets the
// channel up, decides who may have one, and ends it: it is the channel's life line, and nothing else goes over it. So all that is difficult in
// setting up, incarnations, turns, listings, is the same whatever carries the messages.
//
// After the HELLOs, if both ends have a path, each opens an end, they tell each other what their ends are, connect them, and try them; only when
// both have seen bytes pass is the path used, or else the TCP connection is, and both know why (tcp_path.go).
//
// All methods may be called from any goroutine.
type Path interface {
	// Name is a word for people: "rdma".
	Name() string
	// Open prepares this end of one channel with a peer. local is the address of the connection's end here. An error says, in words for a log,
	// why this replica cannot have such a channel now; then TCP is used.
	Open(peer uint8, local netip.Addr) (PathEnd, error)
	// Stats calls f with what the path has counted for a peer over all its channels, always the same names.
	Stats(peer uint8, f func(name string, value uint64))
	// Revived is told when there is reason to believe that what failed at an end's set-up would not fail now; it may be nil. Channels that
	// fell back to TCP are set up anew then.
	Revived() <-chan struct{}
	// Close is called when no channel is left.
	Close() error
}

// PathEnd is one end of one channel's path. It is used by one goroutine until Channel, and closed by Close or through the Channel.
type PathEnd interface {
	// Offer is what the peer's Connect needs, at most a kilobyte.
	Offer() []byte
	// Connect takes what the peer offers, which may be anything, and connects this end with it. The peer's end need not be connected yet.
	Connect(offer []byte) error
	// Probe sends something large enough to show that the path works, and returns nil once the peer's end has received it. The peer must be connected.
	Probe(ctx context.Context) error
	// Channel makes a channel of the end, which is the Channel's from then on.
	Channel(cfg ChannelConfig) Channel
	// Close frees the end.
	Close()
}

// ChannelConfig says what a Channel made from a PathEnd serves.
type ChannelConfig struct {
	Member   Member // the peer
	ValueMax int    // bytes; TCPConfig's
	OutLimit int    // bytes; TCPConfig's, beyond what lies in memory that the peer has given credit for
	Counters *ChannelCounters
	// Ended is called once, by the first Break, from any goroutine and perhaps within Send: it must not block.
	Ended func()
}

// Channel is one connection's life with a peer: from the handshake until it breaks.
type Channel interface {
	// Send encodes m and enqueues it; false: the channel has ended. It does not block, and nothing is sent before Open.
	Send(m *Message) bool
	// Flush sends what was enqueued, as far as the peer can take it; the rest is left to Write.
	Flush()
	// Open lets the channel send: what was enqueued since it was made goes out first.
	Open()
	// Break ends the channel; the first reason counts. Read and Write return soon. It blocks for nobody, and Send may call it.
	Break(reason error)
	// Cause is why the channel has ended; nil: it has not.
	Cause() error
	// Read hands over what comes, in the manner of Handler, until the channel ends, and returns why. It is called once.
	Read(h Handler) error
	// Write sends what Flush could not, until the channel ends. It is called once, by a goroutine of its own.
	Write()
	// Close frees what the channel holds, after Read and Write have returned. Send and Flush may yet be called, and do nothing.
	Close()
}

// HandOver hands over the messages of a frame's payload in m, whose From is set; the first at least, and then until ended, the channel's, is set: Receive may have
// waited long, and what it dropped must not be followed by more than need be. It says how many there were; an error says what is wrong with the payload.
func HandOver(h Handler, payload []byte, m *Message, valueMax int, ended *atomic.Bool) (count uint64, err error) {
	for len(payload) > 0 {
		n, err := DecodeMessage(payload, m)
		if err != nil {
			return count, err
		}
		if len(m.Value) > valueMax {
			return count, fmt.Errorf("value of %d bytes is larger than ValueMax %d", len(m.Value), valueMax)
		}
		payload = payload[n:]
		count++
		h.Receive(m)
		if ended.Load() {
			break
		}
	}
	return count, nil
}

// ChannelCounters are what every kind of channel counts, for one peer over all its channels.
type ChannelCounters struct {
	BytesSent        atomic.Uint64
	MessagesSent     atomic.Uint64
	BatchesSent      atomic.Uint64 // frames
	BytesReceived    atomic.Uint64
	MessagesReceived atomic.Uint64
	BatchesReceived  atomic.Uint64
	Overflows        atomic.Uint64 // channels broken because OutLimit was reached
}

func (c *ChannelCounters) each(f func(name string, value uint64)) {
	f("bytes_sent", c.BytesSent.Load())
	f("messages_sent", c.MessagesSent.Load())
	f("batches_sent", c.BatchesSent.Load())
	f("bytes_received", c.BytesReceived.Load())
	f("messages_received", c.MessagesReceived.Load())
	f("batches_received", c.BatchesReceived.Load())
	f("overflows", c.Overflows.Load())
}
