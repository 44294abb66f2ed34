"""P3: what a broker upstream refuses, limits or asks to wait for blocks nothing, is lost silently never, and is shown."""

import time

import pytest
from kit.upstream import (
    MAXIMUM_PACKET_SIZE,
    MAXIMUM_QOS,
    RECEIVE_MAXIMUM,
    RETAIN_AVAILABLE,
    SERVER_KEEP_ALIVE,
    Upstream,
)
from support.gateway import OPEN_BROKER, http_json
from support.wait import free_port, until

BACK = 40
UPLINK = """
[status]
bind = "127.0.0.1:{page}"
[[uplink]]
name = "cloud"
url = "mqtt://127.0.0.1:{upstream}"
forward = ["plant/#"]
drain_per_sec = 100000
{keys}
"""
SHOWN = "fieldgate/gw/uplink/cloud"


@pytest.fixture
def upstream(ends):
    def make(*arguments, **options):
        made = Upstream(*arguments, **options)
        ends.add(made.close)
        return made

    return make


@pytest.fixture
def behind(gateway, client):
    """A gateway with an uplink to `above`, and a client of it that sees its status topics."""

    def make(above, keys="", **options):
        page = free_port()
        started = gateway(OPEN_BROKER + UPLINK.format(page=page, upstream=above.port, keys=keys), **options).start()
        started.page = page
        local = client(started)
        local.subscribe("fieldgate/#")
        return started, local

    return make


def publish(local, topic, numbers, size=20):
    for number in numbers:
        local.publish(topic, f"{number:06}".ljust(size, "."), wait=number % 50 == 49)


def settled(started, count):
    """What is shown of the uplink once `count` messages are delivered or set aside."""

    def done():
        (cloud,) = http_json(started.page, "/api/state")["uplinks"]
        cloud = cloud if isinstance(cloud, dict) else http_json(started.page, "/api/state")["uplinks"][cloud]
        return cloud["delivered"] + cloud["refused"] >= count and cloud["rows"] == 0 and cloud

    return until(f"{count} settled messages", done, timeout=BACK)


def numbers(taken):
    return [int(one.payload[:6]) for one in taken]


@pytest.mark.parametrize(
    "code, word, qos",
    [(0x87, "not authorised", 1), (0x87, "not authorised", 2), (0x95, "packet too large", 1),
     (0x90, "topic name invalid", 2), (0x99, "payload format invalid", 1), (0x83, "implementation", 2)],
)  # fmt: skip
def test_p3_one_refused_message_is_set_aside_shown_and_the_others_go_on(upstream, behind, code, word, qos):
    above = upstream(lambda taken: code if taken.payload.startswith(b"000042") else 0)
    started, local = behind(above, f"qos = {qos}")
    publish(local, "plant/x", range(100))
    shown = settled(started, 100)
    assert numbers(above.on("plant/x")) == [n for n in range(100) if n != 42]
    assert shown["refused"] == 1, shown
    assert word in shown["last_refusal"]["reason"] and shown["last_refusal"]["topic"] == "plant/x", shown
    assert len(above.connects) == 1
    told = local.wait_for(SHOWN, lambda m: m.json["last_refusal"])
    assert told.json["last_refusal"] == shown["last_refusal"]
    assert sum(word in line for line in started.process.lines) == 1, "logged once"


@pytest.mark.parametrize("code, qos", [(0x97, 1), (0x97, 2), (0x96, 1)])
def test_p3_what_is_refused_for_now_is_kept_and_goes_in_order(upstream, behind, code, qos):
    left = [2]

    def answer(taken):
        refused = taken.payload.startswith((b"000042", b"000150")) and left[0] > 0 and taken.topic == "plant/x"
        left[0] -= refused
        return code if refused else 0

    above = upstream(answer)
    started, local = behind(above, f"qos = {qos}")
    for number in range(200):
        local.publish("plant/x", f"{number:06}", wait=False)
        local.publish("plant/y", f"{number:06}", wait=number % 20 == 19)
    shown = settled(started, 400)
    assert shown["refused"] == 0 and shown["deferred"] == 2, shown
    for topic in ("plant/x", "plant/y"):
        by_connection = {}
        for row in above.on(topic):
            by_connection.setdefault(row.connection, []).append(int(row.payload[:6]))
        last = []
        for number in by_connection.values():
            assert number == sorted(set(number)), f"{topic}: twice, or not in order, on one connection"
            last = [one for one in last if one < number[0]] + number
        assert last == list(range(200)), f"{topic}: not complete, or what follows a refused message is not repeated"
    marks = {}
    for row in above.taken:
        if row.mark[0]:
            assert marks.setdefault(row.mark, (row.topic, row.payload)) == (row.topic, row.payload)
    assert len(marks) == 400, "a message has two marks"


