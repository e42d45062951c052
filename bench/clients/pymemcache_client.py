"""pymemcache (PyPI), pure Python: pymemcache_client.py HOST:PORT..."""

import sys
from contextlib import closing

from pymemcache import Client
from pymemcache.exceptions import MemcacheClientError, MemcacheServerError

from checks import (CLIENTS_EACH, LARGE_VALUE, LONGEST_KEY, MANY, ODD_VALUE, ROUNDS, TOO_LARGE_VALUE, expect, expect_error, run_together,
                    wait_until)


def connect(address, **options):
    return Client(address, connect_timeout=5, timeout=10, default_noreply=False, **options)


def storage(c):
    expect("get of nothing", c.get("a"), None)
    expect("get of nothing, with a default", c.get("a", "default"), "default")
    expect("set", c.set("a", b"1"), True)
    expect("get", c.get("a"), b"1")
    expect("add of what is there", c.add("a", b"2"), False)
    expect("add", c.add("b", b"2"), True)
    expect("replace", c.replace("a", b"3"), True)
    expect("replace of nothing", c.replace("nothing", b"3"), False)
    expect("append", c.append("a", b"4"), True)
    expect("prepend", c.prepend("a", b"2"), True)
    expect("append to nothing", c.append("nothing", b"4"), False)
    expect("prepend to nothing", c.prepend("nothing", b"4"), False)
    expect("get after append and prepend", c.get("a"), b"234")
    expect("delete", c.delete("a"), True)
    expect("delete of nothing", c.delete("a"), False)
    expect("get of what was deleted", c.get("a"), None)


def values_and_keys(c):
    for key, value in (("empty", b""), ("odd", ODD_VALUE), (LONGEST_KEY, b"long key"), ("large", LARGE_VALUE)):
        expect(f"set {key}", c.set(key, value), True)
        expect(f"get {key}", c.get(key), value)
    expect_error("set of too large a value", (MemcacheServerError,), lambda: c.set("large", TOO_LARGE_VALUE))
    expect("get of what a value that was too large has replaced", c.get("large"), None)
    expect("append to a large value", c.set("large", LARGE_VALUE) and c.append("large", b"end"), True)
    expect("get of it", c.get("large"), LARGE_VALUE + b"end")
    expect("append beyond the limit", c.append("large", TOO_LARGE_VALUE[:100000]), False)
    expect("get of what was not appended to", c.get("large"), LARGE_VALUE + b"end")


def flags_and_unicode(address):
    with closing(connect(address, allow_unicode_keys=True, encoding="utf-8")) as c:
        expect("set with flags", c.set("clé", b"value", flags=4294967295), True)
        expect("get of a key that is not ASCII", c.get("clé"), b"value")
        expect("raw get with the flags", c.raw_command(b"get " + "clé".encode(), "END\r\n"),
               "VALUE clé 4294967295 5\r\nvalue\r\n".encode())


