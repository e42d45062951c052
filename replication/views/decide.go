package views

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// reason is why a member of the view has to leave it.
type reason uint8

const (
	keep     reason = iota
	silent          // no heartbeat for Timing.SuspectAfter
	cutOff          // another member and it cannot reach each other, and it is the one of the two to go
	ordered         // by an operator
	left            // it has said so itself, and has given up its lease
	returned        // its process has been started again: a greater incarnation of its number asks to join
)

var reasonWords = [...]string{keep: "", silent: "it sends no heartbeats", cutOff: "it and another replica cannot reach each other",
	ordered: "an operator has asked for it", left: "it has said that it leaves", returned: "it has been started again"}

// reason of one member by itself; leavers decides with regard to the others.
func (l *Leader) reason(now int64, r Replica, victims uint64) reason {
	p := l.peers[r.Member]
	slot, ok := l.group.Slot(r.Number)
	switch {
	case l.successor(now, r.Member):
		return returned
	case p != nil && p.beat.Leaving:
		return left
	case !ok || slot.Removing:
		return ordered
	case l.silentSince(now, r.Member) >= int64(l.timing.SuspectAfter):
		return silent
	case victims&bit(r.Number) != 0:
		return cutOff
	}
	return keep
}

// removed says which members of the present view are not in the next one, and why.
func (l *Leader) removed(now int64, next View) string {
	var all []string
	victims := l.victims(now)
	for _, r := range l.group.View.Members {
		if !next.Has(r.Member) {
			all = append(all, fmt.Sprintf("replica %d: %s", r.Number, reasonWords[l.reason(now, r, victims)]))
		}
	}
	return strings.Join(all, "; ")
}

func (l *Leader) silentSince(now int64, m Member) int64 {
	if p := l.peers[m]; p != nil && p.heard > l.since {
		return now - p.heard
	}
	return now - l.since
}

// successor reports whether a later incarnation of m's number has been heard.
func (l *Leader) successor(now int64, m Member) bool {
	for other, p := range l.peers {
		if other.Number == m.Number && other.Incarnation > m.Incarnation && l.fresh(now, p) {
			return true
		}
	}
	return false
}

// leavers is the set of the members that have to go, as bits. Nobody among them gets a lease. As long as a serving member may still hold what the group
// has stored, one that serves is not among them; if none may, all of the view are.
func (l *Leader) leavers(now int64) uint64 {
	view := &l.group.View
	victims := l.victims(now)
	var set uint64
	var last *Replica // the serving member to keep if all have a reason to go
	var lastWhy reason
	for i, r := range view.Members {
		why := l.reason(now, r, victims)
		if why == keep {
			continue
		}
		set |= bit(r.Number)
		if !r.Serving || l.lost(r, why) {
			continue
		}
		// One that has left is the worst to keep: it ends, and what it holds with it. Else the one that was heard last.
		if last == nil || (why != left && lastWhy == left) ||
			((why == left) == (lastWhy == left) && l.silentSince(now, r.Member) < l.silentSince(now, last.Member)) {
			last, lastWhy = &view.Members[i], why
		}
	}
	switch {
	case view.Serving()&^set != 0:
	case last != nil:
		set &^= bit(last.Number)
	default:
		set = view.Numbers()
	}
	return set
}

// lost: nothing is left of what the member holds, or an operator gives it up.
func (l *Leader) lost(r Replica, why reason) bool {
	slot, ok := l.group.Slot(r.Number)
	return why == returned || !ok || slot.Removing && slot.Force
}

// victims is the set of those members who are to go since two members that both reach the leader cannot reach each other. It depends on what
// the members report alone, not on who is the leader: a catching-up member goes before one that serves, then
// the one that more members report, then the one with the higher number.
func (l *Leader) victims(now int64) (gone uint64) {
	view := &l.group.View
	var reports [MaxMember + 1]uint64 // by reporter
	for _, r := range view.Members {
		p := l.peers[r.Member]
		if l.fresh(now, p) && !p.beat.Leaving && p.beat.Epoch == view.Epoch {
			reports[r.Number] = p.beat.Unreachable & view.Numbers() &^ bit(r.Number)
		}
	}
	for {
		victim, found := Replica{}, false
		for _, r := range view.Members { // ascending: an equal one with a higher number comes later and wins
			if gone&bit(r.Number) != 0 || !l.fresh(now, l.peers[r.Member]) || l.conflicts(view, &reports, r.Number, gone) == 0 {
				continue
			}
			if !found || worse(r, victim, reporters(&reports, r.Number, gone), reporters(&reports, victim.Number, gone)) {
				victim, found = r, true
			}
		}
		if !found {
			return gone
		}
		gone |= bit(victim.Number)
	}
}

