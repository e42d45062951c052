package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// report is what a measuring subcommand prints.
type report interface {
	WriteText(w io.Writer) error
	WriteJSON(w io.Writer) error
}

// measuring begins a subcommand that measures hermesd in processes of its own: of this binary, if *hermesd names no other. ctx ends by a signal.
func measuring(cmd *cobra.Command, hermesd *string) (ctx context.Context, cancel context.CancelFunc, err error) {
	cmd.SilenceUsage = true
	if *hermesd == "" {
		if *hermesd, err = os.Executable(); err != nil {
			return nil, nil, err
		}
	}
	ctx, cancel = signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	return ctx, cancel, nil
}

// writeReport prints a report, and writes it as JSON too if a file is named.
func writeReport(cmd *cobra.Command, jsonFile string, r report) error {
	if jsonFile != "" {
		if err := writeJSONFile(jsonFile, r); err != nil {
			return err
		}
	}
	return r.WriteText(cmd.OutOrStdout())
}

func writeJSONFile(path string, r report) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := r.WriteJSON(file); err != nil {
		file.Close()
		return fmt.Errorf("%s: %w", path, err)
	}
	return file.Close()
}
