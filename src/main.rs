//! The command line: parses it, starts what was asked, and turns the outcome into an exit status.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use fieldgate::broker::passwd;
use fieldgate::clock::Now;
use fieldgate::hub::topics;
use fieldgate::modbus::spec::Table;
use fieldgate::simulate::plan::task::Wishes;
use fieldgate::{check, config, demo, gateway, probe, replay, simulate, watch};
use tracing::Level;

/// Modbus and CAN to MQTT on a small machine, with its own broker and a store that loses nothing.
#[derive(Parser)]
#[command(name = "fieldgate", version, arg_required_else_help = true)]
struct Cli {
    /// How much to log: error, warn, info, debug or trace.
    #[arg(long, global = true, value_name = "LEVEL")]
    log: Option<Level>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM; SIGHUP reloads its files.
    Run {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Name every mistake of every file, print the plan, and run the mappings' own tests.
    Check {
        #[command(flatten)]
        file: ConfigFile,
        /// Print one JSON object instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Show the gateway at work on simulated devices: no file, no hardware, no set-up.
    Demo {
        /// Stop by itself after so many seconds.
        #[arg(long, value_name = "N")]
        seconds: Option<u64>,
    },
    /// Stand in for the devices of a configuration.
    Simulate {
        #[command(flatten)]
        file: ConfigFile,
        /// Spoil answers: DEVICE:KIND[:PERCENT], as meter-1:silent or '*:late:5'. DEVICE is a device's or a bus's name,
        /// or *; KIND one of late, short, long, foreign, function, corrupt, doubled, silent, babble, busy, exception-N.
        /// May be given several times.
        #[arg(long = "fault", value_name = "FAULT")]
        faults: Vec<simulate::fault::Asked>,
        /// The same seed spoils the same answers.
        #[arg(long, value_name = "N", default_value_t = 1)]
        seed: u64,
        /// The simulated servers' certificate (PEM), for buses with tls.
        #[arg(long, value_name = "FILE", requires = "tls_key")]
        tls_cert: Option<PathBuf>,
        /// Its private key.
        #[arg(long, value_name = "FILE", requires = "tls_cert")]
        tls_key: Option<PathBuf>,
    },
    /// Take a candump log through the mapping: print what would be published, one JSON a line.
    Replay {
        #[command(flatten)]
        file: ConfigFile,
        /// What `candump -l` wrote; `-` for stdin.
        #[arg(value_name = "LOG")]
        recording: PathBuf,
    },
    /// Look for the units on a Modbus bus, or show a range of registers in every type and byte order.
    Probe(ProbeArgs),
    /// Show the topics of any broker live: a table on a terminal, `TIME TOPIC PAYLOAD` lines in a pipe.
    Watch {
        /// mqtt://HOST:PORT or mqtts://USER@HOST:PORT (also ws://, wss://); the password is taken from FIELDGATE_PASSWORD
        /// or asked for. A certificate authority of one's own: SSL_CERT_FILE.
        #[arg(default_value = "mqtt://127.0.0.1:1883")]
        url: watch::Target,
        /// Topic filter.
        #[arg(default_value = "#", value_parser = topic_filter)]
        filter: String,
    },
    /// Read a password (prompt or stdin) and print its argon2id hash.
    Passwd,
    /// Print the JSON Schema of a file, for editors.
    Schema {
        /// Which file.
        which: SchemaOf,
    },
}

#[derive(clap::Args)]
struct ConfigFile {
    /// The gateway file.
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = "/etc/fieldgate/fieldgate.toml")]
    path: PathBuf,
}

#[derive(clap::Args)]
struct ProbeArgs {
    /// tcp://HOST:PORT, rtu:///dev/ttyUSB0?baud=19200&parity=even&stop_bits=1, rtu+tcp://HOST:PORT, ascii+tcp://HOST:PORT;
    /// also a bare HOST:PORT or path.
    #[arg(value_name = "BUS-URL")]
    bus: probe::Target,
    /// Ask this unit only; a range is read from unit 1 without it.
    #[arg(long, value_name = "N")]
    unit: Option<u8>,
    /// How long to wait for an answer [default: 150 on a line, 300 on TCP, 1000 for a range].
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    timeout_ms: Option<u32>,
    #[command(flatten)]
    range: RangeArgs,
}

#[derive(clap::Args)]
#[group(multiple = false)]
struct RangeArgs {
    /// Show these holding registers, both ends included, zero-based.
    #[arg(long, value_name = "A..B")]
    holding: Option<probe::Addresses>,
    /// Show these input registers.
    #[arg(long, value_name = "A..B")]
    input: Option<probe::Addresses>,
    /// Show these coils.
    #[arg(long, value_name = "A..B")]
    coil: Option<probe::Addresses>,
    /// Show these discrete inputs.
    #[arg(long, value_name = "A..B")]
    discrete: Option<probe::Addresses>,
}

#[derive(Clone, Copy, ValueEnum)]
enum SchemaOf {
    Gateway,
    Mapping,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let quiet = matches!(cli.command, Command::Demo { .. } | Command::Probe(_) | Command::Watch { .. });
    log_to_stderr(cli.log.unwrap_or(if quiet { Level::WARN } else { Level::INFO }));
    let done = match cli.command {
        Command::Run { file } => return gateway::service::run(&file.path),
        Command::Check { file, json } => return check_files(&file.path, json),
        Command::Demo { seconds } => demo::task::run(seconds),
        Command::Simulate { file, faults, seed, tls_cert, tls_key } => {
            return stand_in(&file.path, Wishes { faults, seed, tls: tls_cert.zip(tls_key) });
        }
        Command::Replay { file, recording } => return replay_log(&file.path, &recording),
        Command::Probe(asked) => return probe::task::run(probe_of(asked)),
        Command::Watch { url, filter } => watch_broker(url, filter),
        Command::Passwd => hash_password(),
        Command::Schema { which } => print_schema(which),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{failure:#}");
            ExitCode::FAILURE
        }
    }
}

