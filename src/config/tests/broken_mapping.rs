//! Mapping files that are wrong, and the beginnings of what is said about them: place, severity and the gist.

use super::*;

#[test]
fn a_bus_that_is_wrong_is_named_with_its_place() {
    each_mapping(
        "",
        &[
            (
                "[[modbus]]\nnme = 'b'\nserial = '/dev/x'\ndevice = []",
                &[
                    "1:1: error: `name` is missing in [[modbus]]; write, say, `name = \"rs485\"`",
                    "2:1: error: `nme` is no key of [[modbus]] (did you mean `name`?); expected one of name, serial, ",
                ],
            ),
            ("[modbus]\nname = 'b'", &["1:1: error: `modbus` is one table; expected a list of tables"]),
            (
                "[[can]]\nname = 'c'\n[sparkplug]\ngroup = 'x'",
                &[
                    "1:1: error: `interface` is missing in [[can]]",
                    "3:1: error: Sparkplug B is not part of this build yet",
                ],
            ),
            (
                "[[modbus]]\nname = 'b'\ndevice = []",
                &["1:1: error: this bus has no transport; expected exactly one of"],
            ),
            (
                "[[modbus]]\nname = 'b'\nserial = 'x'\ntcp = 'y'\ndevice = []",
                &["4:1: error: `serial` and `tcp` stand in one bus; expected exactly one of"],
            ),
            (
                "[[modbus]]\nname = 'b'\nrtu_over_tcp = 'host'\nbaud = 9600\ntls = { ca = 'x' }\nmax_in_flight = 2\ndevice = []",
                &[
                    "3:16: error: `rtu_over_tcp` is no host and port",
                    "4:1: warning: `baud` belongs to `serial`",
                    "5:1: error: `tls` belongs to `tcp`",
                    "6:1: error: `max_in_flight` belongs to `tcp`",
                ],
            ),
            (
                "[[modbus]]\nname = 'b'\ntcp = 'host'\ntls = { ca = 'x', cert = 'y' }\ndevice = []",
                &[
                    "4:14: error: `ca` names /here/mappings/x, which cannot be read",
                    "4:19: error: `cert` stands without `key`",
                    "4:26: error: `cert` names /here/mappings/y, which cannot be read",
                ],
            ),
            ("[[modbus]]\nname = 'a/b'\nserial = 'x'\ndevice = []", &["2:8: error: `name` has '/' in it"]),
        ],
    );
    each_mapping(
        BUS,
        &[
            (
                "device = []\nbaud = \"fast\"\nparity = 'evn'\nstop_bits = 3\nretries = -1\ntimeout_ms = 0",
                &[
                    "5:8: error: `baud` is a text; expected an integer from 300 to 4000000; write, say, `baud = 19200` instead",
                    "6:10: error: `parity` is \"evn\" (did you mean `even`?); expected one of none, even, odd",
                    "7:13: error: `stop_bits` is 3; expected an integer from 1 to 2",
                    "8:11: error: `retries` is -1; expected",
                    "9:14: error: `timeout_ms` is 0; expected",
                ],
            ),
            ("", &["1:1: warning: this bus has no device"]),
            (
                "device = []\n[[modbus]]\nname = 'b'\nserial = '/dev/y'\ndevice = []",
                &["6:8: error: a second bus `b`; the first is at mappings/m.toml:2:8"],
            ),
        ],
    );
}

