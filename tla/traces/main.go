// Command traces turns what groups of replicas have written with --trace, or the simulation with -trace.dir, into a module that TLC reads:
// TraceHermes.tla decides whether each of the traces in it is an execution of Hermes.tla.
//
//	go run ./tla/traces -o TraceData.tla FOLDER...
//
// Each folder, and each below it, that holds *.ndjson files is a group: a file for each replica, or one for all. A group gives as many traces as keys
// were used, each from the group's first view on until something happens of which Hermes.tla knows nothing: the key is deleted or flushed, a
// replica joins, or one is left alone.
package main

import (
	"bufio"
	"cmp"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	out := flag.String("o", "", "the module to write; its name is the file's")
	limits := limits{}
	flag.IntVar(&limits.steps, "steps", 400, "a trace is cut off after so many steps")
	flag.IntVar(&limits.traces, "traces", 1000, "no more traces than this, taken evenly from all")
	flag.IntVar(&limits.least, "least", 1, "fewer steps than this, in all traces together, are a failure")
	flag.Parse()
	if err := convert(*out, flag.Args(), limits); err != nil {
		fmt.Fprintln(os.Stderr, "traces:", err)
		os.Exit(1)
	}
}

func convert(out string, roots []string, limits limits) error {
	if limits.least < 1 {
		return fmt.Errorf("-least %d: give at least 1, since traces without steps show nothing", limits.least)
	}
	if filepath.Ext(out) != ".tla" || len(roots) == 0 {
		return fmt.Errorf("say what to write (-o NAME.tla), and the folders to read")
	}
	var all []trace
	groups := 0
	for _, root := range roots {
		folders, err := foldersWithTraces(root)
		if err != nil {
			return err
		}
		for _, folder := range folders {
			steps, err := readGroup(folder)
			if err != nil {
				return err
			}
			traces, err := tracesOf(folder, steps, limits.steps)
			if err != nil {
				return fmt.Errorf("%s: %w", folder, err)
			}
			groups++
			all = append(all, traces...)
		}
	}
	if len(all) == 0 {
		return fmt.Errorf("no trace of a group of %d in %v", replicas, roots)
	}
	withSteps := slices.DeleteFunc(slices.Clone(all), func(t trace) bool { return len(t.events) == 0 })
	chosen := evenly(withSteps, limits.traces)
	steps := 0
	for i := range chosen {
		steps += len(chosen[i].events)
	}
	if steps < limits.least {
		return fmt.Errorf("%d traces of %v have %d steps, and at least %d must be checked (-least); they end where %s", len(all), roots, steps, limits.least, endings(all))
	}
	file, err := os.Create(out)
	if err != nil {
		return err
	}
	defer file.Close()
	w := bufio.NewWriter(file)
	name := filepath.Base(out[:len(out)-len(".tla")])
	writeModule(w, name, chosen)
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Printf("%d traces of %d, of %d groups: %d steps; they end where %s\n", len(chosen), len(withSteps), groups, steps, endings(chosen))
	if empty := len(all) - len(withSteps); empty > 0 {
		fmt.Printf("%d keys more have no steps before that\n", empty)
	}
	return file.Close()
}

// endings says what ends traces, and how many of them, the most frequent first.
func endings(traces []trace) string {
	count := map[string]int{}
	for i := range traces {
		count[cmp.Or(traces[i].cut, "the group's steps do")]++
	}
	whys := slices.SortedFunc(maps.Keys(count), func(a, b string) int { return cmp.Or(count[b]-count[a], cmp.Compare(a, b)) })
	for i, why := range whys {
		whys[i] = fmt.Sprintf("%s: %d", why, count[why])
	}
	return strings.Join(whys, "; ")
}

// foldersWithTraces are root and the folders below it that hold traces, in order.
func foldersWithTraces(root string) (folders []string, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && filepath.Ext(path) == ".ndjson" && !slices.Contains(folders, filepath.Dir(path)) {
			folders = append(folders, filepath.Dir(path))
		}
		return err
	})
	if err == nil && len(folders) == 0 {
		err = fmt.Errorf("no *.ndjson in %s", root)
	}
	return folders, err
}

// evenly takes at most n of all, from beginning to end.
func evenly(all []trace, n int) []trace {
	if len(all) <= n {
		return all
	}
	chosen := make([]trace, n)
	for i := range chosen {
		chosen[i] = all[i*len(all)/n]
	}
	return chosen
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
