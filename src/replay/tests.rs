use std::path::{Path, PathBuf};
use std::{fs, io};

use proptest::prelude::*;

use super::*;
use crate::config::{Environment, Files, compile};

struct Two {
    mapping: String,
}

impl Files for Two {
    fn read_bytes(&self, path: &Path) -> io::Result<Vec<u8>> {
        let gateway = "[gateway]\nid = 'pi-1'\nmappings = ['m.toml']\nstate_dir = '/nonexistent'\n";
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") if path.ends_with("m.toml") => Ok(self.mapping.clone().into()),
            Some("toml") => Ok(gateway.into()),
            _ => fs::read(path),
        }
    }

    fn is_folder(&self, _: &Path) -> bool {
        false
    }

    fn find(&self, _: &Path, _: &str) -> Result<Vec<PathBuf>, String> {
        Ok(vec!["m.toml".into()])
    }
}

fn replay(mapping: &str) -> Replay {
    let env = Environment { host_name: "pi-1".to_owned(), ..Environment::default() };
    let outcome = compile(Path::new("g.toml"), &env, &Two { mapping: mapping.to_owned() });
    let plan = outcome.plan.unwrap_or_else(|| panic!("{:?}", outcome.diagnostics));
    Replay::new(&plan, Now::read().mono)
}

fn play(replay: &mut Replay) -> Vec<String> {
    let mut out = Vec::new();
    while replay.step(&mut out) {}
    String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
}

fn all(replay: &mut Replay, log: &str) -> Vec<String> {
    let mut told = Vec::new();
    for line in log.lines() {
        replay.line(line.as_bytes()).unwrap();
        told.extend(play(replay));
    }
    replay.end();
    told.extend(play(replay));
    told
}

/// Time of day, topic and value of each line.
fn short(lines: &[String]) -> Vec<String> {
    let each = |line: &String| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let (payload, time) = (&line["payload"], line["time"].as_str().unwrap());
        let value = if payload["fault"].is_string() { &payload["fault"] } else { &payload["value"] };
        format!("{} {} {value}", &time[14..23], line["topic"].as_str().unwrap())
    };
    lines.iter().map(each).collect()
}

const SPEED: &str = "[[can]]\nname = 'car'\ninterface = 'can0'\ntopic = 'car/{signal}'\n\
    [[can.signal]]\nname = 'speed'\nid = 0x3E9\nstart_bit = 23\nlength = 16\nbyte_order = 'big'\nscale = 0.01\nunit = 'km/h'\n";

#[test]
fn a_frame_becomes_the_line_that_would_be_published_at_its_own_time() {
    let told = all(&mut replay(SPEED), "(1436509052.249713) can0 3E9#00002EE0");
    assert_eq!(
        told,
        [
            r#"{"topic":"car/speed","payload":{"value":120,"unit":"km/h","time":"2015-07-10T06:17:32.249Z","boot":"replay","seq":1},"retain":true,"qos":1,"time":"2015-07-10T06:17:32.249Z"}"#
        ]
    );
}

