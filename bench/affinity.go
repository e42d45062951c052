package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// pinThread pins the calling thread, and those that it starts, to the processors.
func pinThread(cpus []int) error { return pin(0, cpus) }

// pinProcess pins every thread of this process to the processors; threads started later inherit it.
func pinProcess(cpus []int) error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		id, err := strconv.Atoi(task.Name())
		if err != nil {
			return err
		}
		// A thread that has ended meanwhile needs no pinning.
		if err := pin(id, cpus); err != nil && !strings.Contains(err.Error(), unix.ESRCH.Error()) {
			return err
		}
	}
	return nil
}

func pin(thread int, cpus []int) error {
	var set unix.CPUSet
	for _, cpu := range cpus {
		set.Set(cpu)
	}
	if err := unix.SchedSetaffinity(thread, &set); err != nil {
		return fmt.Errorf("pin to processors %v: %w: give processors that this process may use", cpus, err)
	}
	return nil
}

// availableCPUs returns the processors that this process may use, in order.
func availableCPUs() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("sched_getaffinity: %w", err)
	}
	var cpus []int
	for cpu := 0; len(cpus) < set.Count(); cpu++ {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus, nil
}

// threadCPU returns the processor time that the calling thread has used.
func threadCPU() (user, system time.Duration) {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &usage); err != nil {
		return 0, 0
	}
	return time.Duration(usage.Utime.Nano()), time.Duration(usage.Stime.Nano())
}