func worse(r, than Replica, by, thanBy int) bool {
	if r.Serving != than.Serving {
		return !r.Serving
	}
	return by >= thanBy
}

// conflicts is the set of those who report number or are reported by it.
func (l *Leader) conflicts(view *View, reports *[MaxMember + 1]uint64, number uint8, gone uint64) (set uint64) {
	set = reports[number]
	for _, r := range view.Members {
		if reports[r.Number]&bit(number) != 0 {
			set |= bit(r.Number)
		}
	}
	for _, r := range view.Members { // who does not reach the leader either is silent, not cut off
		if p := l.peers[r.Member]; p == nil || p.heard+int64(2*l.timing.Heartbeat) < l.last || p.beat.Leaving {
			set &^= bit(r.Number)
		}
	}
	return set &^ gone
}

func reporters(reports *[MaxMember + 1]uint64, number uint8, gone uint64) (n int) {
	for by, set := range reports {
		if set&bit(number) != 0 && gone&bit(uint8(by)) == 0 {
			n++
		}
	}
	return n
}

// leaseOver: no lease that this leader or one before it has given the member can be alive.
func (l *Leader) leaseOver(now int64, m Member) bool {
	bound := int64(l.timing.LeaseBound())
	for _, r := range l.group.View.Members { // if this server was started with another, theirs counts
		if p := l.peers[r.Member]; p != nil {
			bound = max(bound, p.beat.Bound)
		}
	}
	p := l.peers[m]
	if p != nil && p.beat.Leaving {
		return true
	}
	return now-l.waited >= bound && (p == nil || !p.leased || now-p.granted >= bound)
}

// next proposes what is due, if anything is.
func (l *Leader) next(now int64) {
	if v, ok := l.nextView(now); ok {
		l.propose(Command{View: &v}, 0)
		return
	}
	for len(l.requests) > 0 {
		r := l.requests[0]
		l.requests = l.requests[1:]
		c, err := l.command(r)
		switch {
		case err != nil:
			l.result(r.ID, err.Error())
		case c == nil:
			l.result(r.ID, "")
		default:
			l.propose(*c, r.ID)
			return
		}
	}
	for _, s := range l.group.Slots {
		if _, in := l.group.View.Find(s.Number); s.Removing && !in {
			l.propose(Command{Vacate: s.Number}, 0)
			return
		}
	}
}

// nextView is the view that should follow the present one, if one should.
func (l *Leader) nextView(now int64) (View, bool) {
	old := &l.group.View
	next := View{Epoch: old.Epoch + 1, Generation: old.Generation}
	if len(old.Members) == 0 {
		next.Generation++
		next.Members = l.founders(now)
		return next, len(next.Members) > 0
	}
	leavers := l.leavers(now)
	changed := false
	for _, r := range old.Members {
		if leavers&bit(r.Number) != 0 && l.leaseOver(now, r.Member) {
			changed = true
			continue
		}
		if p := l.peers[r.Member]; leavers&bit(r.Number) == 0 && !r.Serving && l.fresh(now, p) && p.beat.CaughtUp && p.beat.Epoch == old.Epoch {
			r.Serving, changed = true, true
		}
		next.Members = append(next.Members, r)
	}
	if next.Serving()&old.Serving() == 0 {
		// Nobody goes on: all leave together, when the last lease is over.
		return next, len(next.Members) == 0
	}
	if leavers == 0 {
		for _, m := range l.candidates(now) {
			if l.admits(now, m) == "" {
				slot, _ := l.group.Slot(m.Number)
				next.Members = append(next.Members, Replica{Member: m, Address: slot.Address})
				changed = true
			}
		}
		slices.SortFunc(next.Members, byNumber)
	}
	return next, changed
}

func byNumber(a, b Replica) int { return int(a.Number) - int(b.Number) }

