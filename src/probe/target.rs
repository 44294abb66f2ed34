//! BUS-URL: where the bus is, as a person types it.

use std::str::FromStr;

use thiserror::Error;

use crate::config::host_and_port;
use crate::modbus::spec::{Endpoint, Framing, Parity, SerialSpec, Transport};

/// The port of Modbus TCP.
const PORT: u16 = 502;
/// The rate that Modbus over Serial Line 1.02, section 2.2, has every device offer, as mappings have it too.
const BAUD: u32 = 19_200;

/// A bus that was named on the command line.
#[derive(Clone, Debug, PartialEq)]
pub struct Target(pub Transport);

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TargetError {
    #[error(
        "`{0}` is no bus; write tcp://HOST:PORT, rtu:///dev/ttyUSB0?baud=19200&parity=even&stop_bits=1, \
         rtu+tcp://HOST:PORT or ascii+tcp://HOST:PORT"
    )]
    Scheme(String),
    #[error("`{0}` is no HOST:PORT; write, say, 10.0.0.7:502 (IPv6 addresses in brackets)")]
    Endpoint(String),
    #[error("no serial device is named; write, say, rtu:///dev/ttyUSB0")]
    NoPath,
    #[error(
        "`{0}` is no setting of a line; there are baud=300..4000000, parity=none|even|odd, stop_bits=1|2 and rs485=true|false, joined by &"
    )]
    Setting(String),
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let transport = match text.split_once("://") {
            Some(("tcp", rest)) => Transport::Tcp { address: endpoint(rest, Some(PORT))?, tls: None },
            Some(("rtu+tcp", rest)) => Transport::RtuOverTcp { address: endpoint(rest, None)? },
            Some(("ascii+tcp", rest)) => Transport::AsciiOverTcp { address: endpoint(rest, None)? },
            Some(("rtu", rest)) => line(rest, Framing::Rtu)?,
            Some(("ascii", rest)) => line(rest, Framing::Ascii)?,
            Some(_) => return Err(TargetError::Scheme(text.to_owned())),
            None if text.starts_with(['/', '.']) => line(text, Framing::Rtu)?,
            None => Transport::Tcp {
                address: endpoint(text, Some(PORT)).map_err(|_| TargetError::Scheme(text.to_owned()))?,
                tls: None,
            },
        };
        Ok(Self(transport))
    }
}

fn endpoint(text: &str, default_port: Option<u16>) -> Result<Endpoint, TargetError> {
    let (host, port) = host_and_port(text.strip_suffix('/').unwrap_or(text), default_port)
        .ok_or_else(|| TargetError::Endpoint(text.to_owned()))?;
    Ok(Endpoint { host, port })
}

fn line(text: &str, framing: Framing) -> Result<Transport, TargetError> {
    let (path, settings) = text.split_once('?').unwrap_or((text, ""));
    if path.is_empty() || path.contains('\0') {
        return Err(TargetError::NoPath);
    }
    let (mut baud, mut parity, mut stop_bits, mut rs485) = (BAUD, Parity::Even, None, false);
    for setting in settings.split('&').filter(|setting| !setting.is_empty()) {
        let wrong = || TargetError::Setting(setting.to_owned());
        match setting.split_once('=').ok_or_else(wrong)? {
            ("baud", rate) => {
                baud = rate.parse().ok().filter(|rate| (300..=4_000_000).contains(rate)).ok_or_else(wrong)?;
            }
            ("parity", "none") => parity = Parity::None,
            ("parity", "even") => parity = Parity::Even,
            ("parity", "odd") => parity = Parity::Odd,
            ("stop_bits", "1") => stop_bits = Some(1),
            ("stop_bits", "2") => stop_bits = Some(2),
            ("rs485", "true") => rs485 = true,
            ("rs485", "false") => rs485 = false,
            _ => return Err(wrong()),
        }
    }
    // Without parity a second stop bit takes its place (Modbus over Serial Line 1.02, section 2.5.1).
    let stop_bits = stop_bits.unwrap_or(if parity == Parity::None { 2 } else { 1 });
    Ok(Transport::Serial(SerialSpec { path: path.into(), baud, framing, parity, stop_bits, rs485 }))
}

impl Target {
    /// The unit ids that may answer: on TCP also 0 and 255, which many devices take for themselves.
    pub(super) fn units(&self) -> Vec<u8> {
        let mut units: Vec<u8> = (1..=247).collect();
        if self.is_tcp() {
            units.extend([0, 255]);
        }
        units
    }

    pub(super) fn is_tcp(&self) -> bool {
        matches!(self.0, Transport::Tcp { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Transport {
        text.parse::<Target>().unwrap().0
    }

    #[test]
    fn each_way_to_a_bus_is_understood_with_the_defaults_of_a_mapping() {
        let address = |host: &str, port| Endpoint { host: host.into(), port };
        assert_eq!(target("tcp://plc"), Transport::Tcp { address: address("plc", 502), tls: None });
        assert_eq!(target("10.0.0.7:1502"), Transport::Tcp { address: address("10.0.0.7", 1502), tls: None });
        assert_eq!(target("tcp://[::1]:503/"), Transport::Tcp { address: address("::1", 503), tls: None });
        assert_eq!(target("rtu+tcp://c:4001"), Transport::RtuOverTcp { address: address("c", 4001) });
        assert_eq!(target("ascii+tcp://c:4002"), Transport::AsciiOverTcp { address: address("c", 4002) });
        let serial = |baud, framing, parity, stop_bits| {
            Transport::Serial(SerialSpec {
                path: "/dev/ttyUSB0".into(),
                baud,
                framing,
                parity,
                stop_bits,
                rs485: false,
            })
        };
        assert_eq!(target("/dev/ttyUSB0"), serial(19_200, Framing::Rtu, Parity::Even, 1));
        assert_eq!(target("rtu:///dev/ttyUSB0?parity=none"), serial(19_200, Framing::Rtu, Parity::None, 2));
        assert_eq!(
            target("rtu:///dev/ttyUSB0?baud=9600&parity=none&stop_bits=1"),
            serial(9_600, Framing::Rtu, Parity::None, 1)
        );
        assert_eq!(target("ascii:///dev/ttyUSB0?parity=odd"), serial(19_200, Framing::Ascii, Parity::Odd, 1));
    }

    #[test]
    fn what_is_no_bus_is_refused_with_what_to_write_instead() {
        for text in ["", "http://x", "a b", "mqtt://x:1"] {
            assert_eq!(text.parse::<Target>(), Err(TargetError::Scheme(text.into())), "{text}");
        }
        for text in ["rtu+tcp://c", "tcp://c:0", "ascii+tcp://:1"] {
            assert!(matches!(text.parse::<Target>(), Err(TargetError::Endpoint(_))), "{text}");
        }
        assert_eq!("rtu://".parse::<Target>(), Err(TargetError::NoPath));
        for setting in ["baud", "baud=0", "baud=9600x", "parity=mark", "stop_bits=3", "speed=1"] {
            let text = format!("rtu:///dev/ttyS0?{setting}");
            assert_eq!(text.parse::<Target>(), Err(TargetError::Setting(setting.into())));
        }
    }

    #[test]
    fn a_tcp_scan_asks_the_two_ids_more_that_devices_take_for_themselves() {
        assert_eq!("tcp://a".parse::<Target>().unwrap().units().len(), 249);
        assert_eq!("/dev/ttyS0".parse::<Target>().unwrap().units(), (1..=247).collect::<Vec<u8>>());
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,60}") {
            let _ = text.parse::<Target>();
            let _ = format!("rtu://{text}").parse::<Target>();
        }
    }
}
