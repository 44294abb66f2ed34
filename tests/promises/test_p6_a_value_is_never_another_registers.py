"""P6: whatever becomes of answers on the way, a value is its own register's or none.

Each register tells whose it is. Lines and connections late, shorten, lengthen, double, garble and mix up a third of
their answers under a printed seed, thousands of times; one wrong value fails.
"""

import os
import random
import struct
import threading
import time
from collections import Counter

import pytest
from support.plant import device
from support.raw_modbus import RawDevice, crc
from support.wait import until

FAULTS = ["late", "short", "long", "foreign", "function", "corrupt", "doubled", "interleaved", "silent", "busy"]
TIMEOUT = 0.05
ADDRESSES = [0, 40, 80, 120]
WANTED = 20_000 if os.environ.get("FIELDGATE_LONG") else 2_000


def told(unit, address):
    return unit * 256 + address


class Spoiler:
    """Answers rightly, but for a third of the requests."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.done = Counter()
        self.last = {}
        self.device = None
        self.connection = None

    def right(self, call, address=None, **frame):
        address = call.address if address is None else address
        return call.frame(call.registers([told(call.unit, address + place) for place in range(call.count)]), **frame)

    def behave(self, call):
        answer = self.right(call)
        if self.random.random() > 0.33:
            return [answer]
        fault = self.random.choice(FAULTS)
        self.done[fault] += 1
        return getattr(self, fault)(call, answer)

    def late(self, call, answer):
        # Up to twice the time-out: what comes later still, nothing on a line could tell from the next answer.
        send = self.device.sender
        timer = threading.Timer(TIMEOUT * (1 + self.random.random()), lambda: send(answer))
        timer.daemon = True
        timer.start()
        return []

    def short(self, call, answer):
        return [answer[: self.random.randrange(1, len(answer))]] if call.kind != "tcp" else [self.cut(answer)]

    def cut(self, answer):
        """On TCP a whole frame whose PDU lacks its end."""
        body = answer[6 : -self.random.randrange(1, 3)]
        return answer[:4] + struct.pack(">H", len(body)) + body

    def long(self, call, answer):
        more = self.random.randbytes(self.random.randrange(1, 9))
        if call.kind == "tcp":
            body = answer[6:] + more
            return [answer[:4] + struct.pack(">H", len(body)) + body]
        return [answer + more]

    def foreign(self, call, answer):
        return [self.right(call, unit=call.unit % 3 + 1)]

    def function(self, call, answer):
        pdu = bytes([7 ^ call.function]) + call.registers([told(call.unit, call.address)])[1:]
        return [call.frame(pdu)]

    def corrupt(self, call, answer):
        # TCP has checksums of its own: there only the header is wrong.
        bit = self.random.randrange(56 if call.kind == "tcp" else len(answer) * 8)
        spoilt = bytearray(answer)
        spoilt[bit // 8] ^= 1 << bit % 8
        return [bytes(spoilt)]

    def doubled(self, call, answer):
        return [answer + answer]

    def interleaved(self, call, answer):
        other = call.unit % 3 + 1
        foreign = call.frame(
            call.registers([told(other, ADDRESSES[1] + place) for place in range(call.count)]),
            unit=other,
            transaction=(call.transaction + 77) % 65536,
        )
        return [foreign, answer]

    def silent(self, call, answer):
        return []

    def busy(self, call, answer):
        return [call.frame(call.exception(6))]


class SpoiltDevice(RawDevice):
    sender = staticmethod(lambda data: None)

    def _talk(self, descriptor, send, receive):
        def quietly(data):
            try:
                send(data)
            except OSError:
                pass  # the gateway gave the connection up

        self.sender = quietly
        super()._talk(descriptor, send, receive)


@pytest.fixture
def spoilt(ends, seed):
    def make(kind, place):
        spoiler = Spoiler(f"{seed}-{kind}-{place}")
        spoiler.device = SpoiltDevice(kind, spoiler.behave)
        ends.add(spoiler.device.close)
        return spoiler

    return make


def test_no_value_is_another_registers_whatever_becomes_of_the_answers(gateway, client, spoilt):
    spoilers = [spoilt(kind, place) for kind in ("rtu", "rtu_over_tcp", "tcp") for place in range(6)]
    mapping = ""
    for number, spoiler in enumerate(spoilers):
        mapping += spoiler.device.bus(name=f"bus{number}", timeout_ms=int(TIMEOUT * 1000), retries=1, max_gap=0)
        for unit in (1, 2, 3):
            points = [f'name = "p{a}"\nholding = {a}\ntype = "u16"\nqos = 0\nretain = false' for a in ADDRESSES]
            mapping += device(points, unit=unit, name=f"b{number}u{unit}", interval=60)
    listener = client(gateway(mapping=mapping).start())
    listener.subscribe("gw/+/+")

    def faults():
        return sum(sum(spoiler.done.values()) for spoiler in spoilers)

    begun = time.monotonic()
    until(f"{WANTED} faults", lambda: faults() >= WANTED, timeout=WANTED / 10)
    right = Counter()
    for message in list(listener.messages):
        value = message.json["value"]
        if value is None:
            continue
        _, name, place = message.topic.split("/")
        bus, unit = name[1:].split("u")
        assert value == told(int(unit), int(place[1:])), f"{message.topic}: {spoilers[int(bus)].device.kind}"
        right[spoilers[int(bus)].device.kind] += 1
    done = sum((spoiler.done for spoiler in spoilers), Counter())
    print(f"{faults()} faults in {time.monotonic() - begun:.0f} s: {dict(done)}; right values: {dict(right)}")
    assert set(done) == set(FAULTS)
    assert all(right[kind] > 100 for kind in ("rtu", "rtu_over_tcp", "tcp")), right


def test_the_checksum_of_this_file_is_the_specifications():
    # Modbus over Serial Line 1.02, appendix B.
    assert crc(bytes([2, 7])) == bytes([0x41, 0x12])
