package textproto

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
)

// model is a second parser of the protocol, written for the tests to be read next to the specification:
// it has the whole stream, takes no care of speed and shares no code with the Parser. It writes the same
// transcript.
type model struct {
	limit  int // item size
	out    strings.Builder
	closes []int // places in out at which the connection may be closed instead: see MaxUnknownLine
}

// matches reports whether got is a transcript that the model allows.
func (m *model) matches(got string) bool {
	want := m.out.String()
	if got == want {
		return true
	}
	for _, at := range m.closes {
		if got == want[:at]+"close\n" {
			return true
		}
	}
	return false
}

func (m *model) say(format string, args ...any) { fmt.Fprintf(&m.out, format+"\n", args...) }

func (m *model) refuse(quiet bool, reply string) {
	if quiet {
		reply = ""
	}
	m.say("reply %q", reply)
}

// tokens splits at spaces, and only there.
func tokens(line string) (list []string) {
	for _, token := range strings.Split(line, " ") {
		if token != "" {
			list = append(list, token)
		}
	}
	return list
}

// digits reads a number of plain digits between low and high.
func digits(token string, maxLen int, low, high string) (n *big.Int, ok bool) {
	sign, plain := "", token
	if low != "0" && strings.HasPrefix(token, "-") {
		sign, plain = "-", token[1:]
	}
	if token == "" || len(token) > maxLen || strings.Trim(plain, "0123456789") != "" || plain == "" && sign == "" {
		return nil, false
	}
	n, _ = new(big.Int).SetString(sign+"0"+plain, 10)
	least, _ := new(big.Int).SetString(low, 10)
	most, _ := new(big.Int).SetString(high, 10)
	return n, n.Cmp(least) >= 0 && n.Cmp(most) <= 0
}

func int32Of(token string) (int64, bool) {
	n, ok := digits(token, 11, "-2147483648", "2147483647")
	if !ok {
		return 0, false
	}
	return n.Int64(), true
}

func uint64Of(token string) (uint64, bool) {
	n, ok := digits(token, 22, "0", "18446744073709551615")
	if !ok {
		return 0, false
	}
	return n.Uint64(), true
}

func uint32Of(token string) (uint64, bool) {
	n, ok := digits(token, 11, "0", "4294967295")
	if !ok {
		return 0, false
	}
	return n.Uint64(), true
}

// strtol is C's, of the line from the token on, with the lower 32 bits of the result.
func strtol(s string, signed bool) (low uint32, ok bool) {
	const blanks = " \t\n\v\f\r"
	s = strings.TrimLeft(s, blanks)
	sign := ""
	if s != "" && (s[0] == '+' || s[0] == '-') {
		sign, s = strings.Trim(s[:1], "+"), s[1:]
	}
	n := 0
	for n < len(s) && '0' <= s[n] && s[n] <= '9' {
		n++
	}
	if n == 0 || n < len(s) && !strings.Contains(blanks+"\x00", s[n:n+1]) {
		return 0, false
	}
	v, _ := new(big.Int).SetString(sign+s[:n], 10)
	if signed {
		return uint32(v.Int64()), v.IsInt64()
	}
	if new(big.Int).Abs(v).IsUint64() {
		wrapped := new(big.Int).Abs(v).Uint64()
		if sign == "-" {
			wrapped = -wrapped
		}
		return uint32(wrapped), sign == "" || int64(wrapped) >= 0
	}
	return 0, false
}

// run parses the whole stream.
func (m *model) run(in string) {
	if strings.HasPrefix(in, "\x80") {
		m.say("close")
		return
	}
	for ok := true; ok && in != ""; {
		in, ok = m.line(in)
	}
}

