package views

import (
	"context"
	"sync"

	"github.com/hashicorp/raft"
)

// This file is the driver's side of Holder: heartbeats, and what the host is told.

// pong is the answer of a member to whom a replica that would join has spoken.
type pong struct {
	epoch uint64
	at    int64
}

// beat sends the heartbeat if it is due, and returns when the next one is.
func (d *Driver) beat(now int64) int64 {
	due := d.holder.Due()
	if d.reign != 0 && d.leader.relies(now) {
		due += int64(d.timing.late() - d.timing.Heartbeat) // it goes with the next that arrives; see arrives
	}
	switch {
	case d.reborn || now < due:
		return max(due, now)
	case d.hasLeft():
		return now + int64(d.timing.Heartbeat)
	}
	d.sendBeat(now)
	return d.holder.Due()
}

// sendBeat sends a heartbeat now; or a probe, if the leader has not answered. A replica that is deaf would be kept in the view by heartbeats, and could not serve, since the
// answers do not arrive.
func (d *Driver) sendBeat(now int64) {
	h := d.holder
	to := d.leaderAddress()
	if d.reign == 0 && to != "" && d.elector.Lost(now) {
		h.Skip(now)
		d.probe(now, to, d.timing.Election, func() {
			if !d.elector.Lost(Now()) {
				d.holderHurry()
			}
		})
		return
	}
	if !h.InView() {
		d.ping(now)
	}
	b := h.Beat(now, d.cfg.Host.Status(), d.reachable(now))
	b.Term = d.raft.CurrentTerm()
	if d.reign != 0 {
		d.heartbeat(b, Mandate{Own: true}, func(a Answer) { d.answered(a) })
		return
	}
	if to != "" {
		reply := new(Answer)
		d.elector.Sent(now)
		d.linkFor(beats, to).call("", b, reply, func(err error) {
			if err != nil { // by this goroutine, perhaps
				d.mail.post(func() { d.leaderAnswered(to, now, false) })
				return
			}
			d.do(func() {
				d.leaderAnswered(to, now, reply.Leads)
				d.answered(*reply)
			})
		})
	}
}

// arrives takes a heartbeat of another process. This one's own goes before it if it is due soon: the answer tells when it was, and what comes back answers it.
//
// Voters learn whom they have elected from its first message, two commits before its reign begins (see accede). What they send then waits for that: leases are old by now, and the next
// heartbeats come an interval later. Of each number the newest waits.
func (d *Driver) arrives(b Heartbeat, reply func(Answer)) {
	if d.reign == 0 && d.raft.State() == raft.Leader {
		if e, ok := d.early[b.From.Number]; ok {
			e.reply(e.beat.changing())
		}
		d.early[b.From.Number] = earlyBeat{b, reply}
		return
	}
	now := Now()
	if d.reign != 0 && d.holder != nil && !d.reborn && !d.hasLeft() && d.holder.Due()-now <= int64(d.timing.Heartbeat/2) {
		d.sendBeat(now)
	}
	m := d.mandate(b.Server)
	if m.Voter && m.Leads && b.Term <= d.term {
		d.voters[b.Server] = now // as good as a confirmation
	}
	d.heartbeat(b, m, reply)
}

// heartbeat takes one for the leader, from this process or another; reply is called once, with the state locked.
func (d *Driver) heartbeat(b Heartbeat, m Mandate, reply func(Answer)) {
	id := heartbeatID{b.From, b.Sent}
	if d.answers[id] != nil {
		reply(Answer{To: b.From, Sent: b.Sent, Why: "the heartbeat has come twice"})
		return
	}
	d.answers[id] = reply
	d.leader.Heartbeat(Now(), b, m)
}

// mandate is what raft says now, when a heartbeat of a server has arrived.
func (d *Driver) mandate(sender string) (m Mandate) {
	if d.reign == 0 {
		return m
	}
	self := false // a leader that removes itself is no part of any majority
	for _, s := range d.raft.GetConfiguration().Configuration().Servers {
		switch server := string(s.ID); {
		case s.Suffrage != raft.Voter:
		case server == d.cfg.Store.Server():
			self = true
		default:
			m.Others = append(m.Others, server)
			m.Voter = m.Voter || server == sender
		}
	}
	m.Leads = d.leads(d.term) && self
	return m
}

func (d *Driver) answered(a Answer) {
	if d.reborn {
		return
	}
	d.setWhy(a.Why)
	d.keptOut(Now(), a.Why)
	d.effect(d.holder.Answer(Now(), a))
}

// keptOut logs, once, what has kept the replica out of the view for a while.
func (d *Driver) keptOut(now int64, why string) {
	if d.holder.InView() {
		why = ""
	}
	if why != d.outWhy {
		d.outWhy, d.outSince, d.outSaid = why, now, false
	}
	if why != "" && !d.outSaid && now-d.outSince > int64(10*d.timing.SuspectAfter) {
		d.outSaid = true
		d.log.Warn().Msg(why)
	}
}

// adopt takes a view from raft's log or from the leader's round.
func (d *Driver) adopt(v View, used uint64) {
	if d.holder != nil && !d.reborn {
		d.effect(d.holder.Adopt(v, used))
	}
}

