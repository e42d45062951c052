package views

// Holder is the replica's side: when to send which heartbeat, how long the lease is, and what a view means for this incarnation. Like Leader
// it is pure. Its clock is the replica's own, which must count the time in which the machine was suspended.
type Holder struct {
	timing  Timing
	server  string
	alike   string // Config.Alike
	self    Member
	view    View
	due     int64 // of the next heartbeat
	sent    int64 // the last one
	until   int64 // of the lease
	leaving bool
	echo    Echo // of the last answer
}

// Effect is what the host is to be told, in this order.
type Effect struct {
	Restart uint64 // not 0: the incarnation is over; the next one must be greater than this. Begin tells the Holder what it is
	Enter   *View
	Renew   int64 // not 0: the lease lasts until then
}

// NewHolder returns the Holder of an incarnation that has been in no view.
func NewHolder(t Timing, server string, self Member) *Holder {
	return &Holder{timing: t, server: server, self: self}
}

func (h *Holder) Self() Member { return h.self }

// View is the newest that is known.
func (h *Holder) View() View { return h.view }

// InView reports whether this incarnation is in it.
func (h *Holder) InView() bool { return h.view.Has(h.self) }

// Until is the end of the lease by this replica's clock.
func (h *Holder) Until() int64 { return h.until }

// Due is when the next heartbeat is to be sent: an interval after the last was answered, or was sent if it is not. One that is lost does not
// cost the lease, and replicas that are answered at one time send the next at one time, which spares the leader work.
func (h *Holder) Due() int64 { return h.due }

// Hurry makes it due now: there is news for the leader, or the leader is a new one.
func (h *Holder) Hurry(now int64) { h.due = min(h.due, now) }

// Skip puts the heartbeat that is due off: the leader does not answer.
func (h *Holder) Skip(now int64) { h.due = now + int64(h.timing.Heartbeat) }

// Beat is the heartbeat to be sent now, but for its Term, which is to be read when it has been made. reachable are the members of the present view that have just answered, for an incarnation that is not in it.
func (h *Holder) Beat(now int64, s Status, reachable uint64) Heartbeat {
	h.due, h.sent = now+int64(h.timing.Heartbeat), now
	return Heartbeat{From: h.self, Server: h.server, Sent: now, Alike: h.alike, Bound: int64(h.timing.LeaseBound()), Leaving: h.leaving, Leased: now < h.until, Status: s, Reachable: reachable,
		Seen: h.view.Epoch, Echo: h.echo}
}

// Answer takes the leader's answer to a heartbeat. The lease counts from when that, or one before it, was sent: later, and the leader might believe
// it over while it lasts.
func (h *Holder) Answer(now int64, a Answer) Effect {
	if a.To.Number != h.self.Number {
		return Effect{}
	}
	h.echo = a.Echo
	if a.Sent == h.sent && h.due > now {
		h.due = now + int64(h.timing.Heartbeat)
		if a.After > 0 {
			h.due = min(h.due, now+a.After)
		}
	}
	e := h.Adopt(a.View, a.Used)
	if a.To == h.self && a.Lease != 0 && e.Restart == 0 && !h.leaving {
		if until := a.Since + int64(h.timing.Lease); until > h.until {
			h.until, e.Renew = until, until
		}
	}
	return e
}

// Adopt takes a committed view, from whomever it comes. used is the greatest incarnation of this number that has been in a
// view, this one included.
func (h *Holder) Adopt(v View, used uint64) Effect {
	var e Effect
	newer := v.Epoch > h.view.Epoch
	if newer {
		h.view = v
	}
	switch {
	case h.view.Has(h.self):
		if newer {
			e.Enter = &v
		}
	case v.Epoch == h.view.Epoch && used >= h.self.Incarnation:
		e.Restart = used
	}
	return e
}

// Begin is a new life.
func (h *Holder) Begin(self Member) {
	h.self, h.until, h.due = self, 0, 0
}

// Leave gives up the lease for good. Every heartbeat from now on says so.
func (h *Holder) Leave(now int64) {
	h.leaving, h.until = true, 0
	h.Hurry(now)
}

// Left: the leader need not be asked for anything more: this incarnation is in no view, or all that the group has stored would be lost without it, and will be with
// its process.
func (h *Holder) Left() bool {
	return !h.InView() || h.view.Serving() == bit(h.self.Number)
}