#[test]
fn a_bare_value_is_a_text_and_retain_and_qos_are_told() {
    let mapping = format!("{SPEED}payload = 'value'\nretain = true\nqos = 1\n");
    let told = all(&mut replay(&mapping), "(0.5) car 3E9#00002EE0");
    assert_eq!(
        told,
        [r#"{"topic":"car/speed","payload":"120","retain":true,"qos":1,"time":"1970-01-01T00:00:00.500Z"}"#]
    );
}

#[test]
fn intervals_silence_and_heartbeats_follow_the_log_s_clock() {
    let mapping = format!("{SPEED}min_interval_ms = 100\ntimeout_ms = 1000\n");
    let log = "(10.000) can0 3E9#00000001\n(10.010) can0 3E9#00000002\n(10.020) can0 3E9#00000003\n\
               (13.000) can1 3E9#00000004\n(13.500) can0 3E9#00000005\n(13.510) can0 3E9#00000006\n";
    let mut replayed = replay(&mapping);
    assert_eq!(
        short(&all(&mut replayed, log)),
        [
            "00:10.000 car/speed 0.01",
            "00:10.100 car/speed 0.03",
            "00:11.020 car/speed \"stale\"",
            "00:13.500 car/speed 0.05",
            "00:13.600 car/speed 0.06"
        ]
    );
    assert_eq!(replayed.unmatched(), Some(&Unmatched { interface: "can1".to_owned(), frames: 1 }));
    let mapping = format!("{SPEED}report = 'change'\nheartbeat_ms = 400\n");
    let told = short(&all(&mut replay(&mapping), "(1.0) can0 3E9#00000001\n(2.0) can0 3E9#00000001\n"));
    assert_eq!(told, ["00:01.000 car/speed 0.01", "00:01.400 car/speed 0.01", "00:01.800 car/speed 0.01"]);
}

#[test]
fn a_clock_that_was_set_back_stops_nothing_and_years_of_pause_cost_little() {
    let mapping = format!("{SPEED}min_interval_ms = 100\nreport = 'change'\nheartbeat_ms = 60000\n");
    let log = "(5000.000) can0 3E9#00000001\n(4999.999) can0 3E9#00000002\n(100.0) can0 3E9#00000003\n\
               (100.2) can0 3E9#00000004\n(9000000000000.0) can0 3E9#00000005\n";
    let told = short(&all(&mut replay(&mapping), log));
    assert_eq!(told[..2], ["23:20.000 car/speed 0.01", "01:40.100 car/speed 0.03"]);
    assert_eq!(told.last().unwrap(), "59:59.999 car/speed 0.05");
    assert!((60..70).contains(&told.len()), "{}", told.len());
}

#[test]
fn an_answer_counts_whoever_asked_and_a_vin_is_put_together() {
    let mapping = "[[can]]\nname = 'obd'\ninterface = 'can0'\ntopic = 'car/{signal}'\n\
        [[can.request]]\nname = 'speed'\nsend = 0x7DF\nreceive = 0x7E8\nrequest = '01 0D'\nanswer = { offset = 2, type = 'u8' }\ninterval_ms = 200\n\
        [[can.request]]\nname = 'vin'\nsend = 0x7DF\nreceive = 0x7E8\nrequest = '09 02'\nanswer = { offset = 3, type = 'string' }\ninterval_ms = 200\n";
    let log = "(1.00) can0 7DF#02010D\n(1.01) can0 7E8#03410D78\n(1.02) can0 7DF#020902\n(1.03) can0 7E8#1014490201314434\n\
               (1.04) can0 7E0#300000\n(1.05) can0 7E8#2147503030523535\n(1.06) can0 7E8#2242313233343536\n(60.0) can0 7E8#037F0112\n";
    assert_eq!(
        short(&all(&mut replay(mapping), log)),
        ["00:01.010 car/speed 120", "00:01.060 car/vin \"1D4GP00R55B123456\"", "01:00.000 car/speed \"exception_18\""]
    );
}

#[test]
fn a_bad_line_is_told_with_its_column_and_changes_nothing() {
    let mut replay = replay(SPEED);
    let column = |replay: &mut Replay, line: &[u8]| replay.line(line).map_err(|error| error.column());
    assert_eq!(column(&mut replay, b"(1.0) can0 3E#00"), Err(12));
    assert_eq!(column(&mut replay, b"(1.0) can0 3E9#0\xff"), Err(17));
    assert_eq!(column(&mut replay, b""), Ok(()));
    assert_eq!(column(&mut replay, b"# from the lorry\r\n"), Ok(()));
    assert_eq!(play(&mut replay), Vec::<String>::new());
    assert_eq!(short(&all(&mut replay, "(1.0) can0 3E9#00000001\r")), ["00:01.000 car/speed 0.01"]);
}

proptest! {
    #[test]
    fn no_log_is_too_strange(lines in proptest::collection::vec(
        (any::<u64>(), 0u64..3, "(3E9|7E8|18FEF100)#[0-9A-F]{0,16}", "\\PC{0,20}"), 0..40))
    {
        let mapping = format!("{SPEED}min_interval_ms = 100\ntimeout_ms = 1000\n");
        let mut replay = replay(&mapping);
        for (time, shift, frame, junk) in lines {
            let _ = replay.line(format!("({}.{time:03}) can0 {frame}", time >> (shift * 20)).as_bytes());
            play(&mut replay);
            let _ = replay.line(junk.as_bytes());
            play(&mut replay);
        }
    }
}

#[test]
fn lines_without_a_time_or_an_interface_go_to_the_only_bus_at_the_time_before() {
    let mapping = "[[can]]\nname = 'v'\ninterface = 'can0'\ntopic = '{signal}'\n\
        [[can.signal]]\nname = 's'\nid = 0x3E9\nstart_bit = 0\nlength = 8\n";
    let log = "\u{feff}3E9#01\n(5.0) can0 3E9#02\r\ncan0 3E9#03\n  can0  3E9   [1]  04\n";
    let told = all(&mut replay(mapping), log);
    assert_eq!(short(&told), ["00:00.000 s 1", "00:05.000 s 2", "00:05.000 s 3", "00:05.000 s 4"]);
    let two = format!("{mapping}[[can]]\nname = 'w'\ninterface = 'can1'\n");
    let error = replay(&two).line(b"3E9#01").unwrap_err();
    assert!(error.to_string().contains("can0, can1"), "{error}");
}
