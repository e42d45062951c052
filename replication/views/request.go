package views

import "fmt"

// command is what has to be committed for an operator's request; nil: nothing.
func (l *Leader) command(r Request) (*Command, error) {
	switch {
	case r.Add != nil:
		return l.add(*r.Add)
	case r.Remove != 0:
		return l.remove(r.Remove, r.Force, "")
	case r.Replace != 0:
		if err := checkAddress(r.Address); err != nil {
			return nil, err
		}
		return l.remove(r.Replace, r.Force, r.Address)
	case r.Admit != nil:
		return l.admit(*r.Admit)
	}
	return nil, fmt.Errorf("the request says nothing")
}

func (l *Leader) add(s Slot) (*Command, error) {
	s = Slot{Number: s.Number, Address: s.Address, Witness: s.Witness}
	if old, ok := l.group.Slot(s.Number); ok {
		if old.Address == s.Address && old.Witness == s.Witness && !old.Removing {
			return nil, nil // asked twice
		}
		return nil, fmt.Errorf("the group has a replica %d already, at %s: remove or replace it", old.Number, old.Address)
	}
	return l.try(s)
}

// remove marks the slot; the rest follows when the replica has left the view.
func (l *Leader) remove(number uint8, force bool, next string) (*Command, error) {
	s, ok := l.group.Slot(number)
	if !ok {
		return nil, fmt.Errorf("the group has no replica %d", number)
	}
	if next == s.Address {
		return nil, fmt.Errorf("replica %d has the address %s already", number, next)
	}
	if l.group.View.Serving() == bit(number) && !force {
		how := "let another one catch up first"
		if next == "" {
			how += ", or give --force"
		}
		return nil, fmt.Errorf("replica %d is the only one that serves; without it the group loses all that it holds: %s", number, how)
	}
	if len(l.group.Slots) == 1 && next == "" {
		return nil, fmt.Errorf("replica %d is the only one of the group: stop it instead", number)
	}
	if next == "" && !s.Witness && l.group.data()&^bit(number) == 0 {
		return nil, fmt.Errorf("replica %d is the only one of the group that holds data", number)
	}
	s.Removing, s.Force, s.Next = true, force, next
	return l.try(s)
}

// admit gives the place of a slot to a process that has come to fill it: a new one, or one that has lost its data directory.
func (l *Leader) admit(by Slot) (*Command, error) {
	s, ok := l.group.Slot(by.Number)
	switch {
	case !ok:
		return nil, fmt.Errorf("the group has no replica %d: add it first (hermesd group add %d=%s)", by.Number, by.Number, by.Address)
	case s.Address != by.Address && s.Next != by.Address:
		return nil, fmt.Errorf("replica %d of the group is at %s, not at %s: replace it first (hermesd group replace %d=%s)",
			by.Number, s.Address, by.Address, by.Number, by.Address)
	case s.Removing:
		return nil, fmt.Errorf("replica %d of the group is being removed: wait", by.Number)
	case s.Witness && !by.Witness:
		return nil, fmt.Errorf("replica %d of the group is a witness: start it with --witness", by.Number)
	case !s.Witness && by.Witness:
		return nil, fmt.Errorf("replica %d of the group is not a witness: start it without --witness", by.Number)
	case s.Server == by.Server:
		return nil, nil
	}
	s.Server = by.Server
	return l.try(s)
}

// try makes the command, if the group would take it.
func (l *Leader) try(s Slot) (*Command, error) {
	c := Command{After: l.group.Version, Set: &s}
	scratch := l.group
	if err := scratch.Apply(c); err != nil {
		return nil, err
	}
	return &c, nil
}
