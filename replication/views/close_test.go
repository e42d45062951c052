package views

import (
	"testing"
	"time"
)

// TestNothingIsDoneAfterClose: an answer to a heartbeat, or a heartbeat, may have come before, and its goroutine runs only now.
func TestNothingIsDoneAfterClose(t *testing.T) {
	c := newCluster(t, DefaultTiming, 0, 1)
	c.start(1)
	c.serve(1)
	d := c.servers[1].driver
	c.stop(1)
	d.mail.post(func() { t.Error("the mail is read") })
	d.do(func() { t.Error("a note is read") })
}

// TestCloseGivesUpALeaseThatIsBeingRenewed: an answer that renews it is being read while Close is called.
func TestCloseGivesUpALeaseThatIsBeingRenewed(t *testing.T) {
	c := newCluster(t, DefaultTiming, 0, 1)
	c.start(1)
	c.serve(1)
	d, host := c.servers[1].driver, c.servers[1].host
	reading, read, closed := make(chan struct{}), make(chan struct{}), make(chan error)
	go d.do(func() {
		close(reading)
		<-read
		host.Renew(Now() + int64(time.Hour))
	})
	<-reading
	go func() { closed <- d.Close() }()
	c.until("Close has given the lease up", func() bool { return host.lease() == 0 })
	close(read)
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if host.lease() != 0 {
		t.Error("the replica has a lease after Close")
	}
}
