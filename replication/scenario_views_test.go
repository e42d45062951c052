package replication

import "strings"

// The commands of scenarios in which the view changes.

// crash ends a replica: what is under way to it is lost, and nobody will answer its clients.
func (s *scenario) crash(at int) {
	s.crashed[at] = true
	n := len(s.actors)
	for j := range n {
		s.lose(j, at)
	}
}

// begin begins a new life of a replica that has crashed, which is in no view and has no channels.
func (s *scenario) begin(at int) {
	old := s.actors[at].(*replica)
	r := &replica{self: Member{Number: old.self.Number, Incarnation: old.self.Incarnation + 100}, items: &fakeStore{}, unique: old.unique + 100}
	r.lane = NewLane(0, r, r.items, anySize{}, old.lane.timing)
	s.actors[at] = r
	delete(s.crashed, at)
	n := len(s.actors)
	for j := range n {
		if j != at {
			s.lose(at, j)
			s.ends[at*n+j], s.ends[j*n+at] = endDown, endDown
		}
	}
}

// view says what the next view is: view a b c*, where c catches up.
func (s *scenario) view(names []string) {
	v := View{Epoch: uint64(len(s.views) + 1)}
	for _, name := range names {
		r := s.actors[s.member(name[:1])].(*replica)
		v.Members = append(v.Members, r.self)
		if strings.HasSuffix(name, "*") {
			v.CatchingUp |= bit(r.self.Number)
		}
	}
	s.views = append(s.views, v)
	s.printf("epoch %d: %s", v.Epoch, strings.Join(names, " "))
}

// enter has a replica enter the newest view.
func (s *scenario) enter(at int) {
	v := s.views[len(s.views)-1]
	r := s.actors[at].(*replica)
	v.Self = r.self
	s.printf("%s enters epoch %d", memberName(r.self.Number), v.Epoch)
	r.lane.SetView(v)
	s.collect(at)
}

// connect sets up a channel between two that have entered a view which lists both.
func (s *scenario) connect(a, b int) {
	n := len(s.actors)
	s.ends[a*n+b], s.ends[b*n+a] = endUp, endUp
	for _, i := range []int{a, b} {
		s.actors[i].(*replica).lane.PeerUp(s.actors[a+b-i].(*replica).self)
		s.collect(i)
	}
}
