package views

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// This file is the driver's side of Leader: elections, rounds, proposals, and raft's configuration.

// round is a question to all voters: is this still the leader?
type round struct {
	number, term, reign uint64
	began               int64
	votes, quorum       int
}

// led is told of elections won and lost. Leader's reign begins when all that was committed before has been applied here.
func (d *Driver) led(lead bool) {
	if d.reign != 0 {
		d.log.Info().Msg("this server does not lead the control plane any more")
	}
	d.reign = 0
	d.leader.Deposed()
	d.reigns++
	reign := d.reigns
	patience := d.cfg.patience
	if !lead {
		for number, e := range d.early {
			delete(d.early, number)
			e.reply(e.beat.changing())
		}
	}
	if lead {
		patience *= 3 // a longer one only means fewer heartbeats of raft
		go d.accede(reign)
	}
	rc := d.raft.ReloadableConfig()
	rc.HeartbeatTimeout, rc.ElectionTimeout = patience, patience
	if err := d.raft.ReloadConfig(rc); err != nil {
		d.log.Error().Err(err).Msg("raft does not take its times")
	}
}

func (d *Driver) accede(reign uint64) {
	for d.raft.State() == raft.Leader {
		term := d.raft.CurrentTerm()
		if d.raft.Barrier(0).Error() != nil {
			continue
		}
		if d.raft.State() != raft.Leader || d.raft.CurrentTerm() != term {
			continue
		}
		d.mail.post(func() {
			if d.reigns == reign {
				d.rule(reign, term)
			}
		})
		return
	}
}

// rule begins a reign.
func (d *Driver) rule(reign, term uint64) {
	d.reign, d.term, d.acceded = reign, term, Now()
	d.voters = map[string]int64{}
	d.log.Info().Uint64("term", term).Msg("this server leads the control plane")
	d.leader.Elected(Now(), d.fsm.get(), term)
	d.holderHurry()
	for number, e := range d.early {
		delete(d.early, number)
		d.arrives(e.beat, e.reply)
	}
}

// leads reports whether this is the leader that was elected in d.term. No majority knows of a later one if it has answered in that term.
func (d *Driver) leads(term uint64) bool {
	return d.raft.State() == raft.Leader && d.raft.CurrentTerm() == term
}

// carryOut does what Leader wants done and reports whether there was anything.
func (d *Driver) carryOut() bool {
	o := d.leader.Take()
	for _, a := range o.Answers {
		id := heartbeatID{a.To, a.Sent}
		if reply := d.answers[id]; reply != nil {
			delete(d.answers, id)
			reply(a)
		}
	}
	for _, r := range o.Results {
		if done := d.operators[r.ID]; done != nil {
			delete(d.operators, r.ID)
			if r.Err != "" {
				done(errors.New(r.Err))
			} else {
				done(nil)
			}
		}
	}
	if o.Propose != nil {
		c := *o.Propose
		c.Term = d.term
		go d.propose(c, d.reign)
	}
	if o.Round != 0 {
		d.beginRound(o.Round)
	}
	return len(o.Answers) > 0 || len(o.Results) > 0 || o.Propose != nil || o.Round != 0
}

// propose gives the command to raft. Only what has surely not happened is told as refused: an error of another kind comes with the loss of
// the leadership, which is told by itself.
func (d *Driver) propose(c Command, reign uint64) {
	f := d.raft.Apply(c.Encode(), 0)
	err := f.Error()
	if err == nil {
		err, _ = f.Response().(error)
		if err == nil {
			return // the group's change has been told
		}
	} else if !errors.Is(err, raft.ErrLeadershipTransferInProgress) && !errors.Is(err, raft.ErrEnqueueTimeout) {
		return
	}
	d.mail.post(func() {
		if d.reign == reign {
			d.leader.Refused(Now(), err.Error())
		}
	})
}

// beginRound asks every voter. raft has a call for it, VerifyLeader, but that counts answers to messages which it had sent before: with a leader that was
// stopped for a while, answers from before a later leader was elected. Here a voter says its term when it gets the question.
func (d *Driver) beginRound(number uint64) {
	r := &round{number: number, term: d.term, reign: d.reign, began: Now()}
	d.rounds[number] = r
	group := d.leader.Group()
	others := 0
	for _, s := range d.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		others++
		server := string(s.ID)
		if server == d.cfg.Store.Server() {
			r.votes++
			continue
		}
		q := Question{Server: server, Term: d.term}
		if n, _, err := parseServer(server); err == nil && d.leader.Entered(n) != group.View.Epoch {
			q.View, q.Used = group.View, group.Used[n]
		}
		reply := new(Confirmation)
		d.link(string(s.Address)).call(methodConfirm, q, reply, func(err error) {
			if err == nil {
				d.mail.post(func() { d.vote(r, reply) })
			}
		})
	}
	r.quorum = others/2 + 1
	d.tally(r)
}

// lookIn asks voters from which nothing has been heard for a while whether they are there: witnesses send no heartbeats, and rounds may be rare.
func (d *Driver) lookIn(now int64) {
	often := int64(d.callTimeout() / 3)
	if now < d.lookAt {
		return
	}
	d.lookAt = now + often
	reign, term := d.reign, d.term
	for _, s := range d.raft.GetConfiguration().Configuration().Servers {
		server := string(s.ID)
		if at, ok := d.voters[server]; s.Suffrage != raft.Voter || server == d.cfg.Store.Server() || ok && now-at < often {
			continue
		}
		reply := new(Confirmation)
		d.link(string(s.Address)).call(methodConfirm, Question{Server: server, Term: term}, reply, func(err error) {
			if err != nil {
				return
			}
			d.mail.post(func() {
				if d.reign == reign && reply.Term == term {
					d.voters[server] = Now()
				}
			})
		})
	}
}

