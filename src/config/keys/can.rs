//! The keys of `[[can]]`.

use super::Default::{Boolean as Flag, Integer as Int, None as Nothing, Required, Said, Text as Word};
use super::Kind::{Boolean, Choice, Deadband, Integer, Name, NameMap, Number, NumberOrBoolean, Table, Tables, Text};
use super::{DAY_MS, Key, TableDef, key};

const ID_MAX: i64 = 0x1FFF_FFFF;

pub(super) static CAN: TableDef = TableDef {
    title: "[[can]]",
    keys: &[
        key("name", Name, Required, "\"vehicle\"", "The bus's name, unique over all files."),
        key("interface", Text, Required, "\"can0\"", "The SocketCAN interface, as `ip link` names it."),
        key("dbc", Text, Nothing, "\"vehicle.dbc\"", "A DBC file, relative to this one."),
        key("fd", Boolean, Flag(false), "true", "Hear and send CAN FD frames too."),
        key(
            "topic",
            Text,
            Word("{gateway}/{bus}/{signal}"),
            "\"car/{gateway}/{signal}\"",
            "Where its signals are published; {gateway}, {bus} and {signal} are filled in.",
        ),
        key("signal", Tables(&SIGNAL), Nothing, "", "What is heard."),
        key("request", Tables(&REQUEST), Nothing, "", "What is asked for by ISO-TP: OBD-II and UDS."),
        key("command", Tables(&COMMAND), Nothing, "", "What is set."),
    ],
};

const NAME: Key = key("name", Name, Said("the DBC signal's"), "\"speed\"", "The point's name.");
const MESSAGE: Key = key("message", Text, Nothing, "\"VehicleSpeed\"", "A message of the DBC file.");
const ID: Key = key("id", Integer(0, ID_MAX), Nothing, "0x3E9", "The frame's identifier, without a DBC file.");
const EXTENDED: Key = key("extended", Boolean, Flag(false), "true", "The identifiers have 29 bits.");
const START_BIT: Key =
    key("start_bit", Integer(0, 14_279), Nothing, "23", "DBC numbering: bit 7 is the first byte's most significant.");
const LENGTH: Key = key("length", Integer(1, 64), Nothing, "16", "Bits of the signal.");
const BYTE_ORDER: Key = key(
    "byte_order",
    Choice(&["little", "big"]),
    Word("little"),
    "\"big\"",
    "little: the start bit is the least significant; big: the most significant.",
);
const SIGNED: Key = key("signed", Boolean, Flag(false), "true", "Two's complement.");
const FLOAT: Key = key("float", Boolean, Flag(false), "true", "IEEE 754, with a length of 32 or 64.");
const SCALE: Key = key("scale", Number, Said("the DBC signal's, else 1"), "0.01", "value = raw * scale + offset.");
const OFFSET: Key = key("offset", Number, Said("the DBC signal's, else 0"), "-40", "value = raw * scale + offset.");
const DECIMALS: Key =
    key("decimals", Integer(0, 9), Nothing, "1", "Digits after the point. Left out: as many as it has.");
const UNIT: Key = key("unit", Text, Said("the DBC signal's"), "\"km/h\"", "Unit of the value, in the payload.");
const MAP: Key =
    key("map", NameMap, Said("the DBC's value table"), "{ 0 = \"off\", 1 = \"on\" }", "Names for integers.");
const REPORT: Key = key(
    "report",
    Choice(&["always", "change"]),
    Word("always"),
    "\"change\"",
    "always: every sample is published; change: only another value.",
);
const DEADBAND: Key =
    key("deadband", Deadband, Nothing, "0.5", "Publish only what is farther than this from the value published last.");
const HEARTBEAT: Key =
    key("heartbeat_ms", Integer(1, DAY_MS), Nothing, "60000", "At least this often even when unchanged.");
const MIN_INTERVAL: Key = key("min_interval_ms", Integer(0, DAY_MS), Int(0), "100", "Publish no more often than this.");
const QOS: Key = key("qos", Integer(0, 2), Int(1), "1", "QoS that its samples are published with.");
const RETAIN: Key =
    key("retain", Boolean, Flag(true), "false", "Whether brokers keep its last sample, for those who subscribe later.");
const PAYLOAD: Key = key(
    "payload",
    Choice(&["json", "value"]),
    Word("json"),
    "\"value\"",
    "JSON with time and unit, or the bare value.",
);

