//! The command line.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use toml::Value;

use crate::config::{Config, ConfigError, LogConfig, LogFormat, Override};
use crate::{backup, config, logging, serve};

const EXAMPLES: &str = "\
Examples:
  jan-server                                        serve the bundled model on 127.0.0.1:8080
  jan-server --model smollm2=models/smollm2.gguf    also serve a GGUF file
  jan-server --listen 0.0.0.0:8080 --config jan.toml
  JAN_SERVER__QUEUE__MAX_REQUESTS=64 jan-server     set any key from the environment
  jan-server config                                 show the settings in effect

Then:
  curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{\"model\": \"jan-tiny\", \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'";

/// Self-hosted, OpenAI-compatible LLM server: one supervised binary over llama.cpp.
///
/// Without a command the server is started.
#[derive(Debug, Parser)]
#[command(name = "jan-server", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the server (the default command).
    #[command(after_help = EXAMPLES)]
    Serve(SettingsArgs),
    /// Print the settings in effect as TOML, secrets masked.
    Config {
        #[command(flatten)]
        settings: SettingsArgs,
        /// Print the reference page of all settings instead (docs/configuration.md).
        #[arg(long)]
        reference: bool,
    },
    /// Export the store of a stopped server as lines of JSON. A running server exports through its API.
    Export(backup::ExportArgs),
    /// Import an export into the data folder of a stopped server.
    Import(backup::ImportArgs),
    /// Prepare the tables of a PostgreSQL database, or bring them up to date, as a server does when it starts.
    Migrate {
        #[command(flatten)]
        settings: SettingsArgs,
        /// Print what is missing, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Manage the keys that sign tokens.
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Serve one model to the server that started this process. Internal.
    #[command(hide = true)]
    Worker {
        /// Format of log lines; the server passes its own.
        #[arg(long, value_enum, default_value_t)]
        log_format: LogFormat,
        /// Minimum log level; the server passes its own.
        #[arg(long, default_value = "info")]
        log_level: String,
    },
    /// Compile schemas and grammars for the worker that started this process. Internal.
    #[command(hide = true)]
    Constraints,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Create a new signing key. A running server signs with it within seconds and accepts tokens of the old one until
    /// the last of them has expired.
    Rotate(SettingsArgs),
}

/// Flags, which override every other source of settings.
#[derive(Debug, Default, Args)]
pub struct SettingsArgs {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE", env = "JAN_SERVER_CONFIG")]
    config: Option<PathBuf>,
    /// Address to listen on, as host:port [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Folder of all data of the server [default: data].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Serve the GGUF file at PATH as ID; can be given several times.
    #[arg(long = "model", value_name = "ID=PATH", value_parser = parse_model)]
    models: Vec<(String, String)>,
    /// Format of log lines [default: auto, which is human on a terminal and json elsewhere].
    #[arg(long, value_enum)]
    log_format: Option<LogFormat>,
    /// Minimum log level: error, warn, info, debug, trace, or per module as in info,jan_actors=debug
    /// [default: info].
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

fn parse_model(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((id, path)) if !id.trim().is_empty() && !path.trim().is_empty() => {
            Ok((id.trim().to_owned(), path.to_owned()))
        }
        _ => Err("write ID=PATH, as in smollm2=models/smollm2.gguf".to_owned()),
    }
}

impl SettingsArgs {
    fn overrides(&self) -> Vec<Override> {
        let text = |key, value: Option<&String>, flag| {
            value.map(|value| Override::Set { key, value: Value::String(value.clone()), flag })
        };
        let format = self.log_format.map(|format| match format {
            LogFormat::Auto => "auto".to_owned(),
            LogFormat::Human => "human".to_owned(),
            LogFormat::Json => "json".to_owned(),
        });
        [
            text("http.listen", self.listen.as_ref(), "--listen"),
            text("storage.path", self.data_dir.as_ref(), "--data-dir"),
            text("log.format", format.as_ref(), "--log-format"),
            text("log.level", self.log_level.as_ref(), "--log-level"),
        ]
        .into_iter()
        .flatten()
        .chain(self.models.iter().map(|(id, path)| Override::Model { id: id.clone(), path: path.clone() }))
        .collect()
    }

    /// Returns the settings in effect under these flags.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(&self) -> Result<Config, ConfigError> {
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        });
        Config::load(self.config.as_deref(), environment, &self.overrides())
    }
}