func (d *Driver) vote(r *round, c *Confirmation) {
	if c.Term != r.term {
		return
	}
	d.voters[c.Server] = Now()
	r.votes++
	d.tally(r)
}

func (d *Driver) tally(r *round) {
	if r.votes < r.quorum || d.rounds[r.number] != r {
		return
	}
	delete(d.rounds, r.number)
	if d.reign == r.reign {
		d.leader.RoundDone(Now(), r.number, d.leads(r.term))
	}
}

// overdue ends rounds that have found no majority.
func (d *Driver) overdue(now int64) {
	for number, r := range d.rounds {
		if now-r.began > int64(d.timing.Lease) {
			delete(d.rounds, number)
			if d.reign == r.reign {
				d.leader.RoundDone(now, number, false)
			}
		}
	}
}

// committed is told of every change of the group, on every server.
func (d *Driver) committed(group Group) {
	now := Now()
	if d.reign != 0 {
		before, removed := d.leader.Group().View, d.leader.removed(now, group.View)
		d.leader.Committed(now, group)
		if v := group.View; v.Epoch != before.Epoch {
			e := d.log.Info().Stringer("view", v)
			if removed != "" {
				e = e.Str("removed", removed)
			}
			e.Msg("the view has changed")
			if v.Generation != before.Generation && before.Generation != 0 {
				d.log.Warn().Uint64("generation", v.Generation).Msg("no replica that served was left: the group begins anew, EMPTY")
			}
		}
		d.matchAt = 0
	}
	d.adopt(group.View, group.Used[d.cfg.Number])
}

// matchInterval is after which raft's configuration is compared with the group's slots again.
const matchInterval = time.Second

// match makes raft's servers those of the group's slots, one at a time, and forms the group out of raft's servers when it is new. It can be
// broken off anywhere: the next leader goes on.
func (d *Driver) match(now int64) {
	if d.matching || now < d.matchAt {
		return
	}
	d.matchAt = now + int64(matchInterval)
	servers := d.raft.GetConfiguration().Configuration().Servers
	group := d.leader.Group()
	if group.ID == "" {
		d.formGroup(servers)
		return
	}
	change := d.mismatch(servers, &group)
	if change == nil {
		return
	}
	d.matching = true
	go func() {
		err := change()
		d.mail.post(func() {
			d.matching = false
			if err == nil {
				d.matchAt = 0
			} else {
				d.log.Warn().Err(err).Msg("the servers of the control plane could not be changed; it is tried again")
			}
		})
	}()
}

// mismatch is what to do next so that raft's servers are those of the slots; nil: they are.
func (d *Driver) mismatch(servers []raft.Server, group *Group) func() error {
	remove, add := nextChange(servers, group.Slots, d.responds)
	switch {
	case remove != nil && string(remove.ID) == d.cfg.Store.Server(): // the next leader removes this server
		return func() error { return d.raft.LeadershipTransfer().Error() }
	case remove != nil:
		d.log.Info().Str("server", string(remove.ID)).Str("address", string(remove.Address)).Msg("a server of the control plane is removed")
		return func() error { return d.raft.RemoveServer(remove.ID, 0, 0).Error() }
	case add != nil:
		d.log.Info().Str("server", add.Server).Str("address", add.Address).Msg("a server of the control plane is added")
		return func() error {
			return d.raft.AddVoter(raft.ServerID(add.Server), raft.ServerAddress(add.Address), 0, 0).Error()
		}
	}
	return nil
}

// nextChange is which of raft's servers is to be removed next, since no slot is its, or if there is none, which slot's server is to be added. Who does not answer is
// removed first: of those that are left a majority must.
func nextChange(servers []raft.Server, slots []Slot, responds func(server string) bool) (remove *raft.Server, add *Slot) {
	for _, s := range servers {
		if slices.ContainsFunc(slots, func(slot Slot) bool { return slot.Server == string(s.ID) }) {
			continue
		}
		if !responds(string(s.ID)) {
			return &s, nil
		}
		if remove == nil {
			remove = &s
		}
	}
	if remove != nil {
		return remove, nil
	}
	for _, slot := range slots {
		if slot.Server != "" && !slices.ContainsFunc(servers, func(s raft.Server) bool { return slot.Server == string(s.ID) }) {
			return nil, &slot
		}
	}
	return nil, nil
}

// formGroup is the first thing that is committed: the slots are those of the servers with which raft was begun.
func (d *Driver) formGroup(servers []raft.Server) {
	var id [8]byte
	rand.Read(id[:]) // never fails
	f := &Form{ID: hex.EncodeToString(id[:])}
	for _, s := range servers {
		number, witness, err := parseServer(string(s.ID))
		if err != nil {
			d.log.Error().Err(err).Msg("the group cannot be formed")
			return
		}
		f.Slots = append(f.Slots, Slot{Number: number, Address: string(s.Address), Witness: witness, Server: string(s.ID)})
	}
	go d.propose(Command{Form: f}, d.reign)
}