#[test]
fn a_device_that_is_wrong_is_named_with_its_place() {
    each_mapping(
        DEVICE,
        &[
            ("", &["4:1: warning: this device has no points"]),
            ("point = []\nunit = 0", &["7:8: error: `unit` is 0: unit 0 is the broadcast"]),
            (
                "point = []\nunit = 248",
                &["7:8: error: `unit` is 248: units 248 to 255 are reserved; expected 1 to 247"],
            ),
            ("point = []\ninterval_ms = 0", &["7:15: error: `interval_ms` is 0; expected an integer from 1 to"]),
            ("point = []\npassword = 'x'", &["7:1: error: a password never stands in a file"]),
            (
                "profile = 'eastron-sdm12'",
                &["6:11: error: there is no profile `eastron-sdm12` (did you mean `eastron-sdm120`?); expected a file"],
            ),
            ("profile = '../x'", &["6:11: error: `profile` is no name of a profile"]),
            (
                "topic = '{gateway}/{devise}'\npoint = []",
                &[
                    "6:9: error: `{devise}` is no placeholder (did you mean `{device}`?) in `{gateway}/{devise}`; expected one of",
                ],
            ),
            ("topic = 'car/{signal}'\npoint = []", &["6:9: error: `{signal}` has no meaning here"]),
            ("topic = 'a/{point'\npoint = []", &["6:9: error: a `{` is never closed"]),
            ("topic = 'a/#'\npoint = []", &["6:9: error: `a/#` is no topic to publish on"]),
            ("topic = ''\npoint = []", &["6:9: error: `` is no topic"]),
            ("topic = '$SYS/{point}'\npoint = []", &["6:9: error: the topic `$SYS/point` begins with `$`"]),
            (
                "topic = 'fieldgate/{gateway}/{point}'\npoint = []",
                &["6:9: error: the topic `fieldgate/pi-1/point` lies under `fieldgate/pi-1/`"],
            ),
            ("topic = 'a//{point}'\npoint = []", &["6:9: warning: the topic `a//{point}` has an empty level"]),
            (
                "point = []\n[[modbus.device]]\nname = 'd'\nunit = 1\npoint = []",
                &[
                    "8:8: error: a second device `d`; the first is at mappings/m.toml:5:8",
                    "9:8: warning: unit 1 on this bus is also that of device `d`",
                ],
            ),
        ],
    );
}

