// Package child starts processes that do not outlive this one, however it may end.
package child

import (
	"os/exec"
	"runtime"
	"syscall"
)

// Start starts cmd such that it is killed when this process ends. Before that it calls prepare, unless nil, on the thread that the child inherits its affinity from; an
// error of prepare is Start's. When the child has ended, ended is called with what cmd.Wait has returned, on a goroutine of its own.
func Start(cmd *exec.Cmd, prepare func() error, ended func(error)) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error)
	go func() {
		// The kernel takes the end of the thread that has started a child for its parent's: so the child has a thread of its own, which waits for it.
		runtime.LockOSThread()
		var err error
		if prepare != nil {
			err = prepare()
		}
		if err == nil {
			err = cmd.Start()
		}
		started <- err
		if err == nil {
			ended(cmd.Wait())
		}
	}()
	return <-started
}
