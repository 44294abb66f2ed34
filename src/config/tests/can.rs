//! `[[can]]`: what is right compiles, its tests run, and what is wrong is said.

use std::time::Duration;

use super::*;
use crate::can::spec::{BusSpec, CanPoint, FrameMatch, Source};
use crate::clock::Now;
use crate::config::plan::DriverSpec;
use crate::mapping::rule::Kind;

const DBC: &str = r#"VERSION ""

NS_ :

BS_:

BU_: ECU

BO_ 1001 VehicleSpeed: 8 ECU
 SG_ Speed : 23|16@0+ (0.01,0) [0|250] "km/h" Vector__XXX
 SG_ Gear : 0|3@1+ (1,0) [0|0] "" Vector__XXX
 SG_ Beyond : 60|8@1+ (1,0) [0|0] "" Vector__XXX

BO_ 1002 Long: 12 ECU
 SG_ Far : 80|8@1+ (1,0) [0|0] "" Vector__XXX

BO_ 512 FanCommand: 3 ECU
 SG_ FanDuty : 0|8@1+ (0.5,0) [0|100] "%" Vector__XXX

VAL_ 1001 Gear 0 "neutral" 1 "first" ;
"#;

const CAN: &str = "[[can]]\nname = 'v'\ninterface = 'can0'\n";
const WITH_DBC: &str = "[[can]]\nname = 'v'\ninterface = 'can0'\ndbc = 'v.dbc'\n";

fn with_dbc(mapping: &str) -> Memory {
    files("", mapping).with("mappings/v.dbc", DBC)
}

fn right(mapping: &str) -> plan::Plan {
    let outcome = with_dbc(mapping).compile();
    assert_eq!(lines(&outcome), Vec::<String>::new());
    outcome.plan.unwrap()
}

fn can(plan: &plan::Plan) -> &BusSpec {
    let DriverSpec::Can(spec) = &plan.buses[0].driver else { panic!("{plan:?}") };
    spec
}

fn point(plan: &plan::Plan, at: usize) -> &CanPoint {
    &can(plan).points[at]
}

#[test]
fn the_design_files_example_reads_120_km_per_hour_with_and_without_a_dbc_file() {
    let plan = right(&format!(
        "{WITH_DBC}topic = 'car/{{gateway}}/{{signal}}'
[[can.signal]]
message = 'VehicleSpeed'
signal = 'Speed'
min_interval_ms = 100
timeout_ms = 1000
[[can.signal]]
name = 'speed'
id = 0x3E9
start_bit = 23
length = 16
byte_order = 'big'
scale = 0.01
unit = 'km/h'
[[test]]
name = '120 km/h'
bus = 'v'
frame = '3E9#00002EE0'
expect = [ {{ topic = 'car/{{gateway}}/speed', value = 120.0 }}, {{ topic = 'car/{{gateway}}/Speed', value = 120.0 }} ]
"
    ));
    assert_eq!(crate::check::failed_tests(&plan, Now::read()), Vec::<String>::new());
    assert_eq!(point(&plan, 0).min_interval, Duration::from_millis(100));
    assert_eq!(point(&plan, 0).timeout, Some(Duration::from_secs(1)));
    assert_eq!(plan.buses[0].rules[0].unit.as_deref(), Some("km/h"));
    let broken = with_dbc(&format!(
        "{CAN}[[can.signal]]\nname = 's'\nid = 1\nstart_bit = 0\nlength = 8\n[[test]]\nname = 't'\nframe = '001#05'\nexpect = [ {{ topic = '{{gateway}}/v/s', value = 6 }} ]"
    ));
    assert_eq!(crate::check::failed_tests(&broken.compile().plan.unwrap(), Now::read()).len(), 1);
}

#[test]
fn a_whole_message_is_taken_and_what_is_left_out_of_it_is_not() {
    let plan = right(&format!("{WITH_DBC}[[can.signal]]\nmessage = 'VehicleSpeed'\nsignal = '*'"));
    let names: Vec<_> = can(&plan).points.iter().map(|point| &*point.name).collect();
    assert_eq!(names, ["Speed", "Gear"]);
    assert_eq!(plan.buses[0].rules[1].map[&1].as_ref(), "first");
    assert_eq!(&*plan.buses[0].rules[1].topic, "pi-1/v/Gear");
}

