"""Values: what stands in the registers is what stands in the payload (sections 6 and 7)."""

import struct
import time
from datetime import datetime, timezone

import pytest

from support.modbus import Unit
from support.plant import device, running, value_of
from support.wait import until

TRANSPORTS = ["tcp", "rtu_over_tcp", "rtu"]
ORDERS = ["abcd", "cdab", "badc", "dcba"]

NUMBERS = {
    "u16": (">H", 0xFEDC),
    "i16": (">h", -12345),
    "u32": (">I", 0xFEDCBA98),
    "i32": (">i", -123456789),
    "u64": (">Q", 0xFEDCBA9876543210),
    "i64": (">q", -1234567890123456789),
    "f32": (">f", 230.1),
    "f64": (">d", -0.1),
    "bcd16": (None, 9041),
    "bcd32": (None, 12345678),
}


def words(kind, value, order):
    """The registers that hold `value`: laid out by struct, then reordered as the order's name says."""
    layout = NUMBERS[kind][0]
    if layout:
        raw = struct.pack(layout, value)
    else:
        raw = bytes.fromhex(str(value).zfill(4 if kind == "bcd16" else 8))
    pairs = [raw[place : place + 2] for place in range(0, len(raw), 2)]
    if order in ("cdab", "dcba"):
        pairs.reverse()
    if order in ("badc", "dcba"):
        pairs = [pair[::-1] for pair in pairs]
    return [int.from_bytes(pair, "big") for pair in pairs]


def text_words(text, registers):
    raw = text.encode().ljust(registers * 2, b"\0")
    return [int.from_bytes(raw[place : place + 2], "big") for place in range(0, len(raw), 2)]


def test_the_layouts_of_this_file_are_those_of_the_orders_names():
    assert words("u32", 0x0A0B0C0D, "abcd") == [0x0A0B, 0x0C0D]
    assert words("u32", 0x0A0B0C0D, "cdab") == [0x0C0D, 0x0A0B]
    assert words("u32", 0x0A0B0C0D, "badc") == [0x0B0A, 0x0D0C]
    assert words("u32", 0x0A0B0C0D, "dcba") == [0x0D0C, 0x0B0A]


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_every_type_in_every_byte_order_reads_as_it_was_laid(gateway, client, modbus_server, kind):
    unit = Unit()
    points, wanted, address = [], {}, 10
    for name, (_, value) in NUMBERS.items():
        for order in ORDERS:
            laid = words(name, value, order)
            unit.lay("holding", address, laid)
            points.append(f'name = "{name}-{order}"\nholding = {address}\ntype = "{name}"\norder = "{order}"')
            wanted[f"gw/dev/{name}-{order}"] = value
            address += len(laid)
    server = modbus_server(kind, {1: unit})
    _, listener = running(gateway, client, server.bus() + device(points, interval=500))
    seen = {topic: value_of(listener, topic) for topic in wanted}
    assert seen == wanted


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_the_four_tables_are_read_by_function_codes_1_to_4(gateway, client, modbus_server, kind):
    unit = Unit(coil={7: True, 8: False}, discrete={7: False, 8: True}, input={7: 41}, holding={7: 42})
    server = modbus_server(kind, {1: unit})
    points = [
        'name = "coil-7"\ncoil = 7',
        'name = "coil-8"\ncoil = 8',
        'name = "discrete-7"\ndiscrete = 7',
        'name = "discrete-8"\ndiscrete = 8',
        'name = "input-7"\ninput = 7\ntype = "u16"',
        'name = "holding-7"\nholding = 7\ntype = "u16"',
    ]
    _, listener = running(gateway, client, server.bus() + device(points))
    wanted = {"coil-7": True, "coil-8": False, "discrete-7": False, "discrete-8": True, "input-7": 41, "holding-7": 42}
    assert {name: value_of(listener, f"gw/dev/{name}") for name in wanted} == wanted
    assert {request.function for request in server.reads()} == {1, 2, 3, 4}
    assert all(type(value_of(listener, f"gw/dev/{name}")) is bool for name in ("coil-7", "discrete-7"))


