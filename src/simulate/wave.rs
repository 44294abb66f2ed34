//! Values that move like real ones: each point follows a slow curve around what its unit or name suggests.

use std::time::Duration;

/// Where a value lives and how it moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Wave {
    middle: f64,
    swing: f64,
    /// Seconds for one turn.
    period: f64,
    /// Energy and the like only rise: by so much a second.
    climb: f64,
}

impl Wave {
    /// For a point with this unit and name; what neither tells moves between 0 and 100.
    pub(super) fn for_point(unit: Option<&str>, name: &str) -> Self {
        let wave = |middle, swing, period| Self { middle, swing, period, climb: 0.0 };
        match unit {
            Some("V") => wave(230.0, 3.0, 45.0),
            Some("A") => wave(4.0, 2.5, 30.0),
            Some("W" | "VA" | "var") => wave(900.0, 550.0, 30.0),
            Some("kW" | "kVA") => wave(4.0, 2.0, 30.0),
            Some("Hz") => wave(50.0, 0.03, 20.0),
            Some("kWh" | "Wh" | "m³" | "MWh" | "kvarh" | "h") => Self { climb: 0.001, ..wave(1234.5, 0.0, 1.0) },
            Some("°C" | "C") => wave(if name.contains("flow") { 55.0 } else { 21.0 }, 2.0, 120.0),
            Some("bar") => wave(1.6, 0.1, 90.0),
            Some("%") => wave(50.0, 20.0, 60.0),
            Some("km/h") => wave(60.0, 50.0, 40.0),
            Some("rpm" | "1/min") => wave(1500.0, 300.0, 25.0),
            _ if name.contains("factor") => wave(0.95, 0.04, 30.0),
            _ => wave(50.0, 50.0, 60.0),
        }
    }

    /// The value so long after the start; `phase` (0 to 1) keeps points of one kind apart.
    pub(super) fn at(self, since: Duration, phase: f64) -> f64 {
        let seconds = since.as_secs_f64();
        let turn = (seconds / self.period + phase) * std::f64::consts::TAU;
        self.middle + self.swing * turn.sin() + self.climb * seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_voltage_stays_near_the_grid_s_and_moves() {
        let wave = Wave::for_point(Some("V"), "voltage");
        let values: Vec<f64> = (0..90).map(|second| wave.at(Duration::from_secs(second), 0.0)).collect();
        assert!(values.iter().all(|value| (226.0..=234.0).contains(value)), "{values:?}");
        assert!(values.windows(2).any(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn energy_only_rises() {
        let wave = Wave::for_point(Some("kWh"), "import");
        assert!(wave.at(Duration::from_secs(100), 0.5) > wave.at(Duration::from_secs(10), 0.5));
    }
}
