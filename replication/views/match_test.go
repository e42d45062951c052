package views

import (
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

// changes makes raft's servers those of the slots, one change after the other, and returns all of them: -a for the removal of server a, +a for its addition.
// Servers are letters, of those that answer; or capitals, of those that do not. After each change a majority of the servers must answer, or it could not be committed.
func changes(t *testing.T, servers, slots string) string {
	t.Helper()
	var of []raft.Server
	for _, s := range servers {
		of = append(of, raft.Server{ID: raft.ServerID(s)})
	}
	var want []Slot
	for i, s := range slots {
		slot := Slot{Number: uint8(i + 1), Server: string(s)}
		if s == '-' {
			slot.Server = "" // nobody has come yet
		}
		want = append(want, slot)
	}
	responds := func(server string) bool { return server == strings.ToLower(server) }
	var done []string
	for range len(servers) + len(slots) {
		remove, add := nextChange(of, want, responds)
		switch {
		case remove != nil && add != nil:
			t.Fatalf("after %v, two changes at once", done)
		case remove != nil:
			done = append(done, "-"+string(remove.ID))
			of = slices.DeleteFunc(slices.Clone(of), func(s raft.Server) bool { return s.ID == remove.ID })
		case add != nil:
			done = append(done, "+"+add.Server)
			of = append(of, raft.Server{ID: raft.ServerID(add.Server)})
		default:
			return strings.Join(done, " ")
		}
		answer := 0
		for _, s := range of {
			if responds(string(s.ID)) {
				answer++
			}
		}
		if answer <= len(of)/2 {
			t.Errorf("%v: only %d of %d servers answer", done, answer, len(of))
		}
	}
	t.Fatalf("it comes to no end: %v", done)
	return ""
}

func TestRaftsServersBecomeThoseOfTheSlots(t *testing.T) {
	for name, c := range map[string]struct{ servers, slots, want string }{
		"they are":                              {"abc", "abc", ""},
		"a place that nobody has come to fill":  {"abc", "abc-", ""},
		"one has been removed":                  {"abc", "ab", "-c"},
		"one has been added":                    {"abc", "abcd", "+d"},
		"one has come without its directory":    {"abC", "abd", "-C +d"},
		"two are to go, and the second is dead": {"abcdE", "abc", "-E -d"},
		"two are to go, and the first is dead":  {"Dabce", "abc", "-D -e"},
		"two dead ones are to go":               {"abcDE", "abc", "-D -E"},
		"two are to go, and one that stays is dead: of four without the living one, two would not be a majority": {"abCdE", "abC", "-E -d"},
		"all but one are replaced": {"aBcd", "aef", "-B -c -d +e +f"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := changes(t, c.servers, c.slots); got != c.want {
				t.Errorf("servers %s, slots %s: %q, want %q", c.servers, c.slots, got, c.want)
			}
		})
	}
}