def test_strings_end_at_the_first_nul_and_swapped_bytes_are_put_back(gateway, client, modbus_server):
    unit = Unit()
    unit.lay("holding", 0, text_words("SDM-120", 6))
    unit.lay("holding", 10, [((w & 0xFF) << 8) | (w >> 8) for w in text_words("Größe", 4)])
    unit.lay("holding", 20, text_words("full", 2))
    server = modbus_server("tcp", {1: unit})
    points = [
        'name = "model"\nholding = 0\ntype = "string"\nlength = 6',
        'name = "swapped"\nholding = 10\ntype = "string"\nlength = 4\norder = "badc"',
        'name = "full"\nholding = 20\ntype = "string"\nlength = 2',
    ]
    _, listener = running(gateway, client, server.bus() + device(points))
    assert value_of(listener, "gw/dev/model") == "SDM-120"
    assert value_of(listener, "gw/dev/swapped") == "Größe"
    assert value_of(listener, "gw/dev/full") == "full"


def test_a_32_bit_float_arrives_with_the_digits_that_the_device_sent(gateway, client, modbus_server):
    unit = Unit()
    unit.lay("input", 0, words("f32", 230.1, "abcd"))
    server = modbus_server("tcp", {1: unit})
    _, listener = running(gateway, client, server.bus() + device(['name = "v"\ninput = 0\ntype = "f32"\nunit = "V"']))
    text = listener.wait_for("gw/dev/v").text
    assert '"value":230.1,' in text.replace(" ", "")


def test_a_float_that_is_no_number_never_makes_invalid_json(gateway, client, modbus_server):
    unit = Unit()
    unit.lay("input", 0, [0x7FC0, 0x0000])
    unit.lay("input", 2, [0x7F80, 0x0000])
    server = modbus_server("tcp", {1: unit})
    points = ['name = "nan"\ninput = 0\ntype = "f32"', 'name = "inf"\ninput = 2\ntype = "f32"']
    _, listener = running(gateway, client, server.bus() + device(points))
    for name in ("nan", "inf"):
        payload = listener.wait_for(f"gw/dev/{name}").json
        assert payload["value"] is None
        assert payload["fault"]


def test_digits_over_nine_are_a_fault_of_that_bcd_point_alone(gateway, client, modbus_server):
    server = modbus_server("tcp", {1: Unit(input={0: 0x12A4, 1: 0x1234})})
    points = ['name = "bad"\ninput = 0\ntype = "bcd16"', 'name = "good"\ninput = 1\ntype = "bcd16"']
    _, listener = running(gateway, client, server.bus() + device(points))
    assert listener.wait_for("gw/dev/bad").json["fault"] == "bad_value"
    assert value_of(listener, "gw/dev/good") == 1234


def test_scale_offset_decimals_bits_and_names_are_applied(gateway, client, modbus_server):
    unit = Unit(holding={0: 2301, 1: 0b1010_0000_0101_0110, 2: 1, 3: 7, 4: 65336, 5: 12345})
    server = modbus_server("tcp", {1: unit})
    points = [
        'name = "scaled"\nholding = 0\ntype = "u16"\nscale = 0.1\noffset = -100.0\ndecimals = 1',
        'name = "low"\nholding = 1\ntype = "u16"\nbits = "0..3"',
        'name = "middle"\nholding = 1\ntype = "u16"\nbits = "4..7"',
        'name = "high"\nholding = 1\ntype = "u16"\nbits = "13..15"',
        'name = "named"\nholding = 2\ntype = "u16"\nmap = { 0 = "off", 1 = "on" }',
        'name = "nameless"\nholding = 3\ntype = "u16"\nmap = { 0 = "off", 1 = "on" }',
        'name = "signed"\nholding = 4\ntype = "i16"\nscale = 0.5',
        'name = "rounded"\nholding = 5\ntype = "u16"\nscale = 0.001\ndecimals = 2',
    ]
    _, listener = running(gateway, client, server.bus() + device(points))
    wanted = {"scaled": 130.1, "low": 6, "middle": 5, "high": 5, "named": "on", "nameless": 7, "signed": -100}
    assert {name: value_of(listener, f"gw/dev/{name}") for name in wanted} == wanted
    assert value_of(listener, "gw/dev/rounded") in (12.34, 12.35)


