"""Devices that misbehave byte by byte, and are read all the same (section 9)."""

import time
from collections import Counter

import pytest

from support.plant import device, running, value_of
from support.raw_modbus import CLOSE, RawDevice
from support.wait import until


def told(unit, address):
    """What a register holds: whose it is."""
    return unit * 1000 + address


def right(call):
    return call.frame(call.registers([told(call.unit, call.address + place) for place in range(call.count)]))


def point(address, keys=""):
    return f'name = "p{address}"\nholding = {address}\ntype = "u16"\nqos = 0\nretain = false\n{keys}'


@pytest.fixture
def raw(ends):
    def make(kind, behave):
        made = RawDevice(kind, behave)
        ends.add(made.close)
        return made

    return make


def values(listener):
    """Every value that came, by device and point: each must be its own register's."""
    came = {}
    for message in list(listener.messages):
        if message.topic.startswith("gw/d") and message.json["value"] is not None:
            _, name, place = message.topic.split("/")
            unit, address = int(name[1:]), int(place[1:])
            assert message.json["value"] == told(unit, address), f"{message.topic} has another register's value"
            came.setdefault((unit, address), []).append(message.at)
    return came


@pytest.mark.parametrize("kind", ["rtu", "rtu_over_tcp", "tcp"])
def test_one_lost_answer_puts_no_other_point_of_its_device_off(gateway, client, raw, kind):
    asked = Counter()

    def loses_one(call):
        asked[call.address] += 1
        return [] if call.address == 0 and asked[0] == 5 else [right(call)]

    line = raw(kind, loses_one)
    points = [point(0, "interval_ms = 50"), point(500, "interval_ms = 110")]
    _, listener = running(gateway, client, line.bus(timeout_ms=200) + device(points, name="d1"))
    value_of(listener, "gw/d1/p500")
    until("the lost one", lambda: asked[0] > 5)
    listener.clear()
    listener.wait_for_count("gw/d1/p0", 20)
    listener.wait_for_count("gw/d1/p500", 10)


def test_a_peer_that_closes_after_each_answer_is_read_all_the_same(gateway, client, raw):
    line = raw("tcp", lambda call: [right(call), CLOSE])
    mapping = line.bus() + "".join(device([point(0), point(500)], unit=n, name=f"d{n}") for n in (1, 2))
    _, listener = running(gateway, client, mapping)
    for topic in ("gw/d1/p0", "gw/d1/p500", "gw/d2/p0", "gw/d2/p500"):
        listener.wait_for_count(topic, 5)
    values(listener)
    assert not [m for m in listener.messages if m.topic.startswith("gw/d") and m.json["value"] is None]


def test_a_peer_that_closes_idle_connections_is_no_fault(gateway, client, raw):
    line = raw("tcp", lambda call: [right(call), 0.3, CLOSE])
    _, listener = running(gateway, client, line.bus() + device([point(0)], name="d1", interval=1000))
    listener.wait_for_count("gw/d1/p0", 4)
    assert not [m for m in listener.on("gw/d1/p0") if m.json["value"] is None]
    assert line.connections >= 3


def test_an_address_that_a_device_has_not_is_kept_over_a_restart_and_forgotten_with_the_mapping(gateway, client, raw):
    def behave(call):
        hole = call.address <= 3 < call.address + call.count
        return [call.frame(call.exception(2)) if hole else right(call)]

    line = raw("tcp", behave)

    def asked_for_the_hole(calls):
        return [call for call in calls if call.address <= 3 < call.address + call.count]

    def run(points):
        said = [f'name = "p{address}"\nholding = {address}\ntype = "u16"' for address in points]
        started.write_mapping(line.bus() + device(said, name="d1"))
        line.calls.clear()
        started.start()
        listener = client(started)
        listener.subscribe("gw/#")
        for address in points:
            if address == 3:
                fault = listener.wait_for("gw/d1/p3", lambda m: m.json["value"] is None)
                assert fault.json["fault"] == "illegal_address"
            else:
                listener.wait_for_count(f"gw/d1/p{address}", 2)
        time.sleep(0.5)
        started.terminate()
        return asked_for_the_hole(list(line.calls))

    started = gateway()
    assert run(range(6))
    assert not run(range(6))
    assert run(range(7))
