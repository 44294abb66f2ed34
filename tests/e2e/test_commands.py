"""Commands: each acts at most once, never late, and gets exactly one result (section 7, P4)."""

import json
import struct
import time
from datetime import datetime, timedelta, timezone

import pytest

from support.modbus import Unit
from support.mqtt import V5, V311, mosquitto_pub, publish_properties
from support.plant import device
from support.raw import RawClient
from support.wait import until

POINTS = [
    'name = "speed"\nholding = 0\ntype = "u16"\nwrite = { min = 0, max = 900 }',
    'name = "wide"\nholding = 10\ntype = "u32"\nwrite = { min = 0, max = 4000000000 }',
    'name = "float"\nholding = 20\ntype = "f32"\norder = "cdab"\nwrite = { min = -50, max = 50, readback = true }',
    'name = "scaled"\nholding = 30\ntype = "i16"\nscale = 0.1\ndecimals = 1\nwrite = { min = -10, max = 10, readback = true }',
    'name = "relay"\ncoil = 0\nwrite = { readback = true }',
    'name = "mode"\nholding = 40\ntype = "u16"\nmap = { 0 = "off", 1 = "on" }\nwrite = { min = 0, max = 1 }',
    'name = "read-only"\nholding = 50\ntype = "u16"',
]
SPEED = "gw/dev/speed/set"


class Plant:
    def __init__(self, gateway, client, modbus_server, points=None, *, version=V5, timeout_ms=300, kind="tcp"):
        self.unit = Unit(holding={address: 0 for address in range(64)}, coil={address: False for address in range(16)})
        self.server = modbus_server(kind, {1: self.unit})
        mapping = self.server.bus(timeout_ms=timeout_ms) + device(points or POINTS)
        self.gateway = gateway(mapping=mapping).start()
        self.mqtt = client(self.gateway, version=version)
        self.mqtt.subscribe("gw/#", "reply/#", qos=2)
        first = "gw/dev/" + (points or POINTS)[0].split('"')[1]
        self.mqtt.wait_for(first)

    def results(self, point):
        return [m.json for m in self.mqtt.on(f"gw/dev/{point}/set/result")]

    def result(self, point, identity=None):
        wanted = self.mqtt.wait_for(
            f"gw/dev/{point}/set/result", lambda m: identity is None or m.json.get("id") == identity
        )
        return wanted.json

    def send(self, point, payload, **options):
        self.mqtt.publish(f"gw/dev/{point}/set", payload, **options)


@pytest.fixture
def plant(gateway, client, modbus_server):
    return Plant(gateway, client, modbus_server)


def stamp(seconds):
    when = datetime.now(timezone.utc) + timedelta(seconds=seconds)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_a_bare_value_is_written_and_answered(plant):
    plant.send("speed", "500")
    result = plant.result("speed")
    assert result["status"] == "done"
    assert result["value"] == 500
    assert result["time"].endswith("Z")
    assert plant.unit.holding[0] == 500


def test_a_json_command_is_answered_under_its_id_and_read_back(plant):
    plant.send("scaled", {"value": -2.5, "id": "order-66", "expires": stamp(30)})
    result = plant.result("scaled", "order-66")
    assert result["status"] == "done"
    assert result["value"] == -2.5
    assert result["readback"] == -2.5
    assert plant.unit.holding[30] == 0x10000 - 25


def test_the_value_that_a_command_set_is_published_as_the_point_s_value(plant):
    plant.send("speed", "321")
    plant.mqtt.wait_for("gw/dev/speed", lambda m: m.json["value"] == 321)


def test_a_coil_is_written_by_function_5_a_register_by_6_and_more_by_16_in_one(plant):
    plant.send("relay", "true")
    assert plant.result("relay")["status"] == "done"
    plant.send("speed", "7")
    assert plant.result("speed")["status"] == "done"
    plant.send("wide", "3000000001")
    assert plant.result("wide")["status"] == "done"
    plant.send("float", "12.5")
    done = plant.result("float")
    assert (done["status"], done["readback"]) == ("done", 12.5)
    seen = [(w.function, w.address, w.values) for w in plant.server.writes()]
    high, low = struct.unpack(">HH", struct.pack(">f", 12.5))
    assert [s[:2] for s in seen] == [(5, 0), (6, 0), (16, 10), (16, 20)]
    assert seen[1][2] == (7,)
    assert seen[2][2] == (3000000001 >> 16, 3000000001 & 0xFFFF)
    assert seen[3][2] == (low, high)
    assert plant.unit.coil[0] is True


