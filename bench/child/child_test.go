package child

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

const asParent = "HERMESD_CHILD_TEST_PARENT"

// TestMain lets the test binary be a parent: it starts a child that never ends by itself and whose standard output is the test's, says so, and waits.
func TestMain(m *testing.M) {
	if os.Getenv(asParent) == "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("sleep", "600")
	cmd.Stdout = os.Stdout
	if err := Start(cmd, nil, func(error) {}); err != nil {
		fmt.Println(err)
	} else {
		fmt.Println("started")
	}
	select {}
}

// A parent that is killed takes its child with it: nobody holds the pipe any more.
func TestChildDiesWithItsParent(t *testing.T) {
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), asParent+"=1")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = parent.Process.Kill() }()
	line := make([]byte, len("started\n"))
	if _, err := io.ReadFull(out, line); err != nil || string(line) != "started\n" {
		t.Fatalf("the parent says %q: %v", line, err)
	}
	_ = parent.Process.Kill()
	if rest, err := io.ReadAll(out); err != nil || len(rest) != 0 {
		t.Errorf("after the parent: %q, %v", rest, err)
	}
	_ = parent.Wait()
}

// How the child ends is told, and what goes wrong before it starts is Start's error; then nothing has been started.
func TestEndAndErrors(t *testing.T) {
	ended := make(chan error, 1)
	if err := Start(exec.Command("sh", "-c", "exit 3"), nil, func(err error) { ended <- err }); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := <-ended; !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("the child ended with %v, want status 3", err)
	}
	no := func(err error) { t.Errorf("what was not started has ended: %v", err) }
	if err := Start(exec.Command("/nowhere"), nil, no); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("a program that is not there: %v", err)
	}
	refused := errors.New("refused")
	if err := Start(exec.Command("true"), func() error { return refused }, no); !errors.Is(err, refused) {
		t.Errorf("a preparation that fails: %v", err)
	}
	withGroup := exec.Command("true")
	withGroup.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := Start(withGroup, nil, func(error) { ended <- nil }); err != nil || !withGroup.SysProcAttr.Setpgid {
		t.Errorf("attributes of the caller's: %v, %+v", err, withGroup.SysProcAttr)
	}
	<-ended
}
