package rdma

import (
	"sync"
	"time"

	"hermesd/replication"
)

// clock looks after all channels of a path, a few times in the silence that they may keep.
type clock struct {
	done chan struct{}
	wg   sync.WaitGroup

	mu       sync.Mutex
	channels map[*channel]struct{}
}

const looksPerSilence = 3

func (c *clock) start(silence time.Duration) {
	c.done, c.channels = make(chan struct{}), make(map[*channel]struct{})
	c.wg.Go(func() {
		ticker := time.NewTicker(silence / looksPerSilence)
		defer ticker.Stop()
		for {
			select {
			case <-c.done:
				return
			case <-ticker.C:
				for _, ch := range c.all() {
					ch.look(silence)
				}
			}
		}
	})
}

func (c *clock) all() []*channel {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*channel, 0, len(c.channels))
	for ch := range c.channels {
		all = append(all, ch)
	}
	return all
}

func (c *clock) stop() {
	close(c.done)
	c.wg.Wait()
}

// watch looks after ch until it is closed.
func (c *clock) watch(ch *channel) replication.Channel {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.channels[ch] = struct{}{}
	return &watched{channel: ch, clock: c}
}

type watched struct {
	*channel
	clock *clock
}

func (w *watched) Close() {
	w.clock.mu.Lock()
	delete(w.clock.channels, w.channel)
	w.clock.mu.Unlock()
	w.channel.Close()
}
