"""Waiting by condition: every wait names what it waits for, and fails with what it saw instead."""

import socket
import time

PATIENCE = 15.0
"""Seconds that something may take which takes milliseconds on an idle machine."""


def until(what, condition, timeout=PATIENCE, every=0.02):
    """The first true result of `condition`; an AssertionError that names `what` when none came in time."""
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}; last seen: {result!r}")
        time.sleep(every)


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listening(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False
