package views

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
)

// Group is what the servers of a group agree on: raft's replicated state machine. It is a value: whoever holds a copy may keep it,
// and Apply never changes what an earlier copy refers to.
type Group struct {
	ID      string // tells groups apart; empty: the group has not been formed
	Version uint64 // grows with each change: what a command is conditioned on
	View    View
	Slots   []Slot // by number
	// Used is, by number, the greatest incarnation that has been in a view. One that has left never comes back: a member of a view was in the one
	// before or has a greater incarnation than all that have been.
	Used [MaxMember + 1]uint64
}

// Slot is the place of a replica, or of a witness, in the group, whether or not a process fills it.
type Slot struct {
	Number  uint8
	Address string // host:port
	Witness bool   // votes and holds no data: in no view
	Server  string // raft's name of the process with its data directory; empty: none has come yet
	// Removing: the operator has asked that the slot be given up; the replica leaves the view first. Force: also if it is the last that serves.
	Removing bool
	Force    bool
	Next     string // with Removing: the slot is not given up but moved to this address
}

// Command is a change of the group. Exactly one of its parts is set.
type Command struct {
	After  uint64 // the Version that it follows; it is refused at any other
	Term   uint64 `json:",omitempty"` // raft's, of the reign in which it was decided; it is refused in any other. 0: no matter
	Form   *Form  `json:",omitempty"` // the group begins
	View   *View  `json:",omitempty"` // the next view
	Set    *Slot  `json:",omitempty"` // a slot is new, or as given from now on
	Vacate uint8  `json:",omitempty"` // a slot marked Removing, which is in no view, is given up or moved
}

// Form is how a group begins.
type Form struct {
	ID    string
	Slots []Slot
}

// Encode is what goes into raft's log. Equal commands have equal encodings.
func (c Command) Encode() []byte {
	b, err := json.Marshal(c)
	if err != nil {
		panic(err) // there is nothing in a Command that cannot be encoded
	}
	return b
}

// DecodeCommand is the reverse of Encode.
func DecodeCommand(b []byte) (Command, error) {
	var c Command
	if err := strictly(b, &c); err != nil {
		return Command{}, fmt.Errorf("a command of the control plane cannot be read: %w", err)
	}
	return c, nil
}

// Snapshot is the whole state as bytes, for RestoreGroup.
func (g Group) Snapshot() []byte {
	b, err := json.Marshal(g)
	if err != nil {
		panic(err)
	}
	return b
}

// RestoreGroup is the reverse of Snapshot.
func RestoreGroup(b []byte) (Group, error) {
	var g Group
	if err := strictly(b, &g); err != nil {
		return Group{}, fmt.Errorf("a snapshot of the control plane cannot be read: %w", err)
	}
	return g, nil
}

func strictly(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if d.More() {
		return errors.New("more follows it")
	}
	return nil
}

// Slot returns the slot of that number.
func (g *Group) Slot(number uint8) (Slot, bool) {
	for _, s := range g.Slots {
		if s.Number == number {
			return s, true
		}
	}
	return Slot{}, false
}

// WasMember reports whether the incarnation has been in a view (or an elder one is no longer to be let in).
func (g *Group) WasMember(m Member) bool { return m.Incarnation <= g.Used[m.Number&63] }

// data is the set of the numbers that have a place for a replica with data.
func (g *Group) data() (set uint64) {
	for _, s := range g.Slots {
		if !s.Witness && !s.Removing {
			set |= bit(s.Number)
		}
	}
	return set
}

// Apply makes the change, or says why not, and then nothing has changed.
func (g *Group) Apply(c Command) error {
	if c.After != g.Version {
		return fmt.Errorf("the group has changed meanwhile (version %d, not %d): ask again", g.Version, c.After)
	}
	next := *g
	var err error
	switch {
	case c.Form != nil:
		err = next.form(*c.Form)
	case g.ID == "":
		err = errors.New("the group has not been formed yet")
	case c.View != nil:
		err = next.enter(*c.View)
	case c.Set != nil:
		err = next.set(*c.Set)
	case c.Vacate != 0:
		err = next.vacate(c.Vacate)
	default:
		err = errors.New("a command of the control plane says nothing")
	}
	if err != nil {
		return err
	}
	next.Version++
	*g = next
	return nil
}

func (g *Group) form(f Form) error {
	if g.ID != "" {
		return fmt.Errorf("the group has been formed already: %s", g.ID)
	}
	if f.ID == "" || len(f.Slots) == 0 {
		return errors.New("a group needs a name and at least one replica")
	}
	g.ID = f.ID
	for _, s := range f.Slots {
		if err := g.set(s); err != nil {
			return err
		}
	}
	if g.data() == 0 {
		return errors.New("a group needs a replica that is not a witness")
	}
	return nil
}

