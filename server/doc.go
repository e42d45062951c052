// Package server gives a [Store], which is a replication.Node, to memcached clients over TCP.
//
// It owns the client connections and nothing else: bytes come from sockets, package textproto makes
// requests of them, the Store runs them, and the replies go back in the order of the requests. It does not
// know what a lane, a view or a replica is, and keeps no item.
//
// # A pass
//
// The event loop is cloudwego/netpoll, one poller per thread (-t). Work runs to completion on the poller that
// read it (netpoll's Runner calls inline): all requests of one read are parsed, run and answered, and
// their replies leave in one write. That is a pass. No goroutine is started for it, and it
// allocates nothing but what netpoll itself does per event. The buffers of a pass belong to a worker, of which there
// are about as many as threads; a connection at rest owns none.
//
// Reads that the Store can answer at once are copied from its memory straight into the output. Updates, and reads
// that must wait, may complete later and in any order, on other goroutines: each takes a slot in the
// connection's queue, and what later requests of the pipeline answer meanwhile is held back behind it (queue.go).
//
// # Clients in trouble
//
// A poller must never wait for one client. A client that does not read its replies, or that has more
// updates in flight than a connection may, is in trouble: its output is drained and its input run by a goroutine of
// its own (keeper.go), and nothing more is read from its socket until all is well again. netpoll has no way to stop
// reading, so the socket is taken out of it and put back later (detach.go).
//
// # Files
//
//	server.go    life of a server: listeners, pollers, shutdown
//	listener.go  accepting clients, the connection limit
//	conn.go      one client connection and who may touch what of it
//	read.go      input: from the socket to whole requests
//	run.go       requests: what each command does
//	queue.go     replies in the order of requests
//	write.go     output: non-blocking writes
//	flusher.go   sending to other replicas once for all clients of a round
//	keeper.go    the goroutine of a client in trouble
//	detach.go    taking a socket out of netpoll
//	worker.go    buffers and counters of a thread
//	stats.go     the stats command; settings.go: stats settings; admin.go: the other commands of operators
package server
