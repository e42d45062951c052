package views

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// The calls between servers, and from an operator.
const (
	serviceName    = "Views"
	methodConfirm  = serviceName + ".Confirm"
	methodPing     = serviceName + ".Ping"
	methodPreVote  = serviceName + ".PreVote"
	methodProbe    = serviceName + ".Probe"
	methodHello    = serviceName + ".Hello"
	methodOperate  = serviceName + ".Operate"
	methodChannels = serviceName + ".Channels"
)

// Question is a leader's to each voter: is it still the leader, in its term? It brings the present view.
type Question struct {
	Server string // raft's name of who is asked
	Term   uint64
	View   View
	Used   uint64 // as in Answer
}

// Confirmation: when it was given, the server knew of no later term than this, and had voted for no leader of one.
type Confirmation struct {
	Server string
	Term   uint64
}

// Ping asks whether a member is there; Back, if it is not empty, is the address of who asks, and the member answers only if it gets an
// answer from there.
type Ping struct{ Back string }

// Pong says who has answered.
type Pong struct{ Member Member }

// Hello asks a process what it knows of the group.
type Hello struct{}

// Acquaintance answers Hello.
type Acquaintance struct {
	Number  uint8
	Witness bool
	Server  string
	Formed  bool   // it is a server of raft, or was
	Group   string // name of the group, if it is known
	Leader  string // address; empty: none is known
}

// Operation is an operator's request, or (Status) asks how the group is. A server that does not lead sends it on, once.
type Operation struct {
	Request
	Status bool
	SentOn bool
}

// Outcome answers an Operation.
type Outcome struct{ Status GroupStatus }

// ChannelsQuery asks a replica for its Channels.
type ChannelsQuery struct{}

// service holds what others may call. Each call has a goroutine of its own.
type service struct{ d *Driver }

// serving is how connections are served, by what they are for.
func (d *Driver) serving() map[byte]func(net.Conn) {
	s := rpc.NewServer()
	if err := s.RegisterName(serviceName, &service{d}); err != nil {
		panic(err)
	}
	return map[byte]func(net.Conn){forCalls: func(c net.Conn) { s.ServeConn(c) }, forBeats: d.serveBeats}
}

// Confirm must read the term when the question is here, not before.
func (s *service) Confirm(q Question, c *Confirmation) error {
	d := s.d
	if q.Server != d.cfg.Store.Server() {
		return fmt.Errorf("this is %s, not %s", d.cfg.Store.Server(), q.Server)
	}
	*c = Confirmation{Server: q.Server, Term: d.raft.CurrentTerm()}
	d.mail.post(func() { d.adopt(q.View, q.Used) })
	return nil
}

// PreVote is answered when this server knows whether it has lost its leader.
func (s *service) PreVote(q PreVote, a *PreVoteAnswer) error {
	d := s.d
	if q.Server != d.cfg.Store.Server() {
		return fmt.Errorf("this is %s, not %s", d.cfg.Store.Server(), q.Server)
	}
	answer := make(chan PreVoteAnswer, 1)
	d.mail.post(func() { d.asked(q, func(a PreVoteAnswer) { answer <- a }) })
	select {
	case *a = <-answer:
		return nil
	case <-d.quit:
		return errClosing
	}
}

// Probe goes the way of heartbeats: a server that could not answer these does not lead.
func (s *service) Probe(_ Probe, a *ProbeAnswer) error {
	d := s.d
	answer := make(chan bool, 1)
	d.mail.post(func() { answer <- d.raft.State() == raft.Leader })
	select {
	case a.Leads = <-answer:
		return nil
	case <-d.quit:
		return errClosing
	}
}

func (s *service) Ping(p Ping, reply *Pong) error {
	d := s.d
	if p.Back != "" {
		if err := d.link(p.Back).wait(methodPing, Ping{}, new(Pong), d.callTimeout()); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), d.callTimeout())
	defer cancel()
	return d.ask(ctx, func() {
		if d.holder != nil {
			reply.Member = d.holder.Self()
		}
	})
}

func (s *service) Hello(_ Hello, a *Acquaintance) error {
	d := s.d
	leader, _ := d.raft.LeaderWithID()
	*a = Acquaintance{Number: d.cfg.Number, Witness: d.cfg.Witness, Server: d.cfg.Store.Server(), Formed: d.formed(),
		Group: d.fsm.get().ID, Leader: plain(leader)}
	return nil
}

func (s *service) Operate(o Operation, out *Outcome) error {
	ctx, cancel := context.WithTimeout(context.Background(), operateTimeout)
	defer cancel()
	var err error
	*out, err = s.d.operate(ctx, o)
	return err
}

func (s *service) Channels(_ ChannelsQuery, all *[]Channel) error {
	if s.d.cfg.Channels != nil {
		*all = s.d.cfg.Channels()
	}
	return nil
}

// operateTimeout bounds an operator's call; what was asked may still happen.
const operateTimeout = 5 * time.Second

// operate does what an operator asks, if this is the leader, or sends it on.
func (d *Driver) operate(ctx context.Context, o Operation) (Outcome, error) {
	return d.operateSince(ctx, o, Now())
}

