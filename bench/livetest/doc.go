// Package livetest runs hermesd as people run it, in processes of its own, for tests: it builds the binary, starts single
// replicas and groups on free ports of the loopback interface, puts proxies between replicas that can break their connections,
// and sees to it that everything has ended when a test has.
//
//	func TestMain(m *testing.M) { os.Exit(livetest.Main(m)) }
//
//	g := livetest.StartGroup(t, livetest.GroupConfig{Replicas: 3})
//	... g.Clients[0] ...
//
// It knows the command line and the log lines of hermesd, and imports nothing of it. Under the race detector the binary is built with the
// race detector too: a race in it makes the process end with another status than 0, which Stop reports.
package livetest
