//! Hosts that exist on this machine only: network namespaces behind one switch, each with an address,
//! a host name and an sshd of its own.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;

use crate::support::{Job, command_line, eventually, kill};

/// Hosts `n1`, `n2` … and the switch, from which jobs are launched.
pub(crate) struct Cluster {
    id: String,
    directory: tempfile::TempDir,
    hosts: Vec<Host>,
}

struct Host {
    namespace: String,
    sshd: Child,
}

/// The programs that it takes, and where Debian has them.
const TOOLS: [(&str, &str); 5] = [
    ("ip", "iproute2"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("ssh", "openssh-client"),
    ("sshd", "openssh-server"),
];

impl Cluster {
    /// A cluster of so many hosts; `None`, and a word on standard error, where it cannot be made.
    pub(crate) fn of(hosts: usize) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // Tests that run beside each other, in this process or in others, have clusters of their own.
        let id = format!("pct{}-{number}", std::process::id());
        if let Some(reason) = missing(&id) {
            let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
            return None;
        }
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let mut cluster = Self { id, directory, hosts: Vec::new() };
        cluster.make_switch(hosts);
        cluster.make_keys();
        for number in 1..=hosts {
            cluster.make_host(number);
        }
        for number in 1..=hosts {
            let listens = format!("</dev/tcp/{}/22", address(number));
            eventually("sshd listens", || {
                let mut probe = cluster.on_switch("bash");
                let probe = probe.args(["-c", &listens]).stderr(Stdio::null());
                probe.status().expect("bash").success()
            });
        }
        Some(cluster)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A directory that is empty on every host but the launcher's.
    pub(crate) fn launchers_own(&self) -> PathBuf {
        self.path("launcher")
    }

    fn switch(&self) -> String {
        format!("{}-s", self.id)
    }

    fn on_switch(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.switch(), program]);
        command
    }

    fn make_switch(&self, hosts: usize) {
        let switch = self.switch();
        // In this namespace the hosts' names mean their addresses.
        let names = Path::new("/etc/netns").join(&switch);
        fs::create_dir_all(&names).expect("root makes directories");
        let lines = (1..=hosts).map(|number| format!("{} n{number}\n", address(number)));
        let known = format!("127.0.0.1 localhost\n{}", lines.collect::<String>());
        fs::write(names.join("hosts"), known).expect("root writes files");
        make_namespace(&switch);
        ip(&["-n", &switch, "link", "add", "switch", "type", "bridge"]);
        ip(&["-n", &switch, "addr", "add", "10.78.0.254/24", "dev", "switch"]);
        ip(&["-n", &switch, "link", "set", "switch", "up"]);
    }

    fn make_keys(&self) {
        for name in ["host", "user"] {
            let path = self.path(name);
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path);
            assert!(keygen.status().expect("ssh-keygen").success());
        }
        fs::create_dir_all("/run/sshd").expect("sshd wants it");
    }

    fn make_host(&mut self, number: usize) {
        let namespace = format!("{}-{number}", self.id);
        let port = format!("port{number}");
        make_namespace(&namespace);
        let switch = self.switch();
        let pair = ["link", "add", "eth0", "netns", &namespace, "type", "veth", "peer", "name"];
        ip(&[&pair[..], &[&port, "netns", &switch]].concat());
        ip(&["-n", &switch, "link", "set", &port, "master", "switch", "up"]);
        let with_prefix = format!("{}/24", address(number));
        ip(&["-n", &namespace, "addr", "add", &with_prefix, "dev", "eth0"]);
        ip(&["-n", &namespace, "link", "set", "eth0", "up"]);
        let option = |name: &str, value: &str| format!("-o{name}={value}");
        // What is below is there for the launcher alone, as most of a machine's files are.
        let hidden = self.launchers_own();
        fs::create_dir_all(&hidden).expect("a directory");
        let hide = format!("mount -t tmpfs none {}", hidden.display());
        let sshd = format!("{hide} && hostname n{number} && exec \"$0\" \"$@\"");
        let child = Command::new("ip")
            .args(["netns", "exec", &namespace])
            .args([
                "setpriv",
                "--pdeathsig",
                "KILL",
                "unshare",
                "--uts",
                "--mount",
                "sh",
                "-c",
                &sshd,
            ])
            .args([sshd_path().expect("looked for").as_str(), "-D", "-e", "-f", "/dev/null"])
            .arg(option("HostKey", self.path("host").to_str().expect("UTF-8")))
            .arg(option("AuthorizedKeysFile", self.path("user.pub").to_str().expect("UTF-8")))
            .args(["-oStrictModes=no", "-oUsePAM=no", "-oPidFile=none", "-oMaxStartups=100"])
            .args(["-oAcceptEnv=XDG_CACHE_HOME"])
            .stdin(Stdio::null())
            .stderr(fs::File::create(self.path(&format!("sshd{number}"))).expect("a file"))
            .spawn()
            .expect("sshd starts");
        self.hosts.push(Host { namespace, sshd: child });
    }

    /// `paceline run OPTIONS… WORDS…` on the switch, with what ssh needs to get to the hosts.
    pub(crate) fn job(&self, arguments: &[&str]) -> Job {
        let identity = self.path("user").display().to_string();
        self.job_with_key(&identity, arguments)
    }

    pub(crate) fn job_with_key(&self, identity: &str, arguments: &[&str]) -> Job {
        self.command("run", identity, arguments)
    }

    /// `paceline doctor ARGUMENTS…` on the switch.
    pub(crate) fn doctor(&self, arguments: &[&str]) -> Job {
        let identity = self.path("user").display().to_string();
        self.command("doctor", &identity, arguments)
    }

    fn command(&self, command: &str, identity: &str, arguments: &[&str]) -> Job {
        let known = self.known_hosts();
        let ssh = ["--ssh-identity-file", identity, "--ssh-options", &known];
        let job = Job::of(command, &[&ssh[..], arguments].concat());
        job.under("ip", &["netns", "exec", &self.switch()])
    }

    pub(crate) fn known_hosts(&self) -> String {
        format!("UserKnownHostsFile={}", self.path("known_hosts").display())
    }

    /// As [`script`](Self::script), where the options themselves say what ssh is told.
    pub(crate) fn script_with_own_options(&self, options: &[&str], script: &str) -> Job {
        let identity = self.path("user").display().to_string();
        let words = [&["--ssh-identity-file", &identity], options, &["--", "sh", "-c", script]];
        Job::new(&words.concat()).under("ip", &["netns", "exec", &self.switch()])
    }

    /// A job of ranks that each run a shell script.
    pub(crate) fn script(&self, options: &[&str], script: &str) -> Job {
        self.job(&[options, &["--", "sh", "-c", script]].concat())
    }

    /// What runs on a host beside its sshd and the sessions of that.
    pub(crate) fn processes(&self, number: usize) -> Vec<i32> {
        let host = &self.hosts[number - 1];
        let pids = Command::new("ip").args(["netns", "pids", &host.namespace]).output();
        let pids = String::from_utf8(pids.expect("ip").stdout).expect("numbers");
        let is_ours = |pid: &i32| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            !name.is_empty() && name.trim() != "sshd"
        };
        pids.lines().filter_map(|pid| pid.parse().ok()).filter(is_ours).collect()
    }

    /// How many processes of a program run on a host.
    pub(crate) fn running(&self, number: usize, program: &str) -> usize {
        let is_it = |pid: &i32| command_line(*pid).split(' ').next() == Some(program);
        self.processes(number).iter().filter(|pid| is_it(pid)).count()
    }

    /// The agent on a host.
    pub(crate) fn agent(&self, number: usize) -> i32 {
        let mut agent = None;
        eventually("there is an agent", || {
            agent = self.processes(number).into_iter().find(|pid| {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                name.trim() == "paceline-agent"
            });
            agent.is_some()
        });
        agent.expect("just found")
    }

    /// Waits until nothing of any job is left on any host.
    pub(crate) fn wait_until_empty(&self) {
        for number in 1..=self.hosts.len() {
            eventually("nothing is left on the hosts", || self.processes(number).is_empty());
        }
    }

    /// Puts another card into every host, `eth1` with the address 10.79.0.NUMBER, and a switch between
    /// them.
    pub(crate) fn add_network(&self) {
        let switch = self.switch();
        ip(&["-n", &switch, "link", "add", "second", "type", "bridge"]);
        ip(&["-n", &switch, "link", "set", "second", "up"]);
        for (number, host) in (1..).zip(&self.hosts) {
            let (port, namespace) = (format!("other{number}"), &host.namespace);
            let pair = ["link", "add", "eth1", "netns", namespace, "type", "veth", "peer", "name"];
            ip(&[&pair[..], &[&port, "netns", &switch]].concat());
            ip(&["-n", &switch, "link", "set", &port, "master", "second", "up"]);
            let address = format!("10.79.0.{number}/24");
            ip(&["-n", namespace, "addr", "add", &address, "dev", "eth1"]);
            ip(&["-n", namespace, "link", "set", "eth1", "up"]);
        }
    }

    /// Limits what every host may send by its first card; `false` where the kernel cannot do that.
    pub(crate) fn slow_down(&self, rate: &str) -> bool {
        self.hosts.iter().all(|host| {
            let mut limit = Command::new("tc");
            limit.args(["-n", &host.namespace, "qdisc", "add", "dev", "eth0", "root", "tbf"]);
            limit.args(["rate", rate, "burst", "64k", "limit", "4m"]).stderr(Stdio::null());
            limit.status().is_ok_and(|status| status.success())
        })
    }

    /// Lets a host have no way to an address.
    pub(crate) fn block(&self, number: usize, address: &str) {
        let namespace = &self.hosts[number - 1].namespace;
        ip(&["-n", namespace, "route", "add", "unreachable", address]);
    }

    /// Pulls or plugs the cable of a host.
    pub(crate) fn set_link(&self, number: usize, state: &str) {
        ip(&["-n", &self.switch(), "link", "set", &format!("port{number}"), state]);
    }

    /// Ends sshd on a host, and with it all its sessions, but not what they have started.
    pub(crate) fn kill_sshd(&self, number: usize) {
        let host = &self.hosts[number - 1];
        let pids = Command::new("ip").args(["netns", "pids", &host.namespace]).output();
        let pids = String::from_utf8(pids.expect("ip").stdout).expect("numbers");
        for pid in pids.lines().filter_map(|pid| pid.parse().ok()) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name.trim() == "sshd" {
                kill(pid, Signal::KILL);
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for host in &mut self.hosts {
            let pids = Command::new("ip").args(["netns", "pids", &host.namespace]).output();
            let pids = pids.map(|pids| pids.stdout).unwrap_or_default();
            for pid in String::from_utf8_lossy(&pids).lines() {
                pid.parse().into_iter().for_each(|pid| kill(pid, Signal::KILL));
            }
            let _ = host.sshd.kill();
            let _ = host.sshd.wait();
            let _ = Command::new("ip").args(["netns", "del", &host.namespace]).status();
        }
        let _ = Command::new("ip").args(["netns", "del", &self.switch()]).status();
        let _ = fs::remove_dir_all(Path::new("/etc/netns").join(self.switch()));
    }
}

