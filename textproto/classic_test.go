package textproto

import (
	"fmt"
	"strings"
	"testing"
)

func TestFraming(t *testing.T) {
	testRows(t, []row{
		{"get a\r\n", "get \"a\"\n"},
		{"get a\n", "get \"a\"\n"},
		{"get a\rb\r\n", "get \"a\\rb\"\n"},
		{"get a\r\r\n", "get \"a\\r\"\n"},
		{"get  a   b  \r\n", "get \"a\" \"b\"\n"},
		{"get\ta\r\n", errorReply},
		{" get a\r\n", errorReply},
		{"GET a\r\n", errorReply},
		{"   \r\n", errorReply},
		{"get \x00\x01\x7f\xff\r\n", "get \"\\x00\\x01\\x7f\\xff\"\n"},
		{"\r\n", badFormat},
		{"\n", badFormat},
		{"x\r\n", badFormat},
		{"x\n", badFormat},
		{"xx\n", badFormat}, // memcached counts the line with its end: less than 4 bytes is no request
		{"xx\r\n", errorReply},
		{"xxx\n", errorReply},
		{"mn\r\n", errorReply},
		{"boguscommand slkdsldkfjsd\r\n", errorReply},
		{"bogus noreply\r\n", silence},
		{"noreply\r\n", silence},
		{"getx a\r\n", errorReply},
		{"gett\r\n", errorReply},
		{"ge a\r\n", errorReply},
		{"GET / HTTP/1.0\r\n", closing},
		{"PUT /asdf/asd/fasdfasdf/sadf HTTP/1.1\r\n", closing},
		{"DELETE HTTP/1.1\r\n", closing},
		{"HTTP/1.1\r\n", errorReply},
		{"x HTTP/1.1 y\r\n", errorReply},
		{"get HTTP/1.1\r\n", "get \"HTTP/1.1\"\n"},
		{"\x80\x00\x00\x00", closing},
	})
	if got := transcript(t, new(Parser), []byte("get a\r\n\x80 b\r\n")); got != "get \"a\"\n"+errorReply {
		t.Errorf("0x80 after the first request: %s", got)
	}
}

func TestRetrieval(t *testing.T) {
	testRows(t, []row{
		{"get " + key250 + "\r\n", "get \"" + key250 + "\"\n"},
		{"get " + key251 + "\r\n", badFormat},
		{"get a " + key251 + "\r\n", badFormat},
		{"get " + key251 + " a\r\n", badFormat},
		{"get a " + key250 + " b " + key250 + "\r\n", fmt.Sprintf("get \"a\" %q \"b\" %q\n", key250, key250)},
		{"gets a b a\r\n", "gets \"a\" \"b\" \"a\"\n"},
		{"get a noreply\r\n", "get \"a\" \"noreply\"\n"},
		{"get\r\n", badFormat},
		{"get \r\n", badFormat},
		{"gets\r\n", badFormat},
		{"gets  \r\n", badFormat},
		{"gat 10 a b\r\n", "gat exptime=10 \"a\" \"b\"\n"},
		{"gats -1 a\r\n", "gats exptime=-1 \"a\"\n"},
		{"gat\r\n", badFormat},
		{"gat 10\r\n", badFormat},
		{"gat 10 \r\n", badFormat},
		{"gats 10\r\n", badFormat},
		{"gat abc a\r\n", badExptime},
		{"gat +1 a\r\n", badExptime},
		{"gat 2147483648 a\r\n", badExptime},
		{"gat 10 " + key251 + "\r\n", badFormat},
		{"gat 10 a " + key251 + "\r\n", badFormat},
	})
}

