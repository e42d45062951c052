package server

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"hermesd/table"
	"hermesd/textproto"
)

// statsReset holds what the counters were when they were last reset: memcached's stats reset sets them to zero, and ours only ever
// grow, so that nobody has to be stopped for it.
type statsReset struct {
	mu   sync.Mutex
	base counted
}

// counted are the counters that stats reset resets.
type counted struct {
	count                [numCounters]uint64
	total, rejected      uint64
	evictions, reclaimed uint64
}

// counts returns the counters since the server's start.
func (s *Server) counts() (c counted, items table.Stats) {
	c.count = s.sums()
	c.total, c.rejected = s.total.Load(), s.rejected.Load()
	items, c.evictions, c.reclaimed = s.store.ItemStats()
	return c, items
}

func (s *Server) resetStats() {
	now, _ := s.counts()
	s.reset.mu.Lock()
	defer s.reset.mu.Unlock()
	s.reset.base = now
}

// sinceReset returns the counters since the last reset.
func (s *Server) sinceReset() (c counted, items table.Stats) {
	c, items = s.counts()
	s.reset.mu.Lock()
	base := s.reset.base
	s.reset.mu.Unlock()
	for i := range c.count {
		c.count[i] -= base.count[i]
	}
	c.total -= base.total
	c.rejected -= base.rejected
	c.evictions -= base.evictions
	c.reclaimed -= base.reclaimed
	return c, items
}

// appendStats answers stats: memcached's names in memcached's order, so that tools which read them find them all. What has no
// meaning here is 0; docs/protocol.md says which.
func (s *Server) appendStats(dst []byte) []byte {
	c, items := s.sinceReset()
	num := func(name string, value uint64) { dst = textproto.AppendStatUint(dst, name, value) }
	text := func(name, value string) { dst = textproto.AppendStat(dst, name, value) }
	n := &c.count
	zeros := func(names ...string) {
		for _, name := range names {
			num(name, 0)
		}
	}
	now := time.Now()
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)

	num("pid", uint64(os.Getpid()))
	num("uptime", uint64(now.Sub(s.started).Seconds()))
	num("time", uint64(now.Unix()))
	text("version", ProtocolVersion+"-hermesd-"+Version)
	text("libevent", "netpoll") // the event loop
	num("pointer_size", 64)
	text("rusage_user", fmt.Sprintf("%d.%06d", usage.Utime.Sec, usage.Utime.Usec))
	text("rusage_system", fmt.Sprintf("%d.%06d", usage.Stime.Sec, usage.Stime.Usec))
	num("max_connections", uint64(s.cfg.ConnLimit))
	num("curr_connections", uint64(s.current.Load()))
	num("total_connections", c.total)
	num("rejected_connections", c.rejected)
	num("connection_structures", uint64(s.current.Load()))
	zeros("response_obj_oom", "response_obj_count", "response_obj_bytes", "read_buf_count", "read_buf_bytes", "read_buf_bytes_free", "read_buf_oom",
		"reserved_fds")
	gets := n[getHits] + n[getMisses]
	num("cmd_get", gets)
	num("cmd_set", n[cmdSet])
	num("cmd_flush", n[cmdFlush])
	num("cmd_touch", n[touchHits]+n[touchMisses])
	zeros("cmd_meta")
	num("get_hits", n[getHits])
	num("get_misses", n[getMisses])
	num("get_expired", n[getExpired])
	zeros("get_flushed")
	num("delete_misses", n[deleteMisses])
	num("delete_hits", n[deleteHits])
	num("incr_misses", n[incrMisses])
	num("incr_hits", n[incrHits])
	num("decr_misses", n[decrMisses])
	num("decr_hits", n[decrHits])
	num("cas_misses", n[casMisses])
	num("cas_hits", n[casHits])
	num("cas_badval", n[casBadval])
	num("touch_hits", n[touchHits])
	num("touch_misses", n[touchMisses])
	num("store_too_large", n[storeTooLarge])
	num("store_no_memory", n[storeNoMemory])
	zeros("auth_cmds", "auth_errors")
	num("bytes_read", n[bytesRead])
	num("bytes_written", n[bytesWritten])
	num("limit_maxbytes", s.cfg.MemoryBytes)
	num("accepting_conns", b2u(!s.stopping.Load()))
	zeros("listen_disabled_num", "time_in_listen_disabled_us")
	num("threads", uint64(s.cfg.Threads))
	num("conn_yields", n[connYields])
	num("hash_power_level", hashPower(items.IndexBytes))
	num("hash_bytes", items.IndexBytes)
	zeros("hash_is_expanding", "slab_reassign_rescues", "slab_reassign_chunk_rescues", "slab_reassign_inline_reclaim", "slab_reassign_busy_items",
		"slab_reassign_busy_deletes", "slab_reassign_busy_nomem")
	text("slab_reassign_last_busy_status", "none")
	zeros("slab_reassign_running", "slabs_moved", "lru_crawler_running", "lru_crawler_starts", "lru_maintainer_juggles", "malloc_fails",
		"log_worker_dropped", "log_worker_written", "log_watcher_skipped", "log_watcher_sent", "log_watchers", "unexpected_napi_ids",
		"round_robin_fallback")
	num("bytes", items.LiveBytes)
	num("curr_items", uint64(items.Items))
	num("total_items", n[totalItems])
	zeros("slab_global_page_pool", "expired_unfetched", "evicted_unfetched", "evicted_active")
	num("evictions", c.evictions)
	num("reclaimed", c.reclaimed)
	zeros("crawler_reclaimed", "crawler_items_checked", "lrutail_reflocked", "moves_to_cold", "moves_to_warm", "moves_within_lru", "direct_reclaims",
		"lru_bumps_dropped")
	return dst
}

