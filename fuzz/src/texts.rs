//! Values that people write: understood, or refused, and what is understood can be written again.

use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;

use paceline_collectives::plan::Algorithm;
use paceline_collectives::{DType, ReduceOp, TransportChoice};
use paceline_launcher::{HostList, HostSlots, parse_hostfile, parse_rank_file};
use paceline_rendezvous::env::PortRange;
use paceline_rendezvous::{DeviceAssignment, RunId, Secret};

/// Reads `bytes` as each of them.
pub fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    written_again::<RunId>(&text);
    written_again::<DeviceAssignment>(&text);
    written_again::<Algorithm>(&text);
    written_again::<DType>(&text);
    written_again::<ReduceOp>(&text);
    let _ = text.parse::<TransportChoice>();
    let _ = Secret::from_hex(&text);
    if let Ok(range) = text.parse::<PortRange>() {
        let ports = range.ports();
        assert!(ports.start() <= ports.end(), "{text:?} has no ports");
    }
    written_again::<HostSlots>(&text);
    for host in HostList::parse(&text).unwrap_or_default().hosts {
        assert!(!host.host.is_empty(), "a host without a name in {text:?}");
        assert!(!host.host.starts_with('-'), "an option for a host in {text:?}");
    }
    for host in parse_hostfile(&text, Path::new("hosts")).unwrap_or_default() {
        assert!(!host.host.is_empty(), "a host without a name in {text:?}");
    }
    let _ = parse_rank_file(&text, Path::new("ranks"));
}

fn written_again<T: FromStr + Display + PartialEq>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let again = value.to_string();
        assert!(again.parse::<T>().is_ok_and(|same| same == value), "{text:?} became {again:?}");
    }
}

/// Good ones.
pub fn seeds() -> Vec<Vec<u8>> {
    [
        "00112233445566778899aabbccddeeff",
        "none",
        "local:GPU-12345678-1234-1234-1234-123456789abc:0.25",
        "remote:lease-1",
        "ring",
        "node-two-shot",
        "float32",
        "sum",
        "auto",
        "20000-20100",
        "node1:4,user@node2,[fe80::1]:2,node3:@0+2+3",
        "node[01-03,7]:4,rack[1-2]n[1-2]",
        "node1 slots=4 max_slots=8 # here\nuser@node2 slots = 2\n^node1\n",
        "rank 0=node1 slot=1\nrank 1=node2\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
