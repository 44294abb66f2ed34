//! The command line: parses it, starts what was asked, and turns the outcome into an exit status.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

/// Modbus and CAN to MQTT on a small machine, with its own broker and a store that loses nothing.
#[derive(Parser)]
#[command(name = "fieldgate", version, arg_required_else_help = true)]
struct Cli {
    /// How much to log: error, warn, info, debug or trace.
    #[arg(long, global = true, default_value = "info", value_name = "LEVEL", env = "FIELDGATE_LOG")]
    log: tracing::Level,
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
    },
    /// Read a password (prompt or stdin) and print its argon2id hash.
    Passwd,
    /// Print the JSON Schema of a file, for editors.
    Schema { which: SchemaOf },
}

#[derive(clap::Args)]
struct ConfigFile {
    /// The gateway file.
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = "/etc/fieldgate/fieldgate.toml")]
    path: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum SchemaOf {
    Gateway,
    Mapping,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    ExitCode::SUCCESS
}
