//! What is wrong with gateway files, secrets, profiles and whole sets of files.

use super::*;

#[test]
fn a_gateway_file_that_is_wrong_is_named_with_its_place() {
    each_gateway(&[
        ("[gateway]\nid = 'a b'", &["2:6: error: `id` has a character"]),
        ("[gateway]\nmappings = ['nope.toml']", &["2:13: error: the mapping file /here/nope.toml does not exist"]),
        ("[gateway]\nmappings = ['***']", &["2:13: error: `***` is no pattern for files"]),
        ("[store]\ncommit_ms = 0", &["2:13: error: `commit_ms` is 0; expected an integer from 1 to 60000"]),
        (
            "[status]\nbind = '127.0.0.1'",
            &[
                "2:8: error: `bind` is no address to listen on; expected an IP address and a port; 0.0.0.0 for all of IPv4, \
             [::] for all of IPv6; write, say, `bind = \"127.0.0.1:8080\"` instead",
            ],
        ),
        (
            "[home_assistant]\ndiscovery_prefix = 'x'",
            &["1:1: error: Home Assistant discovery is not part of this build yet"],
        ),
        ("[[modbus]]\nname = 'b'", &["1:1: error: `[[modbus]]` does not belong in the gateway file; move it"]),
        ("[broker]\n[broker.anonymous]", &["1:1: warning: the broker has no listener"]),
        (
            "[broker]\n[[broker.listener]]\nbind = '127.0.0.1:1'\n[[broker.listener]]\nbind = '0.0.0.0:1'\n[broker.anonymous]",
            &["5:8: error: 0.0.0.0:1 is in use by 127.0.0.1:1 at gw.toml:3:8"],
        ),
        (
            "[broker]\nlistener = []\nanonymous = { subscribe = ['a/#/b', 7, '{usr}/x', '{device}'] }",
            &[
                "1:1: warning: the broker has no listener",
                "3:28: error: `a/#/b` is no topic filter",
                "3:37: error: `subscribe` holds 7; expected texts in quotes",
                "3:40: error: `{usr}` is no placeholder (did you mean `{user}`?)",
                "3:51: error: `{device}` has no meaning here",
            ],
        ),
    ]);
}

#[test]
fn an_uplink_that_is_wrong_is_named_with_its_place() {
    each_gateway(&[
        (
            "[[uplink]]\nname = 'u'\nurl = 'http://h'\naccept = ['#']",
            &["3:7: error: `url` has no scheme that is known"],
        ),
        ("[[uplink]]\nname = 'u'\nurl = 'mqtt://h:0'\naccept = ['#']", &["3:7: error: `url` has no host, or no port"]),
        ("[[uplink]]\nname = 'u'\nurl = 'mqtt://h/x'\naccept = ['#']", &["3:7: error: `url` has a path"]),
        (
            "[[uplink]]\nname = 'u'\nurl = 'mqtt://h'\nversion = 3\nca = 'x'",
            &[
                "1:1: warning: this uplink has no `forward` and no `accept`",
                "4:11: error: `version` is 3; expected an integer from 4 to 5",
                "5:1: error: `ca` has no effect: this `url` is without TLS",
                "5:6: error: `ca` names /here/x, which cannot be read",
            ],
        ),
        (
            "[[uplink]]\nname = 'u'\nurl = 'mqtt://h'\nforward = ['#']\nversion = 4\npassword_file = 'mappings/m.toml'",
            &[
                "3:7: warning: the password goes over the network unencrypted",
                "6:1: error: `password_file` stands without `username`",
            ],
        ),
        (
            "[[uplink]]\nname = 'u'\nurl = 'mqtt://h'\nforward = ['#']\n[[uplink]]\nname = 'u'\nurl = 'mqtt://h'\nforward = ['#']",
            &[
                "6:8: error: a second uplink `u`; the first is at gw.toml:2:8",
                "7:7: error: uplink `u` has the same `url` and `client_id`",
            ],
        ),
        (
            "[[uplink]]\nname = 'u'\nurl = 'mqtt://h'\nforward = ['plant/a/#', 'x']\naccept = ['plant/#', 'fieldgate/{gateway}/status']",
            &[
                "4:12: warning: `plant/a/#` never goes up: `accept` takes `plant/#` from upstream",
                "5:22: warning: `fieldgate/pi-1/status` is never taken from upstream",
            ],
        ),
        (
            "[[uplink]]\nname = 'u'\nurl = 'mqtt://h'\nforward = ['#']\nprefix = '+/'\nclient_id = ''",
            &["5:10: error: `prefix` cannot begin a topic", "6:13: error: `client_id` is empty"],
        ),
    ]);
}

#[test]
fn a_secret_in_a_wrong_place_is_refused_and_never_repeated() {
    let gateway = "[[uplink]]\nname = 'u'\nurl = 'mqtt://me:s3cret@h'\npassword = 's3cret'\nforward = ['#']\n\
        [broker]\nlistener = []\n[[broker.user]]\nname = 'x'\npassword_hash = 's3cret'\n\
        [[broker.user]]\nname = 'y'\npassword = 's3cret'\n";
    let outcome = files(gateway, "").compile();
    assert_lines(
        &outcome,
        &[
            "gw.toml:3:7: error: `url` holds a name or password; remove them from the url; write `username",
            "gw.toml:4:1: error: a password never stands in a file; write `password_file = \"cloud.password\"`",
            "gw.toml:6:1: warning: the broker has no listener",
            "gw.toml:10:17: error: `password_hash` is no argon2id hash",
            "gw.toml:13:1: error: a password never stands in a file; write `password_hash = \"$argon2id$…\"`",
        ],
    );
    assert!(!format!("{:?}", outcome.diagnostics).contains("s3cret"));
}

