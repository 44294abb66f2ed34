//! The keys of mapping files and profiles.

use super::Default::{Boolean as Flag, Integer as Int, None as Nothing, Number as Num, Required, Said, Text as Word};
use super::Kind::{
    Address, Boolean, Choice, Deadband, Integer, IntegerList, Name, NameMap, Number, NumberOrBoolean, Scalar, Table,
    Tables, Text, TextList,
};
use super::{DAY_MS, Key, TableDef, key, refused};

const IN_GATEWAY: &str = "move it into the gateway file, the one given with `-c`";

pub(in crate::config) static MAPPING_FILE: TableDef = TableDef {
    title: "a mapping file",
    keys: &[
        key("modbus", Tables(&MODBUS), Nothing, "", "Modbus lines and endpoints."),
        key("can", Tables(&super::can::CAN), Nothing, "", "CAN interfaces."),
        key("test", Tables(&TEST), Nothing, "", "Run by `fieldgate check` and by nothing else."),
        refused("gateway", "`[gateway]` does not belong in a mapping file", IN_GATEWAY),
        refused("broker", "`[broker]` does not belong in a mapping file", IN_GATEWAY),
        refused("uplink", "`[[uplink]]` does not belong in a mapping file", IN_GATEWAY),
        refused("store", "`[store]` does not belong in a mapping file", IN_GATEWAY),
        refused("status", "`[status]` does not belong in a mapping file", IN_GATEWAY),
        refused("home_assistant", "Home Assistant discovery is not part of this build yet", "remove the table"),
        refused("sparkplug", "Sparkplug B is not part of this build yet", "remove the table"),
        refused(
            "profile",
            "this is a profile, not a mapping file",
            "put it into the folder `profiles` and name it with `profile = \"…\"` in a device",
        ),
    ],
};

pub(in crate::config) static PROFILE_FILE: TableDef = TableDef {
    title: "a profile",
    keys: &[
        key("profile", Table(&PROFILE), Nothing, "", "Which device this is."),
        key("point", Tables(&POINT), Nothing, "", "Its points."),
        key("test", Tables(&PROFILE_TEST), Nothing, "", "Tests of the profile."),
    ],
};

static PROFILE: TableDef = TableDef {
    title: "[profile]",
    keys: &[
        key("name", Text, Required, "\"SDM120-Modbus\"", "The device's name."),
        key("manufacturer", Text, Required, "\"Eastron\"", "Who makes it."),
        key("source", Text, Required, "\"the manual's title and edition\"", "The manual that the points are from."),
    ],
};

static MODBUS: TableDef = TableDef {
    title: "[[modbus]]",
    keys: &[
        key("name", Name, Required, "\"rs485\"", "The bus's name, unique over all files."),
        key("serial", Text, Nothing, "\"/dev/ttyUSB0\"", "A serial line. Exactly one of the four transports."),
        key("tcp", Text, Nothing, "\"10.0.0.7:502\"", "Modbus TCP; port 502 where none is given."),
        key("rtu_over_tcp", Text, Nothing, "\"10.0.0.8:4001\"", "RTU frames through a serial server."),
        key("ascii_over_tcp", Text, Nothing, "\"10.0.0.8:4002\"", "ASCII frames through a serial server."),
        key("tls", Table(&BUS_TLS), Nothing, "", "Modbus/TCP Security, beside tcp. Left out: no TLS."),
        key("baud", Integer(300, 4_000_000), Int(19_200), "19200", "Bits a second of the serial line."),
        key("framing", Choice(&["rtu", "ascii"]), Word("rtu"), "\"rtu\"", "Frames on the serial line."),
        key("parity", Choice(&["none", "even", "odd"]), Word("even"), "\"even\"", "Of the serial line."),
        key("stop_bits", Integer(1, 2), Said("1; 2 with parity none"), "1", "Of the serial line."),
        key("rs485", Boolean, Flag(false), "false", "The kernel drives RTS (TIOCSRS485)."),
        key(
            "timeout_ms",
            Integer(1, 60_000),
            Said("300 on a line, 1000 on TCP"),
            "300",
            "From the end of a request to the start of its answer.",
        ),
        key("retries", Integer(0, 20), Int(1), "1", "Further tries before a request has failed."),
        key("max_gap", Integer(0, 124), Int(16), "16", "Registers that one read may skip over."),
        key("turnaround_ms", Integer(0, 10_000), Int(0), "0", "Quiet time after an answer, beside the 3.5 characters."),
        key("max_in_flight", Integer(1, 16), Int(1), "1", "Requests under way at once on a Modbus TCP connection."),
        key("device", Tables(&DEVICE), Nothing, "", "The units on the bus."),
    ],
};

