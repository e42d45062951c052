// Package textproto turns the bytes of memcached's text protocol into requests, and results into the
// bytes of replies.
//
// It is the grammar and nothing else. It opens no socket, keeps no connection, stores no item and
// allocates nothing: a [Parser] looks at bytes that the caller has read, and fills in a [Request] whose
// slices point into those bytes; the Append functions add a reply to a buffer of the caller's. What a
// command does is decided elsewhere: package server reads from sockets, gives the bytes to a Parser,
// runs the requests on package replication and appends the replies.
//
//	for len(in) > 0 {
//		n, st := parser.Next(in, &req)
//		switch st {
//		case textproto.Ready:    // run req, append its reply unless req.Noreply
//		case textproto.Reply:    // append req.Reply (empty: nothing to say)
//		case textproto.TooLarge: // as Reply; a set also removes the old item of req.Key
//		case textproto.Close:    // send what is pending, then close
//		case textproto.More:     // drop n bytes, keep the rest; read until there are parser.Want()
//		}
//		in = in[n:]
//	}
//
// The grammar is that of memcached 1.6.45 (its doc/protocol.txt, and where that is silent what the
// server does); docs/protocol.md lists the commands, the limits and where this package differs.
//
// # Framing
//
// A request is a line, ended by "\n" or "\r\n", of tokens separated by spaces; set, add, replace, append,
// prepend and cas are followed by a data block of the length that the line declares, and "\r\n". A
// request is handed out only when it has arrived as a whole, so Key and Value are contiguous, with two
// exceptions that keep what a connection must buffer bounded:
//
//   - The data block of an item that is refused (too large, a bad key) is swallowed as it arrives.
//   - The line of a get with more than [MaxLine] bytes of keys, which memcached does not limit, is handed
//     out in portions ([Request.Partial]).
//
// Except for those, the replies to a stream of bytes do not depend on how the network cut it into reads,
// with one exception of memcached's own: see [MaxUnknownLine].
package textproto
