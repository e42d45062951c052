package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeServer answers get and set from a map, and lets a test spoil its replies: reply is called with each request's number (from 1,
// over all connections), line and correct reply; it returns what is sent, and whether the connection goes on.
type fakeServer struct {
	addr  string
	mu    sync.Mutex
	items map[string]string
	count int
	reply func(n int, line, correct string) (string, bool)
	// chunk, unless 0, is the size of the writes that replies are cut into.
	chunk int
}

func startFakeServer(t *testing.T, s *fakeServer) *fakeServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr, s.items = l.Addr().String(), make(map[string]string)
	var served sync.WaitGroup
	t.Cleanup(func() { l.Close(); served.Wait() })
	served.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() { s.serve(conn) })
		}
	})
	return s
}

// received returns the number of requests and of keys stored so far.
func (s *fakeServer) received() (requests, keys int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count, len(s.items)
}

func (s *fakeServer) serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		out, goOn := s.answer(strings.TrimRight(line, "\r\n"), in)
		size := s.chunk
		if size == 0 {
			size = len(out)
		}
		for len(out) > 0 {
			n := min(size, len(out))
			if _, err := io.WriteString(conn, out[:n]); err != nil {
				return
			}
			out = out[n:]
		}
		if !goOn {
			return
		}
	}
}

func (s *fakeServer) answer(line string, in *bufio.Reader) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	words := strings.Fields(line)
	correct := "ERROR\r\n"
	switch words[0] {
	case "get":
		correct = "END\r\n"
		if value, ok := s.items[words[1]]; ok {
			correct = fmt.Sprintf("VALUE %s 0 %d\r\n%s\r\nEND\r\n", words[1], len(value), value)
		}
	case "set":
		var size int
		fmt.Sscan(words[4], &size)
		value := make([]byte, size+2)
		if _, err := io.ReadFull(in, value); err != nil {
			return "", false
		}
		s.items[words[1]] = string(value[:size])
		correct = "STORED\r\n"
	}
	if s.reply == nil {
		return correct, true
	}
	return s.reply(s.count, line, correct)
}

// smallLoad is a bounded load of a fake server.
func smallLoad(s *fakeServer) LoadConfig {
	cfg := DefaultLoadConfig()
	cfg.Servers, cfg.Connections, cfg.Threads, cfg.Pipeline = []string{s.addr}, 4, 2, 8
	cfg.Operations, cfg.Duration, cfg.Keys, cfg.KeySize = 2001, time.Minute, 50, 5
	cfg.Check = true
	return cfg
}