def many_keys(c):
    items = {f"many:{i}": f"value {i}".encode() for i in range(MANY)}
    expect("set_many", c.set_many(items), [])
    expect("get_many", c.get_many(list(items)), items)
    got = c.gets_many(list(items)[:100])
    expect("gets_many: keys and values", {k: v for k, (v, _) in got.items()}, dict(list(items.items())[:100]))
    expect("gets_many: uniques", len({unique for _, unique in got.values()}), 100)
    expect("get_many with misses", c.get_many(["many:0", "nothing", "many:1"]), {"many:0": b"value 0", "many:1": b"value 1"})
    expect("delete_many", c.delete_many(list(items)[:MANY // 2]), True)
    expect("get_many of the rest", c.get_many(list(items)), dict(list(items.items())[MANY // 2:]))


def check_and_set(c):
    expect("gets of nothing", c.gets("unique"), (None, None))
    expect("cas of nothing", c.cas("unique", b"x", b"1"), None)
    c.set("unique", b"1")
    value, unique = c.gets("unique")
    expect("gets", value, b"1")
    expect("cas", c.cas("unique", b"2", unique), True)
    expect("cas with the unique used already", c.cas("unique", b"3", unique), False)
    expect("get after cas", c.get("unique"), b"2")


def counters(c):
    c.set("n", b"10")
    expect("incr", c.incr("n", 5), 15)
    expect("decr", c.decr("n", 1), 14)
    expect("decr below 0", c.decr("n", 100), 0)
    expect("incr to the largest number", c.incr("n", 2**64 - 1), 2**64 - 1)
    expect("incr beyond it", c.incr("n", 2), 1)
    expect("incr of nothing", c.incr("nothing", 1), None)
    expect("decr of nothing", c.decr("nothing", 1), None)
    c.set("text", b"abc")
    expect_error("incr of a text", (MemcacheClientError,), lambda: c.incr("text", 1))


def expiry(c):
    expect("set for a second", c.set("short", b"1", expire=1), True)
    expect("set for long", c.set("long", b"1", expire=100), True)
    expect("set with an exptime in the past", c.set("past", b"1", expire=-1), True)
    expect("get of it", c.get("past"), None)
    expect("touch", c.touch("long", 1), True)
    expect("touch of nothing", c.touch("nothing", 1), False)
    expect("set and touched for long", c.set("kept", b"1", expire=1) and c.touch("kept", 100), True)
    wait_until("expiry of a set", lambda: c.get("short") is None)
    wait_until("expiry of a touch", lambda: c.get("long") is None)
    expect("get of what was touched for long", c.get("kept"), b"1")


def administration(c):
    before, _ = c.stats(), c.get("a")
    c.get("nothing")
    after = c.stats()
    expect("get_misses in stats", after[b"get_misses"] - before[b"get_misses"], 2)
    expect("limit_maxbytes in stats is a number", isinstance(after[b"limit_maxbytes"], int), True)
    expect("stats settings", c.stats("settings")[b"maxconns"] > 0, True)
    expect("version", c.version()[0:1].isdigit(), True)
    expect_error("shutdown, which is not enabled", (MemcacheServerError,), c.shutdown)
    c.set("flushed", b"1")
    expect("flush_all", c.flush_all(), True)
    expect("get of what was flushed", c.get("flushed"), None)


def without_replies(address):
    """The library's default: noreply on all updates."""
    with closing(Client(address, connect_timeout=5, timeout=10)) as c:
        for i in range(1000):
            c.set("quiet", str(i).encode())
            c.append("quiet", b".")
        expect("get after updates with noreply", c.get("quiet"), b"999.")
        c.set("quiet", TOO_LARGE_VALUE)
        c.set("quiet:n", b"1")
        c.incr("quiet:n", 2, noreply=True)
        expect("get after an error with noreply", c.get("quiet:n"), b"3")
        c.delete("quiet:n")
        expect("get after delete with noreply", c.get("quiet:n"), None)


def visible_everywhere(clients):
    """What was answered by one replica is read at once from any other."""
    for i in range(ROUNDS):
        writer, reader = clients[i % len(clients)], clients[(i + 1) % len(clients)]
        value = str(i).encode()
        expect("set", writer.set("moving", value), True)
        expect("get from another replica", reader.get("moving"), value)
        expect("gets from a third, and cas there", clients[(i + 2) % len(clients)].cas(
            "moving", b"cas" + value, clients[(i + 2) % len(clients)].gets("moving")[1]), True)
        expect("get after it", reader.get("moving"), b"cas" + value)
        expect("delete", reader.delete("moving"), True)
        expect("get of what was deleted elsewhere", writer.get("moving"), None)
    expect("set of a large value", clients[0].set("large", LARGE_VALUE), True)
    expect("get of it from another replica", clients[-1].get("large"), LARGE_VALUE)
    items = {f"spread:{i}": b"x" * (i % 100) for i in range(MANY)}
    expect("set_many", clients[0].set_many(items), [])
    expect("get_many from another replica", clients[1].get_many(list(items)), items)
    expect("set for a second", clients[0].set("short", b"1", expire=1), True)
    for c in clients:
        wait_until("expiry", lambda: c.get("short") is None)
    expect("flush_all", clients[1].flush_all(), True)
    for c in clients:
        expect("get_many of what was flushed elsewhere", c.get_many(list(items)), {})


def counts_are_exact(addresses):
    """incr, and cas in a loop, from all replicas at once, lose nothing; of many adds of one key one is STORED."""

    def work(address, name):
        with closing(connect(address)) as c:
            won = 0
            for i in range(ROUNDS):
                c.incr("counter", 1)
                if i % 4 == 0:
                    won += c.add(f"once:{i}", name)
                while True:
                    value, unique = c.gets("cas-counter")
                    if c.cas("cas-counter", str(int(value) + 1).encode(), unique):
                        break
            return won

    with closing(connect(addresses[0])) as c:
        c.set("counter", b"0")
        c.set("cas-counter", b"0")
    workers = [(a, f"{a} {i}".encode()) for a in addresses for i in range(CLIENTS_EACH)]
    won = run_together([lambda a=a, n=n: work(a, n) for a, n in workers])
    total = str(ROUNDS * len(workers)).encode()
    for address in addresses:
        with closing(connect(address)) as c:
            expect("counter after concurrent incr", c.get("counter").rstrip(), total)
            expect("counter after concurrent cas", c.get("cas-counter"), total)
    expect("adds that were STORED", sum(won), len(range(0, ROUNDS, 4)))


def main(addresses):
    with closing(connect(addresses[0])) as c:
        c.flush_all()
        for part in (storage, values_and_keys, many_keys, check_and_set, counters, expiry, administration):
            part(c)
    flags_and_unicode(addresses[0])
    without_replies(addresses[0])
    counts_are_exact(addresses)
    if len(addresses) > 1:
        visible_everywhere([connect(a) for a in addresses])


main(sys.argv[1:])