static SIGNAL: TableDef = TableDef {
    title: "[[can.signal]]",
    keys: &[
        NAME,
        MESSAGE,
        key("signal", Text, Nothing, "\"Speed\"", "A signal of the message; \"*\" takes all of them."),
        ID,
        EXTENDED,
        key("pgn", Integer(0, 0x3FFFF), Nothing, "65265", "A J1939 parameter group, in place of id."),
        key("source", Integer(0, 255), Nothing, "0", "Of a J1939 message: from this address only."),
        START_BIT,
        LENGTH,
        BYTE_ORDER,
        SIGNED,
        FLOAT,
        key("timeout_ms", Integer(1, DAY_MS), Nothing, "1000", "Not heard for so long it is stale. Left out: never."),
        SCALE,
        OFFSET,
        DECIMALS,
        UNIT,
        MAP,
        REPORT,
        DEADBAND,
        HEARTBEAT,
        MIN_INTERVAL,
        QOS,
        RETAIN,
        PAYLOAD,
    ],
};

static REQUEST: TableDef = TableDef {
    title: "[[can.request]]",
    keys: &[
        key("name", Name, Required, "\"speed\"", "The point's name."),
        key("send", Integer(0, ID_MAX), Required, "0x7DF", "The identifier to ask with."),
        key("receive", Integer(0, ID_MAX), Required, "0x7E8", "The identifier that answers."),
        EXTENDED,
        key("request", Text, Required, "\"01 0D\"", "Hexadecimal bytes, the service first."),
        key("answer", Table(&ANSWER), Required, "{ offset = 2, type = \"u8\" }", "Where the value is."),
        key("interval_ms", Integer(1, DAY_MS), Int(1_000), "200", "How often it is asked for."),
        key("timeout_ms", Integer(1, 60_000), Int(200), "200", "How long an answer may take."),
        key("padding", Integer(0, 255), Int(0xCC), "0xCC", "What fills the frames up to 8 bytes."),
        SCALE,
        OFFSET,
        DECIMALS,
        UNIT,
        MAP,
        REPORT,
        DEADBAND,
        HEARTBEAT,
        MIN_INTERVAL,
        QOS,
        RETAIN,
        PAYLOAD,
    ],
};

static ANSWER: TableDef = TableDef {
    title: "answer of a request",
    keys: &[
        key("offset", Integer(0, 4_094), Required, "2", "Bytes from the answer's beginning, its service id included."),
        key(
            "type",
            Choice(&["u8", "i8", "u16", "i16", "u24", "u32", "i32", "u64", "i64", "f32", "f64", "string"]),
            Word("u8"),
            "\"u16\"",
            "What stands there.",
        ),
        key("order", Choice(&["big", "little"]), Word("big"), "\"big\"", "Which byte comes first."),
        key("length", Integer(1, 4_095), Nothing, "17", "Bytes of a string. Left out: up to the end."),
    ],
};

static COMMAND: TableDef = TableDef {
    title: "[[can.command]]",
    keys: &[
        NAME,
        MESSAGE,
        key("signal", Text, Nothing, "\"FanDuty\"", "A signal of the message."),
        ID,
        EXTENDED,
        key("bytes", Integer(0, 64), Int(8), "8", "Bytes of the message, without a DBC file."),
        START_BIT,
        LENGTH,
        BYTE_ORDER,
        SIGNED,
        FLOAT,
        key("cycle_ms", Integer(0, DAY_MS), Int(0), "100", "0: sent once a command; else repeated at this interval."),
        SCALE,
        OFFSET,
        UNIT,
        MAP,
        key("write", Table(&WRITE), Required, "{ min = 0, max = 100 }", "Limits on commands."),
    ],
};

static WRITE: TableDef = TableDef {
    title: "write of a command",
    keys: &[
        key("min", Number, Nothing, "0", "The least value. Left out: what the signal holds."),
        key("max", Number, Nothing, "100", "The greatest value. Left out: what the signal holds."),
        key("max_step", Number, Nothing, "50", "The most that one command may move the value. Left out: no limit."),
        key("ttl_ms", Integer(1, DAY_MS), Int(5_000), "1000", "A command older than this is not carried out."),
        key("min_interval_ms", Integer(0, DAY_MS), Int(0), "1000", "The shortest time between two writes."),
        key("write_equal", Boolean, Flag(true), "true", "Send a value that equals the one known last."),
        key("fail_safe", NumberOrBoolean, Nothing, "0", "Sent when no command has come for fail_safe_after_ms."),
        key("fail_safe_after_ms", Integer(1, DAY_MS), Nothing, "5000", "How long without a command."),
    ],
};
