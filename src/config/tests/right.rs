//! What is right compiles, with every default filled in.

use std::time::Duration;

use super::*;
use crate::config::plan::DriverSpec;
use crate::mapping::rule::{Deadband, Kind, Report};
use crate::modbus::spec::{BusSpec, DataType, Parity, Table, Transport};
use crate::sample::Value;

fn right(files: &Memory) -> plan::Plan {
    let outcome = files.compile();
    assert_eq!(lines(&outcome), Vec::<String>::new());
    outcome.plan.unwrap()
}

fn modbus(plan: &plan::Plan, index: usize) -> &BusSpec {
    let DriverSpec::Modbus(spec) = &plan.buses[index].driver else { panic!("{plan:?}") };
    spec
}

fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn the_shipped_files_have_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let gateway_file = folder.path().join("fieldgate.toml");
    std::fs::copy(shipped("systemd/fieldgate.toml"), &gateway_file).unwrap();
    let outcome = load(&gateway_file);
    assert!(outcome.plan.is_some(), "{:?}", lines(&outcome));
    assert_eq!(outcome.diagnostics.len(), 1, "{:?}", lines(&outcome));
    assert!(outcome.diagnostics[0].message.starts_with("no mapping files match"));

    std::fs::create_dir(folder.path().join("mappings")).unwrap();
    std::fs::copy(shipped("mappings/boiler-room.toml"), folder.path().join("mappings/boiler-room.toml")).unwrap();
    let outcome = load(&gateway_file);
    assert_eq!(lines(&outcome), Vec::<String>::new());
    let plan = outcome.plan.unwrap();
    assert_eq!(plan.buses.len(), 2);
    assert_eq!(plan.tests.len(), 1);
}