def test_functions_15_and_16_are_used_where_the_mapping_asks_for_them(gateway, client, modbus_server):
    points = [
        'name = "one"\nholding = 0\ntype = "u16"\nwrite = { min = 0, max = 9, function = "multiple" }',
        'name = "coil"\ncoil = 0\nwrite = { function = "multiple" }',
    ]
    plant = Plant(gateway, client, modbus_server, points)
    plant.send("one", "3")
    assert plant.result("one")["status"] == "done"
    plant.send("coil", "true")
    assert plant.result("coil")["status"] == "done"
    assert [w.function for w in plant.server.writes()] == [16, 15]


def test_an_equal_value_is_not_written_again_but_a_device_that_has_changed_meanwhile_is_set(
    gateway, client, modbus_server
):
    points = ['name = "speed"\nholding = 0\ntype = "u16"\ninterval_ms = 600000\nwrite = { min = 0, max = 900 }']
    plant = Plant(gateway, client, modbus_server, points)
    for number in range(3):
        plant.send("speed", {"value": 0, "id": f"same-{number}"})
        assert plant.result("speed", f"same-{number}")["status"] == "done"
    assert plant.server.writes() == []
    plant.unit.holding[0] = 77
    plant.send("speed", {"value": 0, "id": "changed"})
    assert plant.result("speed", "changed")["status"] == "done"
    assert plant.unit.holding[0] == 0
    assert len(plant.server.writes()) == 1


def test_a_name_of_the_map_is_taken_for_its_number(plant):
    plant.send("mode", "on")
    assert plant.result("mode")["status"] == "done"
    assert plant.unit.holding[40] == 1


@pytest.mark.parametrize(
    "payload",
    ["901", "-1", "1.5", "NaN", "Infinity", "fast", "", "{", '{"value":1', '{"id":"no-value"}', "[1]", "null", "1e400"],
)
def test_what_is_out_of_range_or_of_the_wrong_kind_is_rejected_with_a_reason(plant, payload):
    plant.send("speed", payload)
    result = plant.result("speed")
    assert result["status"] == "rejected", result
    assert result["error"]
    assert plant.server.writes() == []


@pytest.mark.parametrize("value", [901, -1, 1.5, "fast", None, True, [1], {"a": 1}])
def test_a_wrong_value_inside_json_is_rejected_under_its_id(plant, value):
    plant.send("speed", {"value": value, "id": "wrong"})
    result = plant.result("speed", "wrong")
    assert result["status"] == "rejected", result
    assert result["error"]
    assert plant.server.writes() == []


def test_bytes_that_are_no_text_are_rejected(plant):
    plant.send("speed", b"\xff\xfe\x00\x80")
    assert plant.result("speed")["status"] == "rejected"
    assert plant.server.writes() == []


def test_a_point_without_write_is_rejected(plant):
    plant.send("read-only", {"value": 1, "id": "ro"})
    result = plant.result("read-only", "ro")
    assert result["status"] == "rejected"
    assert plant.server.writes() == []


def test_a_retained_command_is_rejected_and_not_kept(plant, client):
    plant.send("speed", {"value": 5, "id": "kept"}, retain=True)
    assert plant.result("speed", "kept")["status"] == "rejected"
    late = client(plant.gateway)
    late.subscribe("gw/dev/+/set")
    late.settle()
    assert late.on(SPEED) == []
    assert plant.server.writes() == []


def test_a_command_past_its_expiry_is_expired_and_not_written(plant):
    plant.send("speed", {"value": 5, "id": "late", "expires": stamp(-5)})
    assert plant.result("speed", "late")["status"] == "expired"
    assert plant.server.writes() == []


def test_an_expiry_that_is_no_time_is_never_carried_out(plant):
    plant.send("speed", {"value": 5, "id": "bad", "expires": "yesterday"})
    assert plant.result("speed", "bad")["status"] in ("rejected", "expired")
    assert plant.server.writes() == []