static BUS_TLS: TableDef = TableDef {
    title: "tls of a bus",
    keys: &[
        key("ca", Text, Required, "\"ca.pem\"", "Whom to trust, PEM, relative to this file."),
        key("cert", Text, Nothing, "\"client.pem\"", "The certificate to show, PEM."),
        key("key", Text, Nothing, "\"client.key\"", "Its private key, PEM."),
    ],
};

static DEVICE: TableDef = TableDef {
    title: "[[modbus.device]]",
    keys: &[
        key("name", Name, Required, "\"meter-1\"", "The device's name, unique over all files."),
        key("unit", Integer(0, 255), Int(1), "1", "The unit id: 1 to 247 on a line, 0 to 255 on TCP."),
        key("profile", Text, Nothing, "\"eastron-sdm120\"", "A file in the folder `profiles`, or a built-in one."),
        key(
            "topic",
            Text,
            Word("{gateway}/{device}/{point}"),
            "\"plant/{gateway}/{device}/{point}\"",
            "Where its points are published; {gateway}, {bus}, {device} and {point} are filled in.",
        ),
        key("interval_ms", Integer(1, DAY_MS), Int(1_000), "1000", "How often its points are read."),
        key("max_registers", Integer(1, 125), Int(125), "125", "The most registers that one request may ask for."),
        key("point", Tables(&POINT), Nothing, "", "Its points, beside the profile's or over them."),
    ],
};

