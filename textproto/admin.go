package textproto

import (
	"bytes"
	"strconv"
)

// Commands that tune what this server does not have: slab classes, LRU segments, the crawler's pace, flash
// storage. Tools and start-up scripts send them. They are read here, so that mistakes get memcached's
// errors, and answered here as memcached would if they had been carried out: the server never sees them.
const (
	slabs Command = CrawlerDump + 1 + iota
	lru
	extstore
)

// classLimit is one more than the number of the last slab class.
const classLimit = 64

// admin reads the commands that operators use, and answers those that the server need not see.
func (r *Request) admin(cmd Command, args []byte) Status {
	if r.Noreply {
		args = bytes.TrimSuffix(bytes.TrimRight(args, " "), []byte(noreply))
	}
	word, rest := nextToken(args)
	switch cmd {
	case CacheMemlimit:
		return r.cacheMemlimit(word)
	case Shutdown:
		r.Args = args
		return Ready
	case CrawlerDump:
		return r.crawler(args, word, rest)
	case slabs:
		return refuse(r, slabsReply(word, rest))
	case lru:
		return refuse(r, lruReply(word, rest))
	}
	return refuse(r, extstoreReply(word, rest))
}

// cacheMemlimit reads cache_memlimit <megabytes>.
func (r *Request) cacheMemlimit(megabytes []byte) Status {
	n, ok := parseUint32(megabytes)
	switch {
	case !ok:
		return refuse(r, ReplyError)
	case n < 8:
		return refuse(r, ReplyMemlimitTooSmall)
	case n > 1000000000:
		return refuse(r, ReplyMemlimitBytes)
	}
	r.MemoryMB = n
	return Ready
}

// crawler reads lru_crawler enable|disable, crawl|metadump|mgdump <classes>, sleep|tocrawl <n>. Only dumps
// have a meaning here.
func (r *Request) crawler(args, word, rest []byte) Status {
	what, more := nextToken(rest)
	if extra, _ := nextToken(more); len(extra) != 0 {
		return refuse(r, ReplyError)
	}
	n, isNumber := parseUint32(what)
	switch string(word) {
	case "enable", "disable":
		if len(what) != 0 {
			return refuse(r, ReplyError)
		}
		return refuse(r, ReplyOK)
	}
	if len(what) == 0 {
		return refuse(r, ReplyError)
	}
	switch string(word) {
	case "metadump", "mgdump":
		if string(what) != "hash" && !isClasses(what) {
			return refuse(r, ReplyDumpBadClass)
		}
		r.Args = args
		return Ready
	case "crawl":
		if !isClasses(what) {
			return refuse(r, ReplyDumpBadClass)
		}
		return refuse(r, ReplyOK)
	case "tocrawl", "sleep":
		switch {
		case !isNumber:
			return refuse(r, ReplyBadFormat)
		case n > 1000000 && string(word) == "sleep": // microseconds
			return refuse(r, ReplyCrawlerSleepTooLong)
		}
		return refuse(r, ReplyOK)
	}
	return refuse(r, ReplyError)
}

// isClasses reports whether token is "all" or numbers of slab classes with commas between them.
func isClasses(token []byte) bool {
	if string(token) == "all" {
		return true
	}
	for more := true; more; {
		var class []byte
		class, token, more = bytes.Cut(token, []byte{','})
		if n, ok := parseUint32(class); !ok || n == 0 || n >= classLimit {
			return false
		}
	}
	return true
}

// slabsReply answers slabs reassign <src> <dst> and slabs automove <0|1|2>|ratio <f>|freeratio <f>|window <n>.
// There are no pages to be moved between classes, so a class never has one to spare.
func slabsReply(word, rest []byte) string {
	first, rest := nextToken(rest)
	second, rest := nextToken(rest)
	switch string(word) {
	case "reassign":
		third, _ := nextToken(rest)
		if len(second) == 0 || len(third) != 0 {
			return ReplyError
		}
		src, srcOK := parseInt32(first)
		dst, dstOK := parseInt32(second)
		switch {
		case !srcOK || !dstOK:
			return ReplyBadFormat
		case src == dst:
			return ReplySameClass
		case src < -1 || src >= classLimit || dst < 0 || dst >= classLimit:
			return ReplyBadSlabClass
		}
		return ReplyNoSpare
	case "automove":
		return automoveReply(first, second)
	}
	return ReplyError
}

// automoveReply answers slabs automove.
func automoveReply(what, value []byte) string {
	switch string(what) {
	case "":
		return ReplyError
	case "ratio", "freeratio":
		if _, ok := parseFloat(value); !ok {
			return ReplyError
		}
		return ReplyOK
	case "window":
		switch seconds, ok := parseUint32(value); {
		case !ok:
			return ReplyBadFormat
		case seconds < 3 || seconds > 1800:
			return ReplyAutomoveWindow
		}
		return ReplyOK
	}
	switch level, ok := parseUint32(what); {
	case !ok:
		return ReplyBadFormat
	case level > 2:
		return ReplyError
	}
	return ReplyOK
}

// lruReply answers lru tune <hot%> <warm%> <hot factor> <warm factor>, lru mode flat|segmented and
// lru temp_ttl <seconds>.
func lruReply(word, rest []byte) string {
	first, rest := nextToken(rest)
	switch string(word) {
	case "tune":
		return lruTuneReply(first, rest)
	case "mode":
		if string(first) == "flat" || string(first) == "segmented" {
			return ReplyOK
		}
	case "temp_ttl":
		if _, ok := parseInt32(first); ok {
			return ReplyOK
		}
	}
	return ReplyError
}

// lruTuneReply answers lru tune.
func lruTuneReply(hotPercent, rest []byte) string {
	warmPercent, rest := nextToken(rest)
	hotFactor, rest := nextToken(rest)
	warmFactor, _ := nextToken(rest)
	hot, hotOK := parseUint32(hotPercent)
	warm, warmOK := parseUint32(warmPercent)
	hotAge, hotAgeOK := parseFloat(hotFactor)
	warmAge, warmAgeOK := parseFloat(warmFactor)
	switch {
	case !hotOK || !warmOK || !hotAgeOK || !warmAgeOK:
		return ReplyError
	case uint64(hot)+uint64(warm) > 80:
		return ReplyLRUPercents
	case hotAge <= 0 || warmAge <= 0:
		return ReplyLRUFactors
	}
	return ReplyOK
}

// extstoreReply answers the tuning of memcached's flash storage, which it accepts also without any.
func extstoreReply(word, rest []byte) string {
	first, rest := nextToken(rest)
	second, _ := nextToken(rest)
	n, ok := parseUint32(first)
	switch string(word) {
	case "free_memchunks":
		_, limitOK := parseUint32(second)
		ok = ok && limitOK && n < classLimit
	case "max_frag":
		_, ok = parseFloat(first)
	case "item_size", "item_age", "low_ttl", "recache_rate", "compact_under", "drop_under", "max_sleep",
		"drop_unread":
	default:
		ok = false
	}
	if !ok {
		return ReplyError
	}
	return ReplyOK
}

// parseFloat reads a decimal fraction of less than 32 characters.
func parseFloat(token []byte) (f float64, ok bool) {
	if len(token) >= 32 {
		return 0, false
	}
	f, err := strconv.ParseFloat(string(token), 64)
	return f, err == nil
}
