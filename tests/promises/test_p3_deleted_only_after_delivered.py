"""P3: whatever the link upstream does, everything arrives, in order, twice only after a cut and then recognisable."""

import os
import time
from collections import Counter

import pytest
from kit.checker import arrived, check, marks, missing
from kit.publisher import Lane
from support.gateway import OPEN_BROKER
from support.wait import until

LONG = bool(os.environ.get("FIELDGATE_LONG"))
CUTS = 200 if LONG else 15
UPLINK = """
[[uplink]]
name = "cloud"
url = "mqtt://127.0.0.1:{upstream}"
forward = ["plant/#"]
qos = {qos}
drain_per_sec = 100000
"""
BROKER = OPEN_BROKER.replace("[broker]\n", "[broker]\nmax_in_flight = 1000\n")
QUIET = "allow_anonymous true\nmax_inflight_messages 1000\n"
BACK = 90
"""Half-open connections are noticed by keep alive, and then comes a back-off."""


def lanes():
    return [Lane(f"plant/{place}", qos) for place, qos in enumerate((1, 2))]


@pytest.fixture
def above(client, mosquitto):
    cloud = mosquitto(QUIET)
    cloud.file.write_text(cloud.file.read_text().replace("log_type all", "log_type error"))
    cloud.start()
    listener = client(cloud, clean=False, client_id="above")
    listener.subscribe("plant/#", qos=2)
    return cloud, listener


def all_there(one, listener, what, timeout=BACK):
    until(what, lambda: not any(missing(lane, listener.all()) for lane in one.lanes), timeout, every=0.3)


@pytest.mark.parametrize("qos", [1, 2])
def test_p3_cut_and_slow_links_lose_nothing_and_keep_the_order(gateway, above, proxy, publisher, chance, qos):
    cloud, listener = above
    link = proxy(cloud.port)
    started = gateway(BROKER + UPLINK.format(upstream=link.port, qos=qos)).start()
    one = publisher(started.port, lanes(), per_sec=300)
    for _ in range(CUTS):
        link.mode = chance.choice(["pass", "pass", "pass", "slow", "refuse"])
        time.sleep(chance.uniform(0.05, 0.6))
        link.cut()
    link.mode = "pass"
    one.finish()
    all_there(one, listener, "everything after the cuts")
    twice = check(one.lanes, listener.all(), marked=True)
    assert all(not lane.resent for lane in one.lanes), "a local client was cut off because the uplink was"
    print(f"{CUTS} cuts, {link.connections} connections, {twice} twice, {sum(l.sent for l in one.lanes)} sent")


def test_p3_without_a_cut_nothing_comes_twice(gateway, above, proxy, publisher):
    cloud, listener = above
    link = proxy(cloud.port)
    started = gateway(BROKER + UPLINK.format(upstream=link.port, qos=1)).start()
    one = publisher(started.port, lanes(), per_sec=500)
    time.sleep(3)
    one.finish()
    all_there(one, listener, "everything")
    time.sleep(1)
    assert link.connections == 1
    assert check(one.lanes, listener.all(), marked=True) == 0


def test_p3_a_half_open_connection_is_noticed_and_what_it_swallowed_goes_again(gateway, above, proxy, publisher):
    cloud, listener = above
    link = proxy(cloud.port)
    started = gateway(BROKER + UPLINK.format(upstream=link.port, qos=1)).start()
    one = publisher(started.port, lanes(), per_sec=100)
    until("a first message", lambda: listener.all())
    link.mode = "silent"
    until("a second connection", lambda: link.connections > 1, timeout=120)
    link.cut()
    link.mode = "pass"
    one.finish()
    all_there(one, listener, "everything after the silence")
    check(one.lanes, listener.all(), marked=True)


@pytest.mark.parametrize("keeps", [True, False], ids=["with-its-sessions", "without"])
def test_p3_restarts_of_the_cloud_lose_nothing_that_it_had_not_acknowledged(
    gateway, client, mosquitto, publisher, chance, keeps
):
    cloud = mosquitto(QUIET if keeps else QUIET + "persistence false\n")
    text = cloud.file.read_text().replace("log_type all", "log_type error")
    cloud.file.write_text(text if keeps else text.replace("persistence true\n", ""))
    cloud.start()
    started = gateway(BROKER + UPLINK.format(upstream=cloud.port, qos=1)).start()
    one = publisher(started.port, lanes(), per_sec=200)
    received = []
    for _ in range(10 if LONG else 4):
        listener = client(cloud, clean=not keeps, client_id="above")
        listener.subscribe("plant/#", qos=2)
        before = len(listener.all())
        until("something new", lambda: len(listener.all()) > before, timeout=BACK)
        time.sleep(chance.uniform(0.1, 0.8))
        cloud.stop()
        received += listener.all()
        listener.drop()
        time.sleep(chance.uniform(0.0, 0.5))
        cloud.start()
    listener = client(cloud, clean=not keeps, client_id="above")
    listener.subscribe("plant/#", qos=2)
    one.finish()
    newest = {lane.topic: lane.sent - 1 for lane in one.lanes}
    until(
        "the last of it",
        lambda: all((rows := arrived(listener.all())[topic]) and rows[-1][0] == last for topic, last in newest.items()),
        timeout=BACK,
    )
    received += listener.all()
    if keeps:
        check(one.lanes, received, marked=True)
    # Without sessions nobody listens for a moment after each restart: only the order, and that doubles are recognisable.
    by_mark = {}
    for message in received:
        number = int(message.payload[:8])
        assert by_mark.setdefault(marks(message), (message.topic, number)) == (message.topic, number)
    stored_twice = Counter(by_mark.values())
    assert max(stored_twice.values()) == 1
