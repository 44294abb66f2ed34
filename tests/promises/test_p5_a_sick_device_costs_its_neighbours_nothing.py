"""P5: a device that is dead, slow, babbling or mute halfway costs its neighbours on the line nothing, and comes back by
itself. Six lines at once, one sound and each other with its own sickness; their devices are bare pseudo-terminals."""

import os
import random
import threading
import time

import pytest
from support.plant import device, running
from support.raw_modbus import RawDevice
from support.wait import until


def told(unit):
    """What the register holds: whose it is."""
    return unit * 1000


def right(call):
    return call.frame(call.registers([told(call.unit)]))


POINT = 'name = "p0"\nholding = 0\ntype = "u16"\nqos = 0\nretain = false'


@pytest.fixture
def raw(ends):
    def make(kind, behave):
        made = RawDevice(kind, behave)
        ends.add(made.close)
        return made

    return make


def values(listener):
    """When each unit's values came: each must be its own register's."""
    came = {}
    for message in list(listener.messages):
        if message.topic.startswith("gw/d") and message.json["value"] is not None:
            unit = int(message.topic.split("/")[1][1:])
            assert message.json["value"] == told(unit), f"{message.topic} has another register's value"
            came.setdefault(unit, []).append(message.at)
    return came


SICK = ["dead", "slow", "very slow", "babbling", "mute halfway"]
SOUND = "sound"
"""A line whose tenth device stays well: what a busy machine costs all lines alike is seen there."""
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
        return text + "".join(device([POINT], unit=n, name=f"d{n}", interval=every) for n in self.units)

    def behave(self, call):
        if call.unit != self.units[-1] or self.well or self.sickness == SOUND:
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
    lines = [SickLine(place, sickness) for place, sickness in enumerate([SOUND, *SICK])]
    for line in lines:
        line.line = raw("rtu", line.behave)
    _, listener = running(gateway, client, "".join(line.mapping() for line in lines))
    for line in lines:
        listener.wait_for_count(f"gw/d{line.units[-1]}/p0", 2)
        line.well = False
    for line in lines[1:]:
        listener.wait_for(f"gw/d{line.units[-1]}/p0", lambda m: m.json["value"] is None)
    begun, length = time.monotonic() + 1, 12.0
    until("a window of polls", lambda: time.monotonic() > begun + length + INTERVAL, timeout=length + 5)
    came = values(listener)
    polls = {
        line.sickness: sum(begun <= at < begun + length for unit in line.units[:-1] for at in came[unit]) for line in lines
    }
    print(polls)
    for sickness in SICK:
        # One poll of each may fall on the window's edge.
        assert polls[sickness] + 9 >= 0.98 * polls[SOUND], f"{sickness}: {polls[sickness]} of {polls[SOUND]} polls"
    for line in lines:
        line.well = True
    listener.clear()
    for line in lines:
        listener.wait_for(f"gw/d{line.units[-1]}/p0", lambda m: m.json["value"] is not None, timeout=13)
    values(listener)
