package rdma

// wire is what a channel needs of verbs: one connected queue pair with its completion queue and its two rings. The calls that a channel
// makes while messages pass are post, poll and wait; each of the first two is one crossing from Go to C. Tests have a wire of their own.
type wire interface {
	// rings are the memory to send from and the memory that the peer writes to, of one size.
	rings() (send, recv []byte)
	// inlineMax is the most bytes that a request may carry itself.
	inlineMax() int
	// post posts requests in order, of which there are at most postMax; they are numbered on from first. One goroutine at a time calls it.
	post(first uint64, requests []request) error
	// poll posts so many receive requests, arms the completion queue if it is to, and then takes completions from it, as many as out holds at most.
	// One goroutine at a time calls poll and wait.
	poll(receives int, arm bool, out []completion) (n int, err error)
	// wait waits for a completion after the queue has been armed.
	wait() error
	// wake makes wait return an error, now and from now on. Anybody may call it, before close.
	wake()
	// why says what a completion's status means.
	why(c *completion) error
	// close frees everything. No other call may be running or come after it.
	close()
}

const (
	postMax = 64 // requests of one post
	pollMax = 64 // completions of one poll
)

// request is one RDMA WRITE, from an offset of the ring to send from to the same offset of the peer's. C sees it as struct hd_request.
type request struct {
	offset, length uint32
	imm            uint32
	flags          uint32
}

const (
	requestImmediate = 1 << iota // with an immediate value, which tells the peer
	requestSignalled
	requestInline
)

// completion is one work completion. C sees it as struct hd_completion.
type completion struct {
	id      uint64 // of a send: the number of its request
	imm     uint32 // of a receive
	length  uint32 // of a receive: bytes that were written
	status  uint32 // 0: success
	receive uint32 // 1: the peer has written something; 0: something was sent
}