fn address(number: usize) -> String {
    format!("10.78.0.{number}")
}

fn make_namespace(name: &str) {
    ip(&["netns", "add", name]);
    ip(&["-n", name, "link", "set", "lo", "up"]);
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().expect("ip");
    assert!(status.success(), "ip {}", arguments.join(" "));
}

fn sshd_path() -> Option<String> {
    let places = ["/usr/sbin/sshd", "/usr/bin/sshd", "/sbin/sshd"];
    places.into_iter().find(|path| Path::new(path).exists()).map(str::to_owned)
}

/// Why there can be no cluster of this name here, if so.
fn missing(id: &str) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root may make network namespaces".to_owned());
    }
    let has = |tool: &str| {
        let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output();
        tool == "sshd" && sshd_path().is_some() || found.is_ok_and(|found| found.status.success())
    };
    for (tool, package) in TOOLS {
        if !has(tool) {
            return Some(format!("{tool} is missing: on Debian, apt-get install {package}"));
        }
    }
    let probe = format!("{id}-probe");
    let made = Command::new("ip").args(["netns", "add", &probe]).output();
    let _ = Command::new("ip").args(["netns", "del", &probe]).output();
    match made {
        Ok(made) if made.status.success() => None,
        Ok(made) => Some(format!(
            "this kernel or container does not allow network namespaces: {}",
            String::from_utf8_lossy(&made.stderr).trim()
        )),
        Err(error) => Some(error.to_string()),
    }
}
