package textproto

import "strconv"

// The fixed replies, complete with their end of line.
const (
	ReplyStored    = "STORED\r\n"
	ReplyNotStored = "NOT_STORED\r\n"
	ReplyExists    = "EXISTS\r\n"
	ReplyNotFound  = "NOT_FOUND\r\n"
	ReplyDeleted   = "DELETED\r\n"
	ReplyTouched   = "TOUCHED\r\n"
	ReplyOK        = "OK\r\n"
	ReplyReset     = "RESET\r\n"
	// ReplyEnd follows the items of a retrieval and the lines of stats.
	ReplyEnd = "END\r\n"
	// EndOfValue follows the bytes of an item's value.
	EndOfValue = "\r\n"
)

// The errors, complete with their end of line. ERROR is for what is no command at all, CLIENT_ERROR
// for a request that cannot be carried out as written, SERVER_ERROR for what the server could not do.
const (
	ReplyError            = "ERROR\r\n"
	ReplyBadFormat        = "CLIENT_ERROR bad command line format\r\n"
	ReplyBadDataChunk     = "CLIENT_ERROR bad data chunk\r\n"
	ReplyDeleteUsage      = "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n"
	ReplyInvalidDelta     = "CLIENT_ERROR invalid numeric delta argument\r\n"
	ReplyNonNumeric       = "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"
	ReplyInvalidExptime   = "CLIENT_ERROR invalid exptime argument\r\n"
	ReplyFlushNotAllowed  = "CLIENT_ERROR flush_all not allowed\r\n"
	ReplyShutdownMode     = "CLIENT_ERROR invalid shutdown mode\r\n"
	ReplyShutdownDisabled = "SERVER_ERROR: shutdown not enabled\r\n" // the colon is memcached's
	ReplyTooLarge         = "SERVER_ERROR object too large for cache\r\n"
	ReplyOutOfMemory      = "SERVER_ERROR out of memory storing object\r\n"
	ReplyOutOfMemoryDelta = "SERVER_ERROR out of memory\r\n" // of incr and decr
	ReplyOutOfMemoryGet   = "SERVER_ERROR out of memory writing get response\r\n"
	ReplyTooManyConns     = "ERROR Too many open connections\r\n"

	ReplyMemlimitTooSmall = "MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n"
	ReplyMemlimitBytes    = "MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes\r\n"
	ReplyMemlimitFailed   = "MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust\r\n"

	ReplyStatsDetailUsage    = "CLIENT_ERROR usage: stats detail on|off|dump\r\n"
	ReplyStatsBadLine        = "CLIENT_ERROR bad command line\r\n" // stats cachedump without its arguments
	ReplyIllegalSlab         = "CLIENT_ERROR Illegal slab id\r\n"
	ReplyCachedumpNotAllowed = "CLIENT_ERROR stats cachedump not allowed\r\n"
	ReplyDetailNotAllowed    = "CLIENT_ERROR stats detail not allowed\r\n"
	ReplyDumpNotAllowed      = "ERROR metadump not allowed\r\n"
	ReplyWatchNotAllowed     = "CLIENT_ERROR watch commands not allowed\r\n"
	ReplyWatchPipelined      = "ERROR cannot pipeline other commands before watch\r\n"
	ReplyWatchTooMany        = "WATCHER_TOO_MANY log watcher limit reached\r\n"
	ReplyDumpBadClass        = "BADCLASS invalid class id\r\n"
	ReplyDumpPipelined       = "ERROR cannot pipeline other commands before metadump\r\n"
	ReplyDumpBusy            = "BUSY currently processing crawler request\r\n"
	ReplyNoSpare             = "NOSPARE source class has no spare pages\r\n"
	ReplySameClass           = "SAME src and dst class are identical\r\n"
	ReplyBadSlabClass        = "BADCLASS invalid src or dst class id\r\n"
	ReplyAutomoveWindow      = "CLIENT_ERROR automove window too low or too high\r\n"
	ReplyLRUPercents         = "ERROR hot and warm pcts must not exceed 80\r\n"
	ReplyLRUFactors          = "ERROR hot/warm age factors must be greater than 0\r\n"
	ReplyCrawlerSleepTooLong = "CLIENT_ERROR sleep must be one second or less\r\n"
)

// AppendValueHeader appends the line that precedes an item's value in the reply to get and gat:
// "VALUE <key> <flags> <bytes>\r\n". After it come the value, of valueLen bytes, and EndOfValue.
func AppendValueHeader(dst, key []byte, flags uint32, valueLen int) []byte {
	dst = appendItem(dst, key, flags, valueLen)
	return append(dst, '\r', '\n')
}

// AppendValueHeaderCAS is AppendValueHeader for gets and gats:
// "VALUE <key> <flags> <bytes> <cas unique>\r\n".
func AppendValueHeaderCAS(dst, key []byte, flags uint32, valueLen int, cas uint64) []byte {
	dst = appendItem(dst, key, flags, valueLen)
	dst = append(dst, ' ')
	dst = strconv.AppendUint(dst, cas, 10)
	return append(dst, '\r', '\n')
}

// MaxValueHeader is the most that AppendValueHeader or AppendValueHeaderCAS appends for a key of
// keyLen bytes.
func MaxValueHeader(keyLen int) int {
	return len("VALUE ") + keyLen + len(" 4294967295 2147483645 18446744073709551615\r\n")
}

func appendItem(dst, key []byte, flags uint32, valueLen int) []byte {
	dst = append(dst, "VALUE "...)
	dst = append(dst, key...)
	if flags == 0 {
		dst = append(dst, " 0 "...)
	} else {
		dst = append(dst, ' ')
		dst = strconv.AppendUint(dst, uint64(flags), 10)
		dst = append(dst, ' ')
	}
	return strconv.AppendUint(dst, uint64(valueLen), 10)
}

// AppendNumber appends the reply to incr and decr: "<n>\r\n".
func AppendNumber(dst []byte, n uint64) []byte {
	dst = strconv.AppendUint(dst, n, 10)
	return append(dst, '\r', '\n')
}

// AppendStat appends one line of stats, "STAT <name> <value>\r\n". ReplyEnd follows the last.
func AppendStat(dst []byte, name, value string) []byte {
	dst = append(dst, "STAT "...)
	dst = append(dst, name...)
	dst = append(dst, ' ')
	dst = append(dst, value...)
	return append(dst, '\r', '\n')
}

// AppendStatUint is AppendStat for a counter.
func AppendStatUint(dst []byte, name string, value uint64) []byte {
	dst = append(dst, "STAT "...)
	dst = append(dst, name...)
	dst = append(dst, ' ')
	return AppendNumber(dst, value)
}

// AppendVersion appends the reply to version: "VERSION <version>\r\n".
func AppendVersion(dst []byte, version string) []byte {
	dst = append(dst, "VERSION "...)
	dst = append(dst, version...)
	return append(dst, '\r', '\n')
}

// AppendServerError appends "SERVER_ERROR <reason>\r\n"; reason is one line.
func AppendServerError(dst []byte, reason string) []byte {
	dst = append(dst, "SERVER_ERROR "...)
	dst = append(dst, reason...)
	return append(dst, '\r', '\n')
}