// appendReplication answers stats replication, which is ours: the Store's figures, and what says how well requests share the work of a
// pass.
func (s *Server) appendReplication(dst []byte) []byte {
	s.store.Stats(func(name, value string) { dst = textproto.AppendStat(dst, name, value) })
	c, _ := s.sinceReset()
	for _, line := range []struct {
		name string
		c    counter
	}{{"client_passes", passes}, {"client_read_calls", reads}, {"client_write_calls", writes}, {"client_operations_waited", waited},
		{"client_operations_unavailable", unavailable}} {
		dst = textproto.AppendStatUint(dst, line.name, c.count[line.c])
	}
	return dst
}

func b2u(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// hashPower is the index's size as memcached counts its own: log2 of the number of its places, of 8 bytes each.
func hashPower(indexBytes uint64) (power uint64) {
	for places := indexBytes / 8; places > 1; places /= 2 {
		power++
	}
	return power
}

// appendSettings answers stats settings. Options that hermesd does not have stand as memcached's defaults where tools look at them, or
// as what comes closest to what is done here.
func (s *Server) appendSettings(dst []byte) []byte {
	host, port, _ := net.SplitHostPort(s.Addr().String()) // a TCP address always has both
	for _, setting := range [][2]string{
		{"maxbytes", strconv.FormatUint(s.cfg.MemoryBytes, 10)},
		{"maxconns", strconv.Itoa(s.cfg.ConnLimit)},
		{"tcpport", port},
		{"udpport", "0"},
		{"inter", host},
		{"verbosity", strconv.FormatInt(s.verbosity.Load(), 10)},
		{"oldest", "0"},
		{"evictions", onOff(!s.cfg.NoEvictions)},
		{"domain_socket", "NULL"},
		{"umask", "700"},
		{"shutdown_command", "no"},
		{"growth_factor", "1.25"},
		{"chunk_size", "48"},
		{"num_threads", strconv.Itoa(s.cfg.Threads)},
		{"num_threads_per_udp", strconv.Itoa(s.cfg.Threads)},
		{"stat_key_prefix", ":"},
		{"detail_enabled", "no"},
		{"reqs_per_event", "20"},
		{"cas_enabled", "yes"},
		{"tcp_backlog", "1024"},
		{"binding_protocol", "ascii"},
		{"auth_enabled_sasl", "no"},
		{"auth_enabled_ascii", "no"},
		{"item_size_max", strconv.FormatUint(uint64(s.cfg.ItemSizeMax), 10)},
		{"maxconns_fast", "yes"},
		{"hashpower_init", "0"},
		{"slab_reassign", "no"},
		{"slab_automove", "0"},
		{"lru_crawler", "no"},
		{"tail_repair_time", "0"},
		{"flush_enabled", "yes"},
		{"dump_enabled", "no"},
		{"hash_algorithm", "farm64"},
		{"lru_maintainer_thread", "no"},
		{"lru_segmented", "no"},
		{"temp_lru", "no"},
		{"idle_timeout", "0"},
		{"track_sizes", "no"},
		{"inline_ascii_response", "no"},
		{"memory_file", "(null)"},
		{"client_flags_size", "4"},
	} {
		dst = textproto.AppendStat(dst, setting[0], setting[1])
	}
	return dst
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}
