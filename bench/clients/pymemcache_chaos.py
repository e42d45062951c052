"""Runs pymemcache against the replicas of a group that is being broken, until standard input ends:

    pymemcache_chaos.py HOST:PORT...

A thread for each replica does simple things on keys of its own and so knows what it must be answered: what it has stored is there, also at
the next replica; its counter goes up by one; its cas succeeds; a counter that all share grows. After an operation without an
answer, or SERVER_ERROR, it goes on with new keys. The exit status is 1 if an answer was wrong; it is printed.
"""

import sys
import threading
import time
from contextlib import suppress

from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheClientError, MemcacheError

PAUSE, AFTER_TROUBLE = 0.005, 0.2
WAIT = 8
SHARED = "lib:shared"

stopping = threading.Event()


class Wrong(Exception):
    pass


class Unanswered(Exception):
    pass


def ask(do, *args, **options):
    """What do returns. Raises Unanswered where the server or the network gave no answer."""
    try:
        return do(*args, **options)
    except MemcacheClientError:
        raise
    except (MemcacheError, OSError) as e:
        raise Unanswered from e


def expect(what, got, want):
    if got != want:
        raise Wrong(f"{what}: got {got!r}, want {want!r}")


class Worker(threading.Thread):
    def __init__(self, number, own, following):
        super().__init__(daemon=True)
        self.number, self.keys, self.shared = number, 0, 0
        self.answered, self.unanswered, self.wrong = 0, 0, None
        self.own, self.following = self.connect(own), self.connect(following)

    @staticmethod
    def connect(address):
        host, port = address.rsplit(":", 1)
        return Client((host, int(port)), connect_timeout=WAIT, timeout=WAIT, default_noreply=False)

    def run(self):
        while not stopping.is_set():
            try:
                self.work()
            except Unanswered:
                self.unanswered += 1
                for client in (self.own, self.following):
                    with suppress(Exception):
                        client.close()
            except Exception as e:  # also what the library cannot make sense of
                self.wrong = f"{type(e).__name__}: {e}"
                return
            self.keys += 1
            stopping.wait(AFTER_TROUBLE)

    def key(self, what):
        return f"lib:py:{self.number}:{self.keys}:{what}"

    def work(self):
        c = self.own
        for what in ("value", "counter", "cas"):
            expect("set", ask(c.set, self.key(what), b"0"), True)
        n = 0
        while not stopping.is_set():
            n += 1
            value = str(n).encode()
            expect("set", ask(c.set, self.key("value"), value), True)
            expect("get", ask(c.get, self.key("value")), value)
            self.look(value)
            expect("incr", ask(c.incr, self.key("counter"), 1), n)
            before, unique = ask(c.gets, self.key("cas"))
            expect("gets", before, str(n - 1).encode())
            expect("cas", ask(c.cas, self.key("cas"), value, unique), True)
            shared = ask(c.incr, SHARED, 1)
            if shared is None or shared <= self.shared:
                raise Wrong(f"incr of {SHARED} gave {shared} after {self.shared}")
            self.shared = shared
            self.answered += 7
            time.sleep(PAUSE)

    def look(self, value):
        """What one replica has answered is read at once from another, if that one answers."""
        try:
            got = ask(self.following.get, self.key("value"))
        except Unanswered:
            self.unanswered += 1
            with suppress(Exception):
                self.following.close()
            return
        expect("get from another replica", got, value)


def main(addresses):
    workers = [Worker(i, a, addresses[(i + 1) % len(addresses)]) for i, a in enumerate(addresses)]
    for w in workers:
        w.start()
    sys.stdin.read()
    stopping.set()
    for w in workers:
        w.join(3 * WAIT)
    print(f"pymemcache: {sum(w.answered for w in workers)} operations answered, {sum(w.unanswered for w in workers)} not")
    wrong = [f"{a}: {w.wrong}" for a, w in zip(addresses, workers) if w.wrong]
    if any(w.is_alive() for w in workers):
        wrong.append("a client has not ended")
    for text in wrong:
        print("WRONG:", text)
    sys.exit(1 if wrong else 0)


main(sys.argv[1:])
