"""Devices that misbehave byte by byte: what they do costs their neighbours next to nothing, and no value is ever
another register's (sections 1 and 9, P5 and P6)."""

import os
import random
import threading
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


SICK = ["dead", "slow", "very slow", "babbling", "mute halfway"]
TIMEOUT, INTERVAL = 0.2, 0.2


class SickLine:
    """A serial line with ten units, of which the tenth falls sick on request."""

    def __init__(self, place, sickness):
        self.base, self.sickness, self.well = place * 10, sickness, True
        self._random = random.Random(place)
        self.line = None

    @property
    def units(self):
        return range(self.base + 1, self.base + 11)

    def mapping(self):
        text = self.line.bus(name=f"line{self.base}", timeout_ms=int(TIMEOUT * 1000), retries=1)
        every = int(INTERVAL * 1000)
        return text + "".join(device([point(0)], unit=n, name=f"d{n}", interval=every) for n in self.units)

    def behave(self, call):
        if call.unit != self.units[-1] or self.well:
            return [right(call)]
        match self.sickness:
            case "slow":
                self._later(right(call), TIMEOUT * 1.4)
            case "very slow":
                self._later(right(call), TIMEOUT * 6)
            case "babbling":
                return [self._random.randbytes(60)]
            case "mute halfway":
                return [right(call)[:4]]
        return []

    def _later(self, frame, delay):
        timer = threading.Timer(delay, lambda: os.write(self.line._near, frame))
        timer.daemon = True
        timer.start()


def test_nine_neighbours_on_a_line_keep_their_polls_beside_a_sick_tenth(gateway, client, raw):
    lines = [SickLine(place, sickness) for place, sickness in enumerate(SICK)]
    for line in lines:
        line.line = raw("rtu", line.behave)
    _, listener = running(gateway, client, "".join(line.mapping() for line in lines))
    for line in lines:
        listener.wait_for_count(f"gw/d{line.units[-1]}/p0", 2)
        line.well = False
    for line in lines:
        listener.wait_for(f"gw/d{line.units[-1]}/p0", lambda m: m.json["value"] is None)
    begun, length = time.monotonic() + 1, 12.0
    until("a window of polls", lambda: time.monotonic() > begun + length + INTERVAL, timeout=length + 5)
    came = values(listener)
    for line in lines:
        for unit in line.units[:-1]:
            count = sum(begun <= at < begun + length for at in came[unit, 0])
            share = (count + 1) * INTERVAL / length
            assert share >= 0.98, f"{line.sickness}: unit {unit} kept {share:.1%} of its polls"
        line.well = True
    listener.clear()
    for line in lines:
        listener.wait_for(f"gw/d{line.units[-1]}/p0", lambda m: m.json["value"] is not None, timeout=13)
    values(listener)
