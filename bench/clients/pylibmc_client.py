"""pylibmc (PyPI), Python on libmemcached: pylibmc_client.py HOST:PORT..."""

import sys

import pylibmc

from checks import (CLIENTS_EACH, LARGE_VALUE, LONGEST_KEY, MANY, ODD_VALUE, ROUNDS, TOO_LARGE_VALUE, expect, expect_error, run_together,
                    wait_until)


def connect(address):
    return pylibmc.Client([address], binary=False, behaviors={"cas": True, "tcp_nodelay": True, "receive_timeout": 10_000_000})


def storage(c):
    expect("get of nothing", c.get("a"), None)
    expect("set", c.set("a", b"1"), True)
    expect("get", c.get("a"), b"1")
    expect("add of what is there", c.add("a", b"2"), False)
    expect("add", c.add("b", b"2"), True)
    expect("replace", c.replace("a", b"3"), True)
    expect("replace of nothing", c.replace("nothing", b"3"), False)
    expect("append", c.append("a", b"4"), True)
    expect("prepend", c.prepend("a", b"2"), True)
    expect("append to nothing", c.append("nothing", b"4"), False)
    expect("get after append and prepend", c.get("a"), b"234")
    expect("delete", c.delete("a"), True)
    expect("delete of nothing", c.delete("a"), False)
    expect("get of what was deleted", c.get("a"), None)


def types_and_values(c):
    # The library keeps the type in the flags, and compresses with zlib where it is told to.
    for key, value in (("text", "clé"), ("number", 12345678901234567890), ("truth", True), ("list", [1, "two", {"three": 3.0}]),
                       ("odd", ODD_VALUE), ("empty", b""), (LONGEST_KEY, b"long key"), ("large", LARGE_VALUE)):
        expect(f"set {key}", c.set(key, value), True)
        expect(f"get {key}", c.get(key), value)
    expect("set with compression", c.set("packed", LARGE_VALUE, min_compress_len=100), True)
    expect("get with compression", c.get("packed"), LARGE_VALUE)
    expect_error("set of too large a value", (pylibmc.Error,), lambda: c.set("large", TOO_LARGE_VALUE))


