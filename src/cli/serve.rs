//! `corriente serve`: from flags, environment and file to a running node.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::LazyLock;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::exit::Failure;
use super::output::write_out;
use crate::config::load::{Given, Origin, Sources};
use crate::config::settings::SETTINGS;
use crate::config::{self, show};

/// The options of `serve`: a flag for each setting, and those that are not settings.
#[derive(Debug)]
pub struct ServeOptions {
    file: Option<PathBuf>,
    check: bool,
    flags: Vec<Given>,
}

/// The flags and help texts of all settings, in the table's order; clap keeps references to them.
static FLAGS: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
    let help = |setting: &config::settings::Setting| {
        let default = setting.default_text();
        let default = if default.is_empty() { "none".into() } else { default };
        format!("{} [default: {default}] [env: {}]", setting.help, setting.variable())
    };
    SETTINGS.iter().map(|setting| (setting.flag(), help(setting))).collect()
});

const EXAMPLES: &str = "\
Examples:
  corriente serve --config /etc/corriente.toml
  corriente serve --listen 127.0.0.2:8504 --memory-mode no-huge --memory-size 256MiB --state-dir /tmp/node-2
  corriente serve --config /etc/corriente.toml --check";

impl Args for ServeOptions {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .env("CORRIENTE_CONFIG")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("A TOML file with settings; a flag or a variable of the environment comes before it");
        let check = Arg::new("check")
            .long("check")
            .action(ArgAction::SetTrue)
            .help("Print the effective configuration with the origin of each value, and exit");
        let settings = SETTINGS.iter().zip(FLAGS.iter()).map(|(setting, (flag, help))| {
            Arg::new(setting.key)
                .long(flag.as_str())
                .value_name((setting.form)())
                .allow_hyphen_values(true)
                .help_heading("Settings")
                .help(help.as_str())
        });
        command.arg(file).arg(check).args(settings).after_help(EXAMPLES)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ServeOptions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let flags = SETTINGS.iter().filter_map(|setting| {
            // No setting has a default or a variable in clap: where a value comes from is `config`'s to know.
            let given = matches.value_source(setting.key) == Some(ValueSource::CommandLine);
            let text = given.then(|| matches.get_one::<String>(setting.key)).flatten()?.clone();
            Some(Given { setting, text, origin: Origin::Flag { flag: format!("--{}", setting.flag()) } })
        });
        Ok(Self { file: matches.get_one("config").cloned(), check: matches.get_flag("check"), flags: flags.collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Starts a node and runs it until it is told to stop; or only checks its configuration.
pub fn run(options: ServeOptions) -> Result<(), Failure> {
    let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let sources = Sources { flags: options.flags, environment, file: options.file };
    let loaded = config::load(sources).map_err(|error| Failure::usage(error.to_string()))?;
    if options.check {
        return write_out(show::show(&loaded).as_bytes());
    }
    crate::node::serve(loaded.config).map_err(Failure::from)
}
