// Command chaos runs groups of hermesd as real processes, each replica in a network namespace of its own, breaks what can break (processes,
// links, disks) after a seed, and has what recording clients were answered meanwhile judged.
//
//	make chaos                       # 20 minutes
//	make chaos CHAOSTIME=3m
//	bin/chaos -hermesd bin/hermesd -time 5m -groups 3 -faults kill,pause -seed 17
//
// It is no benchmark: the stalls that it prints depend on what else the machine does. Nor is it run by `go test`, but for the tests of its own
// parts. What goes in is a binary of hermesd, a seed and the time to take; histories go to package history, which judges them. What comes out is a
// line for each episode and a table on standard output, the replicas' logs where something was wrong, and the exit status.
//
// It needs root, ip (iproute2) and nft (nftables), and says what is missing; it installs nothing. Everything is made in namespaces of its
// own, which hold nothing but their own addresses, and is removed at the end; what a run that was killed has left, the next one
// removes. docs/testing-chaos.md has more.
//
// Two processes: the outer one (main.go) makes the namespaces, starts itself in the clients' namespace, and cleans up whatever happens to
// that inner one (run.go), which starts the replicas, breaks them and talks to them. network.go is the network, replica.go a
// process, schedule.go what is broken when (pure: a function of the seed), fault.go how, clients.go and libraries.go who asks meanwhile, and
// report.go what it came to.
package main
