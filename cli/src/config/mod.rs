//! `--config FILE`: settings in TOML, each key named as its option, or horovodrun's file in YAML.

mod horovod;
mod yaml;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use paceline_rendezvous::env::{self, CommandOption, Variable};
use toml::de::{DeTable, DeValue};

use crate::files::{self, ReadError};

/// What is wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{}:{line}: {message}", path.display())]
    Syntax { path: PathBuf, line: usize, message: String },
    #[error("{}:{line}: unknown key {key:?}", path.display())]
    UnknownKey { path: PathBuf, line: usize, key: String, hint: String },
    #[error("{}:{line}: {key} = {value} is invalid: expected {expected}", path.display())]
    Value { path: PathBuf, line: usize, key: String, value: String, expected: &'static str },
}

impl ConfigError {
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Read(error) => error.hint(),
            Self::UnknownKey { hint, .. } => Some(hint.clone()),
            _ => None,
        }
    }
}

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct FileSettings {
    /// By the names of their variables.
    pub(crate) settings: BTreeMap<&'static str, FileSetting>,
    /// What the user may want to know of it, a sentence each.
    pub(crate) notices: Vec<String>,
}

/// A setting of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileSetting {
    /// As the file calls it.
    pub(crate) key: String,
    /// As its variable has it.
    pub(crate) value: String,
}

/// What may stand in a file.
fn keys() -> impl Iterator<Item = (Variable, CommandOption)> {
    let option = |variable: &Variable| variable.option.map(|option| (*variable, option));
    env::ALL.iter().filter_map(option).filter(|(variable, _)| *variable != env::CONFIG)
}

/// The settings of a file: horovodrun's if its name ends as that of a file in YAML does.
pub(crate) fn read(path: &Path) -> Result<FileSettings, ConfigError> {
    let text = files::read(path, "configuration")?;
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
    match extension.as_deref().and_then(|extension| extension.to_str()) {
        Some("yaml" | "yml") => horovod::parse(&text, path),
        _ => parse(&text, path),
    }
}

/// `key` of `name` is none of those that are `known`.
fn unknown_key<'a>(
    path: &Path,
    line: usize,
    name: &str,
    key: &str,
    known: impl Iterator<Item = &'a str>,
) -> ConfigError {
    let known: Vec<&str> = known.collect();
    // Options have hyphens, Horovod's keys have not; which of the two was written is no mistake.
    let near = [key.to_owned(), key.replace('_', "-")]
        .iter()
        .find_map(|key| env::nearest(key, known.iter().copied()));
    let hint = match near {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("the keys are {}", known.join(", ")),
    };
    ConfigError::UnknownKey { path: path.to_owned(), line, key: name.to_owned(), hint }
}

fn parse(text: &str, path: &Path) -> Result<FileSettings, ConfigError> {
    let line_at = |at: usize| 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        line: line_at(error.span().map_or(0, |span| span.start)),
        message: error.message().trim().replace('\n', ", "),
    })?;
    let mut settings = BTreeMap::new();
    for (key, value) in table.get_ref() {
        let name = key.get_ref().as_ref();
        let line = line_at(key.span().start);
        let Some((variable, option)) = keys().find(|(_, option)| option.name == name) else {
            return Err(unknown_key(path, line, name, name, keys().map(|(_, option)| option.name)));
        };
        let said = scalar(value.get_ref()).filter(|said| option.form.accepts(said));
        let Some(said) = said else {
            return Err(ConfigError::Value {
                path: path.to_owned(),
                line,
                key: name.to_owned(),
                value: text.get(value.span()).unwrap_or_default().to_owned(),
                expected: variable.expected,
            });
        };
        settings.insert(variable.name, FileSetting { key: name.to_owned(), value: said });
    }
    Ok(FileSettings { settings, notices: Vec::new() })
}

/// A value as a variable would hold it; `None` for what has parts.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.as_str().to_owned()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(is_on) => Some(is_on.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> Result<BTreeMap<&'static str, String>, ConfigError> {
        let settings = parse(text, Path::new("job.toml"))?.settings;
        Ok(settings.into_iter().map(|(name, setting)| (name, setting.value)).collect())
    }

    #[test]
    fn keys_are_the_names_of_options() {
        let text = "# a job\nnp = 4\nop-timeout = 2.5\nno-prefix = true\ntransport = \"tcp\"\n";
        let expected = [
            ("PACELINE_NO_PREFIX", "true"),
            ("PACELINE_NP", "4"),
            ("PACELINE_TIMEOUT", "2.5"),
            ("PACELINE_TRANSPORT", "tcp"),
        ];
        let expected = expected.map(|(name, value)| (name, value.to_owned()));
        assert_eq!(parse_text(text).unwrap(), BTreeMap::from(expected));
        assert_eq!(parse_text("").unwrap(), BTreeMap::new());
    }

    #[test]
    fn errors_name_file_line_and_key() {
        for (text, said, hint) in [
            ("np = 4\n\ntransprot = 1", "job.toml:3: unknown key \"transprot\"", "\"transport\""),
            ("op_timeout = 1", "job.toml:1: unknown key \"op_timeout\"", "\"op-timeout\""),
            ("config = \"x\"", "job.toml:1: unknown key \"config\"", "the keys are "),
            ("np = 0", "job.toml:1: np = 0 is invalid: expected a whole number, at least 1", ""),
            ("\nnp = [4]", "job.toml:2: np = [4] is invalid: expected", ""),
            ("no-prefix = \"perhaps\"", "job.toml:1: no-prefix = \"perhaps\" is invalid", ""),
            ("np = 4\nnp = 5", "job.toml:2: ", ""),
            ("np 4", "job.toml:1: ", ""),
        ] {
            let error = parse_text(text).unwrap_err();
            assert!(error.to_string().starts_with(said), "{error}");
            let given = error.hint();
            assert_eq!(given.is_some(), !hint.is_empty(), "{text}");
            assert!(given.unwrap_or_default().contains(hint), "{text}");
        }
    }
}
