//! The device profiles: those beside a mapping file, those that the package installed, and those built in.

use std::path::Path;

/// A profile that is part of the program.
#[derive(Clone, Copy, Debug)]
pub struct ShippedProfile {
    pub name: &'static str,
    pub toml: &'static str,
}

macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        /// Every file of `mappings/profiles/`.
        pub const SHIPPED_PROFILES: &[ShippedProfile] = &[$(ShippedProfile {
            name: $name,
            toml: include_str!(concat!("../../mappings/profiles/", $name, ".toml")),
        }),*];
    };
}
shipped!(
    "abb-b23",
    "carlo-gavazzi-em112",
    "carlo-gavazzi-em24",
    "carlo-gavazzi-em340",
    "daikin-homehub-altherma",
    "danfoss-fc51",
    "eastron-sdm120",
    "eastron-sdm230",
    "eastron-sdm630",
    "fronius-sunspec-float",
    "growatt-tl-x",
    "huawei-sun2000",
    "janitza-umg96rm",
    "moxa-iologik-e1212",
    "nibe-s-series",
    "peacefair-pzem-016",
    "schneider-iem3155",
    "siemens-pac2200",
    "sma-sunny-tripower",
    "stiebel-eltron-wpm",
    "victron-gx",
    "victron-multiplus",
    "waveshare-modbus-rtu-relay-8ch",
    "wirenboard-wb-msw-v3",
    "xy-md02",
);

/// Where the package puts profiles.
const INSTALLED: &str = "/usr/share/fieldgate/profiles";

pub(super) struct Found {
    /// For messages.
    pub(super) file: String,
    pub(super) bytes: std::io::Result<Vec<u8>>,
}

/// The profile's text: beside the mapping file first, so that a user's own comes before the package's.
pub(super) fn find(name: &str, mapping_file: &Path, files: &dyn super::load::Files) -> Option<Found> {
    let beside = mapping_file.parent().unwrap_or(Path::new("")).join("profiles");
    for folder in [&beside, Path::new(INSTALLED)] {
        let path = folder.join(format!("{name}.toml"));
        match files.read_bytes(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            bytes => return Some(Found { file: path.display().to_string(), bytes }),
        }
    }
    let shipped = SHIPPED_PROFILES.iter().find(|shipped| shipped.name == name)?;
    Some(Found { file: built_in(name), bytes: Ok(shipped.toml.into()) })
}

/// The file name of a built-in profile, for messages.
pub(super) fn built_in(name: &str) -> String {
    format!("(built in)/profiles/{name}.toml")
}