func TestStorage(t *testing.T) {
	for _, cmd := range []string{"set", "add", "replace", "append", "prepend"} {
		testRows(t, []row{
			{cmd + " a 0 0 1\r\nx\r\n", cmd + " \"a\" flags=0 exptime=0 \"x\"\n"},
			{cmd + " a 0 0 0\r\n\r\n", cmd + " \"a\" flags=0 exptime=0 \"\"\n"},
			{cmd + " a 1 2 3\nx\n\r\r\n", cmd + " \"a\" flags=1 exptime=2 \"x\\n\\r\"\n"},
			{cmd + "  a  1  2  3   noreply  \r\nabc\r\n", cmd + " \"a\" flags=1 exptime=2 \"abc\" noreply\n"},
			{cmd + " a 1 2 3 junk\r\nabc\r\n", cmd + " \"a\" flags=1 exptime=2 \"abc\"\n"},
			{cmd + " a 1 2 3 noreply junk\r\nabc\r\n", cmd + " \"a\" flags=1 exptime=2 \"abc\"\n"},
			{cmd + " " + key250 + " 0 0 1\r\nx\r\n", cmd + " \"" + key250 + "\" flags=0 exptime=0 \"x\"\n"},

			{cmd + "\r\n", badFormat},
			{cmd + " a\r\n", badFormat},
			{cmd + " a 0 0\r\n", badFormat},
			{cmd + " a 0 0 noreply\r\n", badFormat},

			// The block of a refused item is swallowed, the errors of noreply too.
			{cmd + " " + key251 + " 0 0 5\r\nget x\r\n", badFormat},
			{cmd + " " + key251 + " 0 0 5 noreply\r\nget x\r\n", silence},
			{cmd + " a abc 0 5\r\nget x\r\n", badFormat},
			{cmd + " a 0 abc 5\r\nget x\r\n", badFormat},
			{cmd + " a abc 0 5 noreply\r\nget x\r\n", silence},

			// Its length is not known when the byte count is wrong, and its bytes are commands.
			{cmd + " a 0 0 abc\r\nget x\r\n", badFormat + "get \"x\"\n"},
			{cmd + " a 0 0 abc noreply\r\nget x\r\n", badFormat + "get \"x\"\n"},
			{cmd + " a 0 0 -1\r\n", badFormat},
			{cmd + " a 0 0 +1\r\n", badFormat},
			{cmd + " a 0 0 2147483646\r\n", badFormat},
			{cmd + " a 0 0 2147483647\r\n", badFormat},
			{cmd + " a 0 0 2147483648\r\n", badFormat},
			{cmd + " a 0 0 4294967295\r\n", badFormat},
			{cmd + " a 0 0 99999999999999999999\r\n", badFormat},

			// Exactly the declared bytes and 2 are taken, whatever they are.
			{cmd + " a 0 0 2\r\nabcdget x\r\n", badChunk + "get \"x\"\n"},
			{cmd + " a 0 0 1\r\nx\n\nget x\r\n", badChunk + "get \"x\"\n"},
		})
	}
}

func TestCas(t *testing.T) {
	testRows(t, []row{
		{"cas a 1 2 1 3\r\nx\r\n", "cas \"a\" flags=1 exptime=2 cas=3 \"x\"\n"},
		{"cas a 1 2 1 3 noreply\r\nx\r\n", "cas \"a\" flags=1 exptime=2 cas=3 \"x\" noreply\n"},
		{"cas a 0 0 1 18446744073709551615\r\nx\r\n", "cas \"a\" flags=0 exptime=0 cas=18446744073709551615 \"x\"\n"},
		{"cas a 0 0 5 18446744073709551616\r\nget x\r\n", badFormat},
		{"cas a 0 0 5 -1\r\nget x\r\n", badFormat},
		{"cas a 0 0 5 abc\r\nget x\r\n", badFormat},
		{"cas a 0 0 5\r\nget x\r\n", badFormat},
		{"cas a 0 0 5 noreply\r\nget x\r\n", silence},
		{"cas a 0 0 noreply\r\n", badFormat},
		{"cas a 0 0\r\n", badFormat},
	})
}

// The flags and exptime of storage commands are read as strtoul and strtol do.
func TestLooseNumbers(t *testing.T) {
	for _, tt := range []struct {
		flags, exptime string
		want           string // empty: refused
	}{
		{"+1", "+1", "flags=1 exptime=1"},
		{"007", "007", "flags=7 exptime=7"},
		{"4294967295", "2147483647", "flags=4294967295 exptime=2147483647"},
		{"4294967301", "4294967297", "flags=5 exptime=1"},
		{"0", "2147483648", "flags=0 exptime=-2147483648"},
		{"0", "-1", "flags=0 exptime=-1"},
		{"0", "-4294967297", "flags=0 exptime=-1"},
		{"18446744073709551615", "9223372036854775807", "flags=4294967295 exptime=-1"},
		{"-18446744073709551615", "-9223372036854775808", "flags=1 exptime=0"},
		{"18446744073709551616", "0", ""},
		{"0", "9223372036854775808", ""},
		{"0", "-9223372036854775809", ""},
		{"-1", "0", ""},
		{"0x1", "0", ""},
		{"1a", "0", ""},
		{"0", "1.5", ""},
		{"+", "0", ""},
		{"0", "-", ""},
		{"\t5", "5\t", "flags=5 exptime=5"},
		{"5\x00x", "5\vx", "flags=5 exptime=5"},
	} {
		want := badFormat
		if tt.want != "" {
			want = "set \"a\" " + tt.want + " \"get x\"\n"
		}
		testRows(t, []row{{"set a " + tt.flags + " " + tt.exptime + " 5\r\nget x\r\n", want}})
	}
}

func TestDelete(t *testing.T) {
	testRows(t, []row{
		{"delete a\r\n", "delete \"a\"\n"},
		{"delete a noreply\r\n", "delete \"a\" noreply\n"},
		{"delete a 0\r\n", "delete \"a\"\n"},
		{"delete a 0 noreply\r\n", "delete \"a\" noreply\n"},
		{"delete  a  0  noreply \r\n", "delete \"a\" noreply\n"},
		{"delete noreply\r\n", "delete \"noreply\" noreply\n"},
		{"delete " + key250 + "\r\n", "delete \"" + key250 + "\"\n"},
		{"delete " + key251 + "\r\n", badFormat},
		{"delete " + key251 + " noreply\r\n", silence},
		{"delete\r\n", badFormat},
		{"delete \r\n", badFormat},
		{"delete a b c d e\r\n", usage},
		{"delete a 10\r\n", usage},
		{"delete a 00\r\n", usage},
		{"delete a 0 0\r\n", usage},
		{"delete a noreply 0\r\n", usage},
		{"delete a 10 noreply\r\n", silence},
	})
}

