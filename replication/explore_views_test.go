package replication

import "slices"

// The explorer's view change: replicas are in epoch 1 at first, and enter epoch 2 each at its own time. What is of a newer epoch waits on its channel;
// what is of an older one, or of a replica that has gone, is void.

// replicasAtFirst returns the replicas in the first view. A joiner is in no view.
func (x *exploration) replicasAtFirst() []*replica {
	rs := newReplicas(x.replicas, eager)
	if !x.joins {
		return rs
	}
	last := len(rs) - 1
	v := View{Epoch: 1}
	for _, r := range rs[:last] {
		v.Members = append(v.Members, r.self)
	}
	for i, r := range rs {
		r.lane = NewLane(0, r, r.items, anySize{}, eager)
		if v.Self = r.self; i < last {
			r.lane.SetView(v)
		}
	}
	return rs
}

// view is the view of an epoch: the second is without who has gone, and has a joiner catch up; in the third it serves.
func (e *explorer) view(w *world, epoch uint64) View {
	v := View{Epoch: epoch}
	for i, r := range w.replicas {
		if r.self.Number != w.gone {
			v.Members = append(v.Members, r.self)
		}
		if e.joins && i == len(w.replicas)-1 && epoch == 2 {
			v.CatchingUp = bit(r.self.Number)
		}
	}
	return v
}

// crashed reports whether the replica of that number is no more.
func (w *world) crashed(number uint8) bool { return w.ended == number && number != 0 }

// dead reports whether the replica of an index is no more.
func (w *world) dead(i int) bool { return w.crashed(uint8(i + 1)) }

// without reports whether the replica is not in the last view.
func (w *world) without(r *replica) bool { return w.gone == r.self.Number }

// mayServe reports whether the replica may answer clients: not if it has gone, since the lease of one that is removed is over before the next view is there, and not
// while it catches up.
func (e *explorer) mayServe(w *world, i int) bool {
	l := w.replicas[i].lane
	return int(w.gone) != i+1 && l.epoch > 0 && !l.catching
}

// lost are the requests, as bits, that nobody need answer any more.
func (e *explorer) lost(w *world) (set uint8) {
	for i := range e.requests {
		if e.requests[i].at+1 == int(w.gone) {
			set |= 1 << i
		}
	}
	return set
}

// listed reports whether two replicas list each other in the views that they have entered.
func (e *explorer) listed(w *world, i, j int) bool {
	a, b := w.replicas[i], w.replicas[j]
	return a.lane.members[b.self.Number] == b.self && b.lane.members[a.self.Number] == a.self
}

// anyDown reports whether a connection that should be there is not.
func (e *explorer) anyDown(w *world) bool {
	n := len(w.replicas)
	for i := range n {
		for j := range n {
			if i != j && w.ends[i*n+j] == endDown && e.listed(w, i, j) && !w.without(w.replicas[i]) && !w.without(w.replicas[j]) {
				return true
			}
		}
	}
	return false
}

// viewActions appends what the view change makes possible at a replica.
func (e *explorer) viewActions(w *world, i int, as []action) []action {
	l := w.replicas[i].lane
	if e.crash == i+1 && w.gone == 0 {
		as = append(as, action{what: doCrash, a: uint8(i)})
	}
	if l.epoch < 2 && (w.gone != 0 && int(w.gone) != i+1 || e.joins && e.crash == 0) {
		as = append(as, action{what: doEnter, a: uint8(i)})
	}
	if !l.Complete() && !l.Fetching() {
		for j, r := range w.replicas {
			if l.open&bit(r.self.Number) != 0 && !r.lane.catching {
				as = append(as, action{what: doFetch, a: uint8(i), b: uint8(j)})
			}
		}
	}
	return as
}

// crashNow ends a replica, or has the others believe so. What it has sent is under way.
func (e *explorer) crashNow(w *world, i int) {
	w.gone = uint8(i + 1)
	e.touch(w, i)
	if e.expelled {
		return
	}
	w.ended = w.gone
	n := len(w.replicas)
	for j := range n {
		w.cut(j*n + i)
	}
	w.late |= w.open & e.lost(w) // nobody will know
}

// enter has a replica enter a view. What is void then is taken off its channels, so that it makes no states.
func (e *explorer) enter(w *world, i int, epoch uint64) {
	r := e.touch(w, i)
	v := e.view(w, epoch)
	v.Self = r.self
	r.lane.SetView(v)
	n := len(w.replicas)
	for j := range n {
		if j != i {
			link := j*n + i
			w.links[link] = slices.DeleteFunc(slices.Clone(w.links[link]), func(m *Message) bool { return m.Epoch < epoch })
			w.digests[link] = 0
		}
	}
}

// settle lets an execution end: a joiner catches up, and serves in a view of its own.
func (e *explorer) settle(w *world, check func(*world) string) string {
	if wrong := w.settle(check); wrong != "" || !e.joins {
		return wrong
	}
	last := w.replicas[len(w.replicas)-1]
	for round := 0; !last.lane.CaughtUp(); round++ {
		if round > 60 {
			return "the joiner does not catch up"
		}
		last.lane.Fetch(1, 1)
		last.digest = 0
		w.collect(len(w.replicas) - 1)
		if wrong := w.settle(check); wrong != "" {
			return wrong
		}
	}
	for i := range w.replicas {
		if w.replicas[i].lane.epoch < 3 {
			e.enter(w, i, 3)
			w.collect(i)
		}
	}
	return w.settle(check)
}