// line takes one line, with its data block, off in. ok is false if nothing more can be done.
func (m *model) line(in string) (rest string, ok bool) {
	newline := strings.IndexByte(in, '\n')
	word, _, _ := strings.Cut(in[:min(len(in), MaxLine)], " ")
	_, known := lookUp([]byte(word))
	if newline < 0 || newline >= MaxLine {
		switch {
		case len(in) < MaxLine && (known || len(in) <= MaxUnknownLine):
			return in, false
		case !strings.Contains(" get gets gat gats ", " "+word+" ") || word == "":
			m.say("close")
			return in, false
		}
		return m.longGet(word, in)
	}
	line, rest := strings.TrimSuffix(in[:newline], "\r"), in[newline+1:]
	if newline >= MaxUnknownLine && !known {
		m.closes = append(m.closes, m.out.Len())
	}
	if newline+1 < 4 {
		m.refuse(false, ReplyBadFormat)
		return rest, true
	}
	args := tokens(line[min(len(line), len(word)):])
	word, _, _ = strings.Cut(line, " ")
	quiet := len(args) > 0 && args[len(args)-1] == "noreply"
	suffix := ""
	if quiet {
		suffix = " noreply"
	}
	switch word {
	case "get", "gets":
		m.keys(word, args, "")
	case "gat", "gats":
		m.gat(word, args, "")
	case "set", "add", "replace", "append", "prepend", "cas":
		return m.storage(word, line, args, rest)
	case "delete":
		extra := ""
		if len(args) > 1 {
			extra = strings.Join(args[1:], " ")
		}
		switch {
		case len(args) == 0:
			m.refuse(false, ReplyBadFormat)
		case !strings.Contains("||0|noreply|0 noreply|", "|"+extra+"|"):
			m.refuse(quiet, ReplyDeleteUsage)
		case len(args[0]) > 250:
			m.refuse(quiet, ReplyBadFormat)
		default:
			m.say("delete %q%s", args[0], suffix)
		}
	case "incr", "decr", "touch":
		m.number(word, args, quiet, suffix)
	case "version", "quit":
		m.say("%s", word)
	case "stats", "watch":
		m.say("%s%s", word, quoted(args))
	case "flush_all":
		exptime, ok := int64(0), true
		if len(args) > 1 || len(args) == 1 && !quiet {
			exptime, ok = int32Of(args[0])
		}
		if !ok {
			m.refuse(quiet, ReplyInvalidExptime)
		} else {
			m.say("flush_all exptime=%d%s", exptime, suffix)
		}
	case "verbosity":
		if level, ok := uint32Of(append(args, "")[0]); ok {
			m.say("verbosity level=%d%s", min(level, 2), suffix)
		} else {
			m.refuse(quiet, ReplyBadFormat)
		}
	case "shutdown", "cache_memlimit", "lru_crawler", "slabs", "lru", "extstore":
		// These have their table; what matters here is that they take one line.
		var req Request
		cmd, _ := lookUp([]byte(word))
		writeEvent(&m.out, simple(cmd, []byte(line[len(word):]), &req), &req)
	default:
		if all := tokens(line); len(all) > 0 {
			quiet = all[len(all)-1] == "noreply"
			if strings.Contains(line, " ") && strings.HasPrefix(all[len(all)-1], "HTTP/") {
				m.say("close")
				return "", false
			}
		}
		m.refuse(quiet, ReplyError)
	}
	return rest, true
}

func quoted(list []string) (s string) {
	for _, token := range list {
		s += " " + strconv.Quote(token)
	}
	return s
}

// keys writes a get's keys; ok is false if it was refused.
func (m *model) keys(head string, args []string, tail string) (ok bool) {
	fits := len(args) > 0
	for _, key := range args {
		fits = fits && len(key) <= 250
	}
	if !fits {
		m.refuse(false, ReplyBadFormat)
		return false
	}
	m.say("%s%s%s", head, quoted(args), tail)
	return true
}

func (m *model) gat(word string, args []string, tail string) (head string, ok bool) {
	if len(args) < 2 {
		m.refuse(false, ReplyBadFormat)
		return "", false
	}
	exptime, ok := int32Of(args[0])
	if !ok {
		m.refuse(false, ReplyInvalidExptime)
		return "", false
	}
	head = fmt.Sprintf("%s exptime=%d", word, exptime)
	return head, m.keys(head, args[1:], tail)
}