pub(in crate::config) static POINT: TableDef = TableDef {
    title: "[[modbus.device.point]]",
    keys: &[
        key("name", Name, Required, "\"voltage\"", "The point's name, unique in its device."),
        address("coil", NO_BASE, "Zero-based address of a coil. Exactly one of coil, discrete, input, holding."),
        address("discrete", 100_001, "Zero-based address of a discrete input."),
        address("input", 300_001, "Zero-based address of an input register (a manual's 30001 is 0)."),
        address("holding", 400_001, "Zero-based address of a holding register (a manual's 40001 is 0)."),
        key(
            "type",
            Choice(&["bool", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64", "bcd16", "bcd32", "string"]),
            Said("bool for coil and discrete, u16 for registers"),
            "\"f32\"",
            "What the registers hold.",
        ),
        key("length", Integer(1, 125), Nothing, "8", "Registers of a string, two characters each."),
        key(
            "order",
            Choice(&["abcd", "cdab", "badc", "dcba"]),
            Word("abcd"),
            "\"abcd\"",
            "abcd big endian; cdab words swapped; badc bytes swapped within words; dcba little endian.",
        ),
        key(
            "bits",
            Text,
            Nothing,
            "\"0..3\"",
            "A bit field of an integer, both ends included, bit 0 the least significant.",
        ),
        key(
            "not_available",
            Integer(i64::MIN, i64::MAX),
            Nothing,
            "0x8000",
            "The raw integer that the device sends where it has no value: published as the fault not_available.",
        ),
        key("scale", Number, Num(1.0), "0.1", "value = raw * scale + offset."),
        key("offset", Number, Num(0.0), "-40", "value = raw * scale + offset."),
        key("decimals", Integer(0, 9), Nothing, "1", "Digits after the point. Left out: as many as it has."),
        key("unit", Text, Nothing, "\"V\"", "Unit of the value, in the payload."),
        key(
            "map",
            NameMap,
            Nothing,
            "{ 0 = \"off\", 1 = \"on\" }",
            "Names for integers; one without a name stays a number.",
        ),
        key("interval_ms", Integer(1, DAY_MS), Said("the device's"), "500", "How often it is read."),
        key(
            "report",
            Choice(&["always", "change"]),
            Word("always"),
            "\"change\"",
            "always: every poll is published; change: only another value.",
        ),
        key(
            "deadband",
            Deadband,
            Nothing,
            "0.5",
            "With report = \"change\": how far from the value published last; a number or \"2%\".",
        ),
        key("heartbeat_ms", Integer(1, DAY_MS), Nothing, "60000", "At least this often even when unchanged."),
        key("min_interval_ms", Integer(0, DAY_MS), Int(0), "1000", "Publish no more often than this."),
        key("qos", Integer(0, 2), Int(1), "1", "QoS that its samples are published with."),
        key(
            "retain",
            Boolean,
            Flag(true),
            "false",
            "Whether brokers keep its last sample, for those who subscribe later.",
        ),
        key(
            "payload",
            Choice(&["json", "value"]),
            Word("json"),
            "\"value\"",
            "JSON with time and unit, or the bare value.",
        ),
        key("write", Table(&WRITE), Nothing, "", "Limits on commands. Left out: the point cannot be written."),
    ],
};

const NO_BASE: i64 = i64::MAX;

/// `base`: where manuals with six digits begin to count; coils have none.
const fn address(name: &'static str, base: i64, doc: &'static str) -> Key {
    key(name, Address(base), Nothing, "", doc)
}

static WRITE: TableDef = TableDef {
    title: "write of a point",
    keys: &[
        key("min", Number, Nothing, "0", "The least value. Left out: what the type holds."),
        key("max", Number, Nothing, "900", "The greatest value. Left out: what the type holds."),
        key("max_step", Number, Nothing, "50", "The most that one command may move the value. Left out: no limit."),
        key("ttl_ms", Integer(1, DAY_MS), Int(5_000), "5000", "A command older than this is not carried out."),
        key("readback", Boolean, Flag(false), "true", "Read the point after the write, and tell the value."),
        key("min_interval_ms", Integer(0, DAY_MS), Int(0), "1000", "The shortest time between two writes."),
        key(
            "write_equal",
            Boolean,
            Flag(false),
            "true",
            "Write a value that equals the one read last; otherwise the device is asked, and left alone where it holds it.",
        ),
        key("fail_safe", NumberOrBoolean, Nothing, "0", "Written when no command has come for fail_safe_after_ms."),
        key("fail_safe_after_ms", Integer(1, DAY_MS), Nothing, "30000", "How long without a command."),
        key(
            "function",
            Choice(&["auto", "multiple", "mask", "read_write"]),
            Word("auto"),
            "\"multiple\"",
            "auto: function 5, 6 or 16; multiple: 15 or 16; mask: 22, a bit field; read_write: 23.",
        ),
    ],
};

static TEST: TableDef = TableDef {
    title: "[[test]]",
    keys: &[
        key("name", Text, Required, "\"230 volts\"", "What the test shows."),
        key("bus", Text, Said("the bus of the device"), "\"rs485\"", "The bus that brings it."),
        key("registers", Table(&TEST_REGISTERS), Nothing, TEST_EXAMPLE, "What a Modbus device answers."),
        key(
            "expect",
            Tables(&TEST_EXPECT),
            Required,
            "[ { topic = \"…\", value = 230.1 } ]",
            "What must be published.",
        ),
        key("frame", Text, Nothing, "\"3E9#00002EE0\"", "A CAN frame in candump's notation, in place of registers."),
        key(
            "frames",
            TextList,
            Nothing,
            "[\"7E8#1014490201314434\", \"7E8#2147503030523535\", \"7E8#2242313233343536\"]",
            "Several CAN frames, one after the other: an answer or a message in parts.",
        ),
    ],
};

const TEST_EXAMPLE: &str = "{ device = \"meter-1\", input = 0, words = [0x4366, 0x0000] }";

static TEST_REGISTERS: TableDef = TableDef {
    title: "registers of a test",
    keys: &[
        key("device", Text, Required, "\"meter-1\"", "The device that answers."),
        COIL,
        DISCRETE,
        INPUT,
        HOLDING,
        WORDS,
    ],
};

static TEST_EXPECT: TableDef = TableDef {
    title: "expect of a test",
    keys: &[
        key("topic", Text, Required, "\"pi-1/meter-1/voltage\"", "The topic published to; {gateway} is filled in."),
        VALUE,
        FAULT,
    ],
};

static PROFILE_TEST: TableDef = TableDef {
    title: "[[test]] of a profile",
    keys: &[
        key("name", Text, Required, "\"230 volts\"", "What the test shows."),
        key(
            "registers",
            Table(&PROFILE_TEST_REGISTERS),
            Required,
            "{ input = 0, words = [0x4366, 0x0000] }",
            "What the device answers.",
        ),
        key(
            "expect",
            Tables(&PROFILE_TEST_EXPECT),
            Required,
            "[ { point = \"voltage\", value = 230.1 } ]",
            "What must be published.",
        ),
    ],
};

static PROFILE_TEST_REGISTERS: TableDef =
    TableDef { title: "registers of a test", keys: &[COIL, DISCRETE, INPUT, HOLDING, WORDS] };

static PROFILE_TEST_EXPECT: TableDef = TableDef {
    title: "expect of a test",
    keys: &[key("point", Text, Required, "\"voltage\"", "The point published."), VALUE, FAULT],
};

const COIL: Key = address("coil", NO_BASE, "First coil. Exactly one of coil, discrete, input, holding.");
const DISCRETE: Key = address("discrete", 100_001, "First discrete input.");
const INPUT: Key = address("input", 300_001, "First input register.");
const HOLDING: Key = address("holding", 400_001, "First holding register.");
const WORDS: Key =
    key("words", IntegerList(0, 65_535), Required, "[0x4366, 0x0000]", "The registers from there on; bits as 0 and 1.");
const VALUE: Key = key("value", Scalar, Nothing, "230.1", "The value in the payload; either this or `fault`.");
const FAULT: Key = key("fault", Text, Nothing, "\"not_available\"", "The fault in the payload, in place of a value.");