fn log_to_stderr(level: Level) {
    let log = tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr);
    if gateway::journal::is_stderr() {
        log.with_ansi(false).event_format(gateway::journal::Prioritised).init();
    } else {
        log.with_ansi(io::stderr().is_terminal()).with_target(false).init();
    }
}

fn check_files(file: &Path, json: bool) -> ExitCode {
    let report = check::report(check::with_loads(config::load(file)), Now::read());
    let text = if json {
        serde_json::to_string_pretty(&report).map(|text| text + "\n").unwrap_or_default()
    } else {
        check::text(&report)
    };
    print(&text);
    ExitCode::from(report.exit_status())
}

fn stand_in(file: &Path, wishes: Wishes) -> ExitCode {
    let outcome = check::with_loads(config::load(file));
    let Some(plan) = outcome.plan else {
        print(&check::text(&check::report(outcome, Now::read())));
        return ExitCode::from(2);
    };
    match gateway::service::block_on(simulate::plan::task::run(plan, wishes)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{failure:#}");
            ExitCode::FAILURE
        }
    }
}

fn replay_log(file: &Path, log: &Path) -> ExitCode {
    let outcome = check::with_loads(config::load(file));
    let Some(plan) = outcome.plan else {
        // Standard output is for messages alone.
        eprint(&check::text(&check::report(outcome, Now::read())));
        return ExitCode::from(2);
    };
    match replay::task::run(&plan, log) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            tracing::error!("{failure:#}");
            ExitCode::FAILURE
        }
    }
}

fn probe_of(asked: ProbeArgs) -> probe::task::Probe {
    let RangeArgs { holding, input, coil, discrete } = asked.range;
    let tables = [(Table::Holding, holding), (Table::Input, input), (Table::Coil, coil), (Table::Discrete, discrete)];
    let range = tables.into_iter().find_map(|(table, addresses)| Some(probe::Range { table, addresses: addresses? }));
    let timeout = asked.timeout_ms.map(|ms| Duration::from_millis(u64::from(ms)));
    probe::task::Probe { target: asked.bus, unit: asked.unit, range, timeout }
}

fn topic_filter(text: &str) -> Result<String, &'static str> {
    if topics::is_valid_filter(text) {
        Ok(text.to_owned())
    } else {
        Err("no topic filter: `+` and `#` fill a whole level, `#` only the last")
    }
}

fn watch_broker(target: watch::Target, filter: String) -> anyhow::Result<()> {
    let password = match (&target.username, std::env::var("FIELDGATE_PASSWORD")) {
        (None, _) => None,
        (Some(_), Ok(password)) => Some(password),
        (Some(_), Err(_)) if io::stdin().is_terminal() => Some(without_echo("Password: ")?),
        (Some(_), Err(_)) => None,
    };
    watch::task::run(target, filter, password)
}

fn hash_password() -> anyhow::Result<()> {
    let password = if io::stdin().is_terminal() { ask_twice()? } else { first_line()? };
    anyhow::ensure!(!password.is_empty(), "the password is empty; type one, or send one line to stdin");
    print(&format!("{}\n", passwd::hash_password(&password)?));
    Ok(())
}

fn first_line() -> anyhow::Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context("cannot read stdin")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn ask_twice() -> anyhow::Result<String> {
    let first = without_echo("Password: ")?;
    anyhow::ensure!(first == without_echo("Again: ")?, "the two differ; try again");
    Ok(first)
}

fn without_echo(prompt: &str) -> anyhow::Result<String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let mut terminal = io::stderr();
    write!(terminal, "{prompt}")?;
    terminal.flush()?;
    let stdin = io::stdin();
    let before = tcgetattr(&stdin)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Now, &silent)?;
    let line = first_line();
    tcsetattr(&stdin, OptionalActions::Now, &before)?;
    writeln!(terminal)?;
    line
}

fn print_schema(which: SchemaOf) -> anyhow::Result<()> {
    let schema = config::schema(match which {
        SchemaOf::Gateway => config::SchemaOf::Gateway,
        SchemaOf::Mapping => config::SchemaOf::Mapping,
    });
    print(&format!("{}\n", serde_json::to_string_pretty(&schema)?));
    Ok(())
}

fn eprint(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// A reader that went away (`| head`) is no failure.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap_complete::{Shell, generate};

    use super::*;

    /// The package ships these; `FIELDGATE_WRITE=1 cargo test --bin fieldgate` writes them anew.
    #[test]
    fn the_shells_complete_the_commands_and_options_that_there_are() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/completions");
        let files = [(Shell::Bash, "fieldgate.bash"), (Shell::Zsh, "_fieldgate"), (Shell::Fish, "fieldgate.fish")];
        for (shell, name) in files {
            let mut made = Vec::new();
            generate(shell, &mut Cli::command(), "fieldgate", &mut made);
            let path = folder.join(name);
            if std::env::var_os("FIELDGATE_WRITE").is_some() {
                std::fs::create_dir_all(&folder).expect("a folder for completions");
                std::fs::write(&path, &made).expect("the file can be written");
            }
            let shipped = std::fs::read(&path).unwrap_or_default();
            assert!(shipped == made, "{name} is not up to date: FIELDGATE_WRITE=1 cargo test --bin fieldgate");
        }
    }
}
