package rdma

import "sync/atomic"

// Counters are what the RDMA channels with one peer have counted; see docs/rdma.md for what they say.
type Counters struct {
	bytesSent, bytesReceived atomic.Uint64
	posts                    atomic.Uint64 // ibv_post_send calls
	requests                 atomic.Uint64 // work requests in them
	inlined                  atomic.Uint64 // of these, with their bytes in the request
	signalled                atomic.Uint64 // of these, with a completion
	credits                  atomic.Uint64 // of these, with nothing but credit
	signs                    atomic.Uint64 // of these, empty ones that look whether the path is alive
	polls                    atomic.Uint64 // ibv_poll_cq calls
	emptyPolls               atomic.Uint64 // of these, that found nothing
	completions              atomic.Uint64
	waits                    atomic.Uint64 // sleeps on the completion channel
	crossings                atomic.Uint64 // calls from Go to C while messages pass
	overflowed               atomic.Uint64 // messages that had to wait outside the ring
	channels                 atomic.Uint64 // set up
}

func (c *Counters) each(f func(name string, value uint64)) {
	f("rdma_channels", c.channels.Load())
	f("rdma_bytes_sent", c.bytesSent.Load())
	f("rdma_bytes_received", c.bytesReceived.Load())
	f("rdma_posts", c.posts.Load())
	f("rdma_requests", c.requests.Load())
	f("rdma_requests_inlined", c.inlined.Load())
	f("rdma_requests_signalled", c.signalled.Load())
	f("rdma_credit_writes", c.credits.Load())
	f("rdma_life_signs", c.signs.Load())
	f("rdma_polls", c.polls.Load())
	f("rdma_polls_empty", c.emptyPolls.Load())
	f("rdma_completions", c.completions.Load())
	f("rdma_waits", c.waits.Load())
	f("rdma_crossings", c.crossings.Load())
	f("rdma_messages_overflowed", c.overflowed.Load())
}
