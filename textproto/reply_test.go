package textproto

import (
	"math"
	"strings"
	"testing"
)

func TestReplies(t *testing.T) {
	b := func(s string) []byte { return []byte(s) }
	for _, tt := range []struct {
		got  []byte
		want string
	}{
		{AppendValueHeader(b("x"), b("key"), 0, 0), "xVALUE key 0 0\r\n"},
		{AppendValueHeader(nil, b("key"), 5, 10), "VALUE key 5 10\r\n"},
		{AppendValueHeader(nil, b("k"), math.MaxUint32, MaxValue), "VALUE k 4294967295 2147483645\r\n"},
		{AppendValueHeaderCAS(nil, b("k"), 0, 1, 0), "VALUE k 0 1 0\r\n"},
		{AppendValueHeaderCAS(nil, b("k"), 1, 2, math.MaxUint64), "VALUE k 1 2 18446744073709551615\r\n"},
		{AppendNumber(b("x"), 0), "x0\r\n"},
		{AppendNumber(nil, math.MaxUint64), "18446744073709551615\r\n"},
		{AppendStat(b("x"), "version", "1.6.45"), "xSTAT version 1.6.45\r\n"},
		{AppendStatUint(b("x"), "get_hits", 7), "xSTAT get_hits 7\r\n"},
		{AppendVersion(nil, "1.6.45"), "VERSION 1.6.45\r\n"},
		{AppendServerError(nil, "not in the view"), "SERVER_ERROR not in the view\r\n"},
	} {
		if string(tt.got) != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
	longest := AppendValueHeaderCAS(nil, b(key250), math.MaxUint32, MaxValue, math.MaxUint64)
	if len(longest) != MaxValueHeader(MaxKey) {
		t.Errorf("the longest header has %d bytes, MaxValueHeader says %d", len(longest), MaxValueHeader(MaxKey))
	}
}

func TestAbsolute(t *testing.T) {
	const now = 1_700_000_000
	for _, tt := range []struct {
		exptime int64
		now     uint32
		want    uint32
	}{
		{0, now, Never},
		{-1, now, Expired},
		{math.MinInt32, now, Expired},
		{1, now, now + 1},
		{2592000, now, now + 2592000}, // 30 days exactly are relative
		{2592001, now, 2592001},       // a day in 1970: stored, and expired at once
		{now + 10, now, now + 10},
		{math.MaxInt32, now, math.MaxInt32},
		{2592000, math.MaxUint32 - 5, math.MaxUint32},
		{5, 0, 5},
	} {
		if got := Absolute(tt.exptime, tt.now); got != tt.want {
			t.Errorf("Absolute(%d, %d) = %d, want %d", tt.exptime, tt.now, got, tt.want)
		}
	}
}

func TestCommandNames(t *testing.T) {
	for cmd := Get; cmd <= extstore; cmd++ {
		if found, ok := lookUp([]byte(cmd.String())); !ok || found != cmd {
			t.Errorf("%q is command %d, not %d", cmd.String(), found, cmd)
		}
	}
	if _, ok := lookUp([]byte(Unknown.String())); ok || len(commandNames) != int(extstore)+1 {
		t.Error("the names do not fit the commands")
	}
	if !Gets.WithCAS() || !Gats.WithCAS() || Get.WithCAS() || !Cas.IsStorage() || Delete.IsStorage() || !Gat.IsRetrieval() || Set.IsRetrieval() {
		t.Error("a command is in the wrong group")
	}
	for _, s := range []string{ReplyStored, ReplyError, ReplyBadFormat, ReplyEnd, EndOfValue, ReplyTooManyConns} {
		if !strings.HasSuffix(s, "\r\n") {
			t.Errorf("%q has no end of line", s)
		}
	}
}
