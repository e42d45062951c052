package livetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// built is the binary of this test process, in a directory of its own.
var built struct {
	once sync.Once
	dir  string
	err  error
}

// Main runs the tests of a package and removes the binary that they have built. It is for TestMain.
func Main(m *testing.M) int {
	defer func() {
		if built.dir != "" {
			_ = os.RemoveAll(built.dir)
		}
	}()
	return m.Run()
}

// Binary returns the path of hermesd, built from the sources around the test. It is built once for all tests of a package, whose
// TestMain calls Main.
func Binary(t testing.TB) string {
	t.Helper()
	built.once.Do(build)
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "hermesd")
}

func build() {
	if built.dir, built.err = os.MkdirTemp("", "hermesd-live-"); built.err != nil {
		return
	}
	args := []string{"build", "-o", filepath.Join(built.dir, "hermesd")}
	if raceDetector {
		args = append(args, "-race")
	}
	if output, err := exec.Command("go", append(args, "hermesd")...).CombinedOutput(); err != nil {
		built.err = fmt.Errorf("go build hermesd: %w\n%s", err, output)
	}
}
