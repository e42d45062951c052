package bench

import (
	"context"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hermesd/bench/livetest"
)

// buildHermesd builds the binary that tests start.
func buildHermesd(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hermesd")
	if out, err := exec.Command("go", "build", "-o", path, "hermesd").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	return path
}

// A set in a group of three is six messages: two INV, two ACK, two VAL. The report must count them.
func TestGroupCountsMessages(t *testing.T) {
	cfg := DefaultGroupConfig()
	cfg.Hermesd, cfg.MemoryMB, cfg.Keys, cfg.Duration = buildHermesd(t), 64, 1000, 200*time.Millisecond
	cfg.Replicas, cfg.Ratios, cfg.Pipelines, cfg.Connections = []int{1, 3}, []string{"1:0"}, []int{8}, 6
	cfg.timing = livetest.Patient // it counts, and measures nothing
	report, err := Group(context.Background(), cfg, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	alone, three := report.Rows[0], report.Rows[1]
	if alone.MessagesPerSet != 0 || alone.WaitedShare != 0 {
		t.Errorf("a group of one: %v messages for each set, %v of the sets waited", alone.MessagesPerSet, alone.WaitedShare)
	}
	if m := three.MessagesPerSet; m < 5.5 || m > 7 {
		t.Errorf("%v messages for each set in a group of three, which takes 6", m)
	}
	if three.FramesPerSet <= 0 || three.FramesPerSet >= three.MessagesPerSet || three.PeerCallsPerSet <= 0 || three.RSSBytes[0].Least == 0 {
		t.Errorf("%+v", three)
	}
	var text strings.Builder
	if err := report.WriteText(&text); err != nil || !strings.Contains(text.String(), "messages/set") {
		t.Errorf("%v: %s", err, &text)
	}
}