def test_a_sample_carries_value_unit_time_boot_and_a_rising_seq(gateway, client, modbus_server):
    server = modbus_server("tcp", {1: Unit(input={0: 5, 1: 6})})
    points = [
        'name = "a"\ninput = 0\ntype = "u16"\nunit = "V"\nqos = 1\nretain = true',
        'name = "b"\ninput = 1\ntype = "u16"\nunit = "A"',
    ]
    started, listener = running(gateway, client, server.bus() + device(points))
    listener.wait_for_count("gw/dev/b", 4)
    samples = [m.json for m in listener.all() if m.topic in ("gw/dev/a", "gw/dev/b") and not m.retain]
    assert {(s["value"], s["unit"]) for s in samples} == {(5, "V"), (6, "A")}
    assert len({s["boot"] for s in samples}) == 1
    numbers = [s["seq"] for s in samples]
    assert all(isinstance(number, int) for number in numbers)
    assert len(set(numbers)) == len(numbers)
    for name in "ab":
        own = [m.json["seq"] for m in listener.on(f"gw/dev/{name}") if not m.retain]
        assert own == sorted(own)
    for sample in samples:
        assert sample["time"].endswith("Z") and len(sample["time"]) == len("2026-01-31T12:00:00.123Z")
        age = datetime.now(timezone.utc) - datetime.fromisoformat(sample["time"].replace("Z", "+00:00"))
        assert -1 < age.total_seconds() < 60
    late = client(started)
    late.subscribe("gw/dev/a")
    kept = late.wait_for("gw/dev/a")
    assert kept.retain and kept.json["value"] == 5
    first_boot = samples[0]["boot"]
    started.terminate()
    started.start()
    again = client(started)
    again.subscribe("gw/dev/b")
    assert again.wait_for("gw/dev/b", lambda m: not m.retain).json["boot"] != first_boot


def test_the_bare_value_is_published_where_the_payload_is_value(gateway, client, modbus_server):
    unit = Unit(input={0: 2301, 1: 1}, coil={0: True})
    unit.lay("input", 10, text_words("hello", 3))
    server = modbus_server("tcp", {1: unit})
    points = [
        'name = "number"\ninput = 0\ntype = "u16"\nscale = 0.1\ndecimals = 1\npayload = "value"',
        'name = "named"\ninput = 1\ntype = "u16"\nmap = { 1 = "on" }\npayload = "value"',
        'name = "flag"\ncoil = 0\npayload = "value"',
        'name = "text"\ninput = 10\ntype = "string"\nlength = 3\npayload = "value"',
    ]
    _, listener = running(gateway, client, server.bus() + device(points))
    wanted = {"number": "230.1", "named": "on", "flag": "true", "text": "hello"}
    assert {name: listener.wait_for(f"gw/dev/{name}").text for name in wanted} == wanted


def test_the_topic_is_a_template_with_a_documented_default(gateway, client, modbus_server):
    server = modbus_server("tcp", {1: Unit(input={0: 1}), 2: Unit(input={0: 2})})
    mapping = server.bus()
    mapping += device(['name = "p"\ninput = 0\ntype = "u16"'], name="plain")
    mapping += device(
        ['name = "p"\ninput = 0\ntype = "u16"'], unit=2, name="own", keys='topic = "plant/{gateway}/x/{device}/{point}"'
    )
    started = gateway(mapping=mapping).start()
    listener = client(started)
    listener.subscribe("#")
    assert value_of(listener, "gw/plain/p") == 1
    assert value_of(listener, "plant/gw/x/own/p") == 2


def test_a_point_that_reports_changes_is_silent_while_nothing_changes(gateway, client, modbus_server):
    unit = Unit(input={0: 10, 1: 1})
    server = modbus_server("tcp", {1: unit})
    points = [
        'name = "quiet"\ninput = 0\ntype = "u16"\nreport = "change"\nretain = true',
        'name = "always"\ninput = 1\ntype = "u16"',
    ]
    _, listener = running(gateway, client, server.bus() + device(points, interval=50))
    listener.wait_for("gw/dev/quiet")
    listener.clear()
    listener.wait_for_count("gw/dev/always", 6)
    assert listener.on("gw/dev/quiet") == []
    unit.input[0] = 11
    assert listener.wait_for("gw/dev/quiet").json["value"] == 11


