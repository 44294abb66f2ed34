"""CAN on a machine without the interface, whether its kernel has CAN or not: told once, and everything else runs."""

import json

import pytest

from support.gateway import command

MAPPING = """
[[can]]
name = "vehicle"
interface = "can-none"
topic = "car/{gateway}/{signal}"
[[can.signal]]
name = "speed"
id = 0x3E9
start_bit = 23
length = 16
byte_order = "big"
scale = 0.01
unit = "km/h"
"""


def test_a_missing_interface_is_told_in_the_log_and_on_its_topic_and_the_broker_serves(gateway, client):
    running = gateway(mapping=MAPPING).start()
    line = running.process.wait_for_line("a word about the interface", lambda line: "can-none" in line)
    assert "no CAN interface can-none" in line or "this kernel has no CAN" in line
    peer = client(running)
    peer.subscribe("#")
    down = peer.wait_for("fieldgate/gw/bus/vehicle", lambda message: message.json["state"] == "down").json
    assert "can-none" in down["last_error"] and down["controller"] == "active" and down["dropped"] == 0
    peer.settle()


@pytest.mark.parametrize(
    "line",
    [
        "(1.0) can-none 3E9#00002EE0",
        "can-none 3e9#00002ee0",
        "3E9#00002EE0",
        "  can-none  3E9   [4]  00 00 2E E0",
        " (1436509052.249713)  can-none  RX - -  3E9   [4]  00 00 2E E0   '....'",
    ],
)
def test_a_log_in_any_of_candumps_forms_is_replayed(gateway, line):
    made = gateway(mapping=MAPPING)
    told = command("replay", "-c", made.file, "-", stdin=f"# a comment\r\n{line}\r\n", cwd=made.directory)
    assert told.returncode == 0, told.stderr
    message = json.loads(told.stdout)
    assert message["topic"] == "car/gw/speed" and message["payload"]["value"] == 120


def test_a_line_that_is_no_frame_is_named_and_the_rest_is_replayed(gateway):
    made = gateway(mapping=MAPPING)
    log = "(1.0) can-none 3E9#00002EE0\n(1.1) can-none 3E9#0000Z\n(1.2) can-none 3E9#00002EE1\n"
    told = command("replay", "-c", made.file, "-", stdin=log, cwd=made.directory)
    assert told.returncode == 1
    assert [json.loads(line)["payload"]["value"] for line in told.stdout.splitlines()] == [120, 120.01]
    assert told.stderr.startswith("-:2:24: expected pairs of hexadecimal digits"), told.stderr
