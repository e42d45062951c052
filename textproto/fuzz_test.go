package textproto

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

const fuzzItemSizeMax = 1024

// check runs in through a Parser, whole and cut into reads by sizes, and holds what comes out against
// the model.
func check(t testing.TB, in []byte, sizes func() int) {
	t.Helper()
	m := model{limit: fuzzItemSizeMax}
	m.run(string(in))
	if got := transcript(t, &Parser{ItemSizeMax: fuzzItemSizeMax}, in); !m.matches(got) {
		t.Fatalf("%s\nin one read:\n got %s\nwant %s", abridged(in), got, m.out.String())
	}
	var reads [][]byte
	for rest := in; len(rest) > 0; {
		n := min(max(sizes(), 1), len(rest))
		reads = append(reads, rest[:n])
		rest = rest[n:]
	}
	if got := transcript(t, &Parser{ItemSizeMax: fuzzItemSizeMax}, reads...); !m.matches(got) {
		t.Fatalf("%s\nin %d reads:\n got %s\nwant %s", abridged(in), len(reads), got, m.out.String())
	}
}

func abridged(in []byte) string {
	if len(in) > 2000 {
		return fmt.Sprintf("%q... (%d bytes)", in[:2000], len(in))
	}
	return fmt.Sprintf("%q", in)
}

func FuzzParser(f *testing.F) {
	for _, in := range []string{
		"get a\r\nget a b  c \r\nset a 0 0 1\r\nx\r\n",
		"cas a 1 -1 2 18446744073709551615 noreply\r\nab\r\nincr n 5\r\n",
		"set " + key251 + " 0 0 3\r\nget\r\ndelete a 0 noreply\r\n",
		"set a +5 4294967297 2000 noreply\r\n" + strings.Repeat("get x\r\n", 400),
		"set a abc 0 2\r\nxx\r\ntouch a -5\r\ngats 0 a\r\nflush_all 10\r\n",
		"set a 0 0 -1\r\nset b 0 0 2147483646\r\nversion\nquit\r\n",
		"verbosity 1 noreply\r\nstats items\r\nlru_crawler metadump all\r\n",
		"GET / HTTP/1.1\r\n", "\x80\x00", "\n\r\nx\r\n",
		strings.Repeat("x", 2048) + "\r\nget a\r\n",
	} {
		f.Add([]byte(in), []byte{1, 2, 3})
	}
	f.Fuzz(func(t *testing.T, in, cuts []byte) {
		if len(in) > 4*MaxLine {
			t.Skip("more would only be slower")
		}
		i := 0
		check(t, in, func() int {
			size := len(in) / 500 // few enough reads to be quick
			if len(cuts) != 0 {
				i++
				size += int(cuts[i%len(cuts)])
			}
			return size
		})
	})
}

// TestRandomStreams is the fuzzing that every test run does: streams made of commands, near-commands and
// lines longer than the limits, whole and in pieces.
func TestRandomStreams(t *testing.T) {
	rounds := 1500
	if testing.Short() {
		rounds = 150
	}
	for seed := range uint64(rounds) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var in []byte
		for range 1 + rng.IntN(12) {
			in = appendRandomRequest(in, rng)
		}
		if rng.IntN(4) == 0 {
			in = in[:rng.IntN(len(in)+1)]
		}
		largest := 1 + len(in)/200 + rng.IntN(1<<rng.IntN(16)) // few enough reads to be quick
		check(t, in, func() int { return 1 + rng.IntN(largest) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

var randomTokens = []string{
	"0", "0", "0", "1", "5", "-1", "-", "+1", "007", "4294967301", "4294967297", "2147483648", "2147483645",
	"18446744073709551615", "18446744073709551616", "00000000001", "000000000001", "abc", "1a", "noreply", "noreply",
	"a", "b", "key", key250, key251, "\t", "5\t", "\r", "x\rx", "\x00", "\x80", "all", "metadump", "HTTP/1.1", "100", "900", "1100",
}

var randomCommands = []string{
	"get", "get", "gets", "gat", "gats", "set", "set", "set", "add", "replace", "append", "prepend", "cas", "delete", "incr",
	"decr", "touch", "flush_all", "version", "verbosity", "quit", "stats", "watch", "shutdown", "cache_memlimit",
	"lru_crawler", "slabs", "lru", "extstore", "mn", "mg", "me", "x", "", "GET", "noreply", "getx", "g",
}

// appendRandomRequest appends a request that is often correct and sometimes anything.
func appendRandomRequest(in []byte, rng *rand.Rand) []byte {
	pick := func(list []string) string { return list[rng.IntN(len(list))] }
	end := "\r\n"
	if rng.IntN(5) == 0 {
		end = "\n"
	}
	switch kind := rng.IntN(100); {
	case kind < 40: // a storage command that is mostly right
		size := rng.IntN(20)
		if rng.IntN(10) == 0 {
			size = 900 + rng.IntN(200)
		}
		cmd := pick(randomCommands[5:13])
		in = fmt.Appendf(in, "%s %s %s %s %d", cmd, pick(randomTokens), pick(randomTokens), pick(randomTokens), size)
		for range rng.IntN(3) {
			in = append(append(in, ' '), pick(randomTokens)...)
		}
		in = append(in, end...)
		in = append(in, bytes.Repeat([]byte(pick([]string{"v", "\n", "\r", "get a\r\n"})), size)[:size]...)
		return append(in, pick([]string{"\r\n", "\r\n", "\r\n", "\n\n", "xx", "\n"})...)
	case kind < 45: // a get of very many keys
		in = append(in, pick([]string{"get", "gets", "gat 5", "gats -1", "gat", "gat x"})...)
		for keys := rng.IntN(12000); keys > 0; keys-- {
			if rng.IntN(20000) == 0 {
				in = append(append(in, ' '), strings.Repeat("K", rng.IntN(40000))...)
			}
			in = fmt.Appendf(in, "%*s%d", 1+rng.IntN(3), "", keys)
		}
		return append(in, end...)
	case kind < 49: // a long line
		in = append(in, pick(randomCommands)...)
		in = append(in, pick([]string{" ", "x"})...)
		in = append(in, strings.Repeat(pick([]string{" ", "y", " z"}), rng.IntN(40000)>>rng.IntN(5))...)
		return append(in, end...)
	}
	in = append(in, pick(randomCommands)...)
	for range rng.IntN(5) {
		in = append(append(in, "   "[:1+rng.IntN(2)]...), pick(randomTokens)...)
	}
	return append(in, end...)
}
