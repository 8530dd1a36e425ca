//! Settings: options, variables and keys of a file that mean the same, and which of them counts.
//!
//! What there is stands in one table, [`env::ALL`]; the options that clap sees are made from it. An
//! option counts before a variable, a variable before the file. All are read under the name of the
//! variable, from [`Layers`].

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::marker::PhantomData;
use std::path::Path;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use paceline_collectives::SetupError;
use paceline_rendezvous::BootstrapError;
use paceline_rendezvous::env::{
    self, CommandOption, Environment, EnvironmentError, Form, ProcessEnvironment, Reader, Variable,
};

use crate::config::{self, ConfigError, FileSettings};

/// Columns of values when settings are explained; longer ones stand out.
const VALUE_COLUMNS_MAX: usize = 40;

/// The settings that a command takes as options, below a heading each; the empty one is the
/// command's own.
pub(crate) trait Selection {
    /// In the order of the help.
    const GROUPS: &'static [(&'static str, &'static [Variable])];
}

/// The options of a selection that were given on the command line.
#[derive(Debug)]
pub(crate) struct Settings<S> {
    given: Vec<(Variable, CommandOption, OsString)>,
    selection: PhantomData<S>,
}

impl<S: Selection> Settings<S> {
    fn options() -> impl Iterator<Item = (&'static str, Variable, CommandOption)> {
        let of_group = |(heading, variables): &(&'static str, &'static [Variable])| {
            let heading = *heading;
            variables.iter().filter_map(move |variable| {
                variable.option.map(|option| (heading, *variable, option))
            })
        };
        S::GROUPS.iter().flat_map(of_group)
    }

    /// Whether the option for `variable` was given.
    pub(crate) fn is_given(&self, variable: Variable) -> bool {
        self.given.iter().any(|(given, ..)| *given == variable)
    }

    /// Puts the options over the environment and the file that one of them names. `more` are
    /// options of another origin, as variables.
    ///
    /// # Errors
    /// The file cannot be read or says something that makes no sense.
    pub(crate) fn layers(&self, more: Vec<(OsString, OsString)>) -> Result<Layers, ConfigError> {
        let given =
            self.given.iter().map(|(variable, _, value)| (variable.name.into(), value.clone()));
        let mut layers =
            Layers { given: given.chain(more).collect(), file: FileSettings::default() };
        if let Some(path) = layers.get(env::CONFIG.name).filter(|path| !path.is_empty()) {
            layers.file = config::read(Path::new(&path))?;
        }
        Ok(layers)
    }
}

fn argument(heading: &'static str, variable: Variable, option: CommandOption) -> Arg {
    let summary = variable.summary();
    let mut help = summary.trim_end_matches('.').to_owned();
    let is_switch = option.form == Form::Switch;
    if let (Some(default), false) = (variable.default, is_switch) {
        help.push_str(&format!(" [default: {default}]"));
    }
    let argument = Arg::new(option.name)
        .long(option.name)
        .short(option.short)
        .visible_aliases(option.aliases.iter().copied())
        .help(help);
    let argument = if heading.is_empty() { argument } else { argument.help_heading(heading) };
    if is_switch {
        return argument.action(ArgAction::SetTrue);
    }
    let check = move |value: OsString| {
        let accepted = match (option.form, value.to_str()) {
            (Form::Text, _) => true,
            (form, Some(text)) => form.accepts(text),
            (_, None) => false,
        };
        if accepted { Ok(value) } else { Err(format!("expected {}", variable.expected)) }
    };
    // A negative number is a wrong value rather than an option that does not exist.
    let argument = argument.allow_negative_numbers(option.form.is_number());
    argument.value_name(option.value_name).value_parser(OsStringValueParser::new().try_map(check))
}

