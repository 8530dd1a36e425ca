//! Spellings that users of other launchers know, made regular before clap sees them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::{Arg, Command};

/// Rewrites `-np 4` to `--np 4` (any long option may have a single dash) and puts `--` after
/// `-m MODULE`, whose arguments follow it.
///
/// Nothing at or after PROGRAM is touched: those words belong to the program.
pub(crate) fn normalise(arguments: Vec<OsString>, command: &Command) -> Vec<OsString> {
    let mut rest = arguments.into_iter();
    let mut normal: Vec<OsString> = rest.by_ref().take(2).collect();
    let subcommand = normal.get(1).and_then(|name| {
        command.get_subcommands().find(|known| OsStr::new(known.get_name()) == name)
    });
    let Some(subcommand) = subcommand else {
        normal.extend(rest);
        return normal;
    };
    let takes_program = subcommand.get_positionals().any(Arg::is_trailing_var_arg_set);
    while let Some(argument) = rest.next() {
        if argument == "--" || (takes_program && !is_option(&argument)) {
            normal.push(argument);
            break;
        }
        let argument = with_two_dashes(argument, subcommand);
        let option = find(&argument, subcommand);
        let is_module = option.is_some_and(|option| option.get_id() == "module");
        let wants_value = option.is_some_and(wants_value) && !has_value_attached(&argument);
        normal.push(argument);
        if wants_value {
            normal.extend(rest.next());
        }
        if is_module {
            normal.push("--".into());
            break;
        }
    }
    normal.extend(rest);
    normal
}

fn is_option(argument: &OsStr) -> bool {
    argument.len() > 1 && argument.as_bytes().starts_with(b"-")
}

fn is_long(argument: &OsStr) -> bool {
    argument.as_bytes().starts_with(b"--")
}

fn with_two_dashes(argument: OsString, command: &Command) -> OsString {
    if !is_option(&argument) || is_long(&argument) || argument.len() <= 2 {
        return argument;
    }
    let mut long = OsString::from("-");
    long.push(&argument);
    if find(&long, command).is_some() { long } else { argument }
}

/// The option that an argument names, by its long name or by its one letter.
fn find<'a>(argument: &OsStr, command: &'a Command) -> Option<&'a Arg> {
    let text = argument.to_str()?;
    if let Some(long) = text.strip_prefix("--") {
        let name = long.split('=').next().unwrap_or(long);
        return command.get_arguments().find(|option| {
            option.get_long() == Some(name)
                || option.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
        });
    }
    let letter = text.strip_prefix('-')?.chars().next()?;
    command.get_arguments().find(|option| option.get_short() == Some(letter))
}

fn wants_value(option: &Arg) -> bool {
    option.get_action().takes_values()
}

fn has_value_attached(argument: &OsStr) -> bool {
    if is_long(argument) { argument.as_bytes().contains(&b'=') } else { argument.len() > 2 }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn normal(text: &str) -> String {
        let arguments = text.split(' ').map(OsString::from).collect();
        let command = crate::Cli::command();
        let words = normalise(arguments, &command);
        words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn single_dashes_before_the_program_are_doubled() {
        assert_eq!(normal("p run -np 4 prog -np 5"), "p run --np 4 prog -np 5");
        assert_eq!(normal("p run -np=4 -- prog -np 5"), "p run --np=4 -- prog -np 5");
        assert_eq!(normal("p run -n 4 -x A=1 prog -x"), "p run -n 4 -x A=1 prog -x");
        assert_eq!(normal("p run -n4 -timeout 3 prog"), "p run -n4 --timeout 3 prog");
        assert_eq!(normal("p run -xnp prog -np"), "p run -xnp prog -np");
    }

    #[test]
    fn values_of_options_are_not_mistaken_for_the_program() {
        assert_eq!(normal("p run --grace 3 -np 2 prog"), "p run --grace 3 --np 2 prog");
        assert_eq!(normal("p run --grace=3 -np 2 prog"), "p run --grace=3 --np 2 prog");
        assert_eq!(normal("p run --no-prefix -np 2 prog"), "p run --no-prefix --np 2 prog");
        assert_eq!(normal("p run --log-dir d -np 2 prog"), "p run --log-dir d --np 2 prog");
    }

    #[test]
    fn a_module_ends_our_options() {
        assert_eq!(normal("p run -np 2 -m pkg -np 3"), "p run --np 2 -m pkg -- -np 3");
        assert_eq!(normal("p run --module=pkg -x"), "p run --module=pkg -- -x");
    }

    #[test]
    fn words_without_dashes_are_not_options() {
        assert_eq!(normal("p bench broadcast -np 2"), "p bench broadcast --np 2");
        assert_eq!(normal("p bench -b 8 -e16 -np 2"), "p bench -b 8 -e16 --np 2");
    }

    #[test]
    fn other_commands_pass() {
        assert_eq!(normal("p --version"), "p --version");
        assert_eq!(normal("p nonsense -np 4"), "p nonsense -np 4");
        assert_eq!(normal("p"), "p");
    }
}
