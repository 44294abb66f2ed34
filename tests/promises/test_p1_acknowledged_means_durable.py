"""P1 and P3: what the gateway has acknowledged survives SIGKILL at any moment, in order, upstream and in sessions."""

import os
import sqlite3
import time
from contextlib import closing

import pytest
from kit.checker import Watch, check
from kit.publisher import Lane
from support.gateway import OPEN_BROKER
from support.mqtt import V5, V311
from support.wait import listening

LONG = bool(os.environ.get("FIELDGATE_LONG"))
KILLS = int(os.environ.get("FIELDGATE_KILLS", 1000 if LONG else 30))
PER_SEC = 250 if LONG else 800
SIZE = 500
"""Large enough that the log is written to the file every few seconds."""
UPLINK = """
[[uplink]]
name = "cloud"
url = "mqtt://127.0.0.1:{upstream}"
forward = ["plant/#"]
qos = {qos}
drain_per_sec = 100000
"""
QUIET = "allow_anonymous true\nmax_inflight_messages 1000\n"


def lanes(name):
    return [Lane(f"plant/{name}/{place}", qos) for place, qos in enumerate((1, 2, 1, 2))]


def quiet(cloud):
    """Its log would cost more than its work."""
    cloud.file.write_text(cloud.file.read_text().replace("log_type all", "log_type error"))
    return cloud.start()


def wait_for_everything(publishers, listener, patience=60):
    """As long as more arrives, and `patience` seconds beyond."""
    watch = Watch([lane for publisher in publishers for lane in publisher.lanes], listener)
    left, since = None, time.monotonic()
    while now := watch.left():
        if now != left:
            left, since = now, time.monotonic()
        assert time.monotonic() - since < patience, f"{now} acknowledged did not arrive; connected: {listener.connected}"
        time.sleep(0.5)


WRITES = {"committing": "store.sqlite-wal", "checkpointing": "store.sqlite"}
"""Which file is written then."""


def at_a_write(file, chance):
    """Returns within about a millisecond of a write to the file, or after 0.7 s without one."""

    def changed():
        try:
            stat = file.stat()
        except FileNotFoundError:
            return None
        return stat.st_mtime_ns, stat.st_size

    time.sleep(chance.uniform(0.0, 0.3))
    before, end = changed(), time.monotonic() + 0.7
    while changed() == before and time.monotonic() < end:
        pass
    time.sleep(chance.uniform(0.0, 0.001))


def to_version_1(started):
    """The store as the first version of its schema had it."""
    with closing(sqlite3.connect(started.directory / "state" / "store.sqlite")) as store:
        if store.execute("PRAGMA user_version").fetchone()[0] == 2:
            store.executescript("BEGIN; ALTER TABLE destination DROP COLUMN dropped; PRAGMA user_version = 1; COMMIT")


def kill_at_random(chance, started, link, publishers, away, kills):
    """Each run lives between nothing and most of a second, and meets one kind of upstream."""
    uses = dict.fromkeys(("taking in", "draining", "both", "committing", "checkpointing", "migrating"), 0)
    for _ in range(kills):
        use = chance.choice(list(uses))
        uses[use] += 1
        if use == "migrating":
            to_version_1(started)
            started.launch()
            time.sleep(chance.uniform(0.0, 0.06))
            started.kill()
            continue
        link.mode = {"taking in": "refuse", "draining": "pass"}.get(use) or chance.choice(["pass", "pass", "slow"])
        for publisher in publishers:
            publisher.paused = use == "draining"
        started.launch()
        time.sleep(chance.uniform(0.0, 0.25))
        if chance.random() < 0.25 and listening(started.port):
            try:
                away.connect()
            except (OSError, AssertionError):
                pass  # killed, or not ready, in between: it is away, then
        if use in WRITES:
            at_a_write(started.directory / "state" / WRITES[use], chance)
        else:
            time.sleep(chance.uniform(0.0, 0.7))
        if chance.random() < 0.3:
            link.cut()
        started.kill()
        away.drop()
    return uses


@pytest.mark.parametrize("qos", [1, 2])
def test_p1_p3_nothing_acknowledged_is_lost_to_kills_and_order_is_kept(
    gateway, client, mosquitto, proxy, publisher, chance, qos
):
    cloud = quiet(mosquitto(QUIET))
    above = client(cloud, clean=False, client_id="above")
    above.subscribe("plant/#", qos=2)
    link = proxy(cloud.port)
    started = gateway(OPEN_BROKER.replace("[broker]\n", "[broker]\nmax_in_flight = 1000\n") + UPLINK.format(upstream=link.port, qos=qos)).start()
    away = client(started, clean=False, client_id="away", expiry=86400)
    away.subscribe("plant/#", qos=2)
    away.disconnect()
    publishers = [
        publisher(started.port, lanes("new"), version=V5, per_sec=PER_SEC, size=SIZE),
        publisher(started.port, lanes("old"), version=V311, per_sec=PER_SEC, size=SIZE),
    ]
    time.sleep(0.5)
    begun = time.monotonic()
    started.kill()
    uses = kill_at_random(chance, started, link, publishers, away, KILLS // 2)
    link.mode = "pass"
    print(f"{time.monotonic() - begun:.0f} s: killed enough")
    started.start()
    for one in publishers:
        one.finish()
    wait_for_everything(publishers, above)
    print(f"{time.monotonic() - begun:.0f} s: upstream has it")
    away.connect()
    assert away.session_present
    wait_for_everything(publishers, away)
    time.sleep(1)
    every_lane = [lane for one in publishers for lane in one.lanes]
    twice = check(every_lane, above.all(), marked=True)
    twice_away = check(every_lane, away.all(), marked=False)
    acknowledged = sum(len(lane.acknowledged) for lane in every_lane)
    assert acknowledged > 50 * KILLS // 2
    print(f"qos {qos}: {KILLS // 2} kills {uses}, {acknowledged} acknowledged, 0 lost; twice: {twice} upstream, {twice_away} in the session")
