"""What the Python clients share: expectations, waiting, and clients that all start at once.

Each client program is called with the addresses (host:port) of the replicas of one group, runs all that its library offers through the
first, and, where there are several, what only a group can get wrong through all. It ends with a traceback and status 1 at the first
answer that is not the expected one.
"""

import multiprocessing
import time

# A value with everything in it that a text protocol could trip over, and one near the default limit of 1 MB.
ODD_VALUE = bytes(range(256)) + b"\r\nEND\r\nVALUE x 0 1\r\n\r\n"
LARGE_VALUE = bytes(i * 7 % 251 for i in range(1000)) * 1000
TOO_LARGE_VALUE = b"x" * (1024 * 1024 + 1)
LONGEST_KEY = "k" * 250
MANY = 5000

CLIENTS_EACH = 3  # concurrent clients of each replica
ROUNDS = 200  # operations of each of them


def expect(what, got, want):
    """Fail unless got is want. what names the operation."""
    if got != want:
        raise AssertionError(f"{what}: got {shorten(got)}, want {shorten(want)}")


def shorten(value):
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-60:]} ({len(text)} characters)"


def expect_error(what, errors, operation):
    """Fail unless the operation raises one of errors."""
    try:
        got = operation()
    except errors:
        return
    raise AssertionError(f"{what}: got {shorten(got)}, want an error")


def wait_until(what, condition, seconds=10):
    """Wait for something that time brings about, like expiry."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds} seconds")
        time.sleep(0.05)


def run_together(functions):
    """Run functions at the same time, each in a process of its own, and return their results. The first exception is raised again.

    Processes and not threads: gets of pylibmc 1.6.3 misses keys that are there when several threads use it, each with a
    client of its own, also with memcached.
    """
    fork = multiprocessing.get_context("fork")
    start, answers = fork.Barrier(len(functions)), fork.SimpleQueue()

    def run(i):
        try:
            start.wait()
            answers.put((i, functions[i](), None))
        except Exception as e:  # noqa: BLE001 - it is raised again below
            answers.put((i, None, repr(e)))

    processes = [fork.Process(target=run, args=(i,), daemon=True) for i in range(len(functions))]
    for process in processes:
        process.start()
    results = [None] * len(functions)
    for _ in processes:
        i, result, error = answers.get()
        if error:
            raise AssertionError(error)
        results[i] = result
    for process in processes:
        process.join()
    return results
