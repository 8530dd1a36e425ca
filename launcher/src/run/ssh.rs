//! Reaching other hosts: the command line of ssh, and what it means when it fails.

use std::ffi::OsString;
use std::path::PathBuf;

use super::agents::AgentCommand;
use super::outcome::Unreached;
use crate::hosts::HostSlots;
use crate::process::wait::Ending;

/// How other hosts are reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SshOptions {
    /// The port of sshd, where it is not what ssh's own configuration says.
    pub port: Option<u16>,
    /// The private key to log in with.
    pub identity_file: Option<PathBuf>,
    /// Options as for `ssh -o`, such as `ProxyJump=gate`. They win over our own.
    pub options: Vec<String>,
    /// Where paceline is on the other hosts. Without it: where it is here, or else in the `PATH` there.
    pub remote_program: Option<String>,
    /// Copy this binary to the other hosts, where they do not have it yet, and use the copies.
    pub copy_binary: bool,
}

/// What ssh is told unless the user's options say otherwise: never ask anybody for anything, notice
/// within a quarter of a minute that the other host is out of reach, take a key that is new but not
/// one that has changed, and say nothing but errors.
const OPTIONS: [&str; 6] = [
    "BatchMode=yes",
    "ConnectTimeout=10",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    "StrictHostKeyChecking=accept-new",
    "LogLevel=ERROR",
];

/// ssh's own exit code when it could not connect, or has lost the connection.
pub(crate) const SSH_FAILED: u8 = 255;

impl SshOptions {
    /// The command that starts an agent on a host. Nothing in it is secret.
    ///
    /// `own_path` is where this binary is here, `copy` where it has been copied to there.
    pub(crate) fn command(
        &self,
        host: &HostSlots,
        own_path: Option<&str>,
        copy: Option<&str>,
    ) -> AgentCommand {
        self.command_line(host, &self.remote_command(own_path, copy))
    }

    /// The command that has the login shell of a host carry out `remote_command`.
    pub(super) fn command_line(&self, host: &HostSlots, remote_command: &str) -> AgentCommand {
        let mut arguments: Vec<OsString> = vec!["-T".into(), "-x".into()];
        // Of each option ssh takes the first value that it is given.
        for option in self.options.iter().map(String::as_str).chain(OPTIONS) {
            arguments.extend(["-o".into(), option.into()]);
        }
        if let Some(port) = self.port {
            arguments.extend(["-p".into(), port.to_string().into()]);
        }
        if let Some(file) = &self.identity_file {
            arguments.extend(["-i".into(), file.into()]);
        }
        if let Some(user) = &host.user {
            arguments.extend(["-l".into(), user.into()]);
        }
        arguments.extend(["--".into(), host.host.clone().into(), remote_command.into()]);
        AgentCommand { program: "ssh".into(), arguments }
    }

    /// The command that prints what ssh would do, and connects to nothing.
    pub(crate) fn explanation(&self, host: &HostSlots) -> AgentCommand {
        let mut command = self.command(host, None, None);
        command.arguments.insert(0, "-G".into());
        command
    }