@pytest.mark.parametrize(
    ("deadband", "within", "beyond"),
    [("5", [104, 96, 105 - 1], 106), ('"2%"', [101, 99], 103)],
    ids=["absolute", "percent"],
)
def test_a_deadband_withholds_what_differs_too_little_from_the_value_published_last(
    gateway, client, modbus_server, deadband, within, beyond
):
    unit = Unit(input={0: 100, 1: 0})
    server = modbus_server("tcp", {1: unit})
    points = [
        f'name = "x"\ninput = 0\ntype = "u16"\nreport = "change"\ndeadband = {deadband}\nretain = true',
        'name = "tick"\ninput = 1\ntype = "u16"',
    ]
    _, listener = running(gateway, client, server.bus() + device(points, interval=50))
    assert value_of(listener, "gw/dev/x") == 100
    listener.clear()
    for value in within:
        unit.input[0] = value
        before = len(listener.on("gw/dev/tick"))
        listener.wait_for_count("gw/dev/tick", before + 3)
    assert [m.json["value"] for m in listener.on("gw/dev/x")] == []
    unit.input[0] = beyond
    assert value_of(listener, "gw/dev/x") == beyond


def test_a_heartbeat_repeats_an_unchanged_value(gateway, client, modbus_server):
    server = modbus_server("tcp", {1: Unit(input={0: 10})})
    point = 'name = "x"\ninput = 0\ntype = "u16"\nreport = "change"\nheartbeat_ms = 500'
    _, listener = running(gateway, client, server.bus() + device([point], interval=50))
    beats = listener.wait_for_count("gw/dev/x", 6)[1:6]
    gaps = [later.at - earlier.at for earlier, later in zip(beats, beats[1:])]
    assert all(gap > 0.35 for gap in gaps), gaps
    assert sum(gaps) / len(gaps) < 0.9, gaps


def test_a_minimum_interval_thins_out_a_value_that_changes_with_every_poll(gateway, client, modbus_server):
    unit = Unit(input={0: 0})
    server = modbus_server("tcp", {1: unit})
    point = 'name = "x"\ninput = 0\ntype = "u16"\nmin_interval_ms = 400'
    _, listener = running(gateway, client, server.bus() + device([point], interval=40))

    def five_seen():
        unit.input[0] += 1
        return len(listener.on("gw/dev/x")) >= 6

    until("six thinned samples", five_seen)
    seen = listener.on("gw/dev/x")[1:6]
    gaps = [later.at - earlier.at for earlier, later in zip(seen, seen[1:])]
    assert all(gap > 0.3 for gap in gaps), gaps


def test_a_device_is_polled_at_its_interval_and_a_point_at_its_own(gateway, client, modbus_server):
    server = modbus_server("tcp", {1: Unit(input={0: 1}, holding={0: 2})})
    points = [
        'name = "slow"\ninput = 0\ntype = "u16"',
        'name = "fast"\nholding = 0\ntype = "u16"\ninterval_ms = 50',
    ]
    running(gateway, client, server.bus() + device(points, interval=200))
    server.wait_for_reads(2)
    begun = time.monotonic()
    until("4 s of polls", lambda: time.monotonic() - begun > 4)
    window = [r for r in server.reads() if begun <= r.at < begun + 4]
    slow = sum(r.function == 4 for r in window)
    fast = sum(r.function == 3 for r in window)
    assert 17 <= slow <= 22, slow
    assert 66 <= fast <= 84, fast


def test_neighbouring_registers_come_in_one_request_and_gaps_are_read_over(gateway, client, modbus_server):
    unit = Unit(input={address: address for address in range(0, 40)})
    server = modbus_server("tcp", {1: unit})
    points = [f'name = "p{address}"\ninput = {address}\ntype = "u16"' for address in (0, 1, 2, 6, 12)]
    _, listener = running(gateway, client, server.bus(max_gap=16) + device(points))
    listener.wait_for_count("gw/dev/p12", 3)
    assert {(r.address, r.count) for r in server.reads()} == {(0, 13)}
    assert value_of(listener, "gw/dev/p6") == 6


def test_no_read_asks_for_more_than_125_registers(gateway, client, modbus_server):
    unit = Unit(input={address: address for address in range(0, 300)})
    server = modbus_server("tcp", {1: unit})
    points = [f'name = "p{address}"\ninput = {address}\ntype = "u16"' for address in range(300)]
    _, listener = running(gateway, client, server.bus() + device(points, interval=500))
    assert [value_of(listener, f"gw/dev/p{n}") for n in range(300)] == list(range(300))
    assert max(r.count for r in server.reads()) <= 125
