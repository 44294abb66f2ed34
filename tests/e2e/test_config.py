"""Configuration: every mistake is named at once, with its place; `run` refuses what `check` refuses (sections 4 to 6, P8)."""

import json
import re
import tomllib

import jsonschema
import pytest

from support.gateway import OPEN_BROKER, ROOT, command

GOOD = """
[[modbus]]
name = "bus"
tcp = "127.0.0.1:1502"
[[modbus.device]]
name = "dev"
unit = 1
[[modbus.device.point]]
name = "x"
input = 0
type = "u16"
"""

PASSING = """
[[test]]
name = "the manual's example"
bus = "bus"
registers = { device = "dev", input = 0, words = [0x0102] }
expect = [ { topic = "gw/dev/x", value = 258 } ]
"""


def places(output, file):
    """Lines that begin FILE:LINE:COLUMN: for this file."""
    found = re.findall(rf"^(\S*{re.escape(file)}):(\d+):(\d+): (.+)$", output, re.MULTILINE)
    return [(int(line), int(column), words) for _, line, column, words in found]


def said(done):
    return done.stdout + done.stderr


def test_a_good_file_checks_with_0_and_shows_the_plan(gateway):
    done = gateway(mapping=GOOD).check()
    assert done.returncode == 0, said(done)
    assert "gw/dev/x" in said(done)


def test_every_mistake_of_every_file_is_named_at_once_with_its_place(gateway):
    made = gateway(
        OPEN_BROKER + '[status]\nbind = "nowhere"\n',
        GOOD.replace('type = "u16"', 'type = "u17"').replace("input = 0", "input = 70000"),
        files={
            "mappings/second.toml": GOOD.replace('"bus"', '"bus2"').replace('"dev"', '"dev2"') + "colour = 1\n",
            "mappings/third.toml": "[[modbus]]\nname = \n",
        },
    )
    done = made.check()
    assert done.returncode == 2
    text = said(done)
    first = places(text, "main.toml")
    lines = made.mapping_file.read_text().split("\n")
    assert {lines[line - 1] for line, _, _ in first} == {'type = "u17"', "input = 70000"}, text
    assert [place[0] for place in places(text, "second.toml")] == [12], text
    assert [place[0] for place in places(text, "third.toml")] == [2], text
    gateway_lines = made.file.read_text().split("\n")
    assert [gateway_lines[place[0] - 1] for place in places(text, "fieldgate.toml")] == ['bind = "nowhere"'], text
    assert "u32" in text, "what was expected for the type is not told"