func (g *Group) set(s Slot) error {
	if s.Number == 0 || s.Number > MaxMember {
		return fmt.Errorf("a replica's number is 1 to %d, not %d", MaxMember, s.Number)
	}
	if err := checkAddress(s.Address); err != nil {
		return err
	}
	if s.Next != "" {
		if err := checkAddress(s.Next); err != nil {
			return err
		}
	}
	at := len(g.Slots)
	for i, other := range g.Slots {
		if other.Number == s.Number {
			if other.Witness != s.Witness {
				return fmt.Errorf("replica %d cannot become or cease to be a witness: remove it and add it again", s.Number)
			}
			if r, ok := g.View.Find(s.Number); ok && r.Address != s.Address {
				return fmt.Errorf("replica %d is in the view with the address %s", s.Number, r.Address)
			}
			at = i
			continue
		}
		for _, a := range []string{other.Address, other.Next} {
			if a != "" && (a == s.Address || a == s.Next) {
				return fmt.Errorf("%s is the address of replica %d", a, other.Number)
			}
		}
		if s.Server != "" && s.Server == other.Server {
			return fmt.Errorf("raft server %s is that of replica %d", s.Server, other.Number)
		}
	}
	g.Slots = slices.Clone(g.Slots)
	if at == len(g.Slots) {
		g.Slots = append(g.Slots, s)
		slices.SortFunc(g.Slots, func(a, b Slot) int { return int(a.Number) - int(b.Number) })
	} else {
		g.Slots[at] = s
	}
	return nil
}

func checkAddress(address string) error {
	if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" || port == "0" {
		return fmt.Errorf("%q is not an address, host:port", address)
	}
	return nil
}

func (g *Group) vacate(number uint8) error {
	s, ok := g.Slot(number)
	if !ok || !s.Removing {
		return fmt.Errorf("replica %d is not to be removed", number)
	}
	if _, ok := g.View.Find(number); ok {
		return fmt.Errorf("replica %d is still in the view", number)
	}
	if s.Next != "" {
		return g.set(Slot{Number: number, Address: s.Next, Witness: s.Witness})
	}
	g.Slots = slices.DeleteFunc(slices.Clone(g.Slots), func(s Slot) bool { return s.Number == number })
	return nil
}

// enter makes v the view. In one generation some replica goes on serving; a new one consists of replicas that have been in no view.
func (g *Group) enter(v View) error {
	old := g.View
	began := v.Generation == old.Generation+1
	switch {
	case v.Epoch != old.Epoch+1:
		return fmt.Errorf("the view's epoch is %d; it must be %d", v.Epoch, old.Epoch+1)
	case v.Generation != old.Generation && !began:
		return fmt.Errorf("the view's generation is %d; that of the view before is %d", v.Generation, old.Generation)
	case began && len(old.Members) > 0:
		return errors.New("a generation begins only after a view without members")
	case !began && len(v.Members) > 0 && v.Serving()&old.Serving() == 0:
		return errors.New("no replica goes on serving in the view")
	case began && v.Serving() == 0:
		return errors.New("a generation begins with replicas that serve")
	}
	var last uint8
	for _, r := range v.Members {
		if r.Number <= last || r.Number > MaxMember {
			return errors.New("the view's members are not in the order of their numbers")
		}
		last = r.Number
		slot, ok := g.Slot(r.Number)
		if !ok || slot.Witness || slot.Address != r.Address {
			return fmt.Errorf("replica %v at %s has no place for data in the group", r.Member, r.Address)
		}
		before, was := old.Find(r.Number)
		switch {
		case was && before.Incarnation == r.Incarnation:
			if before.Serving && !r.Serving {
				return fmt.Errorf("replica %v serves; it cannot go back to catching up", r.Member)
			}
		case was:
			return fmt.Errorf("replica %v is to join while %v is in the view", r.Member, before.Member)
		case g.WasMember(r.Member):
			return fmt.Errorf("replica %v has been in a view; it can only return as a new incarnation", r.Member)
		case r.Serving != began:
			return fmt.Errorf("replica %v joins: it serves from the beginning only in the first view of a generation", r.Member)
		}
		g.Used[r.Number] = max(g.Used[r.Number], r.Incarnation)
	}
	v.Members = slices.Clone(v.Members)
	g.View = v
	return nil
}