def test_a_step_that_is_too_large_is_rejected(gateway, client, modbus_server):
    points = ['name = "x"\nholding = 0\ntype = "u16"\nwrite = { min = 0, max = 900, max_step = 50 }']
    plant = Plant(gateway, client, modbus_server, points)
    plant.send("x", {"value": 51, "id": "far"})
    assert plant.result("x", "far")["status"] == "rejected"
    plant.send("x", {"value": 50, "id": "near"})
    assert plant.result("x", "near")["status"] == "done"
    assert plant.unit.holding[0] == 50


def test_a_command_to_a_silent_device_fails_within_its_time_to_live(gateway, client, modbus_server):
    points = ['name = "x"\nholding = 0\ntype = "u16"\nwrite = { min = 0, max = 900, ttl_ms = 2000 }']
    plant = Plant(gateway, client, modbus_server, points, timeout_ms=150)
    plant.unit.silent = True
    plant.mqtt.wait_for("gw/dev/x", lambda m: m.json["value"] is None)
    begun = time.monotonic()
    plant.send("x", {"value": 5, "id": "lost"})
    result = plant.result("x", "lost")
    assert result["status"] == "failed", result
    assert result["error"]
    assert time.monotonic() - begun < 6
    plant.unit.silent = False
    plant.mqtt.clear()
    plant.mqtt.wait_for("gw/dev/x", lambda m: m.json["value"] is not None, timeout=20)
    assert plant.unit.holding[0] == 0, "it was written after it had been reported failed"


def test_a_command_that_the_device_answers_with_an_exception_fails(gateway, client, modbus_server):
    points = [
        'name = "x"\nholding = 0\ntype = "u16"',
        'name = "absent"\nholding = 500\ntype = "u16"\nwrite = { min = 0, max = 900 }',
    ]
    plant = Plant(gateway, client, modbus_server, points)
    plant.send("absent", {"value": 5, "id": "no"})
    result = plant.result("absent", "no")
    assert result["status"] == "failed"
    assert result["error"]


def test_a_write_that_does_not_stick_is_not_called_done_where_it_is_read_back(plant):
    plant.unit.ignores_writes = True
    plant.send("scaled", {"value": 5, "id": "stuck"})
    result = plant.result("scaled", "stuck")
    # The server echoes what it holds, not what was written: the write itself has failed.
    assert result["status"] == "failed"


def test_the_response_topic_gets_the_result_with_its_correlation_data(plant):
    asked = publish_properties(ResponseTopic="reply/me", CorrelationData=b"\x00abc")
    plant.send("speed", {"value": 9, "id": "asked"}, properties=asked)
    reply = plant.mqtt.wait_for("reply/me")
    assert reply.properties.CorrelationData == b"\x00abc"
    assert reply.json["status"] == "done"
    assert reply.json["id"] == "asked"
    assert plant.result("speed", "asked")["status"] == "done"


def test_a_rejection_goes_to_the_response_topic_too(plant):
    asked = publish_properties(ResponseTopic="reply/me", CorrelationData=b"r")
    plant.send("speed", "9999", properties=asked)
    reply = plant.mqtt.wait_for("reply/me")
    assert reply.json["status"] == "rejected"
    assert reply.properties.CorrelationData == b"r"


@pytest.mark.parametrize("version", [V311, V5], ids=["3.1.1", "5"])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_command_of_any_quality_of_service_acts_once_and_is_answered_once(gateway, client, modbus_server, version, qos):
    plant = Plant(gateway, client, modbus_server, version=version)
    for number in range(1, 11):
        plant.send("speed", {"value": number, "id": f"n{number}"}, qos=qos)
        plant.result("speed", f"n{number}")
    plant.mqtt.settle()
    assert [w.values for w in plant.server.writes()] == [(number,) for number in range(1, 11)]
    assert [r["id"] for r in plant.results("speed")] == [f"n{number}" for number in range(1, 11)]