func TestLoadCountsWhatHappens(t *testing.T) {
	s := startFakeServer(t, &fakeServer{})
	cfg := smallLoad(s)
	cfg.Sets, cfg.Gets = 1, 3
	report, err := Load(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	received, _ := s.received()
	if report.Operations != 2001 || report.Hits+report.Misses+report.Sets != 2001 || received != 2001 {
		t.Errorf("2001 operations asked for, %d reported, %d received", report.Operations, received)
	}
	if report.Misses == 0 || report.Hits < 500 || report.Sets < 300 || report.Sets > 700 {
		t.Errorf("%d hits, %d misses, %d sets of 2001 at 1:3 on 50 keys that are empty at first", report.Hits, report.Misses, report.Sets)
	}
	if report.Trouble() != 0 || report.Disconnects != 0 || len(report.Errors) != 0 {
		t.Errorf("trouble: %+v", report)
	}
	if report.Get.Count != report.Hits+report.Misses || report.Set.Count != report.Sets || report.Get.Max <= 0 {
		t.Errorf("latencies: get %+v, set %+v", report.Get, report.Set)
	}
}

func TestPrefillStoresEveryKeyOnce(t *testing.T) {
	s := startFakeServer(t, &fakeServer{})
	cfg := smallLoad(s)
	cfg.Prefill, cfg.Keys, cfg.KeySize, cfg.Sets, cfg.Operations = true, 1234, 250, 0, 100
	cfg.Values = ValueSizes{Min: 0, Max: 40}
	report, err := Load(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	requests, keys := s.received()
	if keys != 1234 || requests != 1334 || report.Prefill.Stored != 1234 || report.Hits != 100 {
		t.Errorf("%d keys stored by %d requests; report: %+v, %d hits", keys, requests, report.Prefill, report.Hits)
	}
}

// TestRepliesInPieces: replies are understood wherever the stream is cut, whatever the size of the value.
func TestRepliesInPieces(t *testing.T) {
	for _, chunk := range []int{1, 2, 3, 7, 100} {
		for _, size := range []int{0, 1, 11, 12, 13, 40} {
			s := startFakeServer(t, &fakeServer{chunk: chunk})
			cfg := smallLoad(s)
			cfg.Operations, cfg.Keys, cfg.Values = 200, 10, ValueSizes{Sizes: []int{size}}
			report, err := Load(context.Background(), cfg)
			if err != nil || report.Operations != 200 || report.Trouble() != 0 {
				t.Errorf("chunks of %d, values of %d: %v, %+v", chunk, size, err, report)
			}
		}
	}
}

func TestValuesLargerThanTheBuffers(t *testing.T) {
	s := startFakeServer(t, &fakeServer{})
	cfg := smallLoad(s)
	cfg.Prefill, cfg.Keys, cfg.Operations, cfg.Sets, cfg.Gets = true, 8, 100, 1, 1
	cfg.Values = ValueSizes{Sizes: []int{3*readSize + 5, 10}}
	report, err := Load(context.Background(), cfg)
	if err != nil || report.Operations != 100 || report.Trouble()+report.Misses != 0 {
		t.Errorf("%v, %+v", err, report)
	}
}

func TestLoadReportsTrouble(t *testing.T) {
	every := func(n int, spoil func(correct string) (string, bool)) func(int, string, string) (string, bool) {
		return func(i int, line, correct string) (string, bool) {
			if i%n == 0 {
				return spoil(correct)
			}
			return correct, true
		}
	}
	for _, test := range []struct {
		name  string
		reply func(n int, line, correct string) (string, bool)
		check func(r *LoadReport) bool
	}{
		{"error replies", every(100, func(string) (string, bool) { return "SERVER_ERROR not in the view\r\n", true }),
			func(r *LoadReport) bool {
				return r.Failed == 20 && r.Operations == 1981 && r.Errors["SERVER_ERROR not in the view"] == 20 && r.Disconnects == 0
			}},
		{"closed connections", every(500, func(string) (string, bool) { return "", false }),
			func(r *LoadReport) bool {
				return r.Disconnects >= 3 && r.Unanswered >= 3 && r.Unanswered+r.Operations == 2001
			}},
		{"a flipped bit in values", every(100, func(correct string) (string, bool) {
			return strings.Replace(correct, correct[len(correct)/2:len(correct)/2+1], string(rune(correct[len(correct)/2]^1)), 1), true
		}), func(r *LoadReport) bool { return r.Trouble() > 0 }},
		{"another key's value", every(100, func(correct string) (string, bool) {
			return strings.Replace(correct, "VALUE 0", "VALUE 1", 1), true
		}), func(r *LoadReport) bool { return r.Errors["a get was answered with another key"] > 0 }},
		{"a value cut short", every(100, func(correct string) (string, bool) {
			return strings.Replace(correct, " 100\r\n", " 99\r\n", 1), true
		}), func(r *LoadReport) bool { return r.Errors["a value is not followed by END"] > 0 }},
		{"a reply too many", every(2000, func(correct string) (string, bool) { return correct + "STORED\r\nEND\r\nEND\r\n", true }),
			func(r *LoadReport) bool { return r.Disconnects > 0 && r.Trouble() > 0 }},
		{"nonsense", every(1000, func(string) (string, bool) { return "HELLO\r\n", true }),
			func(r *LoadReport) bool { return r.Errors["unexpected reply: HELLO"] > 0 && r.Disconnects > 0 }},
		{"a line without end", every(2000, func(string) (string, bool) { return strings.Repeat("x", 3000), true }),
			func(r *LoadReport) bool { return r.Errors["the server sent a line that is too long"] > 0 }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := startFakeServer(t, &fakeServer{reply: test.reply})
			cfg := smallLoad(s)
			cfg.Gets = 3
			report, err := Load(context.Background(), cfg)
			if err != nil || !test.check(&report) {
				t.Errorf("%v, %+v", err, report)
			}
		})
	}
}

// TestCheckFindsEveryByte: a value that is wrong in any one byte, or was written for another key or size, is found.
func TestCheckFindsEveryByte(t *testing.T) {
	v := newValueSource(ValueSizes{Min: 0, Max: 64})
	valid := func(value []byte, key uint64) bool {
		n := min(len(value), valueHead)
		salt, ok := v.checkHead(value[:n], key, uint32(len(value)))
		return ok && v.checkBody(value[n:], salt, 0)
	}
	for size := range uint32(65) {
		value := v.append(nil, 7, size, 12345)
		if uint32(len(value)) != size || !valid(value, 7) {
			t.Fatalf("size %d: the value made is not valid", size)
		}
		if size >= 8 && (valid(value, 8) || valid(value[:size-1], 7)) {
			t.Errorf("size %d: valid for another key or size", size)
		}
		for i := range value {
			spoiled := bytes.Clone(value)
			spoiled[i] ^= 0x10
			// The salt alone (bytes 8 to 11) says nothing about the value when there is no body.
			if valid(spoiled, 7) && (i < 8 || i >= valueHead || size > valueHead+4) {
				t.Errorf("size %d: byte %d spoiled, not found", size, i)
			}
		}
	}
}

func TestLoadEndsInTime(t *testing.T) {
	silent := startFakeServer(t, &fakeServer{reply: func(int, string, string) (string, bool) { return "", true }})
	cfg := smallLoad(silent)
	cfg.Operations, cfg.Duration = 0, 50*time.Millisecond
	report, err := Load(context.Background(), cfg)
	if err != nil || report.Operations != 0 || report.Unanswered == 0 || report.Unanswered%8 != 0 {
		t.Errorf("a server that never answers: %v, %+v", err, report)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := startFakeServer(t, &fakeServer{reply: func(n int, _, correct string) (string, bool) {
		if n == 1000 {
			cancel()
		}
		return correct, true
	}})
	cfg = smallLoad(served)
	cfg.Operations, cfg.Duration = 0, time.Hour
	if report, err = Load(ctx, cfg); err != nil || report.Operations < 1000 || report.Trouble() != 0 {
		t.Errorf("cancelled: %v, %+v", err, report)
	}
}

func TestLoadRefuses(t *testing.T) {
	for _, test := range []struct {
		want  string
		spoil func(cfg *LoadConfig)
	}{
		{"connect to 127.0.0.1:1: connection refused", func(cfg *LoadConfig) { cfg.Servers = []string{"127.0.0.1:1"} }},
		{"give host:port", func(cfg *LoadConfig) { cfg.Servers = []string{"nowhere"} }},
		{"the number of servers is 0", func(cfg *LoadConfig) { cfg.Servers = nil }},
		{"the number of threads is 51: give 1 to 50", func(cfg *LoadConfig) { cfg.Threads = 51 }},
		{"the pipeline is 0", func(cfg *LoadConfig) { cfg.Pipeline = 0 }},
		{"0:0", func(cfg *LoadConfig) { cfg.Sets, cfg.Gets = 0, 0 }},
		{"give a key size of at least 5", func(cfg *LoadConfig) { cfg.KeySize = 4 }},
		{"the number of keys is 0", func(cfg *LoadConfig) { cfg.Keys = 0 }},
		{`the distribution is "normal"`, func(cfg *LoadConfig) { cfg.Distribution = "normal" }},
		{"the duration is 0s", func(cfg *LoadConfig) { cfg.Duration = 0 }},
		{"the range of value sizes is 5-4", func(cfg *LoadConfig) { cfg.Values = ValueSizes{Min: 5, Max: 4} }},
	} {
		cfg := DefaultLoadConfig()
		test.spoil(&cfg)
		if _, err := Load(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("want an error with %q, got: %v", test.want, err)
		}
	}
}

// TestLoadAllocatesNothing per operation: requests are built and replies scanned in place.
func TestLoadAllocatesNothing(t *testing.T) {
	cfg := DefaultLoadConfig()
	cfg.Check, cfg.Pipeline, cfg.Sets, cfg.Gets = true, 16, 1, 1
	cfg.Distribution = Zipf
	p, err := newPlan(cfg)
	if err != nil {
		t.Fatal(err)
	}
	th := newThread(p, 0, false)
	th.stopAt = time.Hour
	c := &th.conns[0]
	replies := make([]byte, 0, readSize)
	allocs := testing.AllocsPerRun(100, func() {
		c.batch, c.answered = c.batch[:0], 0
		th.out, replies = th.out[:0], replies[:0]
		for range cfg.Pipeline {
			o := th.drawOperation()
			c.batch = append(c.batch, o)
			th.out = th.appendRequest(th.out, &o)
			if o.set {
				replies = append(replies, "STORED\r\n"...)
				continue
			}
			replies = append(p.keys.append(append(replies, "VALUE "...), o.key), " 0 100\r\n"...)
			replies = append(p.values.append(replies, o.key, 100, 99), valueEnd...)
		}
		if rest, wrong := th.scan(c, replies); wrong != "" || len(rest) != 0 || c.answered != cfg.Pipeline {
			t.Fatalf("%q, %d bytes left, %d answered", wrong, len(rest), c.answered)
		}
	})
	if allocs != 0 || th.counts.corrupt != 0 {
		t.Errorf("%v allocations in a batch, %d values corrupt", allocs, th.counts.corrupt)
	}
}

func TestReportIsJSON(t *testing.T) {
	s := startFakeServer(t, &fakeServer{})
	cmd := Command()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"load", "--servers", s.addr, "--operations", "500", "--connections", "3", "--ratio", "1:1",
		"--value-size", "5,6", "--prefill", "--keys", "20", "--json"})
	if err := cmd.ExecuteContext(context.Background()); err != nil {
		t.Fatal(err)
	}
	var report struct {
		Operations int
		Config     struct {
			Seconds    float64
			ValueSizes struct{ Sizes []int } `json:"value_sizes"`
		}
		GetLatency struct {
			P999 float64 `json:"p99.9_us"`
		} `json:"get_latency"`
	}
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatalf("%v in:\n%s", err, out.String())
	}
	if report.Operations != 500 || len(report.Config.ValueSizes.Sizes) != 2 || report.GetLatency.P999 <= 0 {
		t.Errorf("%+v", report)
	}
}
