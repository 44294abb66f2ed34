//! The plain limit for `tests/bench/modbus`: the requests that a gateway sends, by bare tokio-modbus, and nothing else.
//!
//! `modbus_poll PORT UNITS REGISTERS INTERVAL_MS SECONDS` reads so many holding registers of units 1 to UNITS over one
//! connection, all of them once an interval (0: without a pause); prints the polls that were answered.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio_modbus::client::{Client, tcp};
use tokio_modbus::prelude::SlaveContext;
use tokio_modbus::{Request, Response, Slave};

fn main() -> Result<()> {
    let numbers: Result<Vec<u64>, _> = std::env::args().skip(1).map(|text| text.parse()).collect();
    let numbers = numbers.context("PORT UNITS REGISTERS INTERVAL_MS SECONDS")?;
    let [port, units, registers, interval, seconds] = numbers[..] else {
        anyhow::bail!("PORT UNITS REGISTERS INTERVAL_MS SECONDS")
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (port, units, registers) = (u16::try_from(port)?, u8::try_from(units)?, u16::try_from(registers)?);
    let polls = runtime.block_on(poll(
        port,
        units,
        registers,
        Duration::from_millis(interval),
        Duration::from_secs(seconds),
    ))?;
    #[allow(clippy::print_stdout, reason = "what the script reads")]
    {
        println!("{polls}");
    }
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "a measurement reads clocks")]
async fn poll(port: u16, units: u8, registers: u16, interval: Duration, long: Duration) -> Result<u64> {
    let mut context = tcp::connect(([127, 0, 0, 1], port).into()).await?;
    let mut polls = 0;
    let begun = Instant::now();
    let mut round = begun;
    while begun.elapsed() < long {
        for unit in 1..=units {
            context.set_slave(Slave(unit));
            let answer = context.call(Request::ReadHoldingRegisters(0, registers)).await??;
            let Response::ReadHoldingRegisters(words) = answer else { anyhow::bail!("another function's answer") };
            ensure!(words.len() == usize::from(registers), "another count");
            polls += 1;
        }
        round += interval;
        tokio::time::sleep_until(round.into()).await;
    }
    Ok(polls)
}
