//! The configuration file of `horovodrun --config-file`, in YAML: what its keys are here.
//!
//! Beside Horovod's own keys, which stand in sections, those of our options are understood.

use std::path::Path;

use paceline_rendezvous::env::{self, CommandOption, Form, Variable};

use super::yaml::{self, Entry, Value};
use super::{ConfigError, FileSetting, FileSettings, keys, unknown_key};

/// What a key of Horovod's says here.
#[derive(Debug, Clone, Copy)]
enum Meaning {
    /// A setting of the same unit.
    Setting(Variable),
    /// A setting in bytes; the key has MiB.
    Mebibytes(Variable),
    /// When stalls are reported: of operations and of tensors in a queue.
    StallTime,
    /// Whether they are.
    StallSwitch,
    /// `gloo` or `mpi`.
    Controller,
    /// Nothing, and why.
    Nothing(&'static str),
}

const LINKS: &str = "the ranks measure their links and choose; --algorithm forces one";
const TUNED: &str =
    "links are measured when ranks on several nodes start (--tune); --plan FILE keeps the numbers";
const CONTROL: &str = "the control plane is paceline's own";
const WORDS: &str = "what matters is said, and --quiet says less";
const FOREIGN: &str = "it is for a library that is not used here";

const STALL_CHECK: &str = "stall_check";

/// Keys outside of sections.
const KEYS: &[(&str, Meaning)] = &[
    ("controller", Meaning::Controller),
    ("nics", Meaning::Setting(env::INTERFACE)),
    ("verbose", Meaning::Nothing(WORDS)),
];

/// Sections and their keys, of every version of Horovod up to 0.28.
const SECTIONS: &[(&str, &[(&str, Meaning)])] = &[
    (
        "params",
        &[
            ("fusion_threshold_mb", Meaning::Mebibytes(env::FUSION_THRESHOLD)),
            ("cycle_time_ms", Meaning::Setting(env::CYCLE_TIME)),
            ("cache_capacity", Meaning::Setting(env::CACHE_CAPACITY)),
            ("hierarchical_allreduce", Meaning::Nothing(LINKS)),
            ("hierarchical_allgather", Meaning::Nothing(LINKS)),
            ("torus_allreduce", Meaning::Nothing(LINKS)),
        ],
    ),
    (
        "autotune",
        &[
            ("enabled", Meaning::Nothing(TUNED)),
            ("log_file", Meaning::Nothing(TUNED)),
            ("warmup_samples", Meaning::Nothing(TUNED)),
            ("steps_per_sample", Meaning::Nothing(TUNED)),
            ("bayes_opt_max_samples", Meaning::Nothing(TUNED)),
            ("gaussian_process_noise", Meaning::Nothing(TUNED)),
        ],
    ),
    (
        "timeline",
        &[
            ("filename", Meaning::Setting(env::TIMELINE)),
            ("mark_cycles", Meaning::Nothing("a timeline always has a queue's cycles")),
        ],
    ),
    (
        STALL_CHECK,
        &[
            ("enabled", Meaning::StallSwitch),
            ("warning_time_seconds", Meaning::StallTime),
            ("shutdown_time_seconds", Meaning::Setting(env::STALL_SHUTDOWN_TIME)),
        ],
    ),
    (
        "library_options",
        &[
            ("mpi_threads_disable", Meaning::Nothing(CONTROL)),
            ("num_nccl_streams", Meaning::Nothing(FOREIGN)),
            ("ccl_bgt_affinity", Meaning::Nothing(FOREIGN)),
            ("thread_affinity", Meaning::Nothing("it is of Horovod's own thread")),
            ("gloo_timeout_seconds", Meaning::Setting(env::TIMEOUT)),
        ],
    ),
    (
        "logging",
        &[
            ("level", Meaning::Nothing(WORDS)),
            ("with_timestamp", Meaning::Nothing(WORDS)),
            ("hide_timestamp", Meaning::Nothing(WORDS)),
        ],
    ),
];

/// The settings of a file.
pub(super) fn parse(text: &str, path: &Path) -> Result<FileSettings, ConfigError> {
    let entries = yaml::parse(text).map_err(|problem| ConfigError::Syntax {
        path: path.to_owned(),
        line: problem.line,
        message: problem.message,
    })?;
    let mut reader = Reader { path, settings: FileSettings::default(), idle: Vec::new() };
    for entry in entries {
        reader.entry(entry)?;
    }
    Ok(reader.finish())
}

/// A file as far as it has been read.
struct Reader<'a> {
    path: &'a Path,
    settings: FileSettings,
    /// Keys that change nothing, by the reason.
    idle: Vec<(&'static str, Vec<String>)>,
}

impl Reader<'_> {
    fn entry(&mut self, entry: Entry) -> Result<(), ConfigError> {
        let name = entry.key.as_str();
        let section = SECTIONS.iter().find(|(section, _)| *section == name);
        match (section, entry.value) {
            (Some(_), Value::Nothing) => Ok(()),
            (Some((section, meanings)), Value::Section(entries)) => {
                entries.into_iter().try_for_each(|entry| self.member(section, meanings, entry))
            }
            (Some(_), value) => {
                Err(self.invalid(name, entry.line, &value, "a section with keys below it"))
            }
            (None, value) => {
                let Some(meaning) = outside_sections(name) else {
                    let all = KEYS.iter().map(|(key, _)| *key);
                    let sections = SECTIONS.iter().map(|(section, _)| *section);
                    let options = keys().map(|(_, option)| option.name);
                    let known = all.chain(sections).chain(options);
                    return Err(unknown_key(self.path, entry.line, name, name, known));
                };
                self.take(meaning, name, entry.line, &value)
            }
        }
    }