#[test]
fn a_hash_that_takes_too_much_memory_is_refused() {
    let hash = "$argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$wvbv0eHQZFqpFMrVWUmJSsbfJbmpDsvCECGDPVK4U4E";
    let gateway = format!("[broker]\nlistener = []\n[[broker.user]]\nname = 'x'\npassword_hash = '{hash}'");
    assert_lines(
        &files(&gateway, "").compile(),
        &[
            "gw.toml:1:1: warning",
            "gw.toml:5:17: error: `password_hash` takes 4096 MiB of memory for each login; expected at most 256 MiB",
        ],
    );
}

#[test]
fn a_syntax_error_hides_no_other_file_s_errors() {
    let outcome = Memory::default()
        .with("gw.toml", "[gateway\n")
        .with("mappings/a.toml", "ok = 1\nok = 2\n\nname = \"\n")
        .with("mappings/b.toml", &format!("{POINT}holding = 1\nqos = 3"))
        .with("mappings/c.toml", "[[test]]\nname = 't'\nregisters = { device = 'in-a', coil = 0, words = [1] }\nexpect = [{ topic = 'x', value = 1 }]")
        .compile();
    assert!(outcome.plan.is_none());
    assert_lines(
        &outcome,
        &[
            "gw.toml:1:9: error: not TOML: unclosed table; expected `]`",
            "mappings/a.toml:2:1: error: not TOML: duplicate key; remove one of the two",
            "mappings/a.toml:4:9: error: not TOML: invalid basic string; expected `\"`",
            "mappings/b.toml:9:7: error: `qos` is 3",
        ],
    );
}

#[test]
fn names_and_topics_are_unique_over_all_files_and_both_places_are_named() {
    let mapping = |bus: &str, device: &str| {
        format!(
            "[[modbus]]\nname = '{bus}'\ntcp = 'h'\n[[modbus.device]]\nname = '{device}'\ntopic = 'same/{{point}}'\n[[modbus.device.point]]\nname = 'p'\nholding = 0\nwrite = {{}}\n"
        )
    };
    let outcome = Memory::default()
        .with("gw.toml", "")
        .with("mappings/a.toml", &mapping("b", "d"))
        .with("mappings/b.toml", &mapping("c", "e"))
        .with("mappings/c.toml", &mapping("b", "d").replace("'p'", "'q'"))
        .compile();
    assert_lines(
        &outcome,
        &[
            "mappings/b.toml:8:8: error: the topic `same/p` is also that of the point at mappings/a.toml:8:8",
            "mappings/c.toml:2:8: error: a second bus `b`; the first is at mappings/a.toml:2:8",
            "mappings/c.toml:5:8: error: a second device `d`; the first is at mappings/a.toml:5:8",
        ],
    );
}

#[test]
fn a_broken_profile_is_named_by_its_own_file_and_once() {
    let device = |name: &str, unit: u8| format!("[[modbus.device]]\nname = '{name}'\nunit = {unit}\nprofile = 'own'\n");
    let mapping = format!("[[modbus]]\nname = 'b'\ntcp = 'h'\n{}{}", device("d", 1), device("e", 2));
    let profile = "[profile]\nname = 'n'\nmanufacturer = 'm'\n[[point]]\nname = 'p'\ninput = 1\nqos = 7\n[[device]]\n";
    let outcome = files("", &mapping).with("mappings/profiles/own.toml", profile).compile();
    assert_lines(
        &outcome,
        &[
            "mappings/profiles/own.toml:1:1: error: `source` is missing in [profile]",
            "mappings/profiles/own.toml:7:7: error: `qos` is 7",
            "mappings/profiles/own.toml:8:3: error: `device` is no key of a profile; expected one of profile, point, test",
        ],
    );
}

#[test]
fn a_gateway_file_that_is_not_there_is_said_so() {
    assert_lines(&Memory::default().compile(), &["gw.toml:1:1: error: the file cannot be read"]);
}

#[test]
fn columns_count_characters_and_lines_end_with_crlf_too() {
    let outcome = files(
        "",
        "[[modbus]]\r\nname = 'b'\r\nserial = '/dev/x'\r\ndevice = [] \r\n'ünï' = 1\r\nbaud = { 'ü' = 1 }\r\n",
    );
    assert_lines(
        &outcome.compile(),
        &["mappings/m.toml:5:1: error: `ünï` is no key", "mappings/m.toml:6:8: error: `baud` is a table"],
    );
}

#[test]
fn diagnostics_have_a_json_form() {
    let outcome = files("[store]\ncommit_ms = 0", &format!("{POINT}holding = 0")).compile();
    assert_eq!(
        serde_json::to_value(&outcome.diagnostics).unwrap(),
        serde_json::json!([{
            "file": "gw.toml", "line": 2, "column": 13, "severity": "error",
            "message": "`commit_ms` is 0",
            "expected": "an integer from 1 to 60000",
            "help": "write, say, `commit_ms = 250` instead",
        }])
    );
}

#[test]
fn what_is_no_toml_is_said_with_what_was_expected() {
    for (text, expected) in [
        (
            "baud = fast",
            "1:8: error: not TOML: invalid boolean; expected a number, true, false, or a text in quotes; write",
        ),
        ("a = 5ms", "1:5: error: not TOML: string values must be quoted; expected a number, true, false, or a text"),
        ("a = 09", "1:5: error: not TOML: unexpected leading zero; correct the line"),
        ("\u{feff}a", "1:2: error: not TOML: key with no value; expected `=`"),
    ] {
        assert_lines(&Memory::default().with("gw.toml", text).compile(), &[&format!("gw.toml:{expected}")]);
    }
}
