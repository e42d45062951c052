package replication

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// explored is what came of an exploration.
type explored struct {
	states, steps, ends int
	limited             bool // the limit was reached
	took                time.Duration
	wrong               string   // what is violated; "": nothing
	trace               []string // a shortest execution that violates it
}

// add sums up.
func (r *explored) add(o explored) {
	r.states, r.steps, r.ends, r.took = r.states+o.states, r.steps+o.steps, r.ends+o.ends, r.took+o.took
}

func (r explored) String() string {
	s := fmt.Sprintf("%d states, %d steps, %d ends, %v of one core", r.states, r.steps, r.ends, r.took.Round(time.Millisecond))
	if r.wrong != "" {
		s += "\n" + r.wrong + "\n  " + strings.Join(r.trace, "\n  ")
	}
	return s
}

// trace tells the execution that leads to a state, and one action more.
func (x *exploration) trace(all []visited, id int32, last *action) []string {
	var as []action
	for ; id > 0; id = all[id].parent {
		as = append(as, all[id].by)
	}
	slices.Reverse(as)
	if last != nil {
		as = append(as, *last)
	}
	e, w := x.start()
	var lines []string
	for _, a := range as {
		lines = append(lines, e.show(w, a))
		next, wrong := e.tryStep(w, a)
		if wrong != "" {
			if next != nil {
				w = next
			}
			break
		}
		w = next
	}
	return append(lines, w.show(e.keys)...)
}

func (e *explorer) show(w *world, a action) string {
	names := memberName(a.a+1) + memberName(a.b+1)
	switch a.what {
	case doSubmit:
		return fmt.Sprintf("submit %d %v", a.a, &e.requests[a.a])
	case doDeliver:
		return fmt.Sprintf("deliver %c>%c %s", names[0], names[1], showMessage(w.links[int(a.a)*e.replicas+int(a.b)][a.nth]))
	case doDown:
		return fmt.Sprintf("down %c (with %c)", names[0], names[1])
	case doUp:
		return fmt.Sprintf("up %c (with %c)", names[0], names[1])
	case doCrash:
		return fmt.Sprintf("gone %c", names[0])
	case doEnter:
		return fmt.Sprintf("enter %c", names[0])
	case doFetch:
		return fmt.Sprintf("fetch %c from %c", names[0], names[1])
	case doRoom:
		return fmt.Sprintf("room %c", names[0])
	case doLate:
		return fmt.Sprintf("late %c", names[0])
	}
	return fmt.Sprintf("tick %c", names[0])
}

func (w *world) show(keys []string) (lines []string) {
	for _, r := range w.replicas {
		lines = append(lines, r.show(keys))
	}
	for i, ms := range w.links {
		for _, m := range ms {
			lines = append(lines, fmt.Sprintf("under way %s>%s: %s", memberName(uint8(i/len(w.replicas)+1)), memberName(uint8(i%len(w.replicas)+1)), showMessage(m)))
		}
	}
	return lines
}