#[test]
fn a_point_that_is_wrong_is_named_with_its_place() {
    each_mapping(
        POINT,
        &[
            ("", &["6:1: error: there is no address; expected exactly one of coil, discrete, input, holding"]),
            ("coil = 1\nholding = 1", &["9:1: error: `coil` and `holding` stand together"]),
            (
                "holding = 40011",
                &[
                    "8:11: warning: `holding = 40011` looks like a manual's numbering, which counts from 40001; the protocol's \
                 addresses count from 0; if the manual says 40011, write `holding = 10` instead",
                ],
            ),
            ("input = 30001", &["8:9: warning: `input = 30001` looks like"]),
            ("discrete = 10001", &["8:12: warning: `discrete = 10001` looks like"]),
            (
                "holding = 400011",
                &["8:11: error: `holding` is 400011; expected the protocol's address, which counts from 0: 10 where"],
            ),
            ("holding = 65536", &["8:11: error: `holding` is 65536; expected an integer from 0 to 65535"]),
            ("holding = 65535\ntype = 'f32'", &["8:11: error: `holding = 65535` with 2 registers ends past 65535"]),
            ("holding = 1\ntype = 'f33'", &["9:8: error: `type` is \"f33\" (did you mean `f32`?)"]),
            ("coil = 1\ntype = 'u16'", &["9:8: error: a coil has no `type = \"u16\"`"]),
            ("holding = 1\ntype = 'string'", &["9:8: error: `type = \"string\"` needs `length`"]),
            (
                "holding = 1\ntype = 'string'\nlength = 126",
                &["10:10: error: `length` is 126; expected an integer from 1 to 125"],
            ),
            ("holding = 1\nlength = 2", &["9:1: error: `length` belongs to strings"]),
            (
                "holding = 1\nbits = '0..16'",
                &["9:8: error: `bits` is no bit field of this type; expected LOW..HIGH with 0 <= LOW <= HIGH <= 15"],
            ),
            ("holding = 1\nbits = '3..0'", &["9:8: error: `bits` is no bit field"]),
            (
                "holding = 1\ntype = 'f32'\nbits = '0..3'",
                &["10:8: error: `bits` belongs to integers, and the type is f32"],
            ),
            ("holding = 1\ndecimals = 10", &["9:12: error: `decimals` is 10; expected an integer from 0 to 9"]),
            (
                "holding = 1\ntype = 'f32'\nnot_available = 1",
                &["10:17: error: `not_available` belongs to integers; a float says it by NaN"],
            ),
            (
                "holding = 1\nnot_available = 0x10000",
                &["9:17: error: `not_available` is 65536, which 16 bits never hold"],
            ),
            ("holding = 40001", &["8:11: warning: `holding = 40001` looks like a manual's numbering"]),
            ("holding = 1\nscale = 0", &["9:9: error: `scale` is 0"]),
            ("holding = 1\nscale = nan", &["9:9: error: `scale` is NaN; expected a finite number"]),
            ("holding = 1\nmap = { on = 'x' }", &["9:14: error: `map` has the key `on`; expected integers as keys"]),
            ("holding = 1\ntype = 'f32'\nmap = { 1 = 'x' }", &["10:1: error: `map` belongs to integers and bools"]),
            ("holding = 1\nmap = { 65536 = 'x' }", &["9:7: warning: `map` names 65536, which this type never holds"]),
            ("holding = 1\norder = 'cdab'", &["9:9: warning: `order = \"cdab\"` swaps words"]),
            ("coil = 1\nscale = 2", &["9:1: error: `scale` belongs to numbers, and this point is a bool"]),
            ("holding = 1\nreport = 'change'\ndeadband = '2'", &["10:12: error: `deadband` cannot be read"]),
            ("holding = 1\ndeadband = 2", &[]),
            (
                "holding = 1\nheartbeat_ms = 2000",
                &["9:1: warning: `heartbeat_ms` has no effect: every poll is published"],
            ),
            ("coil = 1\nreport = 'change'\ndeadband = 2", &["10:1: error: `deadband` belongs to numbers"]),
            ("holding = 1\nqos = 3", &["9:7: error: `qos` is 3; expected an integer from 0 to 2"]),
            (
                "holding = 1\n[[modbus.device.point]]\nname = 'p'\nholding = 2",
                &["10:8: error: a second point `p`; the first is at mappings/m.toml:7:8"],
            ),
        ],
    );
}

#[test]
fn a_write_that_is_wrong_is_named_with_its_place() {
    each_mapping(
        POINT,
        &[
            ("input = 1\nwrite = {}", &["9:1: error: `write` stands at a point that can only be read"]),
            ("holding = 1\nwrite = { min = 5, max = 1 }", &["9:17: error: `min` is 5 and `max` is 1"]),
            (
                "holding = 1\nwrite = { min = -1, max = 9 }",
                &["9:17: warning: `min` is outside what the type holds, 0 to 65535"],
            ),
            (
                "holding = 1\nwrite = { max = 9, fail_safe = 10, fail_safe_after_ms = 5 }",
                &["9:32: error: `fail_safe` is 10, which `min` and `max` do not allow"],
            ),
            (
                "holding = 1\nwrite = { fail_safe = 0.5, fail_safe_after_ms = 5 }",
                &["9:23: error: `fail_safe` is 0.5, which the point's type, scale and offset cannot carry"],
            ),
            (
                "holding = 1\nwrite = { fail_safe = 5 }",
                &["9:11: error: `fail_safe` stands without `fail_safe_after_ms`"],
            ),
            (
                "coil = 1\nwrite = { min = 0, fail_safe = false, fail_safe_after_ms = 1 }",
                &["9:11: error: `min` belongs to numbers"],
            ),
            ("holding = 1\nwrite = { function = 'mask' }", &["9:22: error: `function = \"mask\"` writes a bit field"]),
            ("holding = 1\nwrite = { ttl = 1 }", &["9:11: error: `ttl` is no key of write of a point"]),
        ],
    );
}

