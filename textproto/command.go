package textproto

// Command says which command a request is.
type Command uint8

// The commands of the classic text protocol, by the fields of Request that each of them fills in
// (Noreply is always set, Key as said, everything else only where named).
const (
	// Unknown is no command: what a Request holds that came with Reply for an unreadable line.
	Unknown Command = iota

	Get  // keys by NextKey, Partial
	Gets // as Get; the replies carry the cas unique
	Gat  // as Get, and Exptime: get and touch
	Gats // as Gat; the replies carry the cas unique

	Set     // Key, Flags, Exptime, Value
	Add     // as Set; only if the key is not stored
	Replace // as Set; only if the key is stored
	Append  // as Set; Flags and Exptime are without effect
	Prepend // as Append
	Cas     // as Set, and CAS

	Delete // Key
	Incr   // Key, Delta
	Decr   // Key, Delta
	Touch  // Key, Exptime

	FlushAll      // Exptime: 0 or negative for now
	Version       // nothing
	Verbosity     // Level, 0 to 2
	Quit          // nothing
	Stats         // Args
	Watch         // Args
	Shutdown      // Args
	CacheMemlimit // MemoryMB
	CrawlerDump   // lru_crawler; Args: "metadump" or "mgdump", and what: class numbers, "all" or "hash"
)

var commandNames = [...]string{
	"unknown", "get", "gets", "gat", "gats", "set", "add", "replace", "append", "prepend", "cas",
	"delete", "incr", "decr", "touch", "flush_all", "version", "verbosity", "quit", "stats", "watch",
	"shutdown", "cache_memlimit", "lru_crawler", "slabs", "lru", "extstore",
}

// String is the command as clients write it.
func (c Command) String() string { return commandNames[c] }

// IsStorage reports whether a data block follows the command's line.
func (c Command) IsStorage() bool { return Set <= c && c <= Cas }

// IsRetrieval reports whether the command names any number of keys and is answered with items and END.
func (c Command) IsRetrieval() bool { return Get <= c && c <= Gats }

// WithCAS reports whether the items in the reply of a retrieval carry their cas unique.
func (c Command) WithCAS() bool { return c == Gets || c == Gats }