#[test]
fn requests_groups_and_commands_compile() {
    let plan = right(&format!(
        "{WITH_DBC}[[can.request]]
name = 'vin'
send = 0x7DF
receive = 0x7E8
request = '09 02'
answer = {{ offset = 3, type = 'string' }}
[[can.signal]]
name = 'lorry'
pgn = 65265
start_bit = 8
length = 16
[[can.command]]
name = 'fan'
message = 'FanCommand'
signal = 'FanDuty'
cycle_ms = 100
write = {{ min = 0, max = 100, ttl_ms = 1000, fail_safe = 0, fail_safe_after_ms = 5000 }}
"
    ));
    let Source::Signal(lorry) = &point(&plan, 0).source else { panic!() };
    assert_eq!(lorry.from, FrameMatch::Pgn { pgn: 65265, source: None });
    let Source::Request(vin) = &point(&plan, 1).source else { panic!() };
    assert_eq!(&*vin.request, [9, 2]);
    assert_eq!(plan.buses[0].rules[1].kind, Kind::Text { bytes: 4095 });
    let Source::Command(fan) = &point(&plan, 2).source else { panic!() };
    assert_eq!((fan.length, fan.cycle), (3, Some(Duration::from_millis(100))));
    let write = plan.buses[0].rules[2].write.as_ref().unwrap();
    assert_eq!((write.max, write.ttl), (Some(100.0), Duration::from_secs(1)));
    assert_eq!(plan.buses[0].rules[2].scale, 0.5);
}

#[test]
fn the_shipped_files_compile_and_their_tests_pass() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("mappings/can");
    let read = |name| std::fs::read_to_string(folder.join(name)).unwrap();
    for name in ["obd2.toml", "j1939.toml", "vehicle.toml"] {
        let outcome = files("", &read(name)).with("mappings/vehicle.dbc", &read("vehicle.dbc")).compile();
        assert_eq!(lines(&outcome), Vec::<String>::new(), "{name}");
        assert_eq!(crate::check::failed_tests(&outcome.plan.unwrap(), Now::read()), Vec::<String>::new());
    }
}

#[test]
fn what_is_wrong_is_said_where_it_stands() {
    let cases: &[(&str, &str)] = &[
        ("message = 'VehicleSped'\nsignal = 'Speed'", "6:11: error: no message `VehicleSped` (did you mean"),
        (
            "message = 'VehicleSpeed'\nsignal = 'Beyond'",
            "7:10: error: no signal `Beyond` in `VehicleSpeed`: line 12 of the DBC",
        ),
        ("message = 'VehicleSpeed'", "5:1: error: `message` stands without `signal`"),
        ("message = 'VehicleSpeed'\nsignal = 'Speed'\nid = 1", "8:1: error: `id` is in the DBC file"),
        ("name = 's'\nid = 0x800\nstart_bit = 0\nlength = 8", "7:6: error: `id` is 0x800, which has more than 11 bits"),
        ("name = 's'\nstart_bit = 0\nlength = 8", "5:1: error: which frame carries it is not said"),
        (
            "name = 's'\nid = 1\nstart_bit = 0\nlength = 16\nfloat = true",
            "9:10: error: no such signal: a float has 32 or 64",
        ),
        ("name = 's'\nid = 1\nlength = 16", "5:1: error: `start_bit` is missing"),
        ("message = 'VehicleSpeed'\nsignal = '*'\nname = 'x'", "8:1: error: `name` stands beside `signal = \"*\"`"),
        (
            "message = 'VehicleSpeed'\nsignal = 'Speed'\nsource = 3",
            "8:1: error: `source` stands at `VehicleSpeed`, which",
        ),
        ("message = 'Long'\nsignal = 'Far'", "6:11: error: `Long` is a CAN FD message, and the bus has no `fd"),
        ("name = 's'\nid = 1\nstart_bit = 0\nlength = 8\nsource = 3", "10:1: error: `source` belongs to `pgn`"),
        ("name = 's'\nid = 1\nstart_bit = 60\nlength = 8", "8:13: error: the signal ends in byte 9 of the frame"),
        ("name = 's'\npgn = 59905\nstart_bit = 0\nlength = 8", "7:7: error: parameter group 59905 names a destination"),
    ];
    for (rest, expected) in cases {
        let outcome = with_dbc(&format!("{WITH_DBC}[[can.signal]]\n{rest}\n")).compile();
        let found = lines(&outcome);
        assert!(found.iter().any(|line| line.starts_with(&format!("mappings/m.toml:{expected}"))), "{rest}: {found:?}");
        assert!(outcome.plan.is_none());
    }
    let missing = files("", &format!("{WITH_DBC}[[can.signal]]\nmessage = 'A'\nsignal = 'B'\n")).compile();
    assert_lines(&missing, &["mappings/m.toml:4:7: error: `dbc` names /here/mappings/v.dbc: it cannot be read"]);
}

