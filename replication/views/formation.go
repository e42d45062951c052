package views

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// form is how a process without raft's state becomes a server of the group, and how one whose place was given away notices.
//
//   - A seed knows the group: it is asked for the place of this number. The leader gives it to this process, takes the server that had it out of
//     raft, and adds this one.
//   - All seeds have answered and none knows a group: the one with the lowest number begins raft with all of them.
//   - Otherwise: wait. A seed that does not answer may know the group.
func (d *Driver) form() {
	for {
		why, wait := "", formInterval
		if !d.settled() {
			why = d.seek()
		} else {
			d.lastNote, wait = "", settledInterval
		}
		if why != "" {
			d.note(why)
		}
		if !d.pause(wait) {
			return
		}
	}
}

// formInterval is between two attempts to become a server of the group; settledInterval is after which one that is looks whether it still is.
const (
	formInterval    = 250 * time.Millisecond
	settledInterval = time.Second
)

func (d *Driver) pause(wait time.Duration) bool {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-d.quit:
		return false
	}
}

// note says what keeps this process from the group; what lasts is logged, once for each change.
func (d *Driver) note(why string) {
	if why != d.lastNote {
		d.lastNote, d.noted = why, 0
	}
	if d.noted++; d.noted == notesBeforeLog {
		d.log.Warn().Msg(why)
	}
	d.setWhy(why)
}

// notesBeforeLog spares the log what is so for a moment while processes start.
const notesBeforeLog = 4

// formed reports whether raft has begun here.
func (d *Driver) formed() bool { return d.raft.LastIndex() > 0 }

// settled: nothing is to be done here. This process has its place, and somebody leads.
func (d *Driver) settled() bool {
	if !d.formed() {
		return false
	}
	if leader, _ := d.raft.LeaderWithID(); leader == "" {
		return false
	}
	group := d.fsm.get()
	if group.ID == "" {
		return true // it is being formed
	}
	slot, ok := group.Slot(d.cfg.Number)
	return ok && slot.Server == d.cfg.Store.Server()
}

type introduced struct {
	number  uint8
	address string
	Acquaintance
	err error
}

// seek asks everybody that might know the group, and does what follows from it. It returns what there is to wait for.
func (d *Driver) seek() string {
	all := d.introduce()
	for _, a := range all {
		if a.err == nil && a.Number != a.number {
			return fmt.Sprintf("at %s is replica %d, not %d: the lists of the replicas (--group) differ", a.address, a.Number, a.number)
		}
	}
	own := d.fsm.get().ID
	for _, a := range all {
		if a.err == nil && a.Group != "" && own != "" && a.Group != own {
			return fmt.Sprintf("replica %d at %s is of another group (%s) than this one (%s): empty one of the data directories", a.number, a.address, a.Group, own)
		}
	}
	if known := slices.DeleteFunc(slices.Clone(all), func(a introduced) bool { return a.err != nil || !a.Formed }); len(known) > 0 {
		return d.seekPlace(known, len(all))
	}
	if d.formed() {
		return d.alone(all)
	}
	if d.cfg.Seeds[d.cfg.Number] == "" {
		return fmt.Sprintf("replica %d is not among those that may form the group (--group), and none of them is in a group", d.cfg.Number)
	}
	for _, a := range all {
		if a.err != nil {
			return fmt.Sprintf("the group is formed when all have been started; replica %d at %s does not answer: %v", a.number, a.address, a.err)
		}
	}
	return d.bootstrap(all)
}

// alone: this server has raft's state, no leader, and nobody else answers that knows the group.
func (d *Driver) alone(all []introduced) string {
	return "the group has no leader: " + d.noLeader() + d.lost(all)
}

// lost says that servers have come back without their data directories, if they have.
func (d *Driver) lost(all []introduced) string {
	var without []string
	for _, a := range all {
		if a.err == nil && !a.Formed {
			without = append(without, fmt.Sprint(a.number))
		}
	}
	if len(without) == 0 {
		return ""
	}
	return fmt.Sprintf(" (replicas %s have been started without theirs, and can only join when there is a leader; if the data directories of a majority are lost, "+
		"the group is: stop all, empty all data directories, and start anew)", strings.Join(without, ", "))
}

// introduce asks the others: the seeds, and those in the group that this server remembers.
func (d *Driver) introduce() []introduced {
	addresses := map[uint8]string{}
	for number, a := range d.cfg.Seeds {
		addresses[number] = a
	}
	group := d.fsm.get()
	for _, slot := range group.Slots {
		addresses[slot.Number] = slot.Address
	}
	delete(addresses, d.cfg.Number)
	var all []introduced
	for number, a := range addresses {
		all = append(all, introduced{number: number, address: a})
	}
	slices.SortFunc(all, func(a, b introduced) int { return int(a.number) - int(b.number) })
	done := make(chan struct{})
	for i := range all {
		go func() {
			reply := new(Acquaintance)
			if all[i].err = d.link(all[i].address).wait(methodHello, Hello{}, reply, d.callTimeout()); all[i].err == nil {
				all[i].Acquaintance = *reply
			}
			done <- struct{}{}
		}()
	}
	for range all {
		<-done
	}
	return all
}

// seekPlace asks for this number's place in the group that others know.
func (d *Driver) seekPlace(known []introduced, asked int) string {
	slot := Slot{Number: d.cfg.Number, Address: d.cfg.Address, Witness: d.cfg.Witness, Server: d.cfg.Store.Server()}
	var why error
	for _, a := range known {
		if a.Leader == "" {
			continue
		}
		err := d.link(a.address).wait(methodOperate, Operation{Request: Request{Admit: &slot}}, new(Outcome), operateTimeout)
		if err == nil {
			return ""
		}
		why = err
	}
	if why == nil {
		if d.formed() {
			return "the group has no leader: " + d.noLeader()
		}
		return fmt.Sprintf("%d of %d other servers that were asked know the group, but have no leader; a majority of its servers must be running, "+
			"with their data directories, and reach each other; if the data directories of a majority are lost, the group is: stop all, empty all "+
			"data directories, and start anew", len(known), asked)
	}
	return "the group does not take this replica: " + why.Error()
}

// bootstrap begins raft with all seeds, if this is the one to do it.
func (d *Driver) bootstrap(all []introduced) string {
	servers := []raft.Server{{ID: raft.ServerID(d.cfg.Store.Server()), Address: raft.ServerAddress(d.cfg.Address)}}
	for _, a := range all {
		if a.number < d.cfg.Number {
			return fmt.Sprintf("the group is formed by replica %d", a.number)
		}
		servers = append(servers, raft.Server{ID: raft.ServerID(a.Server), Address: raft.ServerAddress(a.address)})
	}
	if err := d.raft.BootstrapCluster(raft.Configuration{Servers: servers}).Error(); err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
		return "the group cannot be formed: " + err.Error()
	}
	d.log.Info().Int("servers", len(servers)).Msg("a new group is formed")
	return ""
}
