//! A DBC file, and the signals of what it describes taken out of bytes.

use fieldgate::can::dbc::parse;

pub fn run(data: &[u8]) {
    let Ok(database) = parse(data) else { return };
    for message in &database.messages {
        assert!(database.message(&message.name).is_some());
        for signal in &message.signals {
            assert!((1..=64).contains(&signal.layout.length()));
            let _ = signal.layout.bits(data);
            let _ = message.heard(signal, Some(1));
            let _ = message.commanded(signal, None);
        }
    }
}
