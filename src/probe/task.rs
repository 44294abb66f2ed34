//! Opens the bus, asks, and prints what came.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_modbus::ExceptionCode;

use super::guess;
use super::range::{Range, Reading};
use super::report;
use super::target::Target;
use crate::clock::Now;
use crate::gateway::service::block_on;
use crate::modbus::connect::task::{connect, open_serial};
use crate::modbus::line::task::Line;
use crate::modbus::pdu::{self, Answer, Request};
use crate::modbus::schedule::{Failure, Job};
use crate::modbus::spec::{BusSpec, Endpoint, Framing, Table, Transport};
use crate::modbus::tcp::task::Connection;
use crate::modbus::timing::Timing;
use crate::sample::Fault;

/// A device on a line answers within this, or is not there: the slowest known take some 100 ms for one register.
const LINE_TIMEOUT: Duration = Duration::from_millis(150);
const TCP_TIMEOUT: Duration = Duration::from_millis(300);
/// Registers are read with more patience than unit ids are looked for.
const READ_TIMEOUT: Duration = Duration::from_secs(1);
const READ_TRIES: u32 = 2;
/// A peer that closes the connection over a foreign unit id is connected to again, so often on end.
const RECONNECTS_MAX: u32 = 3;
/// So many requests without any answer, and the range is not read further.
const SILENT_MAX: u32 = 2;

/// What was asked for on the command line.
#[derive(Clone, Debug)]
pub struct Probe {
    pub target: Target,
    /// `None`: all of them, or unit 1 where a range is to be read.
    pub unit: Option<u8>,
    pub range: Option<Range>,
    /// `None`: by what the bus is.
    pub timeout: Option<Duration>,
}

/// Prints what is found. Exit status: 0 something was found, 1 nothing was, or no connection.
pub fn run(probe: Probe) -> ExitCode {
    let mut found = false;
    let done = block_on(async {
        found = match probe.range {
            Some(range) => read(&probe, range).await?,
            None => scan(&probe).await?,
        };
        Ok(())
    });
    match done {
        Ok(()) if found => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(failure) => {
            tracing::error!("{failure:#}");
            ExitCode::FAILURE
        }
    }
}

enum Link {
    Port(Line<tokio_serial::SerialStream>),
    Converter(Line<TcpStream>),
    Tcp(Connection<TcpStream>),
}

/// The bus, connected to anew where the other end hangs up.
struct Bus {
    transport: Transport,
    link: Option<Link>,
    tickets: u64,
    hung_up: u32,
    /// Bytes came that answer nothing.
    noise: bool,
}

impl Bus {
    async fn open(transport: Transport) -> io::Result<Self> {
        let link = Some(open(&transport).await?);
        Ok(Self { transport, link, tickets: 0, hung_up: 0, noise: false })
    }

    /// # Errors
    /// The bus is lost.
    async fn ask(&mut self, unit: u8, request: Request, patience: Duration) -> io::Result<Result<Answer, Failure>> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => open(&self.transport).await?,
        };
        self.tickets += 1;
        let job = Job { ticket: self.tickets, unit, request, timeout: patience };
        let heard = match &mut link {
            Link::Port(line) => line.exchange(&job).await,
            Link::Converter(line) => line.exchange(&job).await,
            Link::Tcp(connection) => ask_tcp(connection, job, patience).await,
        };
        match heard {
            Ok(landed) => {
                self.noise |= matches!(landed, Err(Failure::Discarded | Failure::Damaged));
                self.hung_up = 0;
                self.link = Some(link);
                Ok(landed)
            }
            Err(_) if !matches!(link, Link::Port(_)) && self.hung_up < RECONNECTS_MAX => {
                self.hung_up += 1;
                Ok(Err(Failure::Timeout))
            }
            Err(error) => Err(error),
        }
    }
}

async fn ask_tcp(
    connection: &mut Connection<TcpStream>,
    job: Job,
    patience: Duration,
) -> io::Result<Result<Answer, Failure>> {
    let wanted = Some(job.ticket);
    connection.request(job, Now::read());
    connection.send().await?;
    let answer = async {
        loop {
            while let Some((ticket, landed)) = connection.landed()? {
                if ticket == wanted {
                    return Ok(landed);
                }
            }
            connection.receive().await?;
        }
    };
    let landed = timeout(patience, answer).await.unwrap_or(Ok(Err(Failure::Timeout)));
    // Answers that come later are known by their numbers.
    connection.abandon();
    landed
}

async fn open(transport: &Transport) -> io::Result<Link> {
    let converter = async |address: &Endpoint, framing| {
        let line = Line::new(connect(address).await?, framing, timing(transport), Some(LINE_TIMEOUT));
        Ok::<_, io::Error>(Link::Converter(line))
    };
    match transport {
        Transport::Serial(serial) => {
            Ok(Link::Port(Line::new(open_serial(serial)?, serial.framing, timing(transport), None)))
        }
        Transport::RtuOverTcp { address } => converter(address, Framing::Rtu).await,
        Transport::AsciiOverTcp { address } => converter(address, Framing::Ascii).await,
        Transport::Tcp { address, .. } => Ok(Link::Tcp(Connection::new(connect(address).await?))),
    }
}

fn timing(transport: &Transport) -> Timing {
    Timing::of(&BusSpec {
        name: "probe".into(),
        transport: transport.clone(),
        timeout: LINE_TIMEOUT,
        retries: 0,
        max_gap: 0,
        turnaround: Duration::ZERO,
        max_in_flight: 1,
        devices: Vec::new(),
        points: Vec::new(),
    })
}

