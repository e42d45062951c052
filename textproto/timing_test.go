package textproto

import (
	"strings"
	"testing"
)

// hotRequests are the requests of the data path, and what they cost is the point of the benchmarks.
var hotRequests = []struct{ name, in string }{
	{"get", "get key:000000000001\r\n"},
	{"gets", "gets key:000000000001\r\n"},
	{"get10", "get" + strings.Repeat(" key:000000000001", 10) + "\r\n"},
	{"set32", "set key:000000000001 0 0 32\r\n" + strings.Repeat("v", 32) + "\r\n"},
	{"set1024", "set key:000000000001 12345 3600 1024 noreply\r\n" + strings.Repeat("v", 1024) + "\r\n"},
	{"cas", "cas key:000000000001 0 0 32 1234567890\r\n" + strings.Repeat("v", 32) + "\r\n"},
	{"delete", "delete key:000000000001\r\n"},
	{"incr", "incr key:000000000001 1\r\n"},
	{"touch", "touch key:000000000001 3600\r\n"},
	{"gat", "gat 3600 key:000000000001\r\n"},
}

// pipeline fills about a socket read with the same request.
func pipeline(in string) []byte {
	return []byte(strings.Repeat(in, max(1, 16384/len(in))))
}

// parseAll runs every request in buf, its keys too, and returns their number.
func parseAll(p *Parser, buf []byte, req *Request) (requests int) {
	for len(buf) > 0 {
		n, st := p.Next(buf, req)
		if st != Ready {
			return -1
		}
		if req.Command.IsRetrieval() {
			for _, ok := req.NextKey(); ok; {
				_, ok = req.NextKey()
			}
		}
		buf = buf[n:]
		requests++
	}
	return requests
}

func TestNoAllocations(t *testing.T) {
	var p Parser
	var req Request
	for _, r := range hotRequests {
		buf := pipeline(r.in)
		if n := testing.AllocsPerRun(10, func() { parseAll(&p, buf, &req) }); n != 0 {
			t.Errorf("%s: %v allocations", r.name, n)
		}
	}
	refused := []byte("set a 0 0 9999999\r\nbogus\r\nget\r\nincr a b\r\nlru_crawler metadump all\r\nverbosity 1\r\nlru tune 1 2 0.5 0.5\r\n")
	if n := testing.AllocsPerRun(10, func() {
		p = Parser{}
		for rest := refused; len(rest) > 0; {
			n, _ := p.Next(rest, &req)
			rest = rest[n:]
		}
	}); n != 0 {
		t.Errorf("requests with errors: %v allocations", n)
	}
	dst := make([]byte, 0, 1024)
	key := []byte("key:000000000001")
	if n := testing.AllocsPerRun(10, func() {
		dst = AppendValueHeaderCAS(dst[:0], key, 77777, 12345, 1<<60)
		dst = AppendValueHeader(dst, key, 0, 12345)
		dst = AppendNumber(dst, 1<<63)
		dst = AppendStat(dst, "version", "1.6.45")
		dst = AppendStatUint(dst, "get_hits", 1<<63)
		dst = AppendServerError(dst, "not in the view")
		dst = append(dst, ReplyStored...)
	}); n != 0 {
		t.Errorf("replies: %v allocations", n)
	}
}

func BenchmarkParse(b *testing.B) {
	for _, r := range hotRequests {
		b.Run(r.name, func(b *testing.B) {
			var p Parser
			var req Request
			buf := pipeline(r.in)
			each := len(buf) / len(r.in)
			b.SetBytes(int64(len(r.in)))
			b.ReportAllocs()
			for i := 0; i < b.N; i += each {
				if parseAll(&p, buf, &req) != each {
					b.Fatal("not parsed")
				}
			}
		})
	}
}

// A line that comes byte by byte is the worst that a client can do with reads.
func BenchmarkByteByByte(b *testing.B) {
	line := []byte("get " + strings.Repeat("k", 200) + "\r\n")
	var p Parser
	var req Request
	for b.Loop() {
		for i := 1; i <= len(line); i++ {
			p.Next(line[:i], &req)
		}
	}
}

func BenchmarkValueHeader(b *testing.B) {
	dst := make([]byte, 0, 1024)
	key := []byte("key:000000000001")
	for b.Loop() {
		dst = AppendValueHeader(dst[:0], key, 0, 32)
	}
}
