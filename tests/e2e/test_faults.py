"""Faults: a device that is silent, gone or refuses says so once, hurts nobody, and comes back by itself (section 9, P5)."""

import time

from pymodbus.constants import ExcCodes

from support.modbus import Unit
from support.plant import device, running, value_of
from support.wait import until

POINT = 'name = "x"\ninput = 0\ntype = "u16"'
RECOVERY = 20.0
"""A silent device is probed at least every 10 s."""


def fault_of(listener, topic, timeout=15.0):
    return listener.wait_for(topic, lambda m: m.json["value"] is None, timeout=timeout).json


def test_a_device_that_goes_silent_reads_timeout_once_and_comes_back_by_itself(gateway, client, modbus_server):
    unit = Unit(input={0: 1})
    server = modbus_server("tcp", {1: unit})
    _, listener = running(gateway, client, server.bus(timeout_ms=150) + device([POINT]))
    assert value_of(listener, "gw/dev/x") == 1
    unit.silent = True
    fault = fault_of(listener, "gw/dev/x")
    assert fault["fault"] == "timeout"
    assert fault["time"].endswith("Z")
    assert fault["boot"] and isinstance(fault["seq"], int)
    server.wait_for_reads(3, timeout=RECOVERY)
    assert sum(m.json["value"] is None for m in listener.on("gw/dev/x")) == 1
    listener.clear()
    unit.silent, unit.input[0] = False, 2
    assert listener.wait_for("gw/dev/x", timeout=RECOVERY).json["value"] == 2


def test_a_fault_is_published_nowhere_where_the_payload_is_the_bare_value(gateway, client, modbus_server):
    unit = Unit(input={0: 1, 1: 1})
    server = modbus_server("tcp", {1: unit})
    points = [POINT, 'name = "bare"\ninput = 1\ntype = "u16"\npayload = "value"']
    _, listener = running(gateway, client, server.bus(timeout_ms=150) + device(points))
    listener.wait_for("gw/dev/bare")
    unit.silent = True
    fault_of(listener, "gw/dev/x")
    listener.settle()
    assert {m.text for m in listener.on("gw/dev/bare")} == {"1"}


def test_a_server_that_stops_is_a_fault_and_its_return_brings_the_values_back(gateway, client, modbus_server):
    unit = Unit(input={0: 1})
    for kind in ("tcp", "rtu_over_tcp"):
        server = modbus_server(kind, {1: unit})
        unit.input[0] = 1
        started = gateway(mapping=server.bus() + device([POINT]), directory=kind).start()
        listener = client(started)
        listener.subscribe("gw/#")
        assert value_of(listener, "gw/dev/x") == 1
        server.stop()
        assert fault_of(listener, "gw/dev/x")["fault"] in ("timeout", "disconnected")
        listener.clear()
        unit.input[0] = 2
        server.start()
        wanted = listener.wait_for("gw/dev/x", lambda m: m.json["value"] is not None, timeout=RECOVERY)
        assert wanted.json["value"] == 2
        started.terminate()


def test_a_server_that_is_not_there_at_the_start_stops_nothing_and_is_found_later(gateway, client, modbus_server):
    server = modbus_server("tcp", {1: Unit(input={0: 3})})
    server.stop()
    _, listener = running(gateway, client, server.bus() + device([POINT]))
    assert fault_of(listener, "gw/dev/x")["fault"] in ("timeout", "disconnected")
    server.start()
    found = listener.wait_for("gw/dev/x", lambda m: m.json["value"] is not None, timeout=RECOVERY)
    assert found.json["value"] == 3


def test_an_address_that_the_device_has_not_is_the_fault_of_its_own_point_only(gateway, client, modbus_server):
    unit = Unit(input={address: address for address in range(8) if address != 3})
    server = modbus_server("tcp", {1: unit})
    points = [f'name = "p{address}"\ninput = {address}\ntype = "u16"' for address in range(8)]
    _, listener = running(gateway, client, server.bus() + device(points))
    for address in (0, 1, 2, 4, 5, 6, 7):
        assert value_of(listener, f"gw/dev/p{address}") == address
    assert fault_of(listener, "gw/dev/p3")["fault"] == "illegal_address"


