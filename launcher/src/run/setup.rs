//! What a job needs before its first agent.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use paceline_rendezvous::Secret;
use paceline_rendezvous::coordinator::{Server, ServerConfig};
use tokio::sync::mpsc::UnboundedSender;

use super::RunError;
use super::conductor::Event;
use super::director::{Director, Limits};
use crate::job::{Fold, OutputOptions};
use crate::output::prefix::{PrefixTemplate, Prefixes};
use crate::output::writer::{Destination, StreamWriter};
use crate::output::{Stream, files};
use crate::plan::LaunchPlan;

/// How long the coordinator waits for our word on a rank whose connection is gone.
const LOST_GRACE: Duration = Duration::from_millis(500);

pub(super) fn director(plan: &LaunchPlan) -> Director {
    let members = |node: &crate::plan::NodePlan| {
        (node.host.host.clone(), node.ranks.iter().map(|(rank, _)| *rank).collect())
    };
    let nodes: Vec<_> = plan.nodes.iter().map(members).collect();
    let limits = Limits {
        grace: plan.grace,
        timeout: plan.timeout,
        start_timeout: plan.start_timeout,
        examine: plan.stacks_on_timeout,
    };
    Director::new(&nodes, limits, Instant::now())
}

pub(super) fn start_coordinator(
    plan: &LaunchPlan,
    secret: &Secret,
    events: &UnboundedSender<Event>,
) -> Result<Server, RunError> {
    let mut config = ServerConfig::new(plan.run_id, secret.clone(), plan.world_size);
    config.coordinator.join_timeout = Some(plan.start_timeout);
    // We learn by what a rank died a moment after its connection is gone.
    config.coordinator.lost_grace = LOST_GRACE;
    config.coordinator.stall_report = plan.stall_report;
    let events = events.clone();
    let on_event = move |event| {
        let _ = events.send(Event::Coordinator(event));
    };
    Ok(Server::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), config, on_event)?)
}

pub(super) fn start_writers(
    plan: &LaunchPlan,
    events: &UnboundedSender<Event>,
) -> Result<HashMap<Stream, StreamWriter>, RunError> {
    let system = |source| RunError::System { operation: "set up the ranks' output", source };
    let mut writers = HashMap::new();
    for stream in Stream::BOTH {
        let shared = own_descriptor(stream).map_err(system)?;
        let destination = Destination {
            folds: plan.world_size > 1 && folds(&plan.output, &shared),
            shared: Some(shared),
            files: output_files(plan, stream)?,
            prefix: plan
                .output
                .prefix
                .clone()
                .map(|template| Prefixes::new(template, plan.places())),
            shown: plan.output.shown.clone(),
        };
        let events = events.clone();
        let on_event = move |event| {
            let _ = events.send(Event::Writer(event));
        };
        let writer = StreamWriter::start(stream, plan.world_size, destination, on_event);
        writers.insert(stream, writer.map_err(system)?);
    }
    Ok(writers)
}

fn folds(output: &OutputOptions, stream: &OwnedFd) -> bool {
    let wanted = match output.fold {
        Fold::Auto => stream.is_terminal(),
        Fold::On => true,
        Fold::Off => false,
    };
    wanted && output.prefix.as_ref().is_some_and(PrefixTemplate::names_ranks)
}

fn own_descriptor(stream: Stream) -> io::Result<OwnedFd> {
    match stream {
        Stream::Stdout => io::stdout().as_fd().try_clone_to_owned(),
        Stream::Stderr => io::stderr().as_fd().try_clone_to_owned(),
    }
}

fn output_files(plan: &LaunchPlan, stream: Stream) -> Result<Vec<(PathBuf, File)>, RunError> {
    let Some(directory) = &plan.output.directory else { return Ok(Vec::new()) };
    files::create_all(directory, plan.world_size, stream)
        .map_err(|(path, source)| RunError::OutputFile { path, source })
}