    /// Any login shell understands it: a command and words in single quotes.
    fn remote_command(&self, own_path: Option<&str>, copy: Option<&str>) -> String {
        match (copy.or(self.remote_program.as_deref()), own_path) {
            (Some(program), _) => format!("exec {} agent", quoted(program)),
            (None, Some(path)) => format!(
                "exec sh -c 'test -x \"$0\" && exec \"$0\" agent; exec paceline agent' {}",
                quoted(path)
            ),
            (None, None) => "exec paceline agent".to_owned(),
        }
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

const PACELINE_MISSING: &str = "install paceline on {host} at the same path or in its PATH, or name it with \
     --remote-program, or let --copy-binary copy it";
const NOT_EXECUTABLE: &str = "paceline on {host} cannot be executed: is it made for that machine, and its file \
     system not mounted noexec?";

/// What ssh says, in the order in which it is looked for, and what the user may do about it.
/// `{host}` stands for the host.
const REMEDIES: [(&[&str], &str); 11] = [
    (
        &["Could not resolve hostname"],
        "check the spelling of {host}, or make it known to DNS, /etc/hosts or ~/.ssh/config",
    ),
    (
        &["HOST IDENTIFICATION HAS CHANGED", "Host key verification failed"],
        "if {host} was installed anew: ssh-keygen -R {host}; else somebody pretends to be it",
    ),
    (
        &["Permission denied (", "Too many authentication failures"],
        "log in to {host} without a password first: ssh-copy-id {host}, or name the key with \
         --ssh-identity-file",
    ),
    (
        &["account is currently not available", "Please login as the user"],
        "log in to {host} as somebody else, as in USER@{host}",
    ),
    (&["Connection refused"], "start sshd on {host}, or name its port with --ssh-port"),
    (
        &["Connection timed out", "No route to host", "Network is unreachable"],
        "see whether {host} is up and whether a firewall drops ssh's port: ssh {host} true",
    ),
    (
        &["kex_exchange_identification", "Connection reset", "Connection closed"],
        "sshd on {host} hangs up; it may have too many logins at once (MaxStartups in sshd_config)",
    ),
    (&["paceline: not found", "No such file or directory", "command not found"], PACELINE_MISSING),
    (
        &["No space left on device", "Read-only file system", "Disk quota exceeded"],
        "make room in ~/.cache on {host}, or install paceline there and name it with \
         --remote-program",
    ),
    (
        &["Permission denied", "cannot execute", "Exec format error", "it is made for"],
        NOT_EXECUTABLE,
    ),
    (
        &["Too many open files"],
        "each host takes three descriptors here, and two more each rank that uses the library: raise the \
         hard limit, `ulimit -Hn`",
    ),
];

/// What the user may do about a host of which the name is not known.
pub(crate) fn name_remedy(host: &str) -> String {
    REMEDIES[0].1.replace("{host}", host)
}

/// What the user may do about an agent that never came up.
pub(crate) fn remedy(unreached: &Unreached) -> Option<String> {
    let host = &unreached.host;
    if let Some(reason) = &unreached.reason {
        return Some(if reason.contains("version") {
            format!("install the same paceline on {host} as here")
        } else {
            format!(
                "something on {host} writes much to standard output at login, and no agent came: in \
                 its ~/.bashrc or ~/.cshrc, print only where the shell is interactive"
            )
        });
    }
    let said = |texts: &&[&str]| {
        unreached.words.iter().any(|line| texts.iter().any(|text| line.contains(text)))
    };
    let known = REMEDIES.iter().find(|(texts, _)| said(texts)).map(|(_, remedy)| *remedy);
    let by_code = match unreached.ending {
        Some(Ending::Code(127)) => Some(PACELINE_MISSING),
        Some(Ending::Code(126)) => Some(NOT_EXECUTABLE),
        Some(Ending::Code(SSH_FAILED)) => Some("try it by hand: ssh {host} true"),
        Some(Ending::Code(_)) => Some(
            "the login on {host} ended before paceline began: see what ssh {host} true says and returns",
        ),
        _ => None,
    };
    Some(known.or(by_code)?.replace("{host}", host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(options: &SshOptions, host: &str, own_path: Option<&str>) -> Vec<String> {
        let host: HostSlots = host.parse().expect("well formed");
        let command = options.command(&host, own_path, None);
        assert_eq!(command.program.to_str(), Some("ssh"));
        command.arguments.iter().map(|word| word.to_str().expect("UTF-8").to_owned()).collect()
    }

    #[test]
    fn the_users_options_come_first_and_the_host_cannot_be_taken_for_an_option() {
        let options = SshOptions {
            port: Some(2222),
            identity_file: Some("/k/key".into()),
            options: vec!["ConnectTimeout=3".into()],
            remote_program: Some("/opt/it's/paceline".into()),
            copy_binary: false,
        };
        let words = arguments(&options, "me@node1:4", None);
        assert_eq!(words[..4], ["-T", "-x", "-o", "ConnectTimeout=3"]);
        assert!(words.iter().position(|word| word == "ConnectTimeout=10") > Some(3));
        let expected = [
            "-p",
            "2222",
            "-i",
            "/k/key",
            "-l",
            "me",
            "--",
            "node1",
            r"exec '/opt/it'\''s/paceline' agent",
        ];
        assert_eq!(words[words.len() - expected.len()..], expected);
    }

    #[test]
    fn the_same_path_is_tried_before_the_search_path() {
        let last = |own| arguments(&SshOptions::default(), "a", own).pop().expect("a command");
        assert_eq!(
            last(Some("/usr/bin/paceline")),
            "exec sh -c 'test -x \"$0\" && exec \"$0\" agent; exec paceline agent' \
             '/usr/bin/paceline'"
        );
        assert_eq!(last(None), "exec paceline agent");
    }

    #[test]
    fn each_failure_has_its_remedy() {
        let remedy = |code, words: &str, reason: Option<&str>| {
            remedy(&Unreached {
                host: "n1".into(),
                ending: Some(Ending::Code(code)),
                words: vec![words.into()],
                reason: reason.map(str::to_owned),
            })
            .unwrap_or_default()
        };
        for (code, words, expected) in [
            (
                255,
                "ssh: Could not resolve hostname n1: Name or service not known",
                "spelling of n1",
            ),
            (255, "me@n1: Permission denied (publickey).", "ssh-copy-id n1"),
            (255, "ssh: connect to host n1 port 22: Connection refused", "--ssh-port"),
            (255, "ssh: connect to host n1 port 22: No route to host", "is up"),
            (255, "ssh: connect to host n1 port 22: Connection timed out", "is up"),
            (255, "Host key verification failed.", "ssh-keygen -R n1"),
            (255, "kex_exchange_identification: read: Connection reset by peer", "MaxStartups"),
            (127, "sh: 1: exec: paceline: not found", "--remote-program"),
            (127, "", "--remote-program"),
            (1, "cat: write error: No space left on device", "make room"),
            (126, "sh: 1: /x/paceline: Permission denied", "noexec"),
            (0, "failed to start the agent ssh: Too many open files (os error 24)", "ulimit -Hn"),
            (255, "what?", "ssh n1 true"),
            (3, "", "ended before paceline began"),
            (1, "This account is currently not available.", "USER@n1"),
        ] {
            let found = remedy(code, words, None);
            assert!(found.contains(expected), "{words:?}: {found:?}");
        }
        let noise = "the other side does not speak the agent protocol (it began with \"Welcome\")";
        assert!(remedy(0, "", Some(noise)).contains("interactive"));
        let version = "the other side speaks version 1 of the agent protocol, this side version 2";
        assert!(remedy(0, "", Some(version)).contains("the same paceline"));
    }
}