def test_a_hole_between_two_points_is_found_and_remembered(gateway, client, modbus_server):
    unit = Unit(input={0: 10, 5: 15})
    server = modbus_server("tcp", {1: unit})
    points = ['name = "a"\ninput = 0\ntype = "u16"', 'name = "b"\ninput = 5\ntype = "u16"']
    _, listener = running(gateway, client, server.bus(max_gap=16) + device(points))
    assert value_of(listener, "gw/dev/a") == 10
    assert value_of(listener, "gw/dev/b") == 15
    known = len(server.reads())
    listener.clear()
    listener.wait_for_count("gw/dev/a", 3)
    assert all(r.count == 1 for r in server.reads()[known + 1 :])


def test_an_exception_is_named_by_its_meaning(gateway, client, modbus_server):
    names = {
        ExcCodes.ILLEGAL_FUNCTION: "illegal_function",
        ExcCodes.ILLEGAL_VALUE: "illegal_value",
        ExcCodes.DEVICE_FAILURE: "device_failure",
        ExcCodes.DEVICE_BUSY: "busy",
        ExcCodes.GATEWAY_NO_RESPONSE: "gateway",
    }
    units = {n: Unit(input={0: n}, exception=code) for n, code in enumerate(names, start=1)}
    server = modbus_server("tcp", units)
    mapping = server.bus() + "".join(device([POINT], unit=n, name=f"d{n}") for n in units)
    _, listener = running(gateway, client, mapping)
    seen = {code: fault_of(listener, f"gw/d{n}/x")["fault"] for n, code in enumerate(names, start=1)}
    assert seen == names


def test_a_dead_device_costs_its_neighbours_on_the_line_next_to_nothing(gateway, client, modbus_server):
    interval = 0.1
    units = {n: Unit(input={0: n}) for n in range(1, 5)} | {9: Unit(input={0: 9})}
    server = modbus_server("rtu", units)
    mapping = server.bus(timeout_ms=150, retries=1)
    mapping += "".join(device([POINT], unit=n, name=f"d{n}", interval=int(interval * 1000)) for n in units)
    _, listener = running(gateway, client, mapping)
    assert value_of(listener, "gw/d9/x") == 9
    units[9].silent = True
    fault_of(listener, "gw/d9/x")
    begun, length = time.monotonic(), 12.0
    until("a window of polls", lambda: time.monotonic() - begun > length, timeout=length + 5)
    window = [r for r in server.reads() if begun <= r.at < begun + length]
    for n in range(1, 5):
        kept = sum(r.unit == n for r in window) / (length / interval)
        assert kept >= 0.9, f"device {n} kept {kept:.0%} of its polls"
    assert sum(r.unit == 9 for r in window) >= 1, "the dead device is no longer probed"
    assert not any(m.json["value"] is None for n in range(1, 5) for m in listener.on(f"gw/d{n}/x"))
    listener.clear()
    units[9].silent = False
    listener.wait_for("gw/d9/x", lambda m: m.json["value"] == 9, timeout=RECOVERY)


def test_a_serial_line_that_is_pulled_and_put_back_is_a_fault_and_then_none(gateway, client, modbus_server, tmp_path):
    server = modbus_server("rtu", {1: Unit(input={0: 5})})
    _, listener = running(gateway, client, server.bus(timeout_ms=150) + device([POINT]))
    assert value_of(listener, "gw/dev/x") == 5
    server.unplug()
    assert fault_of(listener, "gw/dev/x")["fault"] in ("timeout", "disconnected")
    listener.clear()
    server.plug_in()
    found = listener.wait_for("gw/dev/x", lambda m: m.json["value"] is not None, timeout=RECOVERY)
    assert found.json["value"] == 5


def test_device_and_bus_topics_tell_the_state(gateway, client, modbus_server):
    unit = Unit(input={0: 1})
    server = modbus_server("tcp", {1: unit})
    started, listener = running(gateway, client, server.bus(name="line", timeout_ms=150) + device([POINT]))
    watcher = client(started)
    watcher.subscribe("fieldgate/gw/#")
    online = watcher.wait_for("fieldgate/gw/device/dev", lambda m: "online" in m.text)
    assert online.json["state"] == "online"
    assert "since" in online.json
    unit.silent = True
    fault_of(listener, "gw/dev/x")
    offline = watcher.wait_for("fieldgate/gw/device/dev", lambda m: m.json["state"] == "offline")
    assert "timeout" in offline.text
    assert "state" in watcher.wait_for("fieldgate/gw/bus/line").json
    late = client(started)
    late.subscribe("fieldgate/gw/#")
    for topic in ("fieldgate/gw/device/dev", "fieldgate/gw/bus/line"):
        assert late.wait_for(topic).retain