@pytest.mark.parametrize("maximum, qos", [(1, 1), (7, 2)])
def test_p3_no_more_is_in_flight_than_the_server_takes(upstream, behind, maximum, qos):
    above = upstream(connack={RECEIVE_MAXIMUM: maximum})
    started, local = behind(above, f"qos = {qos}")
    publish(local, "plant/x", range(300))
    settled(started, 300)
    assert numbers(above.on("plant/x")) == list(range(300))
    assert above.most_unanswered <= maximum


def test_p3_a_packet_over_the_server_s_maximum_is_set_aside_unsent_and_shown(upstream, behind):
    above = upstream(connack={MAXIMUM_PACKET_SIZE: 300})
    started, local = behind(above)
    publish(local, "plant/x", range(50))
    publish(local, "plant/big", [1], size=1000)
    publish(local, "plant/y", range(50))
    shown = settled(started, 101)
    assert numbers(above.on("plant/x")) == list(range(50)) == numbers(above.on("plant/y"))
    assert above.on("plant/big", accepted=False) == []
    assert shown["refused"] == 1 and "too large" in shown["last_refusal"]["reason"], shown


@pytest.mark.parametrize("granted", [0, 1])
def test_p3_a_server_of_a_lower_quality_of_service_gets_that_and_it_is_said(upstream, behind, granted):
    above = upstream(connack={MAXIMUM_QOS: granted, RETAIN_AVAILABLE: 0})
    started, local = behind(above, "qos = 2")
    for number in range(50):
        local.publish("plant/x", f"{number:06}", retain=True)
    shown = settled(started, 50)
    assert numbers(above.on("plant/x")) == list(range(50))
    assert {one.qos for one in above.taken} == {granted}
    assert not any(one.retain for one in above.taken)
    assert f"QoS {granted}" in (shown["last_error"] or ""), shown


def test_p3_the_server_s_keep_alive_is_kept(upstream, behind):
    above = upstream(connack={SERVER_KEEP_ALIVE: 2})
    behind(above)
    until("a connection", lambda: above.connects)
    time.sleep(6)
    assert len(above.connects) == 1


def test_p3_a_silent_server_is_left_and_what_it_never_acknowledged_goes_again_marked_the_same(upstream, behind):
    above = upstream(lambda taken: None, connack={SERVER_KEEP_ALIVE: 2})
    started, local = behind(above)
    publish(local, "plant/x", range(20))
    until("all of it, unanswered", lambda: len(above.on("plant/x", accepted=False)) == 20)
    above.cut()
    above.answer = lambda taken: 0
    shown = settled(started, 20)
    first = {one.payload: one.mark for one in above.on("plant/x", accepted=False) if one.code is None}
    again = {one.payload: one.mark for one in above.on("plant/x")}
    assert first == again and len(set(again.values())) == 20
    assert shown["delivered"] == 20


def test_p3_a_refused_connection_is_tried_again_slowly_and_shown(upstream, behind):
    above = upstream(connect_code=0x87)
    _, local = behind(above)
    local.wait_for(SHOWN, lambda m: "not authorised" in (m.json["last_error"] or ""), timeout=BACK)
    time.sleep(3)
    assert len(above.connects) <= 2


def test_p3_a_qos_2_message_from_above_is_handed_on_once_whatever_is_repeated(upstream, behind):
    above = upstream()
    _, local = behind(above, 'qos = 2\naccept = ["down/#"]')
    local.subscribe("down/#", qos=2)
    until("the subscription", lambda: above.subscriptions)
    for _ in range(3):
        above.send("down/x", b"once", qos=2, packet_id=9, dup=True)
    local.wait_for("down/x")
    above.send("down/end", b"1")
    local.wait_for("down/end")
    assert len(local.on("down/x")) == 1
