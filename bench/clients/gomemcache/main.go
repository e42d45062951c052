// Command gomemcache runs github.com/bradfitz/gomemcache, the client that most Go programs use, against the replicas of one group:
//
//	go run ./bench/clients/gomemcache HOST:PORT...
//
// All that the library offers goes through the first address, and what only a group can get wrong through all, where there are several.
// The exit status is 1 at the first answer that is not the expected one.
//
// It is only a command line: what is asked is in package check, which tests of live groups use too. It starts no servers and measures
// nothing; what it stores is left in the servers that it is pointed at. `make clients` runs it.
package main

import (
	"fmt"
	"os"

	"hermesd/bench/clients/gomemcache/check"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: gomemcache HOST:PORT...")
		os.Exit(2)
	}
	if err := check.Run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gomemcache:", err)
		os.Exit(1)
	}
}
