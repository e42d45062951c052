package bench

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"hermesd/bench/history"
)

// Client is a connection that runs the operations of a history and understands every answer, or says that it did
// not. It is for judging servers, not for loading them. It is not safe for use by several goroutines.
type Client struct {
	conn net.Conn
	in   *bufio.Reader
	wait time.Duration
}

// Dial connects to a server. Connecting, and later each Do, may take as long as wait.
func Dial(addr string, wait time.Duration) (*Client, error) {
	conn, err := net.DialTimeout("tcp", addr, wait)
	if err != nil {
		return nil, err
	}
	return &Client{conn: conn, in: bufio.NewReader(conn), wait: wait}, nil
}

// Close closes the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Do writes the requests of a pipeline in one write and reads the answers, which are in outs, in the order of ins. After an error
// the connection is of no use any more, and what has no answer is Unknown in outs. An answer SERVER_ERROR is Unknown too, without
// an error: the server does not say whether the command was carried out, or will be. Other answers that
// the command cannot have are an error: they are a fault of the server's, not of the network's (ErrAnswer).
func (c *Client) Do(ins ...history.Input) (outs []history.Output, err error) {
	outs = make([]history.Output, len(ins))
	if err := c.conn.SetDeadline(time.Now().Add(c.wait)); err != nil {
		return outs, err
	}
	var request []byte
	for i := range ins {
		request = appendInput(request, &ins[i])
	}
	if _, err := c.conn.Write(request); err != nil {
		return outs, err
	}
	for i := range ins {
		if outs[i], err = c.readAnswer(&ins[i]); err != nil {
			outs[i] = history.Output{}
			return outs, fmt.Errorf("%v %s: %w", ins[i].Kind, ins[i].Key, err)
		}
	}
	return outs, nil
}

// ErrAnswer is the error of Do for an answer that the command cannot have.
var ErrAnswer = errors.New("the protocol knows no such answer to this command")

// appendInput builds a request.
func appendInput(dst []byte, in *history.Input) []byte {
	exptime := 0
	if in.Expired {
		exptime = -1
	}
	switch in.Kind {
	case history.Get, history.Gets, history.Delete:
		return fmt.Appendf(dst, "%v %s\r\n", in.Kind, in.Key)
	case history.Gat, history.Gats:
		return fmt.Appendf(dst, "%v %d %s\r\n", in.Kind, exptime, in.Key)
	case history.Touch:
		return fmt.Appendf(dst, "touch %s %d\r\n", in.Key, exptime)
	case history.Incr, history.Decr:
		return fmt.Appendf(dst, "%v %s %d\r\n", in.Kind, in.Key, in.Delta)
	case history.CAS:
		return fmt.Appendf(dst, "cas %s %d %d %d %d\r\n%s\r\n", in.Key, in.Flags, exptime, len(in.Value), in.CAS, in.Value)
	case history.Flush:
		return append(dst, "flush_all\r\n"...)
	}
	return fmt.Appendf(dst, "%v %s %d %d %d\r\n%s\r\n", in.Kind, in.Key, in.Flags, exptime, len(in.Value), in.Value)
}

// lineStatuses are the answers of one line that carry nothing.
var lineStatuses = map[string]history.Status{
	"STORED": history.Stored, "NOT_STORED": history.NotStored, "EXISTS": history.Exists, "NOT_FOUND": history.NotFound,
	"DELETED": history.Deleted, "TOUCHED": history.Touched, "OK": history.OK, "END": history.Miss,
	"CLIENT_ERROR cannot increment or decrement non-numeric value": history.NonNumeric,
	"SERVER_ERROR object too large for cache":                      history.TooLarge,
}

func (c *Client) readAnswer(in *history.Input) (history.Output, error) {
	line, err := c.readLine()
	if err != nil {
		return history.Output{}, err
	}
	if value, ok := strings.CutPrefix(line, "VALUE "); ok && in.Kind <= history.Gats {
		return c.readValue(in, value)
	}
	if status, ok := lineStatuses[line]; ok {
		return history.Output{Status: status}, nil
	}
	if strings.HasPrefix(line, "SERVER_ERROR ") {
		return history.Output{}, nil
	}
	if n, err := strconv.ParseUint(line, 10, 64); err == nil && (in.Kind == history.Incr || in.Kind == history.Decr) {
		return history.Output{Status: history.Number, Number: n}, nil
	}
	return history.Output{}, fmt.Errorf("%w: %q", ErrAnswer, line)
}

func (c *Client) readLine() (string, error) {
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return "", err
	}
	text, ok := strings.CutSuffix(string(line), "\r\n")
	if !ok {
		return "", fmt.Errorf("%w: a line that ends in a bare line feed: %q", ErrAnswer, line)
	}
	return text, nil
}

// readValue reads the rest of a hit; header is what follows VALUE.
func (c *Client) readValue(in *history.Input, header string) (history.Output, error) {
	words := strings.Split(header, " ")
	want := 3
	if in.Kind == history.Gets || in.Kind == history.Gats {
		want = 4
	}
	if len(words) != want || words[0] != in.Key {
		return history.Output{}, fmt.Errorf("%w: VALUE %q", ErrAnswer, header)
	}
	words = append(words, "0")
	flags, err1 := strconv.ParseUint(words[1], 10, 32)
	size, err2 := strconv.ParseUint(words[2], 10, 30)
	unique, err3 := strconv.ParseUint(words[3], 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return history.Output{}, fmt.Errorf("%w: VALUE %q: %w", ErrAnswer, header, err)
	}
	value := make([]byte, size+uint64(len(valueEnd)))
	if _, err := io.ReadFull(c.in, value); err != nil {
		return history.Output{}, err
	}
	if string(value[size:]) != valueEnd {
		return history.Output{}, fmt.Errorf("%w: after the value comes %q", ErrAnswer, value[size:])
	}
	return history.Output{Status: history.Hit, Value: string(value[:size]), Flags: uint32(flags), CAS: unique}, nil
}
