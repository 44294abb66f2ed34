"""J1939 messages, one frame and many, from can-j1939's stack."""

import time

import j1939
import pytest

from support.wait import until

MAPPING = """
[[can]]
name = "v"
interface = "vcan0"
topic = "m/{signal}"

[[can.signal]]
name = "speed"
pgn = 65265
start_bit = 8
length = 16
scale = 0.00390625
unit = "km/h"

[[can.signal]]
name = "from-three"
pgn = 65265
source = 3
start_bit = 8
length = 16
scale = 0.00390625

[[can.signal]]
name = "switch"
pgn = 65265
start_bit = 2
length = 2

[[can.signal]]
name = "long-first"
pgn = 65226
start_bit = 0
length = 8

[[can.signal]]
name = "long-last"
pgn = 65226
start_bit = 320
length = 16

[[can.signal]]
name = "addressed"
pgn = 0xEF00
start_bit = 480
length = 8
"""


def value(expected):
    return lambda message: message.json["value"] == expected


class Node:
    def __init__(self, address):
        self.ecu = j1939.ElectronicControlUnit()
        self.ecu.connect(interface="socketcan", channel="vcan0")
        name = j1939.Name(
            arbitrary_address_capable=0,
            industry_group=j1939.Name.IndustryGroup.Industrial,
            vehicle_system_instance=1,
            vehicle_system=1,
            function=1,
            function_instance=1,
            ecu_instance=1,
            manufacturer_code=666,
            identity_number=1000 + address,
        )
        self.application = j1939.ControllerApplication(name, address)
        self.ecu.add_ca(controller_application=self.application)
        self.application.start()
        until("the address is claimed", lambda: self.application.state == j1939.ControllerApplication.State.NORMAL)

    def send(self, pgn, data, destination=None):
        format_, specific = (pgn >> 8) & 0xFF, pgn & 0xFF
        sent = self.application.send_pgn(0, format_, specific if destination is None else destination, 6, list(data))
        assert sent is not False

    def close(self):
        self.application.stop()
        self.ecu.disconnect()


@pytest.fixture
def node(ends):
    def make(address):
        made = Node(address)
        ends.add(made.close)
        return made

    return make


def test_one_frame_from_anybody_and_from_one(watch, node):
    client = watch(MAPPING)
    three, nine = node(3), node(9)
    nine.send(65265, b"\xff\x00\x50\xff\xff\xff\xff\xff")
    client.wait_for("m/speed", value(80))
    three.send(65265, b"\xf3\x00\x28\xff\xff\xff\xff\xff")
    client.wait_for("m/speed", value(40))
    client.wait_for("m/from-three", value(40))
    client.settle()
    assert [message.json["value"] for message in client.on("m/from-three")] == [40]
    client.wait_for("m/switch", value(0))


def test_no_value_and_errors_are_faults(watch, node):
    client, three = watch(MAPPING), node(3)
    three.send(65265, b"\xff\xff\xff\xff\xff\xff\xff\xff")
    assert client.wait_for("m/speed").json["fault"] == "not_available"
    assert client.wait_for("m/switch").json["fault"] == "not_available"
    client.clear()
    three.send(65265, b"\xfb\x00\xfe\xff\xff\xff\xff\xff")
    assert client.wait_for("m/speed").json["fault"] == "error"
    assert client.wait_for("m/switch").json["fault"] == "error"
    three.send(65265, b"\xf7\x00\xfa\xff\xff\xff\xff\xff")
    client.wait_for("m/speed", value(250))
    client.wait_for("m/switch", value(1))


def test_a_broadcast_in_parts(watch, node):
    client, three, nine = watch(MAPPING), node(3), node(9)
    # Two at once, whose packets stand between each other's.
    three.send(65226, bytes([7]) + bytes(39) + b"\x34\x12")
    nine.send(65226, bytes([8]) + bytes(39) + b"\x78\x56" + bytes(100))
    client.wait_for("m/long-first", value(7))
    client.wait_for("m/long-last", value(0x1234))
    client.wait_for("m/long-first", value(8), timeout=30)
    client.wait_for("m/long-last", value(0x5678))


def test_a_connection_between_two_others(watch, node):
    client, three, _nine = watch(MAPPING), node(3), node(9)
    three.send(0xEF00, bytes(60) + b"\x2a" + bytes(200), destination=9)
    client.wait_for("m/addressed", value(42))
    time.sleep(0.1)
    assert client.on("fieldgate/gw/bus/v")[-1].json["discarded"] == 0
