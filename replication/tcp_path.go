package replication

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"hermesd/replication/views"
)

// How two members agree on a path (path.go). After the HELLOs, where each has said that it has one, PATH goes back and forth: the dialler's
// offer, the listener's once it has connected to that, the dialler's verdict after it has connected and tried the path, and the listener's
// after it has tried it too. Each carries a 1 and what it says, or a 0 and a reason in words, which is the last PATH of this connection: its
// messages go over TCP then.
//
// Both ends try, since bytes may pass in one direction only, or small ones only; and the listener tries second, because the dialler's end is not
// connected before, and would drop what comes.
const (
	pathOfferMax     = 1 << 10
	pathProbeTimeout = 1 * time.Second // for one end's try; HandshakeTimeout bounds the whole
)

var errPathAgain = errors.New("the reason why it did not use its path may have passed: it is set up again")

// pathTalk is one end of that conversation.
type pathTalk struct {
	peer *tcpPeer
	conn *net.TCPConn
	ctx  context.Context // the listing's
	end  PathEnd
}

// agreed is how a channel's messages go.
type agreed struct {
	end   PathEnd // nil: over TCP
	why   string  // over TCP: the reason, if something else was wanted
	again bool    // over TCP, though both have a path: it might be had another time
}

// choosePath agrees with the peer, whose HELLO is h, how the channel's messages go. An error ends the connection.
func (p *tcpPeer) choosePath(conn *net.TCPConn, l *listing, h *hello, dialled bool) (agreed, error) {
	t := p.transport
	switch {
	case t.cfg.Path == nil:
		return agreed{why: t.cfg.NoPath}, nil
	case !h.path: // in all of its life
		return agreed{why: fmt.Sprintf("member %d: %s", h.from.Number, h.noPath)}, nil
	}
	var why string
	var err error
	talk := pathTalk{peer: p, conn: conn, ctx: l.ctx}
	if dialled {
		why, err = talk.dialler()
	} else {
		why, err = talk.listener()
	}
	if err == nil && why != "" && t.cfg.PathOnly {
		err = refuse("member %d is to use nothing but %s, and that cannot be set up: %s", l.self.Number, t.cfg.Path.Name(), why)
	}
	if err == nil && why == "" {
		return agreed{end: talk.end}, nil
	}
	if talk.end != nil {
		talk.end.Close()
	}
	return agreed{why: why, again: true}, err
}

func (c *pathTalk) dialler() (why string, err error) {
	ours := c.open()
	if why, err = c.say(c.offer(), ours); why != "" || err != nil {
		return why, err
	}
	offer, why, err := c.hear()
	if why != "" || err != nil {
		return why, err
	}
	if ours = c.end.Connect(offer); ours == nil {
		ours = c.probe()
	}
	if why, err = c.say(nil, ours); why != "" || err != nil {
		return why, err
	}
	_, why, err = c.hear()
	return why, err
}

func (c *pathTalk) listener() (why string, err error) {
	offer, why, err := c.hear()
	if why != "" || err != nil {
		return why, err
	}
	ours := c.open()
	if ours == nil {
		ours = c.end.Connect(offer)
	}
	if why, err = c.say(c.offer(), ours); why != "" || err != nil {
		return why, err
	}
	if _, why, err = c.hear(); why != "" || err != nil {
		return why, err
	}
	return c.say(nil, c.probe())
}

func (c *pathTalk) open() (err error) {
	var local netip.Addr
	if a, ok := c.conn.LocalAddr().(*net.TCPAddr); ok {
		local = a.AddrPort().Addr().Unmap()
	}
	c.end, err = c.peer.transport.cfg.Path.Open(c.peer.number, local)
	return err
}

func (c *pathTalk) offer() []byte {
	if c.end == nil {
		return nil
	}
	return c.end.Offer()
}

func (c *pathTalk) probe() error {
	ctx, cancel := context.WithTimeout(c.ctx, pathProbeTimeout)
	defer cancel()
	return c.end.Probe(ctx)
}

// say tells the peer what it needs, or why we cannot.
func (c *pathTalk) say(b []byte, cannot error) (why string, err error) {
	ok := byte(1)
	if cannot != nil {
		why = cannot.Error()
		b, ok = shorten(why), 0
	}
	_, err = c.conn.Write(appendGreeting(nil, greetPath, append([]byte{ok}, b...)))
	return why, err
}

// hear is what the peer has said.
func (c *pathTalk) hear() (b []byte, why string, err error) {
	b, err = expectGreeting(c.conn, greetPath)
	switch {
	case err != nil:
		return nil, "", err
	case len(b) < 1 || b[0] == 1 && len(b) > 1+pathOfferMax:
		return nil, "", errNotOurs
	case b[0] != 1:
		return nil, fmt.Sprintf("member %d: %s", c.peer.number, printable(b[1:])), nil
	}
	return b[1:], "", nil
}

// liveChannel is a channel and the connection that it belongs to.
type liveChannel struct {
	Channel
	member Member
	conn   *net.TCPConn
	path   string // how the messages go, for people
	why    string // over TCP: why not otherwise; empty where nothing else was wanted
	again  bool   // a path was wanted and might be had another time
}

// newChannel makes a channel of a connection on which a path has been agreed, or none.
func (p *tcpPeer) newChannel(member Member, conn *net.TCPConn, how agreed) (*liveChannel, error) {
	t := p.transport
	if how.end == nil {
		ch, err := newTCPChannel(p, member, conn)
		if err != nil {
			return nil, err
		}
		return &liveChannel{Channel: ch, member: member, conn: conn, path: "tcp", why: how.why, again: how.again}, nil
	}
	ch := how.end.Channel(ChannelConfig{Member: member, ValueMax: t.cfg.ValueMax, OutLimit: t.cfg.OutLimit, Counters: &p.stats.ChannelCounters,
		// A deadline is the runtime's own, and no system call: it ends whoever reads or writes the connection.
		Ended: func() { _ = conn.SetDeadline(time.Unix(1, 0)) }})
	return &liveChannel{Channel: ch, member: member, conn: conn, path: t.cfg.Path.Name()}, nil
}

// watchLifeLine breaks the channel when the connection does, over which nothing is sent where there is a path.
func (ch *liveChannel) watchLifeLine() {
	var b [1]byte
	_, err := ch.conn.Read(b[:])
	if err == nil {
		err = errors.New("bytes on a connection whose messages go elsewhere")
	}
	ch.Break(err)
}

// retryPaths breaks the channels that have fallen back to TCP, each time that the path says that it might work now.
func (t *TCP) retryPaths() {
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-t.cfg.Path.Revived():
		}
		for i := range t.peers {
			if p := t.peers[i].Load(); p != nil {
				if ch := p.channel.Load(); ch != nil && ch.again {
					ch.Break(errPathAgain)
				}
			}
		}
	}
}

// Channels are those that there are at the moment: over rdma or tcp, and why over tcp where that was not the only thing wanted.
func (t *TCP) Channels() []views.Channel {
	var all []views.Channel
	for number := range t.peers {
		p := t.peers[number].Load()
		if p == nil || !t.isListed(p) {
			continue
		}
		if ch := p.channel.Load(); ch != nil {
			all = append(all, views.Channel{Peer: uint8(number), Transport: ch.path, Reason: ch.why})
		}
	}
	return all
}
