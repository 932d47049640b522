//! A load balancer that is told what to be at a socket, and tells there how its targets are.
//!
//! A conversation is lines of JSON. Whoever connects is told how all targets are, and again whenever that has changed, and says what the load balancer
//! is to be; each [`Order`] is answered when it is carried out. docs/balancer.md tells it with examples.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use balancer::config::LoadBalancer;
use balancer::server::Server;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use vmm::jail::{FilesSpec, Jail};

use crate::socket::SocketPath;

/// After a change, for others that come with it: they are told of together.
const PAUSE: Duration = Duration::from_millis(20);

/// What is asked of the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// Requests that come from now on are to be served so.
    Replace(LoadBalancer),
}

/// What the process says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum News {
    /// The order is carried out.
    Done,
    /// It is not, and all is as it was: why.
    Refused(String),
    /// How all targets are.
    Health(Vec<TargetNews>),
}

/// How a target is, in the terms of the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TargetNews {
    pub(crate) group: String,
    pub(crate) address: SocketAddr,
    pub(crate) state: String,
    /// The reason's code, and its description. A healthy target has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<(String, String)>,
}

/// A socket that listens. Dropping it removes it, but from a jail, where its path cannot be seen: then whoever started this removes it, or the next one
/// that listens there.
pub(super) struct Orders {
    listener: std::os::unix::net::UnixListener,
    _socket: Option<SocketPath>,
}

impl Orders {
    /// Makes the socket, and enters the jail if there is to be one. To be called while there is one thread.
    ///
    /// # Errors
    /// When there is no socket to be had, or the jail cannot be entered.
    pub(super) fn listen(path: &Path, is_jailed: bool) -> anyhow::Result<Self> {
        let (socket, listener) = SocketPath::listen(path, "the socket for orders")?;
        fs::set_permissions(path, Permissions::from_mode(0o600))
            .with_context(|| format!("cannot protect the socket {}", path.display()))?;
        listener.set_nonblocking(true).context("cannot prepare the socket for orders")?;
        if !is_jailed {
            return Ok(Self { listener, _socket: Some(socket) });
        }
        let needs = FilesSpec { has_network: true, ..FilesSpec::default() };
        let report = Jail::enter_with_files(&needs).context("cannot jail this process")?;
        for shortfall in report.shortfalls {
            eprintln!("nimbo: the jail lacks {shortfall}");
        }
        socket.leave();
        Ok(Self { listener, _socket: None })
    }

    /// Does what it is told, for ever.
    ///
    /// # Errors
    /// When there is no event loop to do it in.
    pub(super) async fn follow(self, server: Arc<Mutex<Server>>) -> anyhow::Result<()> {
        let listener = UnixListener::from_std(self.listener).context("cannot listen for orders")?;
        println!("ready");
        serve(listener, server).await;
        Ok(())
    }
}

/// Answers all that connect, for ever.
async fn serve(listener: UnixListener, server: Arc<Mutex<Server>>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(converse(stream, Arc::clone(&server)))),
            // Too few descriptors, say; who waits is not lost.
            Err(error) => {
                tracing::warn!(%error, "nobody can connect to the socket for orders");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Until the other end is gone.
async fn converse(stream: UnixStream, server: Arc<Mutex<Server>>) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let mut changes = lock(&server).health_changes();
    changes.mark_changed();
    loop {
        let news = tokio::select! {
            line = lines.next_line() => match line {
                Ok(Some(line)) => obey(&mut lock(&server), &line),
                Ok(None) | Err(_) => return,
            },
            Ok(()) = changes.changed() => {
                tokio::time::sleep(PAUSE).await;
                changes.mark_unchanged();
                News::Health(health(&lock(&server)))
            }
        };
        let Ok(mut told) = serde_json::to_vec(&news) else { return };
        told.push(b'\n');
        if write.write_all(&told).await.is_err() {
            return;
        }
    }
}

fn obey(server: &mut Server, line: &str) -> News {
    let replaced = match serde_json::from_str(line) {
        Ok(Order::Replace(config)) => server.replace(config).map_err(anyhow::Error::from),
        Err(error) => Err(anyhow::Error::from(error).context("this is no order")),
    };
    replaced.map_or_else(|error| News::Refused(format!("{error:#}")), |()| News::Done)
}

fn health(server: &Server) -> Vec<TargetNews> {
    let groups = &server.plan().config.target_groups;
    let all = groups.iter().flat_map(|(name, group)| group.targets.iter().map(move |target| (name, target)));
    let news = |(name, target): (&String, &balancer::config::Target)| {
        let address = SocketAddr::new(target.ip, target.port);
        let state = server.health(name, address);
        let reason = state.reason().map(|reason| (reason.code.to_owned(), reason.description));
        TargetNews { group: name.clone(), address, state: state.name().to_owned(), reason }
    };
    all.map(news).collect()
}

pub(super) fn lock(server: &Mutex<Server>) -> MutexGuard<'_, Server> {
    server.lock().unwrap_or_else(PoisonError::into_inner)
}
