//! RDMA devices, as the kernel shows them.

use std::fs::File;
use std::path::Path;

use super::super::examination::{Gid, RdmaDevice, RdmaPort};
use crate::machine::files::{names, words};

/// A port without an address in this place of its table says so.
const NO_GID: &str = "0000:0000:0000:0000:0000:0000:0000:0000";

/// Entries of a table that are looked at: some drivers have 256, most of them empty.
const GIDS_MAX: u32 = 256;

pub(super) fn devices(root: &Path) -> Vec<RdmaDevice> {
    let directory = root.join("sys/class/infiniband");
    let verbs = verbs(root);
    let device = |name: String| {
        let own = directory.join(&name);
        let file = verbs.iter().find(|(_, device)| *device == name).map(|(file, _)| file.clone());
        let path = file.map(|file| format!("dev/infiniband/{file}"));
        let opened = path.as_ref().map(|path| open(&root.join(path)));
        RdmaDevice {
            firmware: words(&own.join("fw_ver")),
            ports: ports(&own.join("ports")),
            verbs: path.map(|path| format!("/{path}")),
            verbs_error: opened.and_then(Result::err),
            name,
        }
    };
    names(&directory).into_iter().map(device).collect()
}

/// The files of user verbs, each with the device that it is for.
fn verbs(root: &Path) -> Vec<(String, String)> {
    let directory = root.join("sys/class/infiniband_verbs");
    let with_device =
        |name: String| Some((name.clone(), words(&directory.join(name).join("ibdev"))?));
    names(&directory).into_iter().filter_map(with_device).collect()
}

/// As programs do it. To open it starts nothing, and it is closed at once.
fn open(path: &Path) -> Result<(), String> {
    match File::options().read(true).write(true).open(path) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

fn ports(directory: &Path) -> Vec<RdmaPort> {
    let port = |name: String| {
        let own = directory.join(&name);
        // As in `4: ACTIVE`.
        let state = words(&own.join("state"))?;
        let state = state.split_once(": ").map_or(state.as_str(), |(_, state)| state).to_owned();
        Some(RdmaPort {
            number: name.parse().ok()?,
            state,
            link_layer: words(&own.join("link_layer"))?,
            rate: words(&own.join("rate")),
            gids: gids(&own),
        })
    };
    names(directory).into_iter().filter_map(port).collect()
}

fn gids(port: &Path) -> Vec<Gid> {
    let gid = |index: u32| {
        let number = index.to_string();
        let gid = words(&port.join("gids").join(&number)).filter(|gid| gid != NO_GID)?;
        // Of an entry without a network interface the kernel has an error instead.
        let attribute = |name: &str| words(&port.join("gid_attrs").join(name).join(&number));
        Some(Gid { index, gid, kind: attribute("types"), interface: attribute("ndevs") })
    };
    (0..GIDS_MAX).filter_map(gid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::files::made_of;

    #[test]
    fn devices_have_ports_and_addresses() {
        let port = "sys/class/infiniband/mlx5_0/ports/1";
        let file = |name: &str| format!("{port}/{name}");
        let v4 = "0000:0000:0000:0000:0000:ffff:0a00:0001";
        let files = [
            (file("state"), "4: ACTIVE\n"),
            (file("link_layer"), "Ethernet\n"),
            (file("rate"), "100 Gb/sec (4X EDR)\n"),
            (file("gids/0"), "fe80:0000:0000:0000:0000:0000:0000:0001\n"),
            (file("gids/1"), NO_GID),
            (file("gids/3"), v4),
            (file("gid_attrs/types/3"), "RoCE v2\n"),
            (file("gid_attrs/ndevs/3"), "eth1\n"),
            ("sys/class/infiniband/mlx5_0/fw_ver".into(), "16.35.2000\n"),
            ("sys/class/infiniband/mlx5_10/fw_ver".into(), "1\n"),
            ("sys/class/infiniband/mlx5_2/fw_ver".into(), "1\n"),
            ("sys/class/infiniband_verbs/uverbs0/ibdev".into(), "mlx5_0\n"),
            ("sys/class/infiniband_verbs/uverbs1/ibdev".into(), "mlx5_2\n"),
            ("dev/infiniband/uverbs0".into(), ""),
        ];
        let files: Vec<(&str, &str)> =
            files.iter().map(|(name, text)| (name.as_str(), *text)).collect();
        let root = made_of(&files);
        let found = devices(root.path());
        let names: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
        assert_eq!(names, ["mlx5_0", "mlx5_2", "mlx5_10"]);
        assert_eq!(found[0].verbs.as_deref(), Some("/dev/infiniband/uverbs0"));
        assert_eq!(found[0].verbs_error, None);
        assert!(found[1].verbs_error.as_deref().is_some_and(|said| said.contains("No such file")));
        assert_eq!((&found[2].verbs, &found[2].verbs_error), (&None, &None));
        let [port] = &found[0].ports[..] else { panic!("one port: {found:?}") };
        assert_eq!((port.number, port.state.as_str()), (1, "ACTIVE"));
        assert_eq!(port.link_layer, "Ethernet");
        let indices: Vec<u32> = port.gids.iter().map(|gid| gid.index).collect();
        assert_eq!(indices, [0, 3]);
        assert_eq!(port.gids[1].kind.as_deref(), Some("RoCE v2"));
        assert_eq!(port.gids[1].interface.as_deref(), Some("eth1"));
    }

    #[test]
    fn most_hosts_have_none() {
        assert_eq!(devices(Path::new("/no/such/root")), []);
    }
}
