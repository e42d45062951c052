package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// writeModule writes a module of the files given by path, and returns its root.
func writeModule(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	files["go.mod"] = "module sample\n\ngo 1.26.0\n"
	for path, text := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const holds = `package a

import "testing"

func FuzzHolds(f *testing.F) {
	f.Add(1)
	f.Fuzz(func(t *testing.T, n int) {})
}

func TestIsNotRun(t *testing.T) { t.Fatal("only Fuzz functions are to be run") }
`

// failsSoon fails on inputs that are not in its corpus but that fuzzing finds at once.
const failsSoon = `package b

import "testing"

func FuzzFails(f *testing.F) {
	f.Add(0)
	f.Fuzz(func(t *testing.T, n int) {
		if n != 0 {
			t.Fatal("not 0")
		}
	})
}
`

// TestFindsAllAndNamesTheCrasher fuzzes a module of two packages, one of which has a fault.
func TestFindsAllAndNamesTheCrasher(t *testing.T) {
	root := writeModule(t, map[string]string{"a/a_test.go": holds, "deep/b/b_test.go": failsSoon, "c/c.go": "package c\n"})
	var out bytes.Buffer
	err := fuzzAll(context.Background(), root, time.Second, &out)
	if err == nil || !strings.Contains(err.Error(), "1 of 2 functions failed") {
		t.Fatalf("error %v\n%s", err, &out)
	}
	_, summary, _ := strings.Cut(out.String(), "== summary\n")
	lines := strings.Split(strings.TrimSpace(summary), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "ok    sample/a FuzzHolds: ") || !strings.Contains(lines[0], "execs: ") ||
		!strings.HasPrefix(lines[1], "FAIL  sample/deep/b FuzzFails: the input is in deep/b/testdata/fuzz/FuzzFails/") {
		t.Errorf("summary:\n%s", summary)
	}
	written, err := filepath.Glob(filepath.Join(root, "deep/b/testdata/fuzz/FuzzFails/*"))
	if err != nil || len(written) != 1 || !strings.Contains(lines[1], filepath.Base(written[0])) {
		t.Errorf("the go command has written %v (%v); the summary says %s", written, err, lines[1])
	}
}

// TestNothingToRunIsAnError: a run that tested nothing must not look like one that passed.
func TestNothingToRunIsAnError(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"no Fuzz function":        {"a/a.go": "package a\n"},
		"tests that do not build": {"a/a_test.go": holds, "b/b_test.go": "package b\n\nvar x int = `text`\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := fuzzAll(context.Background(), writeModule(t, files), time.Second, &out); err == nil {
				t.Errorf("no error; it printed:\n%s", &out)
			}
			if strings.Contains(out.String(), "== 1 of") {
				t.Errorf("it went on with a part of the functions:\n%s", &out)
			}
		})
	}
}