/// Asks each unit for one register; any answer of its own is a sign of life.
async fn scan(probe: &Probe) -> anyhow::Result<bool> {
    let patience = probe.timeout.unwrap_or(if probe.target.is_tcp() { TCP_TIMEOUT } else { LINE_TIMEOUT });
    let mut bus = Bus::open(probe.target.0.clone()).await?;
    let units = probe.unit.map_or_else(|| probe.target.units(), |unit| vec![unit]);
    let mut progress = Progress::new();
    let mut found = 0_u32;
    for (asked, unit) in units.iter().enumerate() {
        progress.show(&format!("unit {unit} ({asked} of {} asked, {found} found)", units.len()));
        let landed = bus.ask(*unit, pdu::read(Table::Holding, 0, 1), patience).await?;
        if let Ok(answer) = landed
            && let Some(how) = sign_of_life(&answer)
        {
            found += 1;
            progress.clear();
            if !print(&format!("unit {unit}: {how}\n")) {
                break;
            }
        }
    }
    progress.clear();
    if found == 0 {
        tracing::error!("{}", nobody(&bus, units.len(), patience));
    }
    Ok(found > 0)
}

fn nobody(bus: &Bus, asked: usize, patience: Duration) -> String {
    let who = if asked == 1 { "the unit does not answer".to_owned() } else { format!("none of {asked} units answers") };
    let patience_ms = patience.as_millis();
    let next = match &bus.transport {
        _ if bus.noise => {
            "but something was heard that is no Modbus answer: try another baud, parity or framing, or end the other \
             master on the line"
        }
        Transport::Serial(_) => "check A/B wiring, termination and power, then baud, parity and stop bits",
        Transport::Tcp { .. } | Transport::RtuOverTcp { .. } | Transport::AsciiOverTcp { .. } => {
            "it is connected: check that the port speaks this framing (tcp://, rtu+tcp://, ascii+tcp://) and the unit ids"
        }
    };
    format!("{who} within {patience_ms} ms; {next}; slow devices need a longer --timeout-ms")
}

/// How a unit answered; `None` where only a gateway said that it is not there.
fn sign_of_life(answer: &Answer) -> Option<String> {
    match answer {
        Answer::Registers(words) => {
            Some(format!("answers (holding 0 = {})", words.first().copied().unwrap_or_default()))
        }
        Answer::Bits(_) | Answer::Written => Some("answers".to_owned()),
        Answer::Exception(ExceptionCode::GatewayPathUnavailable | ExceptionCode::GatewayTargetDevice) => None,
        Answer::Exception(exception) => {
            let code = u8::from(*exception);
            Some(format!("is there (answers with exception {code}, {})", pdu::fault(*exception)))
        }
    }
}

async fn read(probe: &Probe, range: Range) -> anyhow::Result<bool> {
    let unit = probe.unit.unwrap_or(1);
    let patience = probe.timeout.unwrap_or(READ_TIMEOUT);
    let mut bus = Bus::open(probe.target.0.clone()).await?;
    let (mut reading, mut progress) = (Reading::new(range), Progress::new());
    let (mut silent, mut answered) = (0_u32, false);
    while let Some((first, count)) = reading.next() {
        progress.show(&format!("reading {} {first}", report::key(range.table)));
        let mut landed = Err(Failure::Timeout);
        for _ in 0..READ_TRIES {
            landed = bus.ask(unit, pdu::read(range.table, first, count), patience).await?;
            if landed.is_ok() {
                break;
            }
        }
        match landed {
            Ok(answer) => {
                answered |= sign_of_life(&answer).is_some();
                silent = 0;
                reading.answered(&answer);
            }
            Err(failure) => {
                silent += 1;
                reading.failed(if failure == Failure::Timeout { Fault::Timeout } else { Fault::BadResponse });
            }
        }
        if silent >= SILENT_MAX && !answered {
            break;
        }
    }
    progress.clear();
    if !answered {
        let patience_ms = patience.as_millis();
        tracing::error!(
            "unit {unit} does not answer within {patience_ms} ms; look for units without --unit and a range"
        );
    }
    Ok(show(&reading, unit))
}

/// True where anything could be read.
fn show(reading: &Reading, unit: u8) -> bool {
    let cells = reading.cells();
    let found = cells.values().any(Result::is_ok);
    let table = reading.table();
    let (text, points) = match table {
        Table::Coil | Table::Discrete => (report::bits(cells), report::bit_points(table, cells)),
        Table::Input | Table::Holding => {
            let marks = guess::marks(cells);
            (report::registers(cells, &marks), report::points(table, &marks))
        }
    };
    let _ = print(&text);
    if !points.is_empty() {
        let _ = print(&format!(
            "\n# Of unit {unit}; types and orders by the look of the values: compare with the manual.\n{points}"
        ));
    }
    found
}

/// One line on a terminal that says how far it is; nothing in a pipe.
struct Progress {
    live: bool,
}

impl Progress {
    fn new() -> Self {
        Self { live: io::stderr().is_terminal() }
    }

    fn show(&mut self, text: &str) {
        if self.live {
            let _ = write!(io::stderr(), "\r\x1b[K{text}");
        }
    }

    fn clear(&mut self) {
        self.show("");
    }
}

/// False where the reader went away (`| head`), which is no failure.
fn print(text: &str) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_is_a_sign_of_life_unless_a_gateway_speaks_for_the_unit() {
        assert_eq!(sign_of_life(&Answer::Registers(vec![7])).as_deref(), Some("answers (holding 0 = 7)"));
        let exception = |code| sign_of_life(&Answer::Exception(ExceptionCode::new(code)));
        assert_eq!(exception(2).as_deref(), Some("is there (answers with exception 2, illegal_address)"));
        assert_eq!((exception(0x0A), exception(0x0B)), (None, None));
    }
}
