//go:build !linux

package replication

import (
	"net"
	"time"
)

// setUserTimeout does nothing where TCP has no such option: keepalive notices an idle peer that has vanished, and the
// kernel's own retransmission limit a busy one.
func setUserTimeout(*net.TCPConn, time.Duration) error { return nil }

// hasHungUp is not known where poll does not tell: a half-closed connection is given up at its deadline.
func hasHungUp(uintptr) bool { return false }
