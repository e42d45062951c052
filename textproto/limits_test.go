package textproto

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// A line that begins with no command may be MaxUnknownLine bytes without an end, and is answered whatever
// its length if the end came with the rest; see MaxUnknownLine.
func TestUnknownLine(t *testing.T) {
	long := strings.Repeat("x", MaxUnknownLine+1)
	tests := []struct {
		name  string
		reads []string
		want  string
	}{
		{"at the limit, no end yet", []string{long[1:], "\r\n"}, errorReply},
		{"over the limit, no end yet", []string{long, "\r\n"}, closing},
		{"over the limit, with its end", []string{long + "\r\n"}, errorReply},
		{"with a space", []string{"get" + long + " a"}, closing},
		{"spaces", []string{strings.Repeat(" ", MaxUnknownLine+1)}, closing},
		{"longest line", []string{strings.Repeat("x", MaxLine-2) + "\r\n"}, errorReply},
		{"longer line", []string{strings.Repeat("x", MaxLine-1) + "\r\n"}, closing},
	}
	for _, tt := range tests {
		var reads [][]byte
		for _, r := range tt.reads {
			reads = append(reads, []byte(r))
		}
		if got := transcript(t, new(Parser), reads...); got != tt.want {
			t.Errorf("%s: got %swant %s", tt.name, got, tt.want)
		}
	}
}

// A line that begins with a command may be MaxLine bytes, in any number of reads.
func TestLongLine(t *testing.T) {
	for _, tt := range []struct{ begin, want string }{
		{"set " + strings.Repeat("k", MaxLine-12) + " 0 0 1\r\nx\r\n", badFormat},
		{"set " + strings.Repeat("k", MaxLine-11) + " 0 0 1\r\nx\r\n", closing},
		{"delete a" + strings.Repeat(" ", MaxLine-10) + "\r\n", "delete \"a\"\n"},
		{"delete a" + strings.Repeat(" ", MaxLine-9) + "\r\n", closing},
		{"stats " + strings.Repeat("x", MaxLine), closing},
	} {
		in := []byte(tt.begin)
		for _, size := range []int{len(in), 1 << 10, 99} {
			var reads [][]byte
			for i := 0; i < len(in); i += size {
				reads = append(reads, in[i:min(i+size, len(in))])
			}
			if got := transcript(t, new(Parser), reads...); got != tt.want {
				t.Errorf("%.20q... of %d bytes, reads of %d: got %swant %s", in, len(in), size, got, tt.want)
			}
		}
	}
}

// getset.t and others ask for 20,000 keys in a line.
func TestManyKeys(t *testing.T) {
	for _, cmd := range []string{"get", "gets", "gat 10", "gats 10"} {
		var in bytes.Buffer
		in.WriteString(cmd)
		for i := range 20000 {
			fmt.Fprintf(&in, " key:%05d", i)
		}
		in.WriteString("\r\nget in-step\r\n")
		var p Parser
		var req Request
		keys, portions, ends := 0, 0, 0
		for rest := in.Bytes(); len(rest) > 0; {
			n, st := p.Next(rest[:min(len(rest), MaxLine)], &req) // never more in the buffer
			if st != Ready {
				t.Fatalf("%s: status %d after %d keys", cmd, st, keys)
			}
			rest = rest[n:]
			for key, ok := req.NextKey(); ok && ends == 0; key, ok = req.NextKey() {
				if want := fmt.Sprintf("key:%05d", keys); string(key) != want {
					t.Fatalf("%s: key %q, want %q", cmd, key, want)
				}
				keys++
			}
			portions++
			if !req.Partial {
				ends++
			}
			if name := req.Command.String(); ends < 2 && name != strings.Fields(cmd)[0] || ends == 2 && name != "get" {
				t.Fatalf("%s: command %s", cmd, name)
			}
			if strings.HasPrefix(cmd, "gat") && ends < 2 && req.Exptime != 10 {
				t.Fatalf("%s: exptime %d in portion %d", cmd, req.Exptime, portions)
			}
		}
		if keys != 20000 || ends != 2 || portions < 200000/MaxLine {
			t.Errorf("%s: %d keys in %d portions with %d ends", cmd, keys, portions, ends)
		}
	}
}

// An over-long key after portions that have been handed out ends the line's reply with the error.
func TestManyKeysThenBadOne(t *testing.T) {
	in := "get " + strings.Repeat("a ", MaxLine/2) + key251 + " b\r\nget in-step\r\n"
	got := transcript(t, new(Parser), []byte(in))
	if !strings.HasSuffix(got, " \"a\" ...\n"+badFormat+"get \"in-step\"\n") {
		t.Errorf("got ...%s", got[max(0, len(got)-200):])
	}
}

// What has been searched for the end of a line is not searched again, and what is swallowed needs no
// buffer: a client that sends byte by byte must not cost more than its bytes.
func TestWant(t *testing.T) {
	var p Parser
	var req Request
	step := func(in string, wantN int, wantStatus Status, want int) {
		t.Helper()
		if n, st := p.Next([]byte(in), &req); n != wantN || st != wantStatus || p.Want() != want {
			t.Fatalf("Next(%q) = %d, %d, then Want %d; expected %d, %d, %d", in, n, st, p.Want(), wantN, wantStatus, want)
		}
	}
	step("", 0, More, 1)
	step("set a 0 0 ", 0, More, 11)
	step("set a 0 0 100000\r\nabc", 0, More, 18+100000+2)
	if !p.InBlock() || p.Swallowing() {
		t.Error("not in the data block")
	}
	step("set a 0 0 100000\r\nabcdef", 0, More, 18+100000+2)
	step("set a 0 0 100000\r\n"+strings.Repeat("v", 100000)+"\r\nget b", 18+100002, Ready, 1)
	if string(req.Key) != "a" || len(req.Value) != 100000 || p.InBlock() {
		t.Errorf("%q, %d bytes, %v", req.Key, len(req.Value), p.InBlock())
	}
	step("get b", 0, More, 6)
	step("get b\r\n", 7, Ready, 1)
	step("set a 0 0 2000000\r\nabc", 19, TooLarge, 1)
	if !p.Swallowing() || p.InBlock() {
		t.Error("not swallowing")
	}
	step("abc", 3, More, 1)
	step(strings.Repeat("v", 2000002-3)+"version\r\n", 1999999+9, Ready, 1)
	if req.Command != Version {
		t.Errorf("command %s", req.Command)
	}
}
