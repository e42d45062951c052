package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"hermesd/replication/views"
)

// Group is the replicas of one round.
type Group struct {
	shape    Shape
	network  Network
	replicas []*Replica // by number, from 1; the witness is the last
	spare    *Replica   // has no place in the group until it gets one

	rulesLock sync.Mutex // faults of an episode strike at the same time
	rules     map[int]map[*Fault]Rules
}

// newGroup makes the replicas of a group, with empty disks, and starts none.
func newGroup(shape Shape, place *Place, binary, logs string) (*Group, error) {
	g := &Group{shape: shape, network: place.network(), replicas: []*Replica{nil}, rules: map[int]map[*Fault]Rules{}}
	members := shape.votes()
	for number := 1; number <= members+1; number++ {
		isWitness := shape.Witness && number == members
		disk := place.disk(number)
		r := &Replica{Number: number, Witness: isWitness, binary: binary, network: g.network, disk: disk,
			logPath: filepath.Join(logs, fmt.Sprintf("replica%d.log", number))}
		r.args = replicaArgs(shape, number, isWitness, groupText(max(members, number)), filepath.Join(disk, "data"))
		if err := r.Wipe(); err != nil {
			return nil, err
		}
		if number <= members {
			g.replicas = append(g.replicas, r)
		} else {
			g.spare = r
		}
	}
	return g, os.MkdirAll(logs, 0o755)
}

// members are the replicas that have a place in the group, and the witness.
func (g *Group) members() []*Replica { return g.replicas[1:] }

// data are those that hold data.
func (g *Group) data() []*Replica { return g.replicas[1 : g.shape.Replicas+1] }

// servers are the clients' addresses of data.
func (g *Group) servers() (all []string) {
	for _, r := range g.data() {
		all = append(all, clientAddr(r.Number))
	}
	return all
}

// start starts all and waits until they serve.
func (g *Group) start(ctx context.Context, limit time.Duration) error {
	for _, r := range g.members() {
		if err := r.Start(); err != nil {
			return err
		}
	}
	return g.awaitServing(ctx, limit)
}

// kill ends all at once.
func (g *Group) kill() {
	for _, r := range append(g.members(), g.spare) {
		r.Kill()
	}
}

// stop ends all by SIGTERM, all at once.
func (g *Group) stop() error {
	results := make(chan error)
	for _, r := range g.members() {
		go func() { results <- r.Stop() }()
	}
	var errs []error
	for range g.members() {
		errs = append(errs, <-results)
	}
	return errors.Join(errs...)
}

// fallen is an error if a process has ended by itself.
func (g *Group) fallen() error {
	var errs []error
	for _, r := range append(g.members(), g.spare) {
		errs = append(errs, r.Fallen())
	}
	return errors.Join(errs...)
}

// awaitServing waits until all replicas serve and the control plane lists all of them as serving.
func (g *Group) awaitServing(ctx context.Context, limit time.Duration) error {
	begun := time.Now()
	for {
		err := g.serving(ctx)
		if err == nil {
			return nil
		}
		if fallen := g.fallen(); fallen != nil {
			return fallen
		}
		if time.Since(begun) > limit {
			return fmt.Errorf("not all serve within %v: %w", limit, err)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// serving says who does not serve, and why.
func (g *Group) serving(ctx context.Context) error {
	var errs []error
	for _, r := range g.data() {
		if err := serves(clientAddr(r.Number)); err != nil {
			errs = append(errs, fmt.Errorf("replica %d: %w", r.Number, err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	status, err := g.status(ctx)
	if err != nil {
		return err
	}
	for _, slot := range status.Slots {
		if !slot.Witness && slot.State != "serving" {
			errs = append(errs, fmt.Errorf("replica %d is %s: %s", slot.Number, slot.State, slot.Why))
		}
	}
	if len(status.Slots) != len(g.members()) {
		errs = append(errs, fmt.Errorf("the group has %d places, want %d", len(status.Slots), len(g.members())))
	}
	return errors.Join(errs...)
}

// serves says why a replica does not serve.
func serves(addr string) error {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := io.WriteString(conn, "stats replication\r\n"); err != nil {
		return err
	}
	state, reason := "", ""
	for in := bufio.NewReader(conn); ; {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "STAT state "):
			state = strings.TrimPrefix(line, "STAT state ")
		case strings.HasPrefix(line, "STAT reason "):
			reason = strings.TrimPrefix(line, "STAT reason ")
		case line == "END" && state == "serving":
			return nil
		case line == "END":
			return fmt.Errorf("%s: %s", state, reason)
		}
	}
}

// status asks the control plane, through whoever answers.
func (g *Group) status(ctx context.Context) (status views.GroupStatus, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	err = errors.New("no process runs")
	for _, r := range g.members() {
		if !r.Running() {
			continue
		}
		if status, err = statusOf(ctx, r.Number); err == nil && status.Leader != 0 {
			return status, nil
		}
	}
	if err == nil {
		err = errors.New("nobody leads: " + status.Note)
	}
	return status, err
}

func statusOf(ctx context.Context, number int) (views.GroupStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	c, err := views.Dial(ctx, replAddr(number))
	if err != nil {
		return views.GroupStatus{}, err
	}
	defer c.Close()
	return c.Status(ctx)
}

// leader is the number of the control plane's leader, 0 if there is none.
func (g *Group) leader(ctx context.Context) int {
	status, err := g.status(ctx)
	if err != nil {
		return 0
	}
	return int(status.Leader)
}

// operate asks the control plane for a change until number has a place, or has none, as wanted. Where the answer gets lost, or nobody leads for a
// while, it asks again.
func (g *Group) operate(ctx context.Context, limit time.Duration, number uint8, wanted bool, do func(context.Context, *views.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		status, err := g.status(ctx)
		if err == nil {
			if _, has := status.Slot(number); has == wanted {
				return nil
			}
			var c *views.Client
			if c, err = views.Dial(ctx, replAddr(int(status.Leader))); err == nil {
				err = do(ctx, c)
				c.Close()
			}
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			return err
		}
	}
}
