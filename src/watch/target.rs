//! URL: which broker, and as whom.

use std::str::FromStr;

use thiserror::Error;

use crate::config::host_and_port;
use crate::uplink::spec::{Scheme, UplinkUrl};

/// A broker that was named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub url: UplinkUrl,
    pub username: Option<String>,
}

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TargetError {
    /// Without the URL itself: it may hold a secret.
    #[error(
        "a password must not stand in the URL, where every process can see it: set FIELDGATE_PASSWORD, or be asked"
    )]
    Password,
    #[error("`{0}` is no broker; write mqtt://HOST:PORT or mqtts://USER@HOST:PORT (also ws://, wss://)")]
    Url(String),
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let wrong = || TargetError::Url(text.to_owned());
        let (scheme, rest) = text.split_once("://").unwrap_or(("mqtt", text));
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let (user, address) = match authority.rsplit_once('@') {
            Some((user, _)) if user.contains(':') => return Err(TargetError::Password),
            Some((user, address)) => (Some(user), address),
            None => (None, authority),
        };
        let (scheme, port) = match scheme {
            "mqtt" => (Scheme::Mqtt, 1883),
            "mqtts" => (Scheme::Mqtts, 8883),
            "ws" => (Scheme::Ws, 80),
            "wss" => (Scheme::Wss, 443),
            _ => return Err(wrong()),
        };
        let path = match (scheme, path) {
            (Scheme::Mqtt | Scheme::Mqtts, "" | "/") => String::new(),
            (Scheme::Mqtt | Scheme::Mqtts, _) => return Err(wrong()),
            (Scheme::Ws | Scheme::Wss, "" | "/") => "/mqtt".to_owned(),
            (Scheme::Ws | Scheme::Wss, path) => path.to_owned(),
        };
        if user == Some("") {
            return Err(wrong());
        }
        let (host, port) = host_and_port(address, Some(port)).ok_or_else(wrong)?;
        Ok(Self { url: UplinkUrl { scheme, host, port, path }, username: user.map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_how_where_and_as_whom() {
        let target: Target = "mqtts://ann@broker.example.com".parse().unwrap();
        assert_eq!((target.url.scheme, target.url.port), (Scheme::Mqtts, 8883));
        assert_eq!((target.url.host.as_str(), target.username.as_deref()), ("broker.example.com", Some("ann")));
        let plain: Target = "[::1]:1884".parse().unwrap();
        assert_eq!((plain.url.scheme, plain.url.host.as_str(), plain.url.port), (Scheme::Mqtt, "::1", 1884));
        assert_eq!("ws://h:80".parse::<Target>().unwrap().url.path, "/mqtt");
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_not_repeated() {
        let refused = "mqtt://ann:hush@h".parse::<Target>().unwrap_err();
        assert_eq!(refused, TargetError::Password);
        assert!(!refused.to_string().contains("hush"));
    }

    #[test]
    fn what_is_no_broker_is_refused() {
        for text in ["", "http://h", "mqtt://", "mqtt://@h", "mqtt://h:0", "mqtt://h/path", "mqtt://a b"] {
            assert_eq!(text.parse::<Target>(), Err(TargetError::Url(text.into())), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,60}") {
            let _ = text.parse::<Target>();
            let _ = format!("mqtts://{text}").parse::<Target>();
        }
    }
}