func TestIncrDecr(t *testing.T) {
	for _, cmd := range []string{"incr", "decr"} {
		testRows(t, []row{
			{cmd + " n 1\r\n", cmd + " \"n\" delta=1\n"},
			{cmd + " n 0\r\n", cmd + " \"n\" delta=0\n"},
			{cmd + " n 18446744073709551615\r\n", cmd + " \"n\" delta=18446744073709551615\n"},
			{cmd + " n 0000000000000000000001\r\n", cmd + " \"n\" delta=1\n"},
			{cmd + " n 1 noreply\r\n", cmd + " \"n\" delta=1 noreply\n"},
			{cmd + " n 1 junk\r\n", cmd + " \"n\" delta=1\n"},
			{cmd + " n 18446744073709551616\r\n", badDelta},
			{cmd + " n 28446744073709551610\r\n", badDelta},
			{cmd + " n 00000000000000000000001\r\n", badDelta},
			{cmd + " n -1\r\n", badDelta},
			{cmd + " n +1\r\n", badDelta},
			{cmd + " n abc\r\n", badDelta},
			{cmd + " n 1a\r\n", badDelta},
			{cmd + " n abc noreply\r\n", silence},
			{cmd + " n noreply\r\n", silence},
			{cmd + " n\r\n", badFormat},
			{cmd + " noreply\r\n", badFormat},
			{cmd + "\r\n", badFormat},
			{cmd + " " + key251 + " 1\r\n", badFormat},
			{cmd + " " + key251 + " abc\r\n", badFormat},
			{cmd + " " + key251 + " 1 noreply\r\n", silence},
		})
	}
}

func TestTouch(t *testing.T) {
	testRows(t, []row{
		{"touch a 10\r\n", "touch \"a\" exptime=10\n"},
		{"touch a -2147483648\r\n", "touch \"a\" exptime=-2147483648\n"},
		{"touch a 2147483647 noreply\r\n", "touch \"a\" exptime=2147483647 noreply\n"},
		{"touch a 2147483648\r\n", badExptime},
		{"touch a -2147483649\r\n", badExptime},
		{"touch a 000000000001\r\n", badExptime},
		{"touch a 00000000001\r\n", "touch \"a\" exptime=1\n"},
		{"touch a -\r\n", "touch \"a\" exptime=0\n"}, // memcached takes a sign for a number
		{"touch a abc\r\n", badExptime},
		{"touch a +1\r\n", badExptime},
		{"touch a abc noreply\r\n", silence},
		{"touch a noreply\r\n", silence},
		{"touch a\r\n", badFormat},
		{"touch\r\n", badFormat},
		{"touch " + key251 + " 1\r\n", badFormat},
		{"touch " + key251 + " 1 noreply\r\n", silence},
	})
}

func TestSizeLimit(t *testing.T) {
	tests := []struct {
		limit       uint32
		key, flags  string
		fits        int
		description string
	}{
		{0, "a", "0", 1048516, "measured on memcached"},
		{0, "a", "1", 1048512, "flags are stored"},
		{0, key250, "0", 1048267, "the key counts"},
		{1024, "a", "0", 964, "the least -I"},
	}
	for _, tt := range tests {
		p := Parser{ItemSizeMax: tt.limit}
		for _, cmd := range []string{"set", "add", "replace", "append", "prepend", "cas"} {
			unique := ""
			if cmd == "cas" {
				unique = " 1"
			}
			for _, over := range []bool{false, true} {
				size := tt.fits
				want := cmd + " \""
				if over {
					size++
					want = fmt.Sprintf("too large %s %q reply %q\n", cmd, tt.key, ReplyTooLarge)
				}
				in := fmt.Sprintf("%s %s %s 0 %d%s\r\n%s\r\n", cmd, tt.key, tt.flags, size, unique, strings.Repeat("v", size))
				got := transcript(t, &p, []byte(in))
				if !strings.HasPrefix(got, want) || strings.Count(got, "\n") != 1 {
					t.Errorf("%s: %s of %d bytes: %.100s", tt.description, cmd, size, got)
				}
			}
		}
	}
	testRows(t, []row{
		{"set a 0 0 1048517 noreply\r\n" + strings.Repeat("v", 1048517) + "\r\n", "too large set \"a\" reply \"\"\n"},
		{"set a 0 0 1048517\r\n" + strings.Repeat("\n", 1048517) + "xx", fmt.Sprintf("too large set \"a\" reply %q\n", ReplyTooLarge)},
	})
}
