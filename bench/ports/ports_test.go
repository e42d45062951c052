package ports

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
)

const inChild = "HERMESD_PORTS_TEST_CHILD"

// TestMain lets the test binary be another process that reserves ports.
func TestMain(m *testing.M) {
	if os.Getenv(inChild) == "" {
		os.Exit(m.Run())
	}
	for range 100 {
		first, err := Reserve(3)
		fmt.Println(first, err)
	}
	_, _ = os.Stdin.Read(make([]byte, 1)) // keeps its block until the others have reserved theirs
}

// Two processes that reserve at one time get different ports, though neither listens on any.
func TestProcessesGetDifferentPorts(t *testing.T) {
	seen := make(map[string]int)
	for child := range 2 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), inChild+"=1")
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = stdin.Close()
			_ = cmd.Wait()
		}()
		for range 100 {
			var first, reason string
			if _, err := fmt.Fscanln(stdout, &first, &reason); err != nil || reason != "<nil>" {
				t.Fatalf("process %d: %s %s (%v)", child, first, reason, err)
			}
			if other, ok := seen[first]; ok && other != child {
				t.Fatalf("port %s was given to both", first)
			}
			seen[first] = child
		}
	}
	if len(seen) < 200 {
		t.Errorf("%d different ports of 200: one comes again before the others had their turn", len(seen))
	}
}

// A port on which somebody listens is left out, and the ports in a row begin after it.
func TestTakenPortsAreLeftOut(t *testing.T) {
	first, err := Reserve(1)
	if err != nil {
		t.Fatal(err)
	}
	busy, err := net.Listen("tcp", Loopback(first+2))
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	next, err := Reserve(4)
	if err != nil || next <= first+2 {
		t.Errorf("%d to %d (%v), of which %d is taken", next, next+3, err, first+2)
	}
	if _, err := Reserve(blockSize); err == nil || !strings.Contains(err.Error(), "no 500 free ports") {
		t.Errorf("more than a block has: %v", err)
	}
}
