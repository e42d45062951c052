package textproto

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestPeer sends random streams to a real memcached, named by the environment variable HERMESD_PEER
// (version 1.6.45), and to a Parser with a little cache behind it. The bytes that come back must be the same,
// but for the cas uniques. The streams leave out where we mean to differ; see docs/protocol.md.
func TestPeer(t *testing.T) {
	binary := os.Getenv("HERMESD_PEER")
	if binary == "" {
		t.Skip("HERMESD_PEER does not name a memcached")
	}
	address := startPeer(t, binary)
	compared := 0
	for seed := range uint64(4000) {
		rng := rand.New(rand.NewPCG(seed, 2))
		in := []byte("flush_all\r\n")
		for range 1 + rng.IntN(30) {
			in = appendPeerRequest(in, rng)
		}
		in = append(in, "get in-step\r\n"...)
		answer, differs := askCache(in)
		if differs {
			continue
		}
		compared++
		want, got := normal(askPeer(t, address, in)), normal(answer)
		if got != want {
			t.Fatalf("seed %d: %s\n got %q\nwant %q", seed, abridged(in), got, want)
		}
	}
	t.Logf("%d streams compared", compared)
}

// appendPeerRequest appends a random request unless it is one at which we mean to differ, or no matter
// of the parser.
func appendPeerRequest(in []byte, rng *rand.Rand) []byte {
	start := len(in)
	in = appendRandomRequest(in, rng)
	line, _, _ := strings.Cut(string(in[start:]), "\n")
	args := tokens(strings.TrimSuffix(line, "\r"))
	word := ""
	if !strings.HasPrefix(line, " ") && len(args) > 0 {
		word = args[0]
	}
	cmd, _ := lookUp([]byte(word))
	switch {
	case len(line) > 1500, // the peer closes by how reads fall
		cmd == Quit || cmd >= Stats || cmd == FlushAll, // not a matter of the parser
		len(word) == 2,              // meta commands
		word == "" && len(args) > 0: // the peer takes " flush_all" for a command
		return in[:start]
	}
	return in
}

var casUnique = regexp.MustCompile(`(VALUE [^ ]* \d+ \d+) \d+\r\n`)

func normal(reply []byte) string { return string(casUnique.ReplaceAll(reply, []byte("$1 cas\r\n"))) }

func startPeer(t *testing.T, binary string) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = listener.Addr().String()
	listener.Close()
	_, port, _ := net.SplitHostPort(address)
	peer := exec.Command(binary, "-l", "127.0.0.1", "-p", port, "-t", "1", "-u", "root", "-I", "1024", "-o", "slab_chunk_max=1")
	if err := peer.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Process.Kill(); peer.Wait() })
	for deadline := time.Now().Add(5 * time.Second); ; {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return address
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen on %s: %v", binary, address, err)
		}
	}
}

func askPeer(t *testing.T, address string, in []byte) []byte {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() { conn.Write(in); conn.(*net.TCPConn).CloseWrite() }()
	reply, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

// askCache answers in with a Parser and a map; differs says that the peer is known to answer otherwise.
func askCache(in []byte) (out []byte, differs bool) {
	type item struct {
		value []byte
		flags uint32
		cas   uint64
	}
	items, unique, now := map[string]item{}, uint64(1<<40), uint32(time.Now().Unix())
	p := Parser{ItemSizeMax: 1024}
	var r Request
	for len(in) > 0 {
		n, st := p.Next(in, &r)
		consumed := string(in[:n])
		in = in[n:]
		reply := r.Reply
		key := string(r.Key)
		old, stored := items[key]
		gone := func() bool { at := Absolute(r.Exptime, now); return at != 0 && at <= now }
		put := func(value []byte, flags uint32) {
			unique++
			items[key] = item{bytes.Clone(value), flags, unique}
			reply = ReplyStored
		}
		switch st {
		case More:
			return out, true
		case Close: // the peer throws pending replies away
			return out, true
		case Reply:
			if r.Command == Delete && r.Reply == ReplyDeleteUsage || r.Command == Delete && r.Noreply ||
				r.Command.IsRetrieval() && r.Reply == ReplyBadFormat && len(consumed) > MaxKey {
				return out, true // the peer ignores further arguments; its reply has a line end too many
			}
			out = append(out, r.Reply...)
			continue
		case TooLarge:
			if r.Command == Set {
				delete(items, key)
			}
			out = append(out, r.Reply...)
			continue
		}
		switch r.Command {
		case Get, Gets, Gat, Gats:
			for k, ok := r.NextKey(); ok; k, ok = r.NextKey() {
				it, hit := items[string(k)]
				if !hit {
					continue
				}
				if r.Command.WithCAS() {
					out = AppendValueHeaderCAS(out, k, it.flags, len(it.value), it.cas)
				} else {
					out = AppendValueHeader(out, k, it.flags, len(it.value))
				}
				out = append(append(out, it.value...), EndOfValue...)
				if (r.Command == Gat || r.Command == Gats) && gone() {
					delete(items, string(k))
				}
			}
			if reply = ""; !r.Partial {
				reply = ReplyEnd
			}
		case Set, Add, Replace, Cas:
			switch {
			case r.Command == Cas && !stored:
				reply = ReplyNotFound
			case r.Command == Cas && r.CAS != old.cas:
				reply = ReplyExists
			case r.Command == Add && stored, r.Command == Replace && !stored:
				reply = ReplyNotStored
			default:
				if put(r.Value, r.Flags); gone() {
					delete(items, key)
				}
			}
		case Append, Prepend:
			value := append(bytes.Clone(old.value), r.Value...)
			if r.Command == Prepend {
				value = append(bytes.Clone(r.Value), old.value...)
			}
			if reply = ReplyNotStored; stored && ItemSize(len(key), old.flags, len(value)) <= 1024 {
				put(value, old.flags)
			}
		case Delete:
			if reply = ReplyNotFound; stored {
				delete(items, key)
				reply = ReplyDeleted
			}
		case Incr, Decr:
			number, numeric := looseUint64ForTest(old.value)
			switch {
			case !stored:
				reply = ReplyNotFound
			case !numeric:
				reply = ReplyNonNumeric
			default:
				if number += r.Delta; r.Command == Decr {
					number -= r.Delta
					number -= min(number, r.Delta)
				}
				put(fmt.Appendf(nil, "%-*d", len(old.value), number), old.flags)
				reply = string(AppendNumber(nil, number))
			}
		case Touch:
			if reply = ReplyNotFound; stored {
				reply = ReplyTouched
				if gone() {
					delete(items, key)
				}
			}
		case FlushAll:
			clear(items)
			reply = ReplyOK
		case Version:
			reply = "VERSION 1.6.45\r\n"
		case Verbosity:
			reply = ReplyOK
		}
		if !r.Noreply {
			out = append(out, reply...)
		}
	}
	return out, p.state != atLine // the peer throws replies away if the stream ends in the middle of a request
}

// looseUint64ForTest reads a value as incr does.
func looseUint64ForTest(value []byte) (uint64, bool) {
	s, _, _ := strings.Cut(strings.TrimLeft(string(value), " \t\n\v\f\r"), " ")
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "+"), 10, 64)
	return n, err == nil
}