#[test]
fn a_test_that_is_wrong_is_named_with_its_place() {
    const GOOD: &str = "holding = 1\n[[test]]\nname = 't'\n";
    each_mapping(
        &format!("{POINT}{GOOD}"),
        &[
            (
                "registers = { device = 'e', holding = 0, words = [1] }\nexpect = [{ topic = 'pi-1/d/p', value = 1 }]",
                &["11:24: error: there is no device `e` (did you mean `d`?)"],
            ),
            (
                "registers = { device = 'd', words = [] }\nexpect = [{ topic = 'pi-1/d/q', value = 1 }]",
                &[
                    "11:13: error: there is no address",
                    "11:37: error: `words` is empty",
                    "12:21: error: no point is published as `pi-1/d/q` (did you mean `pi-1/d/p`?)",
                ],
            ),
            (
                "registers = { device = 'd', coil = 65535, words = [2, 0] }\nexpect = []\nframe = '3E9#00'",
                &[
                    "11:51: error: `words` go past address 65535",
                    "11:51: error: `words` of coils and discrete inputs are 0 and 1",
                    "12:10: error: `expect` is empty",
                    "13:1: error: `frame` and `registers` stand together",
                ],
            ),
        ],
    );
}

#[test]
fn two_buses_on_one_serial_line_are_named_both() {
    each_mapping(
        BUS,
        &[(
            "device = []\n[[modbus]]\nname = 'c'\nserial = '/dev/x'\ndevice = []",
            &["7:10: error: a second bus on `/dev/x`; the first is at mappings/m.toml:3:10; put the devices of both"],
        )],
    );
}

#[test]
fn a_topic_for_commands_is_no_other_point_s() {
    each_mapping(
        "[[modbus]]\nname = 'b'\ntcp = 'h'\n",
        &[(
            "[[modbus.device]]\nname = 'd'\ntopic = 'x'\n[[modbus.device.point]]\nname = 'p'\ncoil = 0\nwrite = {}\n\
             [[modbus.device]]\nname = 'e'\nunit = 2\ntopic = 'x/set'\n[[modbus.device.point]]\nname = 'p'\ncoil = 0\n",
            &["16:8: error: the topic `x/set` is also that of the point at mappings/m.toml:8:8"],
        )],
    );
}

#[test]
fn a_key_as_long_as_the_file_does_not_make_a_message_as_long() {
    let outcome = files("", &format!("{} = 1", "k".repeat(1 << 20))).compile();
    assert!(outcome.diagnostics[0].to_string().len() < 2_000);
}

#[test]
fn a_test_that_brings_what_its_bus_does_not_speak_is_a_mistake() {
    let signal = "[[can.signal]]\nname = 's'\nid = 1\nstart_bit = 0\nlength = 8\n";
    let frame =
        "[[test]]\nname = 't'\nbus = 'b'\nframe = '001#05'\nexpect = [{ topic = '{gateway}/v/s', value = 5 }]\n";
    let on_modbus =
        files("", &format!("{POINT}holding = 0\n[[can]]\nname = 'v'\ninterface = 'can0'\n{signal}{frame}")).compile();
    assert_lines(&on_modbus, &["mappings/m.toml:20:1: error: `frame` stands at a test of `b`, which is a Modbus bus"]);
    let registers = "[[test]]\nname = 't'\nbus = 'v'\nregisters = { device = 'v', holding = 0, words = [1] }\nexpect = [{ topic = '{gateway}/v/s', value = 5 }]\n";
    let on_can = files("", &format!("[[can]]\nname = 'v'\ninterface = 'can0'\n{signal}{registers}")).compile();
    assert_lines(&on_can, &["mappings/m.toml:12:1: error: `registers` stands at a test of `v`, which is a CAN bus"]);
}