    /// A key of a section.
    fn member(
        &mut self,
        section: &str,
        meanings: &[(&'static str, Meaning)],
        entry: Entry,
    ) -> Result<(), ConfigError> {
        let name = format!("{section}.{}", entry.key);
        let Some((_, meaning)) = meanings.iter().find(|(key, _)| *key == entry.key) else {
            let known = meanings.iter().map(|(key, _)| *key);
            return Err(unknown_key(self.path, entry.line, &name, &entry.key, known));
        };
        self.take(*meaning, &name, entry.line, &entry.value)
    }

    fn take(
        &mut self,
        meaning: Meaning,
        name: &str,
        line: usize,
        value: &Value,
    ) -> Result<(), ConfigError> {
        let said = match value {
            // As in Horovod: who says nothing has not said anything.
            Value::Nothing => return Ok(()),
            Value::Text(text) => text.trim().to_owned(),
            Value::List(texts) => texts.join(","),
            Value::Section(_) => return Err(self.invalid(name, line, value, "one value")),
        };
        match meaning {
            Meaning::Nothing(why) => self.changes_nothing(name, why),
            Meaning::Controller => {
                if !matches!(&*said.to_ascii_lowercase(), "gloo" | "mpi") {
                    return Err(self.invalid(name, line, value, "gloo or mpi"));
                }
                self.changes_nothing(name, CONTROL);
            }
            Meaning::Setting(variable) => self.set(variable, name, line, said, value)?,
            Meaning::Mebibytes(variable) => {
                if said.parse::<u64>().is_err() {
                    return Err(self.invalid(name, line, value, "a whole number of MiB"));
                }
                self.set(variable, name, line, format!("{said}M"), value)?;
            }
            Meaning::StallTime => {
                // Who has turned the check off has said more than who has set its time.
                for variable in [env::STALL_REPORT, env::STALL_CHECK_TIME] {
                    if !self.settings.settings.contains_key(variable.name) {
                        self.set(variable, name, line, said.clone(), value)?;
                    }
                }
            }
            Meaning::StallSwitch => {
                let said = said.to_ascii_lowercase();
                if !Form::Switch.accepts(&said) {
                    return Err(self.invalid(name, line, value, "true or false"));
                }
                if matches!(&*said, "false" | "no" | "off" | "0") {
                    for variable in [env::STALL_REPORT, env::STALL_CHECK_TIME] {
                        self.set(variable, name, line, "0".to_owned(), value)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn set(
        &mut self,
        variable: Variable,
        name: &str,
        line: usize,
        said: String,
        value: &Value,
    ) -> Result<(), ConfigError> {
        let form = variable.option.map_or(Form::Text, |option| option.form);
        // YAML has True, FALSE and Yes.
        let said = if form == Form::Switch { said.to_ascii_lowercase() } else { said };
        if !form.accepts(&said) {
            return Err(self.invalid(name, line, value, variable.expected));
        }
        // The stall check has two keys that together say one thing.
        if let Some(other) = self.settings.settings.get(variable.name)
            && !other.key.starts_with(STALL_CHECK)
        {
            let message =
                format!("{name} says the same as {}: leave one of the two out", other.key);
            return Err(ConfigError::Syntax { path: self.path.to_owned(), line, message });
        }
        let setting = FileSetting { key: name.to_owned(), value: said };
        self.settings.settings.insert(variable.name, setting);
        Ok(())
    }

    fn changes_nothing(&mut self, name: &str, why: &'static str) {
        match self.idle.iter_mut().find(|(reason, _)| *reason == why) {
            Some((_, names)) => names.push(name.to_owned()),
            None => self.idle.push((why, vec![name.to_owned()])),
        }
    }

    fn invalid(
        &self,
        key: &str,
        line: usize,
        value: &Value,
        expected: &'static str,
    ) -> ConfigError {
        let value = match value {
            Value::Nothing => "null".to_owned(),
            Value::Text(text) => format!("{text:?}"),
            Value::List(texts) => format!("{texts:?}"),
            Value::Section(_) => "a section".to_owned(),
        };
        let (path, key) = (self.path.to_owned(), key.to_owned());
        ConfigError::Value { path, line, key, value, expected }
    }

    fn finish(self) -> FileSettings {
        let path = self.path.display();
        let notice = |(why, names): (&str, Vec<String>)| {
            let verb = if names.len() == 1 { "changes" } else { "change" };
            format!("{path}: {} {verb} nothing: {why}", names.join(", "))
        };
        FileSettings { notices: self.idle.into_iter().map(notice).collect(), ..self.settings }
    }
}

/// What a key outside of sections says: Horovod's, or one that is named as an option.
fn outside_sections(name: &str) -> Option<Meaning> {
    if let Some((_, meaning)) = KEYS.iter().find(|(key, _)| *key == name) {
        return Some(*meaning);
    }
    let option_name = name.replace('_', "-");
    let is_meant = |(_, option): &(Variable, CommandOption)| {
        option.is_called(&option_name) || option.is_called(name)
    };
    Some(Meaning::Setting(keys().find(is_meant)?.0))
}

#[cfg(test)]
#[path = "horovod_tests.rs"]
mod tests;
