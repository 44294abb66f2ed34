"""P1 and P3 with engines upstream that are not Mosquitto: NATS as three nodes of which one is killed, RabbitMQ killed and back."""

import os
import time

import pytest
from kit.checker import check, missing
from kit.engines import Nats, Rabbit
from kit.publisher import Lane
from support.gateway import OPEN_BROKER
from support.mqtt import V311
from support.wait import listening, until

BROKER = OPEN_BROKER.replace("[broker]\n", "[broker]\nmax_in_flight = 1000\n")
UPLINK = """
[[uplink]]
name = "cloud"
url = "mqtt://127.0.0.1:{upstream}"
version = 4
qos = 1
forward = ["plant/#"]
drain_per_sec = 100000
"""
BACK = 90
pytestmark = pytest.mark.skipif(
    not os.environ.get("FIELDGATE_LONG"), reason="tests/all --long: their packages are 35 MB, and a NATS node is missed for 20 s"
)


def lanes():
    return [Lane(f"plant/{place}", qos) for place, qos in enumerate((1, 2))]


def all_there(one, listener):
    until("everything upstream", lambda: not any(missing(lane, listener.all()) for lane in one.lanes), BACK, every=0.3)


def held_back(link, one, messages=2000):
    """The link is down while so many are acknowledged below."""
    link.mode = "refuse"
    link.cut()
    until("a backlog", lambda: sum(len(lane.acknowledged) for lane in one.lanes) >= messages, BACK)


def ordered_and_complete(one, listener):
    """3.1.1 has no marks; a receiver sees a number again only after a cut."""
    return check([lane for lane in one.lanes if lane.qos == 1], listener.all(), marked=False), len(listener.all())


def test_p1_p3_a_nats_node_killed_while_draining_costs_nothing(tmp_path, ends, gateway, client, proxy, publisher):
    cluster = Nats(tmp_path)
    ends.add(cluster.close)
    above = until("a session at the third node", lambda: subscribed(client, cluster.ports[2]), BACK)
    link = proxy(cluster.ports[0])
    started = gateway(BROKER + UPLINK.format(upstream=link.port)).start()
    one = publisher(started.port, lanes(), per_sec=1000)
    held_back(link, one)
    link.mode = "slow"
    until("a drain under way", lambda: above.all(), BACK)
    cluster.kill(0)
    link.target = cluster.ports[1]
    link.mode = "pass"
    time.sleep(1)
    one.finish()
    all_there(one, above)
    twice, count = ordered_and_complete(one, above)
    print(f"{count} arrived, {sum(len(lane.acknowledged) for lane in one.lanes)} acknowledged, 0 lost, {twice} twice")


def subscribed(client, port):
    try:
        made = client(port, version=V311, clean=False, client_id="above")
        made.subscribe("plant/#", qos=1)
        return made
    except (OSError, AssertionError):
        return None


def test_p1_p3_rabbitmq_killed_while_draining_costs_nothing(tmp_path, ends, gateway, client, proxy, publisher):
    cloud = Rabbit(tmp_path / "rabbit")
    ends.add(cloud.close)
    above = until("a session", lambda: subscribed(client, cloud.port), BACK)
    link = proxy(cloud.port)
    started = gateway(BROKER + UPLINK.format(upstream=link.port)).start()
    one = publisher(started.port, lanes(), per_sec=1000)
    held_back(link, one)
    link.mode = "slow"
    until("a drain under way", lambda: above.all(), BACK)
    cloud.kill()
    above.drop()
    cloud.start()
    above.connect()
    link.mode = "pass"
    time.sleep(1)
    one.finish()
    all_there(one, above)
    twice, count = ordered_and_complete(one, above)
    print(f"{count} arrived, {sum(len(lane.acknowledged) for lane in one.lanes)} acknowledged, 0 lost, {twice} twice")
    assert listening(cloud.port)


