"""P1 and P3: what the gateway has acknowledged survives SIGKILL at any moment, in order, upstream and in sessions."""

import os
import time

import pytest
from kit.checker import check, missing
from kit.publisher import Lane
from support.gateway import OPEN_BROKER
from support.mqtt import V5, V311
from support.wait import listening, until

LONG = bool(os.environ.get("FIELDGATE_LONG"))
KILLS = 1000 if LONG else 30
PER_SEC = 250 if LONG else 800
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


def everything_arrived(publishers, listener):
    messages = listener.all()
    return not any(missing(lane, messages) for publisher in publishers for lane in publisher.lanes)


def kill_at_random(chance, started, link, publishers, away, kills):
    """Each run lives between nothing and most of a second, and meets one kind of upstream."""
    uses = dict.fromkeys(("taking in", "draining", "both"), 0)
    for _ in range(kills):
        use = chance.choice(list(uses))
        uses[use] += 1
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
        publisher(started.port, lanes("new"), version=V5, per_sec=PER_SEC),
        publisher(started.port, lanes("old"), version=V311, per_sec=PER_SEC),
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
    until("everything upstream", lambda: everything_arrived(publishers, above), timeout=120, every=0.5)
    print(f"{time.monotonic() - begun:.0f} s: upstream has it")
    away.connect()
    assert away.session_present
    until("everything in the session", lambda: everything_arrived(publishers, away), timeout=120, every=0.5)
    time.sleep(1)
    every_lane = [lane for one in publishers for lane in one.lanes]
    twice = check(every_lane, above.all(), marked=True)
    twice_away = check(every_lane, away.all(), marked=False)
    acknowledged = sum(len(lane.acknowledged) for lane in every_lane)
    assert acknowledged > 50 * KILLS // 2
    print(f"{KILLS // 2} kills {uses}, {acknowledged} acknowledged, 0 lost; twice: {twice} upstream, {twice_away} in the session")