def many_keys(c):
    items = {f"many:{i}": f"value {i}" for i in range(MANY)}
    expect("set_multi", c.set_multi(items), [])
    expect("get_multi", c.get_multi(list(items)), items)
    expect("get_multi with a prefix and a miss", c.get_multi(["0", "1", "x"], key_prefix="many:"), {"0": "value 0", "1": "value 1"})
    expect("add_multi of what is there", c.add_multi({"many:0": "x", "many:new": "y"}), ["many:0"])
    expect("delete_multi", c.delete_multi(list(items)[:MANY // 2]), True)
    expect("get_multi of the rest", c.get_multi(list(items)), dict(list(items.items())[MANY // 2:]))


def check_and_set(c):
    expect("gets of nothing", c.gets("unique"), (None, None))
    c.set("unique", 1)
    value, unique = c.gets("unique")
    expect("gets", value, 1)
    expect("cas", c.cas("unique", 2, unique), True)
    expect("cas with the unique used already", c.cas("unique", 3, unique), False)
    expect("get after cas", c.get("unique"), 2)
    c.delete("unique")
    expect_error("cas of what was deleted", (pylibmc.NotFound,), lambda: c.cas("unique", 3, unique))


def counters(c):
    c.set("n", 10)
    expect("incr", c.incr("n", 5), 15)
    expect("decr", c.decr("n", 1), 14)
    expect("decr below 0", c.decr("n", 100), 0)
    expect_error("incr of nothing", (pylibmc.NotFound,), lambda: c.incr("nothing"))
    c.set_multi({"n1": 1, "n2": 2})
    c.incr_multi(["n1", "n2"], delta=10)
    expect("incr_multi", {k: int(v) for k, v in c.get_multi(["n1", "n2"]).items()}, {"n1": 11, "n2": 12})


def expiry(c):
    expect("set for a second", c.set("short", 1, time=1), True)
    expect("set for long", c.set("long", 1, time=100), True)
    expect("touch", c.touch("long", 1), True)
    expect("touch of nothing", c.touch("nothing", 1), False)
    expect("set and touched for long", c.set("kept", 1, time=1) and c.touch("kept", 100), True)
    wait_until("expiry of a set", lambda: c.get("short") is None)
    wait_until("expiry of a touch", lambda: c.get("long") is None)
    expect("get of what was touched for long", c.get("kept"), 1)


def administration(c):
    (_, stats), = c.get_stats()
    expect("curr_items in stats", int(stats["curr_items"]) > 0, True)
    (_, settings), = c.get_stats("settings")
    expect("stats settings", len(settings) > 10, True)
    c.set("flushed", 1)
    expect("flush_all", c.flush_all(), True)
    expect("get of what was flushed", c.get("flushed"), None)


def without_replies(address):
    """noreply on all updates."""
    c = connect(address)
    c.behaviors = {"_noreply": True}
    for i in range(1000):
        c.set(f"quiet:{i}", i)
    c.delete("quiet:0")
    expect("get_multi after sets with noreply", c.get_multi([f"quiet:{i}" for i in range(1000)]), {f"quiet:{i}": i for i in range(1, 1000)})
    c.disconnect_all()


def visible_everywhere(clients):
    """What was answered by one replica is read at once from any other."""
    for i in range(ROUNDS):
        writer, reader, third = (clients[(i + n) % len(clients)] for n in range(3))
        expect("set", writer.set("moving", i), True)
        expect("get from another replica", reader.get("moving"), i)
        expect("gets from a third, and cas there", third.cas("moving", -i, third.gets("moving")[1]), True)
        expect("get after it", reader.get("moving"), -i)
        expect("delete", reader.delete("moving"), True)
        expect("get of what was deleted elsewhere", writer.get("moving"), None)
    expect("set of a large value", clients[0].set("large", LARGE_VALUE), True)
    expect("get of it from another replica", clients[-1].get("large"), LARGE_VALUE)
    items = {f"spread:{i}": i for i in range(MANY)}
    expect("set_multi", clients[0].set_multi(items), [])
    expect("get_multi from another replica", clients[1].get_multi(list(items)), items)
    expect("flush_all", clients[1].flush_all(), True)
    for c in clients:
        expect("get_multi of what was flushed elsewhere", c.get_multi(list(items)), {})


def counts_are_exact(addresses):
    """incr, and cas in a loop, from all replicas at once, lose nothing; of many adds of one key one is STORED."""

    def work(address):
        c, won = connect(address), 0
        for i in range(ROUNDS):
            c.incr("counter")
            if i % 4 == 0:
                won += c.add(f"once:{i}", address)
            value, unique = c.gets("cas-counter")
            while not c.cas("cas-counter", value + 1, unique):
                value, unique = c.gets("cas-counter")
        c.disconnect_all()
        return won

    c = connect(addresses[0])
    c.set_multi({"counter": 0, "cas-counter": 0})
    workers = [a for a in addresses for _ in range(CLIENTS_EACH)]
    won = run_together([lambda a=a: work(a) for a in workers])
    for address in addresses:
        c = connect(address)
        expect("counter after concurrent incr", int(c.get("counter")), ROUNDS * len(workers))
        expect("counter after concurrent cas", c.get("cas-counter"), ROUNDS * len(workers))
    expect("adds that were STORED", sum(won), len(range(0, ROUNDS, 4)))


def main(addresses):
    c = connect(addresses[0])
    c.flush_all()
    for part in (storage, types_and_values, many_keys, check_and_set, counters, expiry, administration):
        part(c)
    without_replies(addresses[0])
    counts_are_exact(addresses)
    if len(addresses) > 1:
        visible_everywhere([connect(a) for a in addresses])


main(sys.argv[1:])