// operateSince is operate for what was asked at a time of Now.
func (d *Driver) operateSince(ctx context.Context, o Operation, asked int64) (Outcome, error) {
	var out Outcome
	result := make(chan error, 1)
	leads, early := false, false
	err := d.ask(ctx, func() {
		if leads = d.reign != 0; !leads {
			return
		}
		if o.Status {
			out.Status = d.status()
			result <- nil
			return
		}
		if err := d.leavesMajority(o.Request); err != nil {
			if early = Now()-max(d.acceded, asked) <= int64(d.callTimeout()); !early {
				result <- err
			}
			return
		}
		d.operations++
		o.Request.ID = d.operations
		d.operators[o.Request.ID] = func(err error) { result <- err }
		d.leader.Request(Now(), o.Request)
	})
	if err != nil {
		return out, err
	}
	if early { // a new leader does not know yet who answers, nor does one that was kept from running; lookIn asks all who have not been heard
		if !d.pause(pollInterval) {
			return out, errClosing
		}
		return d.operateSince(ctx, o, asked)
	}
	if !leads {
		if !o.Status && !o.SentOn && d.formed() && !d.leaderKnown(ctx) {
			return out, errors.New(d.leaderless())
		}
		return d.sendOn(o)
	}
	select {
	case err = <-result:
		return out, err
	case <-ctx.Done():
		return out, errors.New("no majority of the servers has agreed in time: it may still happen; see hermesd group status")
	case <-d.quit:
		return out, errClosing
	}
}

// leavesMajority refuses to give up a server if too few of those that are left answer: they could elect no leader, and nothing could be changed or mended by
// commands any more. With the state locked.
func (d *Driver) leavesMajority(r Request) error {
	gone := max(r.Remove, r.Replace) // one of them is 0
	if gone == 0 || r.Force {
		return nil
	}
	var left, answer int
	var silent []string
	for _, s := range d.leader.Group().Slots {
		if s.Server == "" || s.Removing || s.Number == gone {
			continue
		}
		left++
		if d.responds(s.Server) {
			answer++
		} else {
			silent = append(silent, strconv.Itoa(int(s.Number)))
		}
	}
	if left == 0 || answer >= left/2+1 {
		return nil
	}
	which := strings.Join(silent, " and ")
	if r.Replace != 0 { // the next process has a vote only when it has come
		return fmt.Errorf("until a process at %s has taken the place of %d only %d of %d servers would answer, and a majority must: start or remove %s first, which do not answer",
			r.Address, gone, answer, left, which)
	}
	return fmt.Errorf("without %d only %d of %d servers would answer, and a majority must: start or remove %s first, which do not answer; remove --force does it all the same",
		gone, answer, left, which)
}

// responds reports whether a server of raft has lately confirmed this leader, or sent it a heartbeat: there are no rounds while nobody in the view asks for a
// lease. With the state locked.
func (d *Driver) responds(server string) bool {
	now := Now()
	at, ok := d.voters[server]
	return server == d.cfg.Store.Server() || ok && now-at <= int64(d.callTimeout()) || d.leader.Hears(now, server)
}

// leaderKnown waits until somebody leads, as an operator would who is told that nobody does at the moment.
func (d *Driver) leaderKnown(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, leaderPatienceOfOperators)
	defer cancel()
	for {
		if leader, _ := d.raft.LeaderWithID(); leader != "" {
			return true
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return false
		case <-d.quit:
			return false
		}
	}
}

// leaderPatienceOfOperators is for how long an operator's request waits for an election; less than operateTimeout.
const leaderPatienceOfOperators = 3 * time.Second

func (d *Driver) sendOn(o Operation) (out Outcome, err error) {
	leader, _ := d.raft.LeaderWithID()
	to := plain(leader)
	if to == "" || to == d.cfg.Address || o.SentOn {
		if o.Status {
			out.Status = d.ownStatus()
			return out, nil
		}
		return out, errors.New(d.leaderless())
	}
	o.SentOn = true
	reply := new(Outcome)
	err = d.link(to).wait(methodOperate, o, reply, operateTimeout)
	var refused rpc.ServerError
	switch {
	case err == nil:
		return *reply, nil
	case errors.As(err, &refused):
		return out, err
	case o.Status:
		out.Status = d.ownStatus()
		return out, nil
	}
	return out, fmt.Errorf("the leader at %s does not answer (%w): it may have been done; see hermesd group status, and ask again", to, err)
}

// leaderless says that this server knows of no leader, and why.
func (d *Driver) leaderless() string {
	if d.formed() {
		return "the group has no leader: " + d.noLeader()
	}
	if why := d.Why(); why != "" {
		return why
	}
	return "this server is in no group yet"
}

// noLeader explains what an election needs.
func (d *Driver) noLeader() string {
	servers := d.raft.GetConfiguration().Configuration().Servers
	if len(servers) == 0 {
		return "this server is not in it yet"
	}
	if stuck := d.raftLog.stable.stuck.Load(); stuck != nil {
		return *stuck
	}
	return fmt.Sprintf("%d of its %d servers must be running, with their data directories, and reach each other", len(servers)/2+1, len(servers))
}
