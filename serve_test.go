package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// Where memcached has an option, hermesd has its name, its short form and its default (docs/options.md).
func TestOptionsAreMemcacheds(t *testing.T) {
	for _, command := range []string{"", "serve"} {
		cmd, _, err := newCommand().Find(strings.Fields(command))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []struct{ long, short, byDefault string }{
			{"port", "p", "11211"},
			{"listen", "l", "[127.0.0.1]"}, // memcached: every address
			{"memory-limit", "m", "64"},
			{"conn-limit", "c", "1024"},
			{"threads", "t", "4"},
			{"max-item-size", "I", "1m"},
			{"disable-evictions", "M", "false"},
			{"verbose", "v", "0"},
		} {
			f := cmd.Flags().Lookup(want.long)
			if f == nil || f.Shorthand != want.short || f.DefValue != want.byDefault {
				t.Errorf("%s: %+v, want %+v", cmd.Name(), f, want)
			}
		}
	}
}

func TestValidate(t *testing.T) {
	const three = "1=10.0.0.1:1,2=10.0.0.2:1,3=10.0.0.3:1"
	for _, c := range []struct {
		name   string
		change func(*options)
		wrong  string // in the message; "": nothing is wrong
	}{
		{"the defaults", func(o *options) {}, ""},
		{"a replica of a group", func(o *options) { o.id, o.group = 2, three }, ""},
		{"IPv6", func(o *options) { o.id, o.group = 1, "1=[::1]:1,2=[::1]:2" }, ""},
		{"a group of one", func(o *options) { o.id, o.group = 1, "1=127.0.0.1:7" }, ""},
		{"no memory", func(o *options) { o.memoryMB = 0 }, "memory limit of 0 megabytes"},
		{"no connections", func(o *options) { o.connLimit = 0 }, "limit of 0 connections"},
		{"no threads", func(o *options) { o.threads = 0 }, "0 threads"},
		{"tiny items", func(o *options) { o.itemSizeMax = 1000 }, "at least 1024"},
		{"huge items", func(o *options) { o.itemSizeMax = 2 << 30 }, "at most a gigabyte"},
		{"items larger than memory", func(o *options) { o.itemSizeMax = 40 << 20 }, "more than half of the memory limit of 64 megabytes"},
		{"a port that is none", func(o *options) { o.port = 99999 }, "port 99999"},
		{"a short timeout", func(o *options) { o.opTimeout = time.Millisecond }, "operation timeout of 1ms"},
		{"an id without a group", func(o *options) { o.id = 1 }, "--id 1 without --group"},
		{"a group without an id", func(o *options) { o.group = three }, "--group without --id"},
		{"an id that is not in the group", func(o *options) { o.id, o.group = 4, three }, "replica 4 is not in the group"},
		{"a number twice", func(o *options) { o.id, o.group = 1, "1=a:1,1=b:1" }, "replica 1 is given twice"},
		{"an address twice", func(o *options) { o.id, o.group = 1, "1=a:1,2=a:1" }, "replicas 1 and 2 have the same address"},
		{"a member without a number", func(o *options) { o.id, o.group = 1, "a:1,b:1" }, `group member "a:1": give number=host:port`},
		{"a member without a port", func(o *options) { o.id, o.group = 1, "1=a" }, `"a" is not host:port`},
		{"a member with a port that is none", func(o *options) { o.id, o.group = 1, "1=a:port" }, `"a:port" is not host:port`},
		{"a number that is too large", func(o *options) { o.id, o.group = 1, "1=a:1,64=b:1" }, "numbers are 1 to 63"},
		{"an address of its own to listen on", func(o *options) { o.id, o.group, o.replicationAddress = 2, three, ":7000" }, ""},
		{"one that is none", func(o *options) { o.id, o.group, o.replicationAddress = 2, three, "7000" }, `--replication-address "7000" is not host:port`},
		{"one without a group", func(o *options) { o.replicationAddress = ":7000" }, "--replication-address without --group"},
		{"no data directory", func(o *options) { o.id, o.group, o.dataDir = 1, three, "" }, "--group without --data-dir"},
		{"a witness of nobody", func(o *options) { o.witness = true }, "--witness is for groups"},
		{"a witness that is to be traced", func(o *options) { o.id, o.group, o.witness, o.trace = 3, three, true, "steps.ndjson" }, "--witness with --trace: a witness has no lanes"},
		{"a replica that is to be traced", func(o *options) { o.id, o.group, o.trace = 3, three, "steps.ndjson" }, ""},
		{"a witness", func(o *options) { o.id, o.group, o.witness = 3, three, true }, ""},
		{"a lease that outlasts patience", func(o *options) { o.id, o.group, o.timing.Lease = 1, three, time.Second }, "suspect-after must be at least"},
		{"a comma too many", func(o *options) { o.id, o.group = 1, "1=a:1," }, "give number=host:port"},
	} {
		o := defaultOptions()
		o.dataDir = "somewhere"
		c.change(&o)
		_, err := o.validate()
		switch {
		case c.wrong == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)):
			t.Errorf("%s: %v, want %q", c.name, err, c.wrong)
		case err != nil && strings.Contains(err.Error(), "\n"):
			t.Errorf("%s: more than one line: %q", c.name, err)
		}
	}
}

func TestByteSize(t *testing.T) {
	for text, want := range map[string]uint64{"1048576": 1 << 20, "1024k": 1 << 20, "1m": 1 << 20, "2M": 2 << 20, "1500": 1500, "3K": 3 << 10} {
		var b byteSize
		if err := b.Set(text); err != nil || uint64(b) != want {
			t.Errorf("%s: %d, %v", text, b, err)
		}
		var again byteSize
		if err := again.Set(b.String()); err != nil || again != b {
			t.Errorf("%s is written as %s, which is read as %d", text, b.String(), again)
		}
	}
	for _, text := range []string{"", "m", "-1", "1g", "x", "1.5m", "99999999999999m"} {
		var b byteSize
		if err := b.Set(text); err == nil {
			t.Errorf("%q is taken for %d", text, b)
		}
	}
}

// TestOptionsAreDocumented: docs/options.md has a line for each option of serve, with its default.
func TestOptionsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("docs/options.md")
	if err != nil {
		t.Fatal(err)
	}
	defaults := make(map[string]string) // by long name, as the table has them
	for line := range strings.Lines(string(text)) {
		if cells := strings.Split(line, "|"); len(cells) == 5 {
			for name := range strings.FieldsFuncSeq(cells[1], func(r rune) bool { return strings.ContainsRune(" ,`", r) }) {
				defaults[name] = strings.TrimSpace(cells[2])
			}
		}
	}
	words := strings.NewReplacer("[127.0.0.1]", "127.0.0.1", "false", "off", "1m0s", "1m")
	serveCommand("serve").Flags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		name := "--" + f.Name
		if f.Name == "verbose" {
			name = "-v"
		}
		has, ok := defaults[name]
		want := words.Replace(f.DefValue)
		if want == "0" && f.Name != "verbose" || f.Name == "replication-address" {
			want, has = "", "" // none: the table says it in other words
		}
		if f.Name == "verbose" {
			want = "off"
		}
		if !ok || has != want {
			t.Errorf("%s: its default is %q, and in docs/options.md %q", name, want, has)
		}
	})
}