/// Runs the command of the arguments. Exit status 2: invalid arguments or settings; 1: the command failed.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        None => serve_command(&cli.settings),
        Some(Command::Serve(settings)) => serve_command(&settings),
        Some(Command::Config { settings: _, reference: true }) => print(&config::reference::markdown()),
        Some(Command::Config { settings, reference: false }) => match settings.load() {
            Ok(config) => print(&config.to_masked_toml()),
            Err(error) => fail(&error, 2),
        },
        Some(Command::Keys { command: KeysCommand::Rotate(settings) }) => rotate_command(&settings),
        Some(Command::Export(arguments)) => finish(backup::export(&arguments)),
        Some(Command::Import(arguments)) => finish(backup::import(&arguments)),
        Some(Command::Migrate { settings, dry_run }) => migrate_command(&settings, dry_run),
        Some(Command::Worker { log_format, log_level }) => {
            logging::init(&LogConfig { format: log_format, level: log_level });
            worker_main()
        }
        Some(Command::Constraints) => constraints_main(),
    }
}

#[cfg(feature = "engine")]
use jan_engine::{vetting::helper::main as constraints_main, worker::main as worker_main};

/// A program without the engine cannot run as a worker.
#[cfg(not(feature = "engine"))]
fn worker_main() -> ExitCode {
    let error = "this program was built without the feature `engine`; name one with it in worker.program";
    tracing::error!(error, "the worker cannot begin");
    ExitCode::FAILURE
}

#[cfg(not(feature = "engine"))]
use worker_main as constraints_main;

fn serve_command(settings: &SettingsArgs) -> ExitCode {
    let config = match settings.load() {
        Ok(config) => config,
        Err(error) => return fail(&error, 2),
    };
    logging::init(&config.log);
    match serve::run(config) {
        Ok(code) => code,
        Err(error) => fail(error.as_ref(), 1),
    }
}

fn rotate_command(settings: &SettingsArgs) -> ExitCode {
    let folder = match settings.load() {
        Ok(config) => config.storage.path,
        Err(error) => return fail(&error, 2),
    };
    match jan_actors::identity::rotate_signing_key(&folder) {
        Ok(id) => print(&format!("new signing key {id} in {}\n", folder.join("keys").display())),
        Err(error) => fail(&error, 1),
    }
}

fn migrate_command(settings: &SettingsArgs, dry_run: bool) -> ExitCode {
    let storage = match settings.load() {
        Ok(config) => config.storage,
        Err(error) => return fail(&error, 2),
    };
    match jan_actors::migrations::migrate(&storage, dry_run) {
        Ok(None) => print("storage.kind is \"sled\", whose files are migrated when they are opened\n"),
        Ok(Some(plan)) if plan.missing.is_empty() => {
            print(&format!("up to date: migration {} of schema {}\n", plan.applied, storage.schema))
        }
        Ok(Some(plan)) => {
            let done = if dry_run { "missing" } else { "applied" };
            let lines =
                plan.missing.iter().map(|(number, name)| format!("{done}: migration {number}, {name}\n"));
            print(&lines.collect::<String>())
        }
        Err(error) => fail(&error, 1),
    }
}

fn finish(outcome: Result<(), backup::Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(backup::Failure::Settings(error)) => fail(&error, 2),
        Err(error) => fail(&error, 1),
    }
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn fail(error: &dyn std::error::Error, status: u8) -> ExitCode {
    let mut message = format!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        message.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    // With a closed standard error the message is lost.
    let _ = writeln!(std::io::stderr(), "{message}");
    ExitCode::from(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_flags_work_without_the_word() {
        for arguments in [
            ["jan-server", "--listen", "127.0.0.1:1"].as_slice(),
            &["jan-server", "serve", "--listen", "127.0.0.1:1"],
        ] {
            let cli = Cli::try_parse_from(arguments).unwrap();
            let settings = match cli.command {
                None => cli.settings,
                Some(Command::Serve(settings)) => settings,
                other => panic!("{other:?}"),
            };
            assert_eq!(settings.load().unwrap().http.listen, "127.0.0.1:1");
        }
    }

    #[test]
    fn a_model_needs_an_id_and_a_path() {
        assert_eq!(parse_model("a=b=c").unwrap(), ("a".to_owned(), "b=c".to_owned()));
        for wrong in ["", "a", "=b", "a=", " =b"] {
            assert!(parse_model(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn wrong_flags_are_named() {
        let settings = SettingsArgs { listen: Some("nowhere".to_owned()), ..SettingsArgs::default() };
        let message = settings.load().unwrap_err().to_string();
        assert!(message.contains("http.listen") && message.contains("--listen"), "{message}");
        assert!(message.contains("host:port"), "{message}");
    }
}
