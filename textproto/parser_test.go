package textproto

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// transcript feeds the reads to a Parser one after the other, as a connection would, and writes down what
// comes out of it, one line for each request or reply.
func transcript(t testing.TB, p *Parser, reads ...[]byte) string {
	t.Helper()
	var out strings.Builder
	var req Request
	var pending []byte
	for _, read := range reads {
		// A buffer of its own, exactly as long as its bytes: reading beyond them would panic, and
		// a slice kept from an earlier call would not see these.
		pending = append(bytes.Clone(pending), read...)
		for first := true; len(pending) > 0; first = false {
			want := p.Want()
			n, st := p.Next(pending, &req)
			if n < 0 || n > len(pending) {
				t.Fatalf("Next consumed %d bytes of %d", n, len(pending))
			}
			if st != More && first && len(pending) < want {
				t.Fatalf("Next found %d in %d bytes after Want said %d", st, len(pending), want)
			}
			pending = pending[n:]
			if st == More {
				if p.Want() <= len(pending) {
					t.Fatalf("Want is %d with %d bytes there", p.Want(), len(pending))
				}
				break
			}
			writeEvent(&out, st, &req)
			if st == Close {
				return out.String()
			}
		}
	}
	return out.String()
}

// writeEvent writes one result of Next with every field that has a meaning for it.
func writeEvent(out *strings.Builder, st Status, r *Request) {
	switch st {
	case Close:
		out.WriteString("close\n")
		return
	case Reply:
		fmt.Fprintf(out, "reply %q\n", r.Reply)
		return
	case TooLarge:
		fmt.Fprintf(out, "too large %s %q reply %q\n", r.Command, r.Key, r.Reply)
		return
	}
	out.WriteString(r.Command.String())
	switch c := r.Command; {
	case c.IsRetrieval():
		if c == Gat || c == Gats {
			fmt.Fprintf(out, " exptime=%d", r.Exptime)
		}
		for key, ok := r.NextKey(); ok; key, ok = r.NextKey() {
			fmt.Fprintf(out, " %q", key)
		}
		if r.Partial {
			out.WriteString(" ...")
		}
	case c.IsStorage():
		fmt.Fprintf(out, " %q flags=%d exptime=%d", r.Key, r.Flags, r.Exptime)
		if c == Cas {
			fmt.Fprintf(out, " cas=%d", r.CAS)
		}
		fmt.Fprintf(out, " %q", r.Value)
	case c == Delete:
		fmt.Fprintf(out, " %q", r.Key)
	case c == Incr || c == Decr:
		fmt.Fprintf(out, " %q delta=%d", r.Key, r.Delta)
	case c == Touch:
		fmt.Fprintf(out, " %q exptime=%d", r.Key, r.Exptime)
	case c == FlushAll:
		fmt.Fprintf(out, " exptime=%d", r.Exptime)
	case c == Verbosity:
		fmt.Fprintf(out, " level=%d", r.Level)
	case c == CacheMemlimit:
		fmt.Fprintf(out, " mb=%d", r.MemoryMB)
	case c == Stats || c == Watch || c == Shutdown || c == CrawlerDump:
		for arg, ok := r.NextArg(); ok; arg, ok = r.NextArg() {
			fmt.Fprintf(out, " %q", arg)
		}
	}
	if r.Noreply {
		out.WriteString(" noreply")
	}
	out.WriteByte('\n')
}

// Errors as they stand in a transcript.
var (
	badFormat  = fmt.Sprintf("reply %q\n", ReplyBadFormat)
	badChunk   = fmt.Sprintf("reply %q\n", ReplyBadDataChunk)
	errorReply = fmt.Sprintf("reply %q\n", ReplyError)
	okReply    = fmt.Sprintf("reply %q\n", ReplyOK)
	badExptime = fmt.Sprintf("reply %q\n", ReplyInvalidExptime)
	badDelta   = fmt.Sprintf("reply %q\n", ReplyInvalidDelta)
	usage      = fmt.Sprintf("reply %q\n", ReplyDeleteUsage)
	silence    = "reply \"\"\n"
	closing    = "close\n"
)

var (
	key250 = strings.Repeat("k", 250)
	key251 = strings.Repeat("k", 251)
)

// row is one input and what the parser makes of it.
type row struct{ in, want string }

// testRows runs each row whole, cut at every point, and byte by byte, with a request behind it that
// shows that the stream has stayed in step.
func testRows(t *testing.T, rows []row) {
	t.Helper()
	const after, afterWant = "get in-step\r\n", "get \"in-step\"\n"
	for _, r := range rows {
		name := r.in
		if len(name) > 60 {
			name = fmt.Sprintf("%s...(%d)", name[:60], len(name))
		}
		in, want := []byte(r.in+after), r.want+afterWant
		if strings.HasSuffix(r.want, closing) {
			want = r.want
		}
		if got := transcript(t, new(Parser), in); got != want {
			t.Errorf("%q:\n got %s\nwant %s", name, got, want)
			continue
		}
		if len(in) > MaxUnknownLine {
			continue // cut up in fuzz_test.go; too long for every cut
		}
		for i := 1; i < len(in); i++ {
			if got := transcript(t, new(Parser), in[:i], in[i:]); got != want {
				t.Errorf("%q cut at %d:\n got %s\nwant %s", name, i, got, want)
				break
			}
		}
		if got := transcript(t, new(Parser), single(in)...); got != want {
			t.Errorf("%q byte by byte:\n got %s\nwant %s", name, got, want)
		}
	}
}

// single cuts in into single bytes.
func single(in []byte) (reads [][]byte) {
	for i := range in {
		reads = append(reads, in[i:i+1])
	}
	return reads
}