// founders are those that begin a generation: all that have a place, or after a while those that ask.
func (l *Leader) founders(now int64) (rs []Replica) {
	candidates := l.candidates(now)
	if len(candidates) == 0 {
		l.asked = 0
		return nil
	}
	if l.asked == 0 {
		l.asked = now
	}
	if len(candidates) < bits.OnesCount64(l.group.data()) && now-l.asked < int64(l.timing.formation()) {
		return nil
	}
	for _, m := range candidates {
		if l.peers[m].beat.Alike != l.peers[candidates[0]].beat.Alike {
			continue // it is told why when there is a view
		}
		slot, _ := l.group.Slot(m.Number)
		rs = append(rs, Replica{Member: m, Address: slot.Address, Serving: true})
	}
	return rs
}

// candidates are the incarnations that ask to join a view and have a place in the group, one of a number, by number.
func (l *Leader) candidates(now int64) (ms []Member) {
	var newest [MaxMember + 1]uint64
	for m, p := range l.peers {
		if l.fresh(now, p) && !p.beat.Leaving && !l.group.WasMember(m) && l.group.data()&bit(m.Number) != 0 {
			newest[m.Number] = max(newest[m.Number], m.Incarnation)
		}
	}
	for number, incarnation := range newest {
		if incarnation != 0 {
			ms = append(ms, Member{Number: uint8(number), Incarnation: incarnation})
		}
	}
	return ms
}

// admits says why a candidate is not to be listed as catching up yet; empty: it is.
func (l *Leader) admits(now int64, m Member) string {
	view := &l.group.View
	beat := l.peers[m].beat
	if r, in := view.Find(m.Number); in {
		return fmt.Sprintf("its earlier incarnation %d is in the view yet", r.Incarnation)
	}
	for _, r := range view.Members {
		if p := l.peers[r.Member]; p != nil && p.beat.Alike != beat.Alike {
			return fmt.Sprintf("it was started with %s, but replica %d with %s: give all replicas the same", beat.Alike, r.Number, p.beat.Alike)
		}
	}
	for _, r := range view.Members {
		p, replicas := l.peers[r.Member], len(view.Members)+1
		if p == nil || !r.Serving || !beat.Memory.tooLittle(p.beat.Memory, replicas) {
			continue
		}
		return fmt.Sprintf("it has too little memory: of its %d MB (-m) a group of %d keeps %d MB free, replica %d holds %d MB, and nothing is evicted for it (-M); "+
			"start it with -m %d, as replica %d was, or delete items", beat.Memory.Total>>20, replicas, ceilMB(beat.Memory.keptIn(replicas)), r.Number,
			ceilMB(p.beat.Memory.Taken), p.beat.Memory.Total>>20, r.Number)
	}
	for _, r := range view.Members {
		p := l.peers[r.Member]
		if p == nil || p.beat.Epoch != view.Epoch || !p.beat.Settled {
			return fmt.Sprintf("replica %d has not settled in epoch %d yet", r.Number, view.Epoch)
		}
	}
	if missing := view.Numbers() &^ beat.Reachable; missing != 0 || beat.Seen != view.Epoch {
		if beat.Seen != view.Epoch {
			return fmt.Sprintf("it has not yet reached the members of epoch %d", view.Epoch)
		}
		return fmt.Sprintf("it cannot reach replica %d", lowest(missing))
	}
	return ""
}

// ceilMB is a number of bytes in megabytes, rounded up.
func ceilMB(bytes uint64) uint64 { return (bytes + 1<<20 - 1) >> 20 }

// whyOut says to a replica that has no lease why.
func (l *Leader) whyOut(now int64, m Member, p *peer) string {
	switch {
	case p.beat.Leaving:
		return "it leaves"
	case l.group.WasMember(m):
		return "this incarnation has been removed from the view"
	case len(l.group.View.Members) == 0:
		return fmt.Sprintf("a generation begins when all %d replicas of the group have asked to join, or in a moment", bits.OnesCount64(l.group.data()))
	}
	if why := l.admits(now, m); why != "" {
		return "not in the view yet: " + why
	}
	return "not in the view yet"
}

// stranger says why a heartbeat comes from nobody that the group knows; empty: it does not.
func (l *Leader) stranger(h Heartbeat) string {
	slot, ok := l.group.Slot(h.From.Number)
	switch {
	case !ok:
		return fmt.Sprintf("the group has no replica %d: add it first (hermesd group add)", h.From.Number)
	case slot.Witness:
		return fmt.Sprintf("replica %d of the group is a witness and holds no data (--witness)", h.From.Number)
	case slot.Server != h.Server:
		return fmt.Sprintf("the place of replica %d is that of another process", h.From.Number)
	}
	return ""
}