#[test]
fn every_shipped_profile_is_built_in_and_compiles_with_its_tests() {
    let mut names: Vec<String> = std::fs::read_dir(shipped("mappings/profiles"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, SHIPPED_PROFILES.iter().map(|profile| profile.name).collect::<Vec<_>>());
    for profile in SHIPPED_PROFILES {
        let outcome = compile_profile(profile.name, profile.toml);
        assert_eq!(lines(&outcome), Vec::<String>::new());
        let plan = outcome.plan.unwrap();
        assert!(!plan.tests.is_empty(), "{} has no test", profile.name);
        assert!(!plan.buses[0].rules.is_empty());
    }
}

#[test]
fn without_mappings_the_example_beside_is_named() {
    let outcome = Memory::default().with("gw.toml", "").with("mappings/boiler.toml.example", "").compile();
    let said = lines(&outcome).concat();
    assert!(
        said.ends_with("cp /here/mappings/boiler.toml.example /here/mappings/boiler.toml, and edit it")
            || said.ends_with("cp mappings/boiler.toml.example mappings/boiler.toml, and edit it"),
        "{said}"
    );
}

#[test]
fn an_empty_gateway_file_is_every_default() {
    let outcome = Memory::default().with("gw.toml", "").compile();
    assert_eq!(
        lines(&outcome),
        [
            "gw.toml:1:1: warning: no mapping files match `mappings/*.toml` in /here/; nothing is polled until there is one"
        ]
    );
    let plan = outcome.plan.unwrap();
    assert_eq!(&*plan.gateway.id, "pi-1");
    assert_eq!(plan.gateway.state_dir, Path::new("/here/state"));
    assert_eq!(plan.store.commit_window, Duration::from_millis(250));
    assert!(plan.broker.is_none() && plan.uplinks.is_empty() && plan.status.is_none());
}

/// The gateway file of the design, without what this build does not have.
const GATEWAY: &str = r##"
[gateway]
id = "pi-1"
mappings = ["mappings/*.toml"]
state_dir = "/var/lib/fieldgate"

[broker]
max_connections = 1000
max_keep_alive_secs = 0
max_packet_bytes = 262144
max_queued_bytes = 67108864
[[broker.listener]]
bind = "0.0.0.0:1883"
[[broker.listener]]
bind = "0.0.0.0:8883"
tls = { cert = "server.pem", key = "server.key", client_ca = "ca.pem" }
[[broker.listener]]
bind = "0.0.0.0:9001"
transport = "websocket"
[[broker.user]]
name = "dashboard"
password_hash = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$wvbv0eHQZFqpFMrVWUmJSsbfJbmpDsvCECGDPVK4U4E"
subscribe = ["plant/#", "own/{user}/{client}/#"]
publish = ["plant/+/+/set"]
deny = ["plant/secret/#"]
[broker.anonymous]
subscribe = ["plant/public/#"]
publish = []

[[uplink]]
name = "cloud"
url = "mqtts://broker.example.com"
username = "pi-1"
password_file = "cloud.password"
ca = "ca.pem"
client_cert = "pi.pem"
client_key = "pi.key"
forward = ["plant/#"]
accept = ["plant/{gateway}/+/+/set"]

[[uplink]]
name = "web"
url = "wss://[2001:db8::1]:8443/mqtt/v1"
version = 4
max_age_secs = 0
forward = ["plant/#"]

[store]
commit_ms = 100

[status]
bind = "[::1]:8080"
"##;

const MAPPING: &str = r#"
[[modbus]]
name = "rs485"
serial = "/dev/ttyUSB0"
parity = "none"

[[modbus.device]]
name = "meter-1"
unit = 1
profile = "eastron-sdm120"
topic = "plant/{gateway}/{bus}/{device}/{point}"

[[modbus.device.point]]
name = "current"
interval_ms = 500
report = "change"
deadband = "2%"

[[modbus.device.point]]
name = "voltage"
input = 2
type = "i32"
order = "cdab"

[[modbus.device.point]]
name = "setpoint"
holding = 0x64
bits = "4..7"
map = { 0 = "off", 1 = "on" }
write = { min = 0, max = 15, fail_safe = 0, fail_safe_after_ms = 30000 }

[[modbus]]
name = "plc"
tcp = "10.0.0.7"

[[modbus.device]]
name = "plc-1"
unit = 255

[[modbus.device.point]]
name = "door"
discrete = 65535

[[modbus.device.point]]
name = "label"
holding = 65528
type = "string"
length = 8

[[test]]
name = "on"
registers = { device = "meter-1", holding = 100, words = [0x10] }
expect = [{ topic = "plant/{gateway}/rs485/meter-1/setpoint", value = "on" }]
"#;

fn of_the_design() -> Memory {
    ["server.pem", "server.key", "ca.pem", "cloud.password", "pi.pem", "pi.key"].iter().fold(
        files(GATEWAY, MAPPING),
        |files, name| {
            let text = match name.rsplit_once('.') {
                Some((_, "pem")) => TEST_CERTIFICATE,
                Some((_, "key")) => TEST_KEY,
                _ => "-",
            };
            files.with(name, text)
        },
    )
}

#[test]
fn the_design_s_gateway_file_compiles() {
    let plan = right(&of_the_design());
    let broker = plan.broker.unwrap();
    assert_eq!(broker.listeners.len(), 3);
    assert_eq!(broker.listeners[1].tls.as_ref().unwrap().cert, Path::new("/here/server.pem"));
    assert_eq!(broker.limits.max_keep_alive, None);
    assert_eq!(broker.users[0].access.subscribe, ["plant/#", "own/{user}/{client}/#"]);
    let [cloud, web] = plan.uplinks.as_slice() else { panic!() };
    assert_eq!((cloud.url.port, cloud.url.path.as_str(), cloud.qos as u8), (8883, "", 1));
    assert_eq!(cloud.accept, ["plant/pi-1/+/+/set"]);
    assert_eq!(cloud.password_file.as_deref(), Some(Path::new("/here/cloud.password")));
    assert_eq!(cloud.queue.max_age_secs, Some(2_592_000));
    assert_eq!((web.url.host.as_str(), web.url.port, web.url.path.as_str()), ("2001:db8::1", 8443, "/mqtt/v1"));
    assert_eq!((web.client_id.as_str(), web.queue.max_age_secs), ("pi-1", None));
    assert_eq!(plan.status.unwrap().port(), 8080);
}

#[test]
fn a_systemd_credential_comes_before_a_file() {
    let environment = Environment { credentials_directory: Some("/run/cred".into()), ..environment() };
    let files = of_the_design().with("/run/cred/cloud.password", "-");
    let plan = compile(Path::new("gw.toml"), &environment, &files).plan.unwrap();
    assert_eq!(plan.uplinks[0].password_file.as_deref(), Some(Path::new("/run/cred/cloud.password")));
}

#[test]
fn buses_get_the_defaults_of_their_transport() {
    let plan = right(&of_the_design());
    let (line, tcp) = (modbus(&plan, 0), modbus(&plan, 1));
    let places = of_the_design().compile().bus_places;
    assert_eq!(places.iter().map(|place| place.line).collect::<Vec<_>>(), [2, 32]);
    let Transport::Serial(serial) = &line.transport else { panic!() };
    assert_eq!((serial.baud, serial.parity, serial.stop_bits), (19_200, Parity::None, 2));
    assert_eq!((line.timeout, line.retries, line.max_gap), (Duration::from_millis(300), 1, 16));
    assert_eq!(tcp.timeout, Duration::from_secs(1));
    assert!(matches!(&tcp.transport, Transport::Tcp { address, tls: None } if address.port == 502));
    assert_eq!((tcp.points[0].table, tcp.points[0].data), (Table::Discrete, DataType::Bool));
    assert_eq!((tcp.points[1].address, tcp.points[1].data), (65_528, DataType::Text { registers: 8 }));
}

#[test]
fn rules_stand_in_the_order_of_the_points_and_have_their_topics() {
    let plan = right(&of_the_design());
    for (index, bus) in plan.buses.iter().enumerate() {
        let spec = modbus(&plan, index);
        assert_eq!(spec.points.len(), bus.rules.len());
        for (point, rule) in spec.points.iter().zip(&bus.rules) {
            assert_eq!((&point.name, &spec.devices[point.device].name), (&rule.point, &rule.device));
        }
    }
    let topic = |bus: usize, point: &str| {
        plan.buses[bus].rules.iter().find(|rule| &*rule.point == point).map(|rule| rule.topic.to_string()).unwrap()
    };
    assert_eq!(topic(0, "frequency"), "plant/pi-1/rs485/meter-1/frequency");
    assert_eq!(topic(1, "door"), "pi-1/plc-1/door");
}

#[test]
fn no_value_is_written_as_the_manual_does_signed_or_not() {
    let none = |types: &str, number: &str| {
        let profile = "[profile]\nname = 'n'\nmanufacturer = 'm'\nsource = 's'\n[[point]]\nname = 'p'\n";
        let point = format!("{profile}holding = 40071\ntype = '{types}'\nnot_available = {number}\n");
        let outcome = compile_profile("p.toml", &point);
        // A profile's addresses are the protocol's, whatever they look like.
        assert_eq!(lines(&outcome), Vec::<String>::new());
        outcome.plan.unwrap().buses[0].rules[0].not_available.clone().unwrap()
    };
    assert_eq!(none("i16", "0x8000"), Value::Int(-32_768));
    assert_eq!(none("i16", "-32768"), Value::Int(-32_768));
    assert_eq!(none("u16", "-1"), Value::Uint(0xFFFF));
    assert_eq!(none("i32", "0x80000000"), Value::Int(i64::from(i32::MIN)));
    assert_eq!(none("u32", "0xFFFFFFFF"), Value::Uint(0xFFFF_FFFF));
    assert_eq!(none("u64", "-1"), Value::Uint(u64::MAX));
    assert_eq!(none("i64", "-1"), Value::Int(-1));
}

#[test]
fn a_point_with_an_address_replaces_the_profile_s_and_one_without_changes_single_keys() {
    let plan = right(&of_the_design());
    let spec = modbus(&plan, 0);
    let find = |name: &str| {
        let at: Vec<usize> = (0..spec.points.len()).filter(|at| &*spec.points[*at].name == name).collect();
        assert_eq!(at.len(), 1, "{name}");
        (&spec.points[at[0]], &plan.buses[0].rules[at[0]])
    };
    let (current, rule) = find("current");
    assert_eq!((current.address, current.data, current.interval), (6, DataType::F32, Duration::from_millis(500)));
    assert_eq!((rule.report, rule.deadband), (Report::Change, Some(Deadband::Percent(2.0))));
    assert_eq!(rule.unit.as_deref(), Some("A"));
    let (voltage, rule) = find("voltage");
    assert_eq!((voltage.address, voltage.data), (2, DataType::I32));
    assert_eq!((rule.unit.as_deref(), rule.decimals), (None, None));
    let (setpoint, rule) = find("setpoint");
    assert_eq!((setpoint.address, rule.kind), (100, Kind::Integer { min: 0, max: 15 }));
    let write = rule.write.as_ref().unwrap();
    assert_eq!((write.ttl, write.readback, write.write_equal), (Duration::from_secs(5), false, false));
    assert!(setpoint.write.is_some());
}

#[test]
fn a_profile_beside_the_mapping_file_comes_before_the_built_in_one() {
    let own = "[profile]\nname = 'n'\nmanufacturer = 'm'\nsource = 's'\n[[point]]\nname = 'only'\ninput = 7\n";
    let mapping =
        "[[modbus]]\nname = 'b'\ntcp = 'h'\n[[modbus.device]]\nname = 'd'\nunit = 1\nprofile = 'eastron-sdm120'\n";
    let plan = right(&files("", mapping).with("mappings/profiles/eastron-sdm120.toml", own));
    assert_eq!(plan.buses[0].rules.len(), 1);
}

#[test]
fn a_test_s_registers_and_expectation_are_taken_as_written() {
    let plan = right(&of_the_design());
    let case = &plan.tests[0];
    assert_eq!(
        case.place,
        format!("mappings/m.toml:{}:1", 1 + MAPPING[..MAPPING.find("[[test]]").unwrap()].matches('\n').count())
    );
    assert_eq!(case.expect[0].topic, "plant/pi-1/rs485/meter-1/setpoint");
    assert_eq!(case.expect[0].reading, Ok("on".into()));
    let plan::Given::Registers { device, table, address, words } = &case.given else { panic!("{case:?}") };
    assert_eq!((*device, *table, *address, words.as_slice()), (0, Table::Holding, 100, [0x10].as_slice()));
}

/// Every table and key that the reader knows, through the schema that is printed from the same tables.
#[test]
fn every_key_of_the_design_s_files_is_in_the_schema() {
    fn walk(value: &toml::Value, schema: &serde_json::Value, path: &str) {
        if let (Some(table), Some(properties)) = (value.as_table(), schema.get("properties")) {
            for (key, value) in table {
                assert!(properties[key].is_object(), "{path}.{key}");
                walk(value, &properties[key], &format!("{path}.{key}"));
            }
        }
        for item in value.as_array().into_iter().flatten() {
            walk(item, &schema["items"], path);
        }
    }
    walk(&toml::from_str(GATEWAY).unwrap(), &schema(SchemaOf::Gateway), "gateway");
    let mut mapping = schema(SchemaOf::Mapping);
    // A profile's tests are others.
    mapping["properties"]["test"] = mapping["else"]["properties"]["test"].clone();
    walk(&toml::from_str(MAPPING).unwrap(), &mapping, "mapping");
    assert_eq!(schema(SchemaOf::Gateway)["properties"]["store"]["properties"]["commit_ms"]["default"], 250);
    let modbus = &schema(SchemaOf::Mapping)["properties"]["modbus"]["items"];
    assert_eq!(modbus["required"], serde_json::json!(["name"]));
    assert_eq!(modbus["additionalProperties"], false);
}

/// What a message proposes to write must not be refused in its turn.
#[test]
fn every_key_s_example_and_default_is_one_that_it_takes() {
    fn walk(def: &'static keys::TableDef) {
        for key in def.keys {
            if let keys::Kind::Table(inner) | keys::Kind::Tables(inner) = key.kind {
                walk(inner);
            }
            let default = match key.default {
                keys::Default::Integer(number) => number.to_string(),
                keys::Default::Number(number) => format!("{number:?}"),
                keys::Default::Text(text) => format!("{text:?}"),
                keys::Default::Boolean(_)
                | keys::Default::Required
                | keys::Default::None
                | keys::Default::Said(_)
                | keys::Default::Texts(_) => String::new(),
            };
            for value in [key.example, &default] {
                if value.is_empty() {
                    continue;
                }
                let report = diagnostic::Report::default();
                let root = document::parse(&"x".into(), &format!("{} = {value}", key.name), &report).unwrap();
                reader::Table::open(&root, def, &report);
                let found = report.into_sorted(&[]);
                let about_it = found.iter().find(|found| found.place.column > 1);
                assert!(about_it.is_none(), "{} {}: {about_it:?}", def.title, key.name);
            }
            assert_eq!(key.doc.is_empty(), matches!(key.kind, keys::Kind::Refused(..)), "{}", key.name);
        }
    }
    walk(&keys::GATEWAY_FILE);
    walk(&keys::MAPPING_FILE);
    walk(&keys::PROFILE_FILE);
}