def test_every_command_of_a_burst_gets_exactly_one_result(plant):
    wanted = [f"b{number}" for number in range(50)]
    for number, identity in enumerate(wanted):
        plant.send("speed", {"value": number, "id": identity}, wait=False)
    until("fifty results", lambda: len(plant.results("speed")) >= 50)
    plant.mqtt.settle()
    assert sorted(r["id"] for r in plant.results("speed")) == sorted(wanted)
    written = [w.values[0] for w in plant.server.writes()]
    assert len(written) == len(set(written))
    done = sum(r["status"] == "done" for r in plant.results("speed"))
    assert len(written) <= done


def test_mosquitto_pub_sets_a_point(plant):
    sent = mosquitto_pub(plant.gateway.port, SPEED, "77", "-q", "1")
    assert sent.returncode == 0, sent.stderr
    assert plant.result("speed")["status"] == "done"
    assert plant.unit.holding[0] == 77


def test_without_commands_the_fail_safe_value_is_written(gateway, client, modbus_server):
    point = 'name = "x"\nholding = 0\ntype = "u16"\n'
    point += "write = { min = 0, max = 900, fail_safe = 3, fail_safe_after_ms = 1000 }"
    plant = Plant(gateway, client, modbus_server, [point])
    plant.send("x", {"value": 500, "id": "go"})
    assert plant.result("x", "go")["status"] == "done"
    begun = time.monotonic()
    until("the fail-safe value", lambda: plant.unit.holding[0] == 3)
    assert time.monotonic() - begun > 0.5


def test_commands_overtake_the_polls_of_a_busy_line(gateway, client, modbus_server):
    points = ['name = "x"\nholding = 0\ntype = "u16"\ninterval_ms = 400\nwrite = { min = 0, max = 900 }']
    # Far apart, so that each is a request of its own, and the line is busy most of the time.
    points += [f'name = "p{n}"\nholding = {n * 200}\ntype = "u16"\ninterval_ms = 400' for n in range(1, 12)]
    unit = Unit(holding={n: 0 for n in range(0, 3000)})
    server = modbus_server("rtu", {1: unit}, baud=9600)
    started = gateway(mapping=server.bus(timeout_ms=300) + device(points)).start()
    listener = client(started)
    listener.subscribe("gw/#")
    listener.wait_for("gw/dev/p11")
    took = []
    for number in range(1, 11):
        begun = time.monotonic()
        listener.publish("gw/dev/x/set", json.dumps({"value": number, "id": f"q{number}"}))
        listener.wait_for("gw/dev/x/set/result", lambda m, wanted=f"q{number}": m.json["id"] == wanted)
        took.append(time.monotonic() - begun)
    assert sorted(took)[5] < 0.2, took


def test_commands_that_a_client_sends_again_after_a_cut_act_once(plant):
    before = RawClient(plant.gateway.port, "scada")
    before.publish(SPEED, "42", 1)
    before.publish(SPEED, "43", 2)
    plant.mqtt.wait_for_count("gw/dev/speed/set/result", 2)
    before.close()
    after = RawClient(plant.gateway.port, "scada")
    after.publish(SPEED, "42", 1, dup=True)
    after.publish(SPEED, "43", 2, dup=True)
    after.publish(SPEED, "44", 3, dup=True)
    plant.mqtt.wait_for_count("gw/dev/speed/set/result", 5)
    assert [write.values for write in plant.server.writes()] == [(42,), (43,), (44,)]
    assert {result["status"] for result in plant.results("speed")} == {"done"}


def test_a_command_that_is_sent_again_after_a_crash_is_expired_as_it_may_have_acted(plant, client):
    before = RawClient(plant.gateway.port, "scada")
    before.publish(SPEED, "42", 1)
    plant.result("speed")
    plant.gateway.kill()
    before.close()
    plant.gateway.start()
    watcher = client(plant.gateway)
    watcher.subscribe("gw/dev/speed/set/result")
    after = RawClient(plant.gateway.port, "scada")
    after.publish(SPEED, "42", 1, dup=True)
    result = watcher.wait_for("gw/dev/speed/set/result").json
    assert result["status"] == "expired"
    assert "send it anew" in result["error"]
    after.publish(SPEED, "43", 2)
    watcher.wait_for("gw/dev/speed/set/result", lambda m: m.json["status"] == "done")
    assert [write.values for write in plant.server.writes()] == [(42,), (43,)]
