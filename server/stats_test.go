package server

import (
	"bufio"
	"strings"
	"testing"
)

// readStats reads the answer to a stats command.
func (c client) readStats(t *testing.T, command string) (names []string, values map[string]string) {
	t.Helper()
	c.send(command + "\r\n")
	values = map[string]string{}
	for r := bufio.NewReader(c); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "END\r\n" {
			return names, values
		}
		part := strings.SplitN(strings.TrimSpace(line), " ", 3)
		if len(part) != 3 || part[0] != "STAT" {
			t.Fatalf("%s: the line %q", command, line)
		}
		names = append(names, part[1])
		values[part[1]] = part[2]
	}
}

// memcachedStats are the names that memcached 1.6.45 answers stats with, in its order.
const memcachedStats = "pid uptime time version libevent pointer_size rusage_user rusage_system max_connections curr_connections total_connections " +
	"rejected_connections connection_structures response_obj_oom response_obj_count response_obj_bytes read_buf_count read_buf_bytes " +
	"read_buf_bytes_free read_buf_oom reserved_fds cmd_get cmd_set cmd_flush cmd_touch cmd_meta get_hits get_misses get_expired get_flushed " +
	"delete_misses delete_hits incr_misses incr_hits decr_misses decr_hits cas_misses cas_hits cas_badval touch_hits touch_misses store_too_large " +
	"store_no_memory auth_cmds auth_errors bytes_read bytes_written limit_maxbytes accepting_conns listen_disabled_num time_in_listen_disabled_us " +
	"threads conn_yields hash_power_level hash_bytes hash_is_expanding slab_reassign_rescues slab_reassign_chunk_rescues " +
	"slab_reassign_inline_reclaim slab_reassign_busy_items slab_reassign_busy_deletes slab_reassign_busy_nomem slab_reassign_last_busy_status " +
	"slab_reassign_running slabs_moved lru_crawler_running lru_crawler_starts lru_maintainer_juggles malloc_fails log_worker_dropped " +
	"log_worker_written log_watcher_skipped log_watcher_sent log_watchers unexpected_napi_ids round_robin_fallback bytes curr_items total_items " +
	"slab_global_page_pool expired_unfetched evicted_unfetched evicted_active evictions reclaimed crawler_reclaimed crawler_items_checked " +
	"lrutail_reflocked moves_to_cold moves_to_warm moves_within_lru direct_reclaims lru_bumps_dropped"

func TestStatsHaveMemcachedsNames(t *testing.T) {
	names, _ := dial(t, startAlone(t)).readStats(t, "stats")
	if got := strings.Join(names, " "); got != memcachedStats {
		t.Errorf("stats has the names\n%s\nand not\n%s", got, memcachedStats)
	}
}

func TestCounters(t *testing.T) {
	c := dial(t, startAlone(t))
	c.send("get no\r\n" + set("k", "1") + "get k k no\r\nincr k 1\r\nincr no 1\r\ndecr k 1\r\ndecr no 1\r\ntouch k 0\r\ntouch no 0\r\ngat 0 k\r\n" +
		"delete no\r\ncas k 0 0 1 1\r\nx\r\ncas no 0 0 1 1\r\nx\r\nset e 0 -1 1\r\nx\r\nget e\r\nflush_all\r\n" + set("k", "1") + "delete k\r\n" +
		"set k 0 0 2000000\r\n" + strings.Repeat("x", 2000000) + "\r\n" + set("k", "2") + "version\r\n")
	for r := bufio.NewReader(c); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(line, "VERSION") {
			break
		}
	}
	want := map[string]string{"cmd_get": "5", "get_hits": "2", "get_misses": "3", "get_expired": "1", "cmd_set": "6", "cmd_touch": "3", "touch_hits": "2",
		"touch_misses": "1", "incr_hits": "1", "incr_misses": "1", "decr_hits": "1", "decr_misses": "1", "delete_hits": "1", "delete_misses": "1",
		"cas_misses": "1", "cas_badval": "1", "cas_hits": "0", "cmd_flush": "1", "store_too_large": "1", "curr_connections": "1",
		"total_connections": "1", "limit_maxbytes": "67108864", "threads": "1", "total_items": "4"}
	_, got := c.readStats(t, "stats")
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s is %s, not %s", name, got[name], value)
		}
	}
	// The expired item is given back by and by.
	eventually(t, "one item is left", func() bool {
		_, got := c.readStats(t, "stats")
		return got["curr_items"] == "1"
	})
	c.send("stats reset\r\n")
	c.want("RESET\r\n")
	_, got = c.readStats(t, "stats")
	for name, value := range map[string]string{"cmd_get": "0", "cmd_set": "0", "get_hits": "0", "total_items": "0", "total_connections": "0",
		"curr_connections": "1"} {
		if got[name] != value {
			t.Errorf("after a reset, %s is %s, not %s", name, got[name], value)
		}
	}
}

func TestStatsConns(t *testing.T) {
	s := startAlone(t)
	asking, nread := dial(t, s), dial(t, s)
	nread.send("set k 0 0 10\r\nabc")
	states := func() (n int) {
		_, values := asking.readStats(t, "stats conns")
		seen := map[string]int{}
		for name, value := range values {
			if strings.HasSuffix(name, ":state") {
				seen[value]++
			}
		}
		if seen["conn_listening"] != 1 || seen["conn_parse_cmd"] != 1 {
			t.Fatalf("states %v", seen)
		}
		return seen["conn_nread"]
	}
	eventually(t, "the client in the middle of a set shows", func() bool { return states() == 1 })
}

func TestStatsSettings(t *testing.T) {
	s := startAlone(t, func(cfg *Config) { cfg.NoEvictions = true })
	_, got := dial(t, s).readStats(t, "stats settings")
	for name, value := range map[string]string{"maxbytes": "67108864", "maxconns": "1024", "inter": "127.0.0.1", "evictions": "off",
		"item_size_max": "1048576", "num_threads": "1"} {
		if got[name] != value {
			t.Errorf("%s is %q, not %q", name, got[name], value)
		}
	}
	if _, replication := dial(t, s).readStats(t, "stats replication"); replication["state"] != "serving" || replication["members"] != "1" {
		t.Errorf("stats replication: %v", replication)
	}
}
