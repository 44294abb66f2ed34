"""`fieldgate probe` against pymodbus: units found, registers shown, lines that can be pasted."""

import struct

import pytest

from support.gateway import Gateway, command
from support.modbus import ModbusServer, Unit
from support.wait import free_port
from pymodbus.constants import ExcCodes


def floats(order, *numbers):
    words = []
    for number in numbers:
        high, low = struct.unpack(">HH", struct.pack(">f", number))
        words += [high, low] if order == "abcd" else [low, high]
    return words


@pytest.fixture
def units():
    meter = Unit()
    meter.lay("holding", 0, [*floats("cdab", 230.1, 49.98, 5.25), 17])
    meter.lay("holding", 20, [1234])
    meter.lay("coil", 0, [1, 0, 1])
    return {3: meter, 9: Unit(exception=ExcCodes.ILLEGAL_ADDRESS)}


def serve(ends, units, kind, directory):
    server = ModbusServer(kind, units, directory)
    ends.add(server.close)
    server.start()
    if kind == "rtu":
        return f"rtu://{server.gateway_side}?baud=115200&parity=none&stop_bits=1"
    return f"{'tcp' if kind == 'tcp' else 'rtu+tcp'}://127.0.0.1:{server.port}"


@pytest.mark.parametrize("kind", ["tcp", "rtu"])
def test_a_scan_finds_every_unit_and_says_how_it_answered(ends, units, kind, tmp_path):
    url = serve(ends, units, kind, tmp_path)
    found = command("probe", url, "--timeout-ms", "30", timeout=120)
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    word = units[3].holding[0]
    assert lines == [
        f"unit 3: answers (holding 0 = {word})",
        "unit 9: is there (answers with exception 2, illegal_address)",
    ]
    assert found.stderr == ""


@pytest.mark.parametrize("kind", ["tcp", "rtu", "rtu_over_tcp"])
def test_a_range_is_read_round_its_holes_and_the_likely_type_marked(ends, units, kind, tmp_path):
    url = serve(ends, units, kind, tmp_path)
    shown = command("probe", url, "--unit", "3", "--holding", "0..20")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].split()[:4] == ["address", "hex", "u16", "i16"]
    assert "*230.1" in lines[1] and "*49.98" in lines[3] and "*5.25" in lines[5]
    assert any(line == "7..19: not there (illegal data address)" for line in lines), shown.stdout
    assert "*1234" in shown.stdout


def test_the_printed_points_are_a_mapping_that_checks(ends, units, tmp_path):
    url = serve(ends, units, "tcp", tmp_path)
    texts = [command("probe", url, "--unit", "3", *which).stdout for which in (["--holding", "0..20"], ["--coil", "0..2"])]
    points = "".join(text[text.index("[[modbus.device.point]]") :] + "\n" for text in texts)
    assert points.count("[[modbus.device.point]]") == 8
    head = f'[[modbus]]\nname = "b"\ntcp = "127.0.0.1:{free_port()}"\n[[modbus.device]]\nname = "d"\nunit = 3\n'
    gateway = Gateway(tmp_path / "gw", mapping=head + points)
    checked = gateway.check()
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_nothing_found_and_no_connection_end_with_1_and_say_what_to_do(ends, units, tmp_path):
    url = serve(ends, units, "tcp", tmp_path)
    silent = command("probe", url, "--unit", "77", "--timeout-ms", "100")
    assert silent.returncode == 1 and "--timeout-ms" in silent.stderr
    nothing = command("probe", url, "--unit", "77", "--holding", "0..3", "--timeout-ms", "100")
    assert nothing.returncode == 1 and "unit 77 does not answer" in nothing.stderr
    refused = command("probe", f"127.0.0.1:{free_port()}")
    assert refused.returncode == 1 and "127.0.0.1" in refused.stderr
    missing = command("probe", "/dev/no-such-line")
    assert missing.returncode == 1 and "plugged in" in missing.stderr


@pytest.mark.parametrize(
    "arguments",
    [["http://x"], ["tcp://h", "--holding", "9..0"], ["tcp://h", "--unit", "300"], ["tcp://h", "--coil", "0", "--input", "0"], []],
)
def test_bad_usage_ends_with_2(arguments):
    assert command("probe", *arguments).returncode == 2
