package views

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/rpc"
	"time"
)

// Client is an operator's connection to any server of a group.
type Client struct{ rpc *rpc.Client }

// Dial connects to a server's replication address.
func Dial(ctx context.Context, addr string) (*Client, error) {
	timeout := operateTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(deadline))
	}
	conn, err := dialer(dialTCP).open(addr, string(forCalls), timeout)
	if err != nil {
		return nil, fmt.Errorf("no server of a group at %s: %w", addr, err)
	}
	return &Client{rpc.NewClient(&answers{Conn: conn, from: addr})}, nil
}

// answers notices who answers as a memcached does: the address is one for clients.
type answers struct {
	net.Conn
	from  string
	known bool
}

func (a *answers) Read(b []byte) (int, error) {
	n, err := a.Conn.Read(b)
	if !a.known && bytes.HasPrefix(b[:n], []byte("ERROR\r\n")) {
		return 0, fmt.Errorf("%s is an address for clients: give the replication address of a replica", a.from)
	}
	a.known = a.known || n > 0
	return n, err
}

// Close ends the connection.
func (c *Client) Close() error { return c.rpc.Close() }

func (c *Client) operate(ctx context.Context, o Operation) (GroupStatus, error) {
	out, err := ask[Outcome](ctx, c, methodOperate, o)
	return out.Status, err
}

// ask calls a method, and gives up when ctx ends.
func ask[Reply any](ctx context.Context, c *Client, method string, question any) (Reply, error) {
	reply := new(Reply) // not to be looked at before the call is done
	pending := c.rpc.Go(method, question, reply, make(chan *rpc.Call, 1))
	select {
	case <-pending.Done:
		return *reply, pending.Error
	case <-ctx.Done():
		var none Reply
		return none, ctx.Err()
	}
}

// Channels are those that the replica at the other end has with others.
func (c *Client) Channels(ctx context.Context) ([]Channel, error) {
	return ask[[]Channel](ctx, c, methodChannels, ChannelsQuery{})
}

// Status asks how the group is.
func (c *Client) Status(ctx context.Context) (GroupStatus, error) {
	return c.operate(ctx, Operation{Status: true})
}

// Add makes a place for a replica, or a witness. A process that is started with the number and the address fills it.
func (c *Client) Add(ctx context.Context, number uint8, address string, witness bool) error {
	_, err := c.operate(ctx, Operation{Request: Request{Add: &Slot{Number: number, Address: address, Witness: witness}}})
	return err
}

// Remove gives up a place, and returns when the replica has left the view and the place is gone. force: also if it is the last that serves,
// and everything is lost.
func (c *Client) Remove(ctx context.Context, number uint8, force bool) error {
	if _, err := c.operate(ctx, Operation{Request: Request{Remove: number, Force: force}}); err != nil {
		return err
	}
	return c.until(ctx, func(s *GroupStatus) bool {
		_, ok := s.Slot(number)
		return s.Leader != 0 && !ok
	})
}

// Replace moves a place to another address, and returns when the replica has left the view and a process at the new address may fill the
// place.
func (c *Client) Replace(ctx context.Context, number uint8, address string) error {
	if _, err := c.operate(ctx, Operation{Request: Request{Replace: number, Address: address}}); err != nil {
		return err
	}
	return c.until(ctx, func(s *GroupStatus) bool {
		slot, ok := s.Slot(number)
		return s.Leader != 0 && (!ok || slot.Address == address)
	})
}

// pollInterval is after which an operator's client looks again.
const pollInterval = 50 * time.Millisecond

func (c *Client) until(ctx context.Context, done func(*GroupStatus) bool) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		s, err := c.Status(ctx)
		if err != nil {
			return err
		}
		if done(&s) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("it has been noted, and is done when it can be: %w", ctx.Err())
		}
	}
}