impl<S: Selection> Args for Settings<S> {
    fn augment_args(command: Command) -> Command {
        let add = |command: Command, (heading, variable, option)| {
            command.arg(argument(heading, variable, option))
        };
        Self::options().fold(command, add)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<S: Selection> FromArgMatches for Settings<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let value = |option: CommandOption| match option.form {
            Form::Switch => matches.get_flag(option.name).then(|| OsString::from("true")),
            _ => matches.get_one::<OsString>(option.name).cloned(),
        };
        let given = Self::options()
            .filter_map(|(_, variable, option)| Some((variable, option, value(option)?)))
            .collect();
        Ok(Self { given, selection: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The environment of this process, with options above and a file below it.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    given: HashMap<OsString, OsString>,
    file: FileSettings,
}

impl Layers {
    /// What counts of each setting of a selection, and where it comes from, one line each.
    pub(crate) fn explain<S: Selection>(&self) -> String {
        let rows: Vec<_> = Settings::<S>::options()
            .map(|(_, variable, option)| {
                let (value, origin) = self.value_and_origin(variable);
                (option.name, value, origin)
            })
            .collect();
        let name_width = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
        let value_width = rows.iter().map(|(_, value, _)| value.chars().count()).max();
        let value_width = value_width.unwrap_or(0).min(VALUE_COLUMNS_MAX);
        let line = |(name, value, origin): &(&str, String, String)| {
            format!("{name:name_width$}  {value:value_width$}  {origin}\n")
        };
        rows.iter().map(line).collect()
    }

    fn value_and_origin(&self, variable: Variable) -> (String, String) {
        let name = variable.name;
        let shown = |value: OsString| value.to_string_lossy().into_owned();
        if let Some(value) = self.given.get(OsStr::new(name)) {
            return (shown(value.clone()), "command line".to_owned());
        }
        let in_environment =
            [Some(name), variable.horovod].into_iter().flatten().find_map(|name| {
                Some((name, ProcessEnvironment.get(name).filter(|value| !value.is_empty())?))
            });
        if let Some((name, value)) = in_environment {
            return (shown(value), format!("variable {name}"));
        }
        let in_file = self.file.settings.get(name);
        if let (Some(setting), Some(file)) = (in_file, self.get(env::CONFIG.name)) {
            return (setting.value.clone(), format!("file {}", file.display()));
        }
        // Nothing is a default, too; a dash stands for it.
        (variable.default.unwrap_or("-").to_owned(), "default".to_owned())
    }

    /// How the user has spelled a setting whose value counts: as an option, a key or a variable.
    pub(crate) fn spelling(&self, variable: Variable) -> String {
        self.spelled_with(variable).0
    }

    /// The same, and what stands between it and its value.
    fn spelled_with(&self, variable: Variable) -> (String, &'static str) {
        let name = variable.name;
        match (variable.option, self.file.settings.get(name), self.get(env::CONFIG.name)) {
            (Some(option), ..) if self.given.contains_key(OsStr::new(name)) => {
                (format!("--{}", option.name), " ")
            }
            (_, Some(setting), Some(file)) if !is_in_environment(name) => {
                (format!("{}: {}", file.display(), setting.key), " = ")
            }
            _ => (name.to_owned(), "="),
        }
    }

    /// An error that the library has found in the value of a variable, in the user's spelling; others
    /// as they are.
    ///
    /// # Errors
    /// The others.
    pub(crate) fn spelled(&self, error: SetupError) -> Result<SettingError, SetupError> {
        let (name, value, why) = match error {
            SetupError::Setting { variable, value, why } => (variable, value, why),
            SetupError::Bootstrap(BootstrapError::Environment(EnvironmentError::Invalid {
                variable,
                value,
                expected,
            })) => (variable, value, format!("expected {expected}")),
            other => return Err(other),
        };
        // Horovod's are spelled in one way only.
        let known = env::find(name).copied();
        let of_horovod = || env::ALL.iter().find(|known| known.horovod == Some(name)).copied();
        let meaning = known.or_else(of_horovod).map(|variable| variable.summary());
        let (said, between) =
            known.map_or_else(|| (name.to_owned(), "="), |known| self.spelled_with(known));
        let hint = meaning.map(|meaning| format!("{said}: {meaning}"));
        Ok(SettingError { said: format!("{said}{between}"), value, why, hint })
    }

    /// What the file says about variables that ranks read and the environment does not set.
    pub(crate) fn file_for_ranks(&self) -> Vec<(OsString, OsString)> {
        let for_ranks = |name: &str| reader(name) == Some(Reader::Ranks);
        let counts = |name: &str| for_ranks(name) && !is_in_environment(name);
        let settings = self.file.settings.iter().filter(|(name, _)| counts(name));
        settings.map(|(name, setting)| ((*name).into(), setting.value.clone().into())).collect()
    }

    /// What the user may want to know of the file, a sentence each.
    pub(crate) fn notices(&self) -> &[String] {
        &self.file.notices
    }

    /// What the options say about variables that ranks read.
    pub(crate) fn options_for_ranks(&self) -> Vec<(OsString, OsString)> {
        let for_ranks =
            |name: &OsStr| name.to_str().is_some_and(|name| reader(name) == Some(Reader::Ranks));
        let mut options: Vec<_> = self.given.clone().into_iter().collect();
        options.retain(|(name, _)| for_ranks(name));
        options.sort();
        options
    }
}

/// The value of a setting makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{said}{value:?} is invalid: {why}")]
pub(crate) struct SettingError {
    /// The setting as the user has spelled it, with what stands between it and its value.
    said: String,
    value: String,
    why: String,
    hint: Option<String>,
}

impl SettingError {
    pub(crate) fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}

fn reader(name: &str) -> Option<Reader> {
    Some(env::find(name)?.option?.reader)
}

/// Whether the environment of this process says something, perhaps in Horovod's words.
fn is_in_environment(name: &str) -> bool {
    let is_set = |name: &str| ProcessEnvironment.get(name).is_some_and(|value| !value.is_empty());
    is_set(name) || env::find(name).and_then(|variable| variable.horovod).is_some_and(is_set)
}

impl Environment for Layers {
    fn get(&self, name: &str) -> Option<OsString> {
        if let Some(value) = self.given.get(OsStr::new(name)) {
            return Some(value.clone());
        }
        match self.file.settings.get(name) {
            Some(setting) if !is_in_environment(name) => Some(setting.value.clone().into()),
            _ => ProcessEnvironment.get(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[derive(Debug)]
    struct Two;

    impl Selection for Two {
        const GROUPS: &'static [(&'static str, &'static [Variable])] =
            &[("", &[env::NP, env::QUIET]), ("Network", &[env::INTERFACE, env::CONFIG])];
    }

    fn settings(line: &str) -> Result<Settings<Two>, String> {
        let command = Settings::<Two>::augment_args(Command::new("p"));
        let words = std::iter::once("p").chain(line.split_whitespace());
        let matches = command.try_get_matches_from(words).map_err(|error| error.to_string())?;
        Settings::from_arg_matches(&matches).map_err(|error| error.to_string())
    }

    #[test]
    fn options_are_made_from_the_table() {
        let layers = settings("-n 4 -q --network-interface eth0").unwrap().layers(vec![]).unwrap();
        assert_eq!(env::NP.parse(&layers), Ok(Some(4_u32)));
        assert_eq!(env::QUIET.is_on(&layers), Ok(true));
        assert_eq!(env::INTERFACE.text(&layers), Ok(Some("eth0".to_owned())));
        let for_ranks = layers.options_for_ranks();
        assert_eq!(for_ranks, [("PACELINE_INTERFACE".into(), "eth0".into())]);
        let error = settings("--np 0").unwrap_err();
        assert!(error.contains("'--np <N>': expected a whole number, at least 1"), "{error}");
        let error = settings("-n -1").unwrap_err();
        assert!(error.contains("invalid value '-1' for '--np <N>'"), "{error}");
        assert!(!settings("").unwrap().is_given(env::NP));
        assert!(settings("--np 1").unwrap().is_given(env::NP));
    }

    #[test]
    fn options_come_before_the_file_and_the_file_before_nothing() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"np = 3\ninterface = \"lo\"\n").unwrap();
        let line = format!("--np 5 --config {}", file.path().display());
        let layers = settings(&line).unwrap().layers(vec![]).unwrap();
        assert_eq!(env::NP.parse(&layers), Ok(Some(5_u32)));
        assert_eq!(env::INTERFACE.text(&layers), Ok(Some("lo".to_owned())));
        assert_eq!(layers.file_for_ranks(), [("PACELINE_INTERFACE".into(), "lo".into())]);
        assert_eq!(layers.get("PACELINE_NO_SUCH_VARIABLE"), None);
    }

    #[test]
    fn an_error_is_about_what_the_user_has_written() {
        let wrong = |variable: Variable| SetupError::Setting {
            variable: variable.name,
            value: "x".to_owned(),
            why: "no".to_owned(),
        };
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"transport = \"x\"\n").unwrap();
        let file_name = file.path().display();
        let layers = settings(&format!("--interface x --config {file_name}"));
        let layers = layers.unwrap().layers(vec![]).unwrap();
        for (variable, said) in [
            (env::INTERFACE, "--interface \"x\" is invalid: no".to_owned()),
            (env::TRANSPORT, format!("{file_name}: transport = \"x\" is invalid: no")),
            (env::SOCKETS, "PACELINE_SOCKETS=\"x\" is invalid: no".to_owned()),
        ] {
            let error = layers.spelled(wrong(variable)).unwrap();
            assert_eq!(error.to_string(), said);
            assert!(error.hint().unwrap().contains(&variable.summary()));
        }
        let horovods = EnvironmentError::Invalid {
            variable: "HOROVOD_CYCLE_TIME",
            value: "x".to_owned(),
            expected: "y",
        };
        let error = layers.spelled(BootstrapError::from(horovods).into()).unwrap();
        assert_eq!(error.to_string(), "HOROVOD_CYCLE_TIME=\"x\" is invalid: expected y");
        assert!(error.hint().unwrap().starts_with("HOROVOD_CYCLE_TIME: Time from one round"));
        assert!(layers.spelled(SetupError::Option("other".to_owned())).is_err());
    }

    #[test]
    fn options_come_before_variables() {
        let layers = settings("").unwrap().layers(vec![("PATH".into(), "/ours".into())]).unwrap();
        assert_eq!(layers.get("PATH"), Some("/ours".into()));
    }
}
