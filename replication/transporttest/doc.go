// Package transporttest holds the tests that every replication.Transport must pass: the contract of
// replication/transport.go as something that can be run. An implementation's test calls Run with a function that makes a
// Network of its transports:
//
//	func TestContract(t *testing.T) { transporttest.Run(t, newMyNetwork) }
//
// The tests send messages that describe themselves: each says which channel of its sender's it was sent in and which number
// it has in its lane there, and carries a checksum of its value. So the receiver can tell loss, disorder, damage, and
// anything that comes out of an earlier channel. A member's record of what it was told is not locked against the handler calls of one
// peer, so the race detector finds those that overlap. No test waits for time to pass; a wait that fails takes
// a minute to say so.
package transporttest
