//! Files that are there and are not what they ought to be.

use super::*;
use crate::config::load::Disk;

fn gateway_with(broker: &str, named: &[(&str, &str)]) -> Outcome {
    let gateway = format!("[broker]\n[broker.anonymous]\n[[broker.listener]]\nbind = '127.0.0.1:8883'\n{broker}");
    let files = files(&gateway, &format!("{POINT}holding = 0"));
    named.iter().fold(files, |files, (name, text)| files.with(name, text)).compile()
}

#[test]
fn a_listener_s_certificate_and_key_are_read_before_anything_is_started() {
    let all = "tls = { cert = 'c.pem', key = 'k.pem', client_ca = 'ca.pem' }";
    let cases: &[(&str, &str, &str, &[&str])] = &[
        (TEST_CERTIFICATE, TEST_KEY, TEST_CERTIFICATE, &[]),
        (TEST_CERTIFICATE, OTHER_KEY, TEST_CERTIFICATE, &["gw.toml:5:31: error: `cert` and `key` are no pair"]),
        (
            "nonsense",
            TEST_KEY,
            "",
            &[
                "gw.toml:5:16: error: `cert` names /here/c.pem, which holds no certificate; expected a PEM file with a line \
                 -----BEGIN CERTIFICATE-----; put that file there, or correct the path",
                "gw.toml:5:52: error: `client_ca` names /here/ca.pem, which holds no certificate",
            ],
        ),
        (
            TEST_CERTIFICATE,
            TEST_CERTIFICATE,
            TEST_CERTIFICATE,
            &["gw.toml:5:31: error: `key` names /here/k.pem, which holds no private key without a passphrase"],
        ),
        (
            "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
            TEST_KEY,
            TEST_CERTIFICATE,
            &["gw.toml:5:16: error: `cert` names /here/c.pem, which is damaged"],
        ),
    ];
    for (cert, key, ca, expected) in cases {
        assert_lines(&gateway_with(all, &[("c.pem", cert), ("k.pem", key), ("ca.pem", ca)]), expected);
    }
}

#[test]
fn an_empty_password_file_is_a_mistake() {
    let gateway = "[[uplink]]\nname = 'u'\nurl = 'mqtts://h'\nforward = ['#']\nusername = 'x'\npassword_file = 'pw'";
    let files = files(gateway, &format!("{POINT}holding = 0")).with("pw", " \n");
    assert_lines(&files.compile(), &["gw.toml:6:17: error: `password_file` names /here/pw, which is empty"]);
}

#[test]
fn a_folder_among_the_mappings_is_told_from_a_file_that_is_not_there() {
    let files = files("[gateway]\nmappings = ['mappings']", "");
    assert_lines(
        &files.compile(),
        &[
            "gw.toml:2:13: error: /here/mappings is a folder, not a mapping file; write `mappings = [\"mappings/*.toml\"]` instead",
        ],
    );
}

/// A gateway file on the disk, with `mappings/a.toml` made by `make`.
fn on_disk(make: impl FnOnce(&Path)) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("mappings")).unwrap();
    make(&folder.path().join("mappings/a.toml"));
    let gateway = folder.path().join("gw.toml");
    std::fs::write(&gateway, "").unwrap();
    let outcome = compile(&gateway, &environment(), &Disk);
    let prefix = format!("{}/mappings/", folder.path().display());
    lines(&outcome).iter().map(|line| line.replace(&prefix, "")).collect()
}

#[test]
fn a_byte_that_is_no_utf_8_is_named_with_its_place() {
    let found = on_disk(|path| std::fs::write(path, b"# \xc3\xa4\n# caf\xe9\n").unwrap());
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("a.toml:2:6: error: the byte 0xE9 here is no UTF-8 text"), "{found:?}");
}

#[test]
fn a_named_pipe_does_not_hold_up_the_check() {
    let found = on_disk(|path| {
        let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
        assert!(made.success());
    });
    assert_eq!(found, ["a.toml:1:1: error: the file cannot be read: it is no regular file; correct its path"]);
}

#[test]
fn a_file_that_is_too_large_is_refused_by_its_size() {
    let found = on_disk(|path| std::fs::write(path, " ".repeat((4 << 20) + 1)).unwrap());
    let said =
        "a.toml:1:1: error: the file cannot be read: it is larger than 4194304 bytes; write several files instead";
    assert_eq!(found, [said]);
}
