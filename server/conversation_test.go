package server

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// talks are what clients send, and what memcached 1.6.45 answers, byte for byte (but for the two places that docs/protocol.md names). Each runs
// on an empty server.
var talks = []struct{ name, in, out string }{
	{"set and get", "set k 5 0 3\r\nabc\r\nget k\r\n", "STORED\r\nVALUE k 5 3\r\nabc\r\nEND\r\n"},
	{"an empty value", "set k 0 0 0\r\n\r\nget k\r\n", "STORED\r\nVALUE k 0 0\r\n\r\nEND\r\n"},
	{"many keys, some missing, one twice", "set a 0 0 1\r\n1\r\nset c 0 0 1\r\n3\r\nget a b c a\r\n",
		"STORED\r\nSTORED\r\nVALUE a 0 1\r\n1\r\nVALUE c 0 1\r\n3\r\nVALUE a 0 1\r\n1\r\nEND\r\n"},
	{"add and replace", "replace k 0 0 1\r\na\r\nadd k 0 0 1\r\nb\r\nadd k 0 0 1\r\nc\r\nreplace k 0 0 1\r\nd\r\nget k\r\n",
		"NOT_STORED\r\nSTORED\r\nNOT_STORED\r\nSTORED\r\nVALUE k 0 1\r\nd\r\nEND\r\n"},
	{"append and prepend keep flags", "append k 0 0 1\r\nx\r\nset k 9 0 1\r\nm\r\nappend k 1 0 1\r\nr\r\nprepend k 2 0 1\r\nl\r\nget k\r\n",
		"NOT_STORED\r\nSTORED\r\nSTORED\r\nSTORED\r\nVALUE k 9 3\r\nlmr\r\nEND\r\n"},
	{"incr and decr", "incr n 1\r\nset n 0 0 2\r\n10\r\ndecr n 1\r\nget n\r\nincr n 5\r\ndecr n 100\r\n",
		"NOT_FOUND\r\nSTORED\r\n9\r\nVALUE n 0 2\r\n9 \r\nEND\r\n14\r\n0\r\n"},
	{"incr wraps", "set n 0 0 20\r\n18446744073709551615\r\nincr n 2\r\n", "STORED\r\n1\r\n"},
	{"incr of text", "set n 0 0 1\r\nx\r\nincr n 1\r\nincr n x\r\n",
		"STORED\r\nCLIENT_ERROR cannot increment or decrement non-numeric value\r\nCLIENT_ERROR invalid numeric delta argument\r\n"},
	{"delete", "delete k\r\nset k 0 0 1\r\na\r\ndelete k 0\r\nget k\r\ndelete k a b\r\n",
		"NOT_FOUND\r\nSTORED\r\nDELETED\r\nEND\r\nCLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n"},
	{"touch and gat", "touch k 10\r\nset k 1 0 1\r\na\r\ntouch k 10\r\ngat 100 k j\r\ngat -1 k\r\nget k\r\n",
		"NOT_FOUND\r\nSTORED\r\nTOUCHED\r\nVALUE k 1 1\r\na\r\nEND\r\nVALUE k 1 1\r\na\r\nEND\r\nEND\r\n"},
	{"expired at once", "set k 0 -1 1\r\na\r\nget k\r\nadd k 0 0 1\r\nb\r\nget k\r\n", "STORED\r\nEND\r\nSTORED\r\nVALUE k 0 1\r\nb\r\nEND\r\n"},
	{"cas", "cas k 0 0 1 1\r\na\r\nset k 0 0 1\r\na\r\ncas k 0 0 1 1\r\nb\r\nget k\r\n",
		"NOT_FOUND\r\nSTORED\r\nEXISTS\r\nVALUE k 0 1\r\na\r\nEND\r\n"},
	{"flush_all", "set k 0 0 1\r\na\r\nflush_all\r\nget k\r\nadd k 0 0 1\r\nb\r\nget k\r\nflush_all -1\r\nget k\r\n",
		"STORED\r\nOK\r\nEND\r\nSTORED\r\nVALUE k 0 1\r\nb\r\nEND\r\nOK\r\nEND\r\n"},
	{"noreply", "set k 0 0 1 noreply\r\na\r\nincr k 1 noreply\r\nappend k 0 0 1 noreply\r\nb\r\ntouch k 0 noreply\r\nget k\r\ndelete k noreply\r\nget k\r\n" +
		"flush_all noreply\r\nverbosity 0 noreply\r\nversion\r\n",
		"VALUE k 0 2\r\nab\r\nEND\r\nEND\r\nVERSION " + ProtocolVersion + "-hermesd-" + Version + "\r\n"},
	{"errors", "nonsense\r\nget\r\nset k 0 0\r\n\r\nGET k\r\nset k 0 0 -1\r\n", "ERROR\r\nCLIENT_ERROR bad command line format\r\n" +
		"CLIENT_ERROR bad command line format\r\nCLIENT_ERROR bad command line format\r\nERROR\r\nCLIENT_ERROR bad command line format\r\n"},
	{"a data block that is too long", "set k 0 0 1\r\nabc\r\nget k\r\n", "CLIENT_ERROR bad data chunk\r\nCLIENT_ERROR bad command line format\r\nEND\r\n"},
	{"a key that is too long", "set " + strings.Repeat("k", 251) + " 0 0 1\r\na\r\nget " + strings.Repeat("k", 251) + "\r\n",
		"CLIENT_ERROR bad command line format\r\nCLIENT_ERROR bad command line format\r\n"},
	{"a set that is too large removes the old value", "set k 0 0 1\r\na\r\nset k 0 0 2000000\r\n" + strings.Repeat("x", 2000000) + "\r\nget k\r\n",
		"STORED\r\nSERVER_ERROR object too large for cache\r\nEND\r\n"},
	{"a replace that is too large leaves it", "set k 0 0 1\r\na\r\nreplace k 0 0 2000000\r\n" + strings.Repeat("x", 2000000) + "\r\nget k\r\n",
		"STORED\r\nSERVER_ERROR object too large for cache\r\nVALUE k 0 1\r\na\r\nEND\r\n"},
	{"an append that would be too large", "set k 0 0 600000\r\n" + strings.Repeat("x", 600000) + "\r\nappend k 0 0 600000\r\n" + strings.Repeat("y", 600000) + "\r\n",
		"STORED\r\nNOT_STORED\r\n"},
	{"operators' commands", "verbosity 1\r\nverbosity\r\ncache_memlimit 64\r\ncache_memlimit 1\r\ncache_memlimit 128\r\nshutdown\r\nwatch\r\n" +
		"lru_crawler metadump all\r\nstats reset\r\nstats nonsense\r\nslabs automove 1\r\nstats items\r\n",
		"OK\r\nCLIENT_ERROR bad command line format\r\nOK\r\nMEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n" +
			"MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust\r\nSERVER_ERROR: shutdown not enabled\r\n" +
			"CLIENT_ERROR watch commands not allowed\r\nERROR metadump not allowed\r\nRESET\r\nERROR\r\nOK\r\nEND\r\n"},
}

