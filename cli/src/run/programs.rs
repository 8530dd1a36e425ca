//! What ranks run: one program, or several with `:` between them, as `mpirun` has it. Pure.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroU32;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use paceline_launcher::{MoreRanks, Program, Task};

/// What stands between two programs.
const SEPARATOR: &str = ":";

/// Options that say how many ranks run a further program: the first one must be one of them, by which
/// the separator is told from an argument.
const COUNTS: [&str; 5] = ["-np", "-n", "--np", "--n", "--num-proc"];

/// What is wrong with a further program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProgramError {
    #[error("the name of the program is empty")]
    Nameless,
    #[error("{count:?} after `: {option}` is not a number of ranks, at least 1")]
    Count { option: String, count: String },
    #[error("there is no program after `: {options}`")]
    Missing { options: String },
    #[error("{option} is no option of a further program")]
    Option { option: String },
    #[error("-x {text:?} has no name before the `=`, or no `=`")]
    Variable { text: String },
    #[error("there are several programs, and -np does not say how many ranks run the first one")]
    NoFirstCount,
}

impl ProgramError {
    pub(crate) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Nameless => return None,
            Self::NoFirstCount | Self::Count { .. } | Self::Missing { .. } => {
                "as in: paceline run -np 1 first : -np 3 second".to_owned()
            }
            Self::Option { .. } | Self::Variable { .. } => {
                "it takes -np N and -x NAME=VALUE; other options are those of the job, before the first \
                 program"
                    .to_owned()
            }
        })
    }
}

/// The words of the first program, and all further programs.
pub(super) fn split(words: Vec<OsString>) -> Result<(Vec<OsString>, Vec<MoreRanks>), ProgramError> {
    let begins = |at: usize| {
        words[at] == SEPARATOR
            && words.get(at + 1).is_some_and(|next| COUNTS.iter().any(|count| next == count))
    };
    let mut ends: Vec<usize> = (0..words.len()).filter(|at| begins(*at)).collect();
    ends.push(words.len());
    let first = words[..ends[0]].to_vec();
    let others = ends.windows(2).map(|ends| further(&words[ends[0] + 1..ends[1]]));
    Ok((first, others.collect::<Result<_, _>>()?))
}

/// `-np N -x A=1 PROGRAM ARGUMENTS`.
fn further(words: &[OsString]) -> Result<MoreRanks, ProgramError> {
    let (mut count, mut variables) = (None, Vec::new());
    let mut rest = words;
    while let [option, after @ ..] = rest {
        let is_option = option.as_bytes().starts_with(b"-") && option != "-";
        if option == "--" || !is_option {
            rest = if option == "--" { after } else { rest };
            break;
        }
        let name = option.display().to_string();
        let Some((value, after)) = after.split_first() else {
            return Err(ProgramError::Missing { options: name });
        };
        if COUNTS.contains(&name.as_str()) {
            let text = value.display().to_string();
            let number = text.parse::<NonZeroU32>();
            count = Some(number.map_err(|_| ProgramError::Count { option: name, count: text })?);
        } else if name == "-x" || name == "--env" {
            variables.push(variable(value)?);
        } else {
            return Err(ProgramError::Option { option: name });
        }
        rest = after;
    }
    let options =
        || words.iter().map(|word| word.display().to_string()).collect::<Vec<_>>().join(" ");
    let (Some(count), Some((program, arguments))) = (count, rest.split_first()) else {
        return Err(ProgramError::Missing { options: options() });
    };
    if program.is_empty() {
        return Err(ProgramError::Nameless);
    }
    let task = Task::new(Program::Command(program.clone()), arguments.to_vec());
    Ok(MoreRanks { count, task: Task { variables, ..task } })
}

fn variable(text: &OsStr) -> Result<(OsString, OsString), ProgramError> {
    let bytes = text.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(at @ 1..) => {
            let part = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
            Ok((part(&bytes[..at]), part(&bytes[at + 1..])))
        }
        _ => Err(ProgramError::Variable { text: text.display().to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(line: &str) -> Result<Vec<String>, ProgramError> {
        let words = line.split(' ').map(OsString::from).collect();
        let (first, others) = split(words)?;
        let line = |words: &[OsString]| {
            words.iter().map(|word| word.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        let other = |more: &MoreRanks| {
            let Program::Command(program) = &more.task.program else { panic!("a command") };
            let variables = more.task.variables.iter();
            let variables =
                variables.map(|(name, value)| format!("{}={} ", name.display(), value.display()));
            let variables: String = variables.collect();
            let words = [std::slice::from_ref(program), &more.task.arguments[..]].concat();
            format!("{} x {variables}{}", more.count, line(&words))
        };
        Ok(std::iter::once(line(&first)).chain(others.iter().map(other)).collect())
    }

    #[test]
    fn programs_are_separated_where_a_number_of_ranks_follows() {
        assert_eq!(parts("a -np 3").expect("one"), ["a -np 3"]);
        assert_eq!(parts("sh -c :").expect("one"), ["sh -c :"]);
        assert_eq!(parts("a : b").expect("one"), ["a : b"]);
        assert_eq!(parts("a 1 : -np 3 b -x 2").expect("two"), ["a 1", "3 x b -x 2"]);
        let three = parts("a : -n 1 -x A=b=c -x D= b : --np 2 -- -c").expect("three");
        assert_eq!(three, ["a", "1 x A=b=c D= b", "2 x -c"]);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let error = |line: &str| parts(line).expect_err("refused");
        for line in ["a : -np", "a : -np 2", "a : -np 2 --"] {
            assert!(matches!(error(line), ProgramError::Missing { .. }), "{line}");
        }
        for line in ["a : -np 0 b", "a : -np x b", "a : -n -1 b"] {
            assert!(matches!(error(line), ProgramError::Count { .. }), "{line}");
        }
        assert_eq!(error("a : -np 1 -H h b"), ProgramError::Option { option: "-H".into() });
        assert_eq!(error("a : -np 1 -x HOME b"), ProgramError::Variable { text: "HOME".into() });
        assert_eq!(error("a : -np 1 "), ProgramError::Nameless);
    }
}
