package views

import (
	"testing"

	"github.com/hashicorp/raft"
)

// TestCommandsOfAnEarlierReign: what was decided in one term of raft is not done in another, in which others may have been given leases.
func TestCommandsOfAnEarlierReign(t *testing.T) {
	d := &Driver{}
	d.mail.bell = make(chan struct{}, 1)
	f := &fsm{d: d}
	apply := func(c Command, term uint64) error {
		err, _ := f.Apply(&raft.Log{Term: term, Data: c.Encode()}).(error)
		return err
	}
	form := Command{Form: &Form{ID: "g", Slots: []Slot{{Number: 1, Address: "a:1", Server: "1-x"}}}}
	if err := apply(form, 1); err != nil {
		t.Fatal(err)
	}
	c := Command{After: f.get().Version, Term: 5, Set: &Slot{Number: 2, Address: "b:1"}}
	if err := apply(c, 7); err == nil {
		t.Error("a command of term 5 was done in term 7")
	}
	if err := apply(c, 5); err != nil {
		t.Error(err)
	}
}