func TestConversations(t *testing.T) {
	for _, talk := range talks {
		t.Run(talk.name, func(t *testing.T) {
			c := dial(t, startAlone(t))
			c.send(talk.in)
			c.want(talk.out)
			c.send("quit\r\n")
			c.wantEnd()
		})
	}
}

// The same bytes give the same replies, however they arrive.
func TestConversationsInPieces(t *testing.T) {
	var in, out strings.Builder
	for _, talk := range talks {
		in.WriteString("flush_all\r\n" + talk.in)
		out.WriteString("OK\r\n" + talk.out)
	}
	for seed := range uint64(5) {
		r := rand.New(rand.NewPCG(seed, 0))
		c := dial(t, startAlone(t))
		go sendInPieces(c, r, []byte(in.String()))
		c.want(out.String())
	}
}

func TestUniqueOfGetsLetsCasThrough(t *testing.T) {
	c := dial(t, startAlone(t))
	c.send(set("k", "a") + "gets k\r\n")
	c.want("STORED\r\nVALUE k 0 1 ")
	var unique uint64
	if _, err := fmt.Fscanf(c, "%d\r\na\r\nEND\r\n", &unique); err != nil {
		t.Fatal(err)
	}
	c.send(fmt.Sprintf("cas k 0 0 1 %d\r\nb\r\ncas k 0 0 1 %d\r\nc\r\nget k\r\n", unique, unique))
	c.want("STORED\r\nEXISTS\r\nVALUE k 0 1\r\nb\r\nEND\r\n")
}

