package bench

import (
	"bytes"
	"strings"
)

// replyPart is the part of a reply that comes next.
type replyPart uint8

const (
	partLine replyPart = iota // a line: all of a reply, or a value's header
	partHead                  // the first min(size, valueHead) bytes of a value
	partBody                  // conn.left more bytes of it
	partEnd                   // valueEnd
)

// maxLine bounds the lines that a server may send; valueEnd follows the value of a get of one key.
const (
	maxLine  = 2048
	valueEnd = "\r\nEND\r\n"
)

// scan takes as many replies to the connection's batch from the front of in as it holds. rest is what is not enough to go
// on with (at most maxLine bytes), to be handed in again in front of what comes next. wrong, unless empty, says why
// the connection is of no use any more.
func (t *thread) scan(c *conn, in []byte) (rest []byte, wrong string) {
	gets, sets := 0, 0
	for len(in) > 0 && wrong == "" {
		if c.answered == len(c.batch) {
			wrong = "the server sent more than it was asked for"
			break
		}
		o := &c.batch[c.answered]
		switch c.part {
		case partLine:
			end := bytes.IndexByte(in, '\n')
			if end >= maxLine || end < 0 && len(in) >= maxLine {
				wrong = "the server sent a line that is too long"
				break
			}
			if end < 0 {
				t.record(c, gets, sets)
				return in, ""
			}
			if wrong = t.line(c, o, in[:end+1]); c.part == partLine {
				sets += btoi(o.set)
				gets += btoi(!o.set)
			}
			in = in[end+1:]
		case partHead:
			n := min(int(c.size), valueHead)
			if len(in) < n {
				t.record(c, gets, sets)
				return in, ""
			}
			if t.plan.cfg.Check {
				salt, ok := t.plan.values.checkHead(in[:n], o.key, c.size)
				c.salt, c.bad = salt, !ok
			}
			c.left = int(c.size) - n
			in, c.part = in[n:], partBody
		case partBody:
			n := min(len(in), c.left)
			if t.plan.cfg.Check && !c.bad && n > 0 {
				c.bad = !t.plan.values.checkBody(in[:n], c.salt, int(c.size)-valueHead-c.left)
			}
			in = in[n:]
			if c.left -= n; c.left == 0 {
				c.part = partEnd
			}
		case partEnd:
			if len(in) < len(valueEnd) {
				t.record(c, gets, sets)
				return in, ""
			}
			if string(in[:len(valueEnd)]) != valueEnd {
				wrong = "a value is not followed by END"
				break
			}
			if c.bad {
				t.counts.corrupt++
			}
			t.counts.hits++
			gets++
			c.answered++
			in, c.part = in[len(valueEnd):], partLine
		}
	}
	// A value of no bytes, or one that ended with the input, is at its next part already.
	if c.part == partBody && c.left == 0 {
		c.part = partEnd
	}
	t.record(c, gets, sets)
	return in, wrong
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// line handles a line, which ends in a line feed. It is either the whole reply, and c.answered has grown, or the header of a
// value, and c.part is partHead.
func (t *thread) line(c *conn, o *operation, line []byte) (wrong string) {
	if !o.set && bytes.HasPrefix(line, []byte("VALUE ")) {
		return t.valueHeader(c, o, line)
	}
	switch {
	case o.set && string(line) == "STORED\r\n":
		t.counts.sets++
	case !o.set && string(line) == "END\r\n":
		t.counts.misses++
	case isError(line):
		t.counts.failed++
		t.counts.complain(quote(line))
	default:
		return "unexpected reply: " + quote(line)
	}
	c.answered++
	return ""
}

// quote returns the beginning of a line, for people.
func quote(line []byte) string {
	const most = 100
	return strings.ToValidUTF8(string(bytes.TrimRight(line[:min(len(line), most)], "\r\n")), "?")
}

// isError reports whether a line is an answer in the protocol, though not the one hoped for: the stream goes on.
func isError(line []byte) bool {
	for _, prefix := range [...]string{"SERVER_ERROR", "CLIENT_ERROR", "ERROR", "NOT_STORED\r\n"} {
		if len(line) >= len(prefix) && string(line[:len(prefix)]) == prefix {
			return true
		}
	}
	return false
}

// valueHeader handles "VALUE <key> <flags> <bytes>\r\n". Flags are those that this program writes: 0.
func (t *thread) valueHeader(c *conn, o *operation, line []byte) (wrong string) {
	keyEnd := len("VALUE ") + len(t.plan.keys.zeros)
	const flags = " 0 "
	if len(line) < keyEnd+len(flags)+len("0\r\n") || !t.plan.keys.matches(line[len("VALUE "):keyEnd], o.key) {
		return "a get was answered with another key"
	}
	if string(line[keyEnd:keyEnd+len(flags)]) != flags {
		return "a get was answered with flags that were not set"
	}
	var size uint64
	digits := line[keyEnd+len(flags) : len(line)-2]
	for _, d := range digits {
		if d < '0' || d > '9' || size > MaxValueSize {
			return "a value's length is not a number in range"
		}
		size = size*10 + uint64(d-'0')
	}
	if len(digits) == 0 || line[len(line)-2] != '\r' || size > MaxValueSize {
		return "a value's header is not well-formed"
	}
	c.size, c.part, c.bad = uint32(size), partHead, false
	return ""
}