// longGet takes a line that is longer than MaxLine apart.
func (m *model) longGet(word, in string) (rest string, ok bool) {
	skip := func(in string) (string, bool) {
		_, rest, found := strings.Cut(in, "\n")
		return rest, found
	}
	cut := strings.LastIndexByte(in[:MaxLine], ' ') + 1
	args := tokens(in[len(word):cut])
	head := word
	in = in[cut:]
	if strings.HasPrefix(word, "gat") {
		head, ok = m.gat(word, args, " ...")
	} else {
		ok = m.keys(word, args, " ...")
	}
	for ok {
		newline := strings.IndexByte(in[:min(len(in), MaxLine)], '\n')
		switch {
		case newline < 0 && len(in) < MaxLine:
			return in, false
		case newline < 0:
			cut = strings.LastIndexByte(in[:MaxLine], ' ') + 1
			if args = tokens(in[:cut]); cut == 0 {
				args = []string{in}
			}
			in = in[cut:]
			ok = m.moreKeys(head, args, " ...")
		default:
			args = tokens(strings.TrimSuffix(in[:newline], "\r"))
			m.moreKeys(head, args, "")
			return in[newline+1:], true
		}
	}
	return skip(in)
}

// moreKeys is keys for what may be none: the line had some before.
func (m *model) moreKeys(head string, args []string, tail string) (ok bool) {
	if len(args) == 0 {
		m.say("%s%s", head, tail)
		return true
	}
	return m.keys(head, args, tail)
}

func (m *model) number(word string, args []string, quiet bool, suffix string) {
	if len(args) < 2 {
		m.refuse(false, ReplyBadFormat)
		return
	}
	delta, deltaOK := uint64Of(args[1])
	exptime, exptimeOK := int32Of(args[1])
	switch {
	case len(args[0]) > 250:
		m.refuse(quiet, ReplyBadFormat)
	case word == "touch" && !exptimeOK:
		m.refuse(quiet, ReplyInvalidExptime)
	case word == "touch":
		m.say("touch %q exptime=%d%s", args[0], exptime, suffix)
	case !deltaOK:
		m.refuse(quiet, ReplyInvalidDelta)
	default:
		m.say("%s %q delta=%d%s", word, args[0], delta, suffix)
	}
}

// storage takes a storage command; rest is what follows its line.
func (m *model) storage(word, line string, args []string, rest string) (string, bool) {
	if len(args) < 4 {
		m.refuse(false, ReplyBadFormat)
		return rest, true
	}
	size, ok := int32Of(args[3])
	if !ok || size < 0 || size > 2147483645 {
		m.refuse(false, ReplyBadFormat)
		return rest, true
	}
	quiet := len(args) > 4 && args[len(args)-1] == "noreply"
	// Where flags and exptime stand in the line, for strtol reads on beyond their ends.
	at := len(word)
	for i, token := range args[:3] {
		at += strings.Index(line[at:], token)
		args[i] = line[at:]
		at += len(token)
		if i == 0 {
			args[0] = token
		}
	}
	flags, flagsOK := strtol(args[1], false)
	exptime, exptimeOK := strtol(args[2], true)
	unique, uniqueOK := uint64(0), word != "cas"
	if word == "cas" && len(args) > 4 {
		unique, uniqueOK = uint64Of(args[4])
	}
	whole := 48 + 8 + len(args[0]) + 1 + int(size) + 2
	if flags != 0 {
		whole += 4
	}
	block := int(size) + 2
	swallowed := rest[min(len(rest), block):]
	switch {
	case len(args[0]) > 250 || !flagsOK || !exptimeOK || !uniqueOK:
		m.refuse(quiet, ReplyBadFormat)
		return swallowed, true
	case whole > m.limit:
		reply := ReplyTooLarge
		if quiet {
			reply = ""
		}
		m.say("too large %s %q reply %q", word, args[0], reply)
		return swallowed, true
	case len(rest) < block:
		return rest, false
	case rest[size:block] != "\r\n":
		m.refuse(quiet, ReplyBadDataChunk)
		return swallowed, true
	}
	cas, suffix := "", ""
	if word == "cas" {
		cas = fmt.Sprintf(" cas=%d", unique)
	}
	if quiet {
		suffix = " noreply"
	}
	m.say("%s %q flags=%d exptime=%d%s %q%s", word, args[0], flags, int32(exptime), cas, rest[:size], suffix)
	return swallowed, true
}
