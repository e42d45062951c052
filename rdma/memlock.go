//go:build rdma

package rdma

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// checkLockedMemory says what to do where the process may not lock the memory that so many peers take. The kernel asks for the right, or for a limit
// that covers it, when memory is registered.
func checkLockedMemory(o *Options) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil || limit.Cur == unix.RLIM_INFINITY || mayLock() {
		return nil
	}
	if need := uint64(o.Peers) * uint64(o.MemoryPerPeer()); need > limit.Cur {
		return fmt.Errorf("rdma: %d other replicas take up to %d KiB of locked memory, %d KiB each, and the limit is %d KiB: raise it (ulimit -l %d; LimitMEMLOCK=infinity "+
			"in a systemd unit; --ulimit memlock=-1 for a container), give the process CAP_IPC_LOCK, or lower --rdma-ring",
			o.Peers, need>>10, o.MemoryPerPeer()>>10, limit.Cur>>10, need>>10)
	}
	return nil
}

// mayLock reports whether the process has CAP_IPC_LOCK, for which there is no limit. The kernel asks for the machine's: one of a user namespace, as that of root in
// a container of an ordinary user, does not count.
func mayLock() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) != nil || data[0].Effective&(1<<unix.CAP_IPC_LOCK) == 0 {
		return false
	}
	users, err := os.ReadFile("/proc/self/uid_map")
	return err != nil || isMachines(string(users))
}

// isMachines reports whether a user namespace with that uid_map is the machine's own: it maps every user to himself.
func isMachines(users string) bool {
	return strings.Join(strings.Fields(users), " ") == "0 0 4294967295"
}
