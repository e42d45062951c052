// Package bench measures and judges servers of memcached's text protocol: hermesd, and the ones it is
// compared with.
//
// What is here:
//
//   - Load, the load generator behind `hermesd bench load` (load.go and the files that it names): closed loops
//     over many connections, driven by epoll, cheap enough that one core of client saturates one thread of
//     memcached.
//   - Compare, behind `hermesd bench peer` and `make bench-peer` (peer.go): hermesd and another server take
//     turns under the same load, and the ratios of server CPU time per operation and of throughput are printed.
//   - Client (client.go): one connection that runs one operation at a time and records what it saw in a history,
//     for tests that judge a live group. The recorder and the linearizability checker are package
//     hermesd/bench/history, which imports nothing of hermesd, so that the engine's own tests can use it.
//   - clients/: other people's clients, run against any server.
//
// What is not here: anything that a server needs to run. Numbers come from the replies that the server sends and from
// the kernel's accounts (/proc, getrusage); they go to standard output, as text or JSON. Nothing is kept.
//
// The package uses epoll, CPU affinity and /proc: it is for Linux.
package bench