func (d *Driver) effect(e Effect) {
	if d.holder.leaving {
		if d.holder.Left() {
			d.setLeft()
		}
		return
	}
	if e.Restart != 0 {
		d.log.Warn().Stringer("incarnation", d.holder.Self()).Stringer("view", d.holder.View()).
			Msg("this replica has been removed from the view: it forgets its items and joins again")
		d.reborn = true
		d.cfg.Host.Renew(0)
		d.host.restart(e.Restart)
		return
	}
	if e.Enter != nil {
		d.setWhy("") // what kept it out is over
		d.host.enter(*e.Enter)
	}
	if e.Renew != 0 {
		d.cfg.Host.Renew(e.Renew)
	}
}

// begin is told when the host has begun a new life.
func (d *Driver) begin(self Member) {
	d.reborn = false
	d.holder.Begin(self)
	d.effect(d.holder.Adopt(d.fsmView()))
}

func (d *Driver) fsmView() (View, uint64) {
	group := d.fsm.get()
	return group.View, group.Used[d.cfg.Number]
}

func (d *Driver) newLeader() {
	d.holderHurry()
}

func (d *Driver) holderHurry() {
	if d.holder != nil {
		d.holder.Hurry(Now())
	}
}

// Hurry sends the next heartbeat at once: Host.Status has something new to say.
func (d *Driver) Hurry() { d.mail.post(d.holderHurry) }

// ping asks all members of the view whether they and this replica reach each other.
func (d *Driver) ping(now int64) {
	v := d.holder.View()
	for m := range d.pongs {
		if !v.Has(m) {
			delete(d.pongs, m)
		}
	}
	for _, r := range v.Members {
		reply := new(Pong)
		d.link(r.Address).call(methodPing, Ping{Back: d.cfg.Address}, reply, func(err error) {
			if err != nil || reply.Member != r.Member {
				return
			}
			d.mail.post(func() {
				all := d.reachable(now) == v.Numbers()
				d.pongs[r.Member] = pong{epoch: v.Epoch, at: now}
				if !all && d.reachable(now) == v.Numbers() {
					d.holder.Hurry(Now())
				}
			})
		})
	}
}

// reachable is the set of the members of the view that have lately answered.
func (d *Driver) reachable(now int64) (set uint64) {
	v := d.holder.View()
	for _, r := range v.Members {
		if p, ok := d.pongs[r.Member]; ok && p.epoch == v.Epoch && now-p.at < int64(3*d.timing.Heartbeat) {
			set |= bit(r.Number)
		}
	}
	return set
}

// Leave gives up the lease, so that the replica serves no more, and returns when the view is without it, or nothing better can be
// had: it is the last one that serves, or ctx has ended. The view changes at once, without anybody waiting for a lease. Close follows.
func (d *Driver) Leave(ctx context.Context) error {
	if d.cfg.Host == nil {
		return nil
	}
	d.cfg.Host.Renew(0)
	err := d.ask(ctx, func() {
		d.cfg.Host.Renew(0) // one may have been under way
		d.holder.Leave(Now())
		if d.holder.Left() {
			d.setLeft()
		}
	})
	if err != nil {
		return err
	}
	select {
	case <-d.left:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-d.quit:
		return errClosing
	}
}

func (d *Driver) hasLeft() bool {
	select {
	case <-d.left:
		return true
	default:
		return false
	}
}

func (d *Driver) setLeft() {
	if !d.hasLeft() {
		close(d.left)
	}
}

// Why says in words why the replica is not in the view, or its lease is not renewed; empty: nothing is known.
func (d *Driver) Why() string {
	d.whyMu.Lock()
	defer d.whyMu.Unlock()
	return d.why
}

func (d *Driver) setWhy(why string) {
	d.whyMu.Lock()
	d.why = why
	d.whyMu.Unlock()
}

// hostWorker calls Enter and Restart, which may take their time, one at a time.
type hostWorker struct {
	d    *Driver
	bell chan struct{}

	mu       sync.Mutex
	view     *View  // to enter
	restarts uint64 // to restart with an incarnation above this
}

func newHostWorker(d *Driver) *hostWorker { return &hostWorker{d: d, bell: make(chan struct{}, 1)} }

// enter: a newer view takes the place of one that the host has not begun to enter.
func (w *hostWorker) enter(v View) {
	w.mu.Lock()
	w.view = &v
	w.mu.Unlock()
	w.ring()
}

func (w *hostWorker) restart(above uint64) {
	w.mu.Lock()
	w.view, w.restarts = nil, above
	w.mu.Unlock()
	w.ring()
}

func (w *hostWorker) ring() {
	select {
	case w.bell <- struct{}{}:
	default:
	}
}

func (w *hostWorker) run() {
	for {
		select {
		case <-w.bell:
		case <-w.d.quit:
			return
		}
		w.mu.Lock()
		view, above := w.view, w.restarts
		w.view, w.restarts = nil, 0
		w.mu.Unlock()
		if above != 0 && !w.reborn(above) {
			return
		}
		if view != nil {
			w.d.cfg.Host.Enter(*view)
			w.d.Hurry() // the leader waits for it
		}
	}
}

// reborn restarts the host. Without a new incarnation on the disk it must not: it waits until there is one.
func (w *hostWorker) reborn(above uint64) bool {
	for tries := 0; ; tries++ {
		self, err := w.d.cfg.Store.NextIncarnation(above)
		if err == nil {
			w.d.cfg.Host.Restart(self)
			w.d.mail.post(func() { w.d.begin(self) })
			return true
		}
		w.d.setWhy("it was removed from the view and cannot join again: " + err.Error())
		if tries%60 == 0 {
			w.d.log.Error().Err(err).Msg("this replica cannot join again yet; make room in the data directory")
		}
		if !w.d.pause(matchInterval) {
			return false
		}
	}
}