@pytest.mark.parametrize(
    ("mistake", "line"),
    [
        (("interval", 'unit = 1\ninterval_ms = 0'), "interval_ms = 0"),
        (("interval", 'unit = 1\ninterval_ms = -5'), "interval_ms = -5"),
        (("unit", "unit = 300"), "unit = 300"),
        (("unit", 'unit = "one"'), 'unit = "one"'),
        (("tcp", 'tcp = "127.0.0.1:0"'), 'tcp = "127.0.0.1:0"'),
        (("tcp", 'tcp = "127.0.0.1:99999"'), 'tcp = "127.0.0.1:99999"'),
        (("input", 'input = 0\nbits = "3..1"'), 'bits = "3..1"'),
        (("input", 'input = 0\nbits = "0..16"'), 'bits = "0..16"'),
        (("input", 'input = 0\norder = "acbd"'), 'order = "acbd"'),
        (("input", "input = 0\nqos = 3"), "qos = 3"),
        (("input", 'input = 0\npayload = "xml"'), 'payload = "xml"'),
        (("input", "input = 0\nwrite = { min = 0, max = 9 }"), "write = { min = 0, max = 9 }"),
        (("type", 'type = "string"'), None),
        (("type", 'type = "u16"\nscael = 0.1'), "scael = 0.1"),
        (("input", "input = 0\nholding = 1"), None),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_mistake_is_named_in_its_own_line(gateway, mistake, line):
    key, replacement = mistake
    original = {
        "interval": "unit = 1",
        "unit": "unit = 1",
        "tcp": 'tcp = "127.0.0.1:1502"',
        "input": "input = 0",
        "type": 'type = "u16"',
    }[key]
    made = gateway(mapping=GOOD.replace(original, replacement))
    done = made.check()
    assert done.returncode == 2, said(done)
    found = places(said(done), "main.toml")
    assert found, said(done)
    if line is not None:
        assert made.mapping_file.read_text().split("\n")[found[0][0] - 1] == line, said(done)


def test_names_that_stand_twice_are_a_mistake_across_files(gateway):
    done = gateway(mapping=GOOD, files={"mappings/second.toml": GOOD}).check()
    assert done.returncode == 2
    assert places(said(done), "second.toml") or places(said(done), "main.toml")


def test_a_misspelt_key_is_answered_with_the_right_one(gateway):
    done = gateway(mapping=GOOD.replace("[[modbus.device.point]]", "interval_mss = 5\n[[modbus.device.point]]")).check()
    assert done.returncode == 2
    assert "interval_ms" in said(done).replace("interval_mss", "")


def test_a_missing_file_and_a_missing_option_are_answered_with_2(tmp_path):
    done = command("check", "-c", tmp_path / "absent.toml")
    assert done.returncode == 2 and "absent.toml" in said(done)
    assert command("check").returncode == 2
    assert command("no-such-command").returncode == 2
    assert command("--help").returncode == 0
    assert command("--version").returncode == 0


def test_check_json_parses_for_a_good_and_for_a_bad_file(gateway):
    good = gateway(mapping=GOOD).check("--json")
    assert good.returncode == 0
    assert "gw/dev/x" in json.dumps(json.loads(good.stdout))
    bad = gateway(mapping=GOOD.replace("u16", "u17"), directory="bad").check("--json")
    assert bad.returncode == 2
    report = json.dumps(json.loads(bad.stdout))
    assert "main.toml" in report and "u17" in report


def test_the_tests_in_a_mapping_pass_or_fail_the_check(gateway):
    passing = gateway(mapping=GOOD + PASSING).check()
    assert passing.returncode == 0, said(passing)
    failing = gateway(mapping=GOOD + PASSING.replace("258", "259"), directory="failing").check()
    assert failing.returncode == 1, said(failing)
    assert "the manual's example" in said(failing)
    assert "258" in said(failing) and "259" in said(failing)


def test_a_test_of_the_mapping_is_not_run_by_run(gateway):
    started = gateway(mapping=GOOD + PASSING.replace("258", "259")).start()
    assert started.process.alive


def test_run_refuses_what_check_refuses_with_the_same_words(gateway):
    made = gateway(mapping=GOOD.replace("u16", "u17").replace("unit = 1", "unit = 999"))
    checked = made.check()
    process = made.launch()
    assert process.wait() == 2
    told = {words for _, _, words in places(said(checked), "main.toml")}
    assert told
    assert told == {words for _, _, words in places(process.output, "main.toml")}


def serial(interval, devices=5):
    text = '[[modbus]]\nname = "line"\nserial = "/dev/ttyS7"\nbaud = 9600\nparity = "none"\n'
    for n in range(1, devices + 1):
        text += f'[[modbus.device]]\nname = "d{n}"\nunit = {n}\ninterval_ms = {interval}\n'
        text += '[[modbus.device.point]]\nname = "x"\ninput = 0\ntype = "u16"\n'
    return text


def test_a_serial_line_that_cannot_keep_its_intervals_is_an_error(gateway):
    done = gateway(mapping=serial(50)).check()
    assert done.returncode == 2, said(done)
    assert "line" in said(done)
    assert any(int(found) > 100 for found in re.findall(r"(\d+)(?:\.\d+)? ?%", said(done))), said(done)
    fitting = gateway(mapping=serial(1000), directory="fitting").check()
    assert fitting.returncode == 0, said(fitting)
    shown = [float(found) for found in re.findall(r"(\d+(?:\.\d+)?) ?%", said(fitting))]
    # 8 + 7 bytes and two gaps of 3.5 characters, 10 bits each: 23 ms a request, 5 a second.
    assert any(8 <= share <= 16 for share in shown), said(fitting)


def test_passwd_prints_a_hash_that_check_accepts_and_never_the_password(gateway):
    made = command("passwd", stdin="rosebud-33\n")
    assert made.returncode == 0
    hashed = made.stdout.strip().split()[-1]
    assert hashed.startswith("$argon2id$")
    assert "rosebud-33" not in said(made)
    again = command("passwd", stdin="rosebud-33\n").stdout.strip().split()[-1]
    assert again != hashed, "no salt"
    user = f'[[broker.user]]\nname = "u"\npassword_hash = "{hashed}"\nsubscribe = ["#"]\n'
    accepted = gateway(OPEN_BROKER + user).check()
    assert accepted.returncode == 0, said(accepted)


def test_a_password_that_is_not_hashed_is_refused_and_not_repeated(gateway):
    user = '[[broker.user]]\nname = "u"\npassword_hash = "rosebud-34"\nsubscribe = ["#"]\n'
    done = gateway(OPEN_BROKER + user).check()
    assert done.returncode == 2
    assert "passwd" in said(done), "it does not say how to make a hash"
    assert "rosebud-34" not in said(done)


@pytest.mark.parametrize("which", ["gateway", "mapping"])
def test_schema_prints_a_json_schema(which):
    done = command("schema", which)
    assert done.returncode == 0
    schema = json.loads(done.stdout)
    assert "$schema" in schema
    assert ("broker" if which == "gateway" else "modbus") in json.dumps(schema.get("properties", {}))


SHIPPED = {
    "gateway": ["systemd/fieldgate.toml"],
    "mapping": ["mappings/*.toml", "mappings/can/*.toml", "mappings/profiles/*.toml"],
}
NOT_IN_THE_SCHEMA = {
    "gateway": ["[brokr]", "[store]\ncommit_ms = 0", '[[uplink]]\nname = "a"'],
    "mapping": [
        '[[modbus]]\nname = "b"\ntcp = "h"\nbuad = 1',
        '[[point]]\nname = "p"\nholding = 1\n[[modbus]]\nname = "b"\ntcp = "h"',
        '[[test]]\nname = "t"\nexpect = [{ point = "p", value = 1 }]',
    ],
}


@pytest.mark.parametrize("which", ["gateway", "mapping"])
def test_the_schema_knows_the_shipped_files_and_refuses_wrong_ones(which):
    schema = json.loads(command("schema", which).stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    files = [file for pattern in SHIPPED[which] for file in ROOT.glob(pattern)]
    assert files
    for file in files:
        found = [f"{list(error.path)}: {error.message}" for error in validator.iter_errors(tomllib.loads(file.read_text()))]
        assert not found, f"{file}: {found}"
    for wrong in NOT_IN_THE_SCHEMA[which]:
        assert list(validator.iter_errors(tomllib.loads(wrong))), wrong


def test_a_profile_gives_a_device_its_points(gateway):
    profile = '[[point]]\nname = "voltage"\ninput = 0\ntype = "f32"\n'
    mapping = GOOD.split("[[modbus.device.point]]")[0] + 'profile = "mine"\n'
    made = gateway(mapping=mapping, files={"mappings/profiles/mine.toml": profile})
    done = made.check()
    assert done.returncode == 0, said(done)
    assert "gw/dev/voltage" in said(done)
    absent = gateway(mapping=mapping.replace('"mine"', '"absent"'), directory="absent").check()
    assert absent.returncode == 2
    assert "absent" in said(absent)


def test_two_points_on_one_topic_are_a_mistake(gateway):
    second = '[[modbus.device.point]]\nname = "y"\ninput = 1\ntype = "u16"\n'
    mapping = GOOD.replace("unit = 1", 'unit = 1\ntopic = "plant/same"') + second
    done = gateway(mapping=mapping).check()
    assert done.returncode == 2, said(done)
    assert "plant/same" in said(done)