// Values up to the limit, 1 MB here, pass, and come back as they were.
func TestLargeValues(t *testing.T) {
	c := dial(t, startAlone(t))
	for _, size := range []int{1000, 60_000, inputBytes - 20, inputBytes, inputBytes + 1, 300_000, 1_048_516} {
		value := make([]byte, size)
		for i := range value {
			value[i] = byte('a' + (i*7+size)%26)
		}
		go c.send(set("k", string(value)) + "get k\r\n")
		c.want("STORED\r\n" + valueOf("k", string(value)) + "END\r\n")
	}
	go c.send(set("k", strings.Repeat("x", 1_048_517)))
	c.want("SERVER_ERROR object too large for cache\r\n")
}

// A get may name any number of keys, on a line of any length.
func TestManyKeys(t *testing.T) {
	c := dial(t, startAlone(t))
	const keys = 20_000
	var line, want strings.Builder
	line.WriteString("get")
	for i := range keys {
		key := fmt.Sprintf("key-%06d", i)
		fmt.Fprintf(&line, " %s", key)
		if i%100 == 0 {
			c.send(set(key, "v"))
			c.want("STORED\r\n")
			want.WriteString(valueOf(key, "v"))
		}
	}
	go c.send(line.String() + "\r\n")
	c.want(want.String() + "END\r\n")
}

func TestBrowsersAndBinaryClientsAreCutOff(t *testing.T) {
	s := startAlone(t)
	for _, in := range []string{"POST / HTTP/1.1\r\n", "\x80\x00\x00\x00", strings.Repeat("x", 3000)} {
		c := dial(t, s)
		c.send(in)
		c.wantEnd()
	}
}

// A flush_all with a delay comes when its time has come, and not before.
func TestDelayedFlush(t *testing.T) {
	c := dial(t, startAlone(t))
	c.send(set("k", "v") + "flush_all 2\r\nget k\r\n")
	c.want("STORED\r\nOK\r\n" + valueOf("k", "v") + "END\r\n")
	gone := func() bool {
		c.send("get k\r\n")
		first := make([]byte, 5)
		if _, err := c.Read(first); err != nil {
			t.Fatal(err)
		}
		if string(first) == "END\r\n" {
			return true
		}
		c.want(valueOf("k", "v")[5:] + "END\r\n")
		return false
	}
	begun := time.Now()
	eventually(t, "the item is gone", gone)
	if waited := time.Since(begun); waited < time.Second/2 {
		t.Errorf("the item was gone after %v: a delay of 2 seconds cannot be over", waited)
	}
	c.send(set("k", "w") + "get k\r\n")
	c.want("STORED\r\n" + valueOf("k", "w") + "END\r\n")
}

// A later flush_all replaces one that has not come yet.
func TestFlushReplacesDelayedFlush(t *testing.T) {
	s := startAlone(t)
	c := dial(t, s)
	c.send("flush_all 1000\r\nflush_all\r\n")
	c.want("OK\r\nOK\r\n")
	s.flush.mu.Lock()
	defer s.flush.mu.Unlock()
	if s.flush.timer != nil {
		t.Error("the delayed flush is still to come")
	}
}