#[test]
fn an_interface_a_request_and_a_long_frame_that_cannot_be_are_told() {
    let cases: &[(&str, &str)] = &[
        (
            "[[can]]\nname = 'v'\ninterface = 'a-name-that-is-too-long'\n",
            "3:13: error: `interface` is \"a-name-that-is-too-long\", which no interface",
        ),
        (
            "[[can]]\nname = 'v'\ninterface = 'can0'\n[[can.request]]\nname = 'r'\nsend = 1\nreceive = 2\nrequest = '01 D'\nanswer = { offset = 1 }\n",
            "8:11: error: `request` is no list of hexadecimal bytes",
        ),
        (
            "[[can]]\nname = 'v'\ninterface = 'can0'\n[[can.command]]\nname = 'c'\nid = 1\nbytes = 12\nstart_bit = 80\nlength = 8\nwrite = {}\n",
            "7:9: error: a frame of 12 bytes is CAN FD, and the bus has no `fd = true`",
        ),
    ];
    for (mapping, expected) in cases {
        let found = lines(&files("", mapping).compile());
        assert!(found[0].starts_with(&format!("mappings/m.toml:{expected}")), "{found:?}");
    }
    for request in ["01 0D", "010D", " 01  0d "] {
        let plan = right(&format!(
            "{CAN}[[can.request]]\nname = 'r'\nsend = 1\nreceive = 2\nrequest = '{request}'\nanswer = {{ offset = 1 }}\n"
        ));
        let Source::Request(asked) = &point(&plan, 0).source else { panic!() };
        assert_eq!(&*asked.request, [1, 0x0D]);
    }
}

#[test]
fn a_test_may_bring_several_frames_and_expect_a_fault() {
    let mapping = |test: &str| {
        format!(
            "{CAN}[[can.request]]\nname = 'vin'\nsend = 0x7DF\nreceive = 0x7E8\nrequest = '09 02'\n\
             answer = {{ offset = 3, type = 'string' }}\n\
             [[can.signal]]\nname = 'lorry'\npgn = 65265\nstart_bit = 8\nlength = 16\n{test}"
        )
    };
    let vin = "frames = ['7E8#1014490201314434', '7E8#2147503030523535', '7E8#2242313233343536']";
    for (test, failures) in [
        (format!("{vin}\nexpect = [{{ topic = 'pi-1/v/vin', value = '1D4GP00R55B123456' }}]"), 0),
        (format!("{vin}\nexpect = [{{ topic = 'pi-1/v/vin', fault = 'timeout' }}]"), 1),
        (
            "frame = '18FEF100#FFFFFFFFFFFFFFFF'\nexpect = [{ topic = 'pi-1/v/lorry', fault = 'not_available' }]"
                .into(),
            0,
        ),
        ("frame = '18FEF100#FFFFFFFFFFFFFFFF'\nexpect = [{ topic = 'pi-1/v/lorry', fault = 'error' }]".into(), 1),
        ("frame = '18FEF100#FFFFFFFFFFFFFFFF'\nexpect = [{ topic = 'pi-1/v/lorry', value = 1 }]".into(), 1),
    ] {
        let plan = right(&mapping(&format!("[[test]]\nname = 't'\n{test}")));
        assert_eq!(crate::check::failed_tests(&plan, Now::read()).len(), failures, "{test}");
    }
    let wrong = |test: &str| lines(&files("", &mapping(&format!("[[test]]\nname = 't'\n{test}"))).compile());
    let found = wrong("frames = ['7E8#10', '7E8#2']\nexpect = [{ topic = 'pi-1/v/vin', value = 1 }]");
    assert!(found[0].starts_with("mappings/m.toml:17:21: error: this is no frame: column 6"), "{found:?}");
    let found = wrong("frame = '7E8#10'\nexpect = [{ topic = 'pi-1/v/vin' }]");
    assert!(found[0].contains("error: `value` is missing; add `value`, or `fault"), "{found:?}");
    let found = wrong("frame = '7E8#10'\nframes = []\nexpect = [{ topic = 'pi-1/v/vin', value = 1 }]");
    assert!(found[0].contains("`frame` and `frames` stand together"), "{found:?}");
}
