package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"hermesd/replication/views"
)

// strike does what a fault does, for as long as it lasts, and heals it. An error is of the group, which could not be healed, or of this
// program, which could not strike.
func (g *Group) strike(ctx context.Context, f *Fault, serveLimit time.Duration) error {
	if err := pause(ctx, f.After); err != nil {
		return err
	}
	var victims []*Replica
	for _, number := range f.Victims {
		victims = append(victims, g.replicas[number])
	}
	each := func(do func(*Replica) error) error {
		var errs []error
		for _, r := range victims {
			errs = append(errs, do(r))
		}
		return errors.Join(errs...)
	}
	// lasting does one thing at the beginning and another one at the end, also where ctx ends before.
	lasting := func(begin, end func(*Replica) error) error {
		err := each(begin)
		_ = pause(ctx, f.Lasts)
		return errors.Join(err, each(end))
	}
	kill := func(r *Replica) error { r.Kill(); return nil }
	signal := func(sig syscall.Signal) func(*Replica) error {
		return func(r *Replica) error { r.Signal(sig); return nil }
	}
	cable := func(in bool) func(*Replica) error {
		return func(r *Replica) error { return g.network.SetCable(r.Number, in) }
	}
	switch f.Kind {
	case Kill, KillLeader, KillTwo, KillMost, KillWitness:
		return lasting(kill, (*Replica).Start)
	case Wipe:
		return lasting(kill, func(r *Replica) error { return errors.Join(r.Wipe(), r.Start()) })
	case Stop:
		return lasting((*Replica).Stop, (*Replica).Start)
	case RestartLoop:
		return g.restartLoop(ctx, f, victims[0])
	case Pause, PauseLeader, Blink:
		return lasting(signal(syscall.SIGSTOP), signal(syscall.SIGCONT))
	case Cable, CableLeader:
		return lasting(cable(false), cable(true))
	case Flap:
		var errs []error
		for step := range flapSteps {
			errs = append(errs, each(cable(step%2 == 1)))
			_ = pause(ctx, f.Lasts/flapSteps)
		}
		return errors.Join(errs...)
	case Deaf, Mute, Partial, PartialOne, Loss, Slow:
		err := g.setRules(f, rulesOf(f, g.shape))
		_ = pause(ctx, f.Lasts)
		return errors.Join(err, g.setRules(f, nil))
	case DiskFull, DiskLeader:
		return lasting(func(r *Replica) error { r.forgive = true; return r.FillDisk() }, refreshDisk)
	case DiskKill:
		full, killed := victims[0], victims[1]
		full.forgive = true
		err := full.FillDisk()
		killed.Kill()
		_ = pause(ctx, f.Lasts)
		return errors.Join(err, refreshDisk(full), killed.Start())
	case Grow:
		return g.grow(ctx, f, serveLimit)
	}
	return fmt.Errorf("no such fault: %s", f.Kind)
}

// flapSteps is even: at the end the cable is in.
const flapSteps = 8

// restartLoop kills a replica and starts it, each time after it has run for a little longer.
func (g *Group) restartLoop(ctx context.Context, f *Fault, r *Replica) error {
	runs := 20 * time.Millisecond
	for lasted := time.Duration(0); lasted < f.Lasts && ctx.Err() == nil; lasted += runs {
		r.Kill()
		if err := r.Start(); err != nil {
			return err
		}
		runs = runs * 3 / 2
		_ = pause(ctx, runs)
	}
	return nil
}

// refreshDisk ends a full disk. A replica that has ended for it is started again.
func refreshDisk(r *Replica) error {
	err := r.EmptyDisk()
	if !r.Running() {
		err = errors.Join(err, r.Start())
	}
	r.forgive = false
	return err
}

// rulesOf are the rules of a fault, by the replica at which they are in force.
func rulesOf(f *Fault, s Shape) map[int]Rules {
	victim := f.Victims[0]
	var others []int
	for number := 1; number <= s.votes(); number++ {
		if number != victim {
			others = append(others, number)
		}
	}
	atOthers := func(r Rules) map[int]Rules {
		all := map[int]Rules{}
		for _, number := range others {
			all[number] = r
		}
		return all
	}
	switch f.Kind {
	case Deaf:
		return map[int]Rules{victim: {DropFrom: others}}
	case Mute:
		return atOthers(Rules{DropFrom: []int{victim}})
	case Partial:
		return map[int]Rules{victim: {DropFrom: f.Victims[1:]}, f.Victims[1]: {DropFrom: f.Victims[:1]}}
	case PartialOne:
		return map[int]Rules{victim: {DropFrom: f.Victims[1:]}}
	case Loss:
		return map[int]Rules{victim: {LossPer: f.Level}}
	case Slow:
		all := atOthers(Rules{SlowFrom: []int{victim}, SlowKB: f.Level})
		all[victim] = Rules{SlowFrom: others, SlowKB: f.Level}
		return all
	}
	return nil
}

// setRules puts a fault's rules in force beside those of others; nil: takes them away.
func (g *Group) setRules(f *Fault, rules map[int]Rules) error {
	g.rulesLock.Lock()
	defer g.rulesLock.Unlock()
	var errs []error
	for _, r := range g.members() {
		_, had := g.rules[r.Number][f]
		now, has := rules[r.Number]
		if !had && !has {
			continue
		}
		if g.rules[r.Number] == nil {
			g.rules[r.Number] = map[*Fault]Rules{}
		}
		delete(g.rules[r.Number], f)
		if has {
			g.rules[r.Number][f] = now
		}
		var all Rules
		for _, one := range g.rules[r.Number] {
			all = all.add(one)
		}
		errs = append(errs, g.network.SetRules(r.Number, all))
	}
	return errors.Join(errs...)
}

// grow adds a replica to the group, and removes it when it has served for a while.
func (g *Group) grow(ctx context.Context, f *Fault, limit time.Duration) error {
	r := g.spare
	number := uint8(r.Number)
	if err := r.Wipe(); err != nil {
		return err
	}
	add := func(ctx context.Context, c *views.Client) error { return c.Add(ctx, number, replAddr(r.Number), false) }
	if err := g.operate(ctx, limit, number, true, add); err != nil {
		return fmt.Errorf("adding replica %d: %w", number, err)
	}
	if err := r.Start(); err != nil {
		return err
	}
	for begun := time.Now(); ; {
		err := serves(clientAddr(r.Number))
		if err == nil {
			break
		}
		if time.Since(begun) > limit {
			return fmt.Errorf("replica %d, which was added, does not serve within %v: %w", number, limit, err)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	if err := pause(ctx, f.Lasts); err != nil {
		return err
	}
	remove := func(ctx context.Context, c *views.Client) error { return c.Remove(ctx, number, false) }
	if err := g.operate(ctx, limit, number, false, remove); err != nil {
		return fmt.Errorf("removing replica %d: %w", number, err)
	}
	return r.Stop()
}
