//! The load balancers of this host: a process for each, in the network of its VPC.
//!
//! ```text
//!   apply ─▶ its interfaces are in force ─▶ process: found, or started ─▶ told what it is to be ──▶ serves
//!                                             ▲                                                      │ the conversation's end
//!                                             └────────────────────────── apply ◀── told ────────────┘
//! ```
//!
//! A process lives on when this one ends. It is found again by who listens at RUN/balancers/elb-…, and told once more what it is to be, by which nothing
//! changes. Its end is the end of the conversation with it, which the kernel tells at once; whoever is told then has it be there again.

mod conversation;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use balancer::config::LoadBalancer;
use control::ports::{BalancerSpec, BoxFuture, HostError, OnBalancerChange, TargetPlace};
use control::records::TargetHealth;
use types::LoadBalancerId;

use super::networks::Networks;
use super::process::{self, Process};
use crate::socket;
use conversation::{Answer, Conversation};

/// The load balancers of this host.
pub(crate) struct Balancers {
    /// nimbo itself.
    program: PathBuf,
    /// Of the control sockets.
    folder: PathBuf,
    networks: Arc<Networks>,
    slots: Mutex<BTreeMap<LoadBalancerId, Arc<Slot>>>,
    calls: Mutex<Vec<OnBalancerChange>>,
}

/// A load balancer that there is something of.
#[derive(Default)]
struct Slot {
    /// Of who works on it.
    turn: tokio::sync::Mutex<Option<Running>>,
    /// As it was told last. None: it does not run.
    health: Mutex<Option<BTreeMap<TargetPlace, TargetHealth>>>,
}

impl Slot {
    fn health(&self) -> MutexGuard<'_, Option<BTreeMap<TargetPlace, TargetHealth>>> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A process that is talked to.
struct Running {
    process: Process,
    conversation: Conversation,
    /// What it was told last.
    told: Option<LoadBalancer>,
}

impl Running {
    fn is_there(&self) -> bool {
        !self.process.has_ended() && self.conversation.goes_on()
    }
}

impl Balancers {
    /// Finds those that there is anything of in `run`. `program` is nimbo. To be called in a runtime.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub(super) fn open(program: &Path, run: &Path, networks: Arc<Networks>) -> anyhow::Result<Arc<Self>> {
        let folder = std::path::absolute(run).context("cannot find the current folder")?.join("balancers");
        let about = || format!("cannot use the folder {}", folder.display());
        fs::create_dir_all(&folder).with_context(about)?;
        let mut slots = BTreeMap::new();
        for entry in fs::read_dir(&folder).with_context(about)? {
            let name = entry.with_context(about)?.file_name();
            let id = name.to_str().and_then(|name| name.split('.').next()?.parse().ok());
            slots.extend(id.map(|id: LoadBalancerId| (id, Arc::default())));
        }
        let slots = Mutex::new(slots);
        Ok(Arc::new(Self { program: program.to_owned(), folder, networks, slots, calls: Mutex::default() }))
    }

    async fn apply(self: &Arc<Self>, spec: BalancerSpec) -> Result<(), HostError> {
        let BalancerSpec { id, vpc, interfaces, config } = spec;
        let slot = Arc::clone(self.slots().entry(id).or_default());
        let mut turn = slot.turn.lock().await;
        turn.take_if(|running| !running.is_there());
        // Before it listens at them, its addresses are there, and what reaches them is what its groups say.
        self.networks.all_in_force(&id, vpc, &interfaces).await?;
        let running = match &mut *turn {
            Some(running) => running,
            none => none.insert(self.bring_up(&slot, id, vpc).await.map_err(unavailable)?),
        };
        if running.told.as_ref() == Some(&config) {
            return Ok(());
        }
        running.told = None;
        match running.conversation.replace(config.clone()).await {
            Answer::Done => {
                running.told = Some(config);
                Ok(())
            }
            Answer::Refused(why) => Err(HostError::Unavailable(format!("the load balancer {id}: {why}"))),
            Answer::Nothing => {
                *turn = None;
                Err(HostError::Unavailable(format!("the process of the load balancer {id} does not answer")))
            }
        }
    }

    /// The process, found or started, and a conversation with it.
    async fn bring_up(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        id: LoadBalancerId,
        vpc: types::VpcId,
    ) -> anyhow::Result<Running> {
        let control = self.control(id);
        let process = match process::find(&control)? {
            Some(process) => process,
            None => {
                let namespace = self.networks.namespace(vpc)?;
                let namespace = namespace.with_context(|| format!("the network of {vpc} is not there"))?;
                let mut command = Command::new(&self.program);
                command.args(["balancer", "--jail", "--orders"]).arg(&control);
                let started = Process::start(command, &self.log(id), Some(&namespace)).await;
                started.with_context(|| format!("cannot start the load balancer {id}"))?
            }
        };
        let (balancers, its) = (Arc::downgrade(self), Arc::downgrade(slot));
        let tell = move |health| {
            if let (Some(balancers), Some(slot)) = (balancers.upgrade(), its.upgrade()) {
                *slot.health() = health;
                balancers.tell(id);
            }
        };
        let conversation = Conversation::begin(&control, tell)
            .with_context(|| format!("cannot talk to the load balancer {id}"))?;
        Ok(Running { process, conversation, told: None })
    }

    async fn remove(&self, id: LoadBalancerId) -> anyhow::Result<()> {
        let Some(slot) = self.slots().get(&id).cloned() else { return Ok(()) };
        let mut turn = slot.turn.lock().await;
        *turn = None;
        let control = self.control(id);
        if let Some(process) = process::find(&control)? {
            process.end().await;
        }
        // It is in a jail, where it does not see this one.
        socket::remove_abandoned(&control);
        match fs::remove_file(self.log(id)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove what is left of {id}"));
            }
            _ => {}
        }
        self.slots().remove(&id);
        Ok(())
    }

    fn control(&self, id: LoadBalancerId) -> PathBuf {
        self.folder.join(id.to_string())
    }

    /// What the process says on standard error.
    fn log(&self, id: LoadBalancerId) -> PathBuf {
        self.folder.join(format!("{id}.log"))
    }

    fn tell(&self, id: LoadBalancerId) {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone();
        calls.iter().for_each(|call| call(id));
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<LoadBalancerId, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unavailable(error: anyhow::Error) -> HostError {
    HostError::Unavailable(format!("{error:#}"))
}

/// What a host shares of its load balancers.
pub(crate) struct HostBalancers(pub(super) Arc<Balancers>);

impl control::ports::Balancers for HostBalancers {
    fn balancers(&self) -> Vec<LoadBalancerId> {
        self.0.slots().keys().copied().collect()
    }

    fn target_health(&self, id: LoadBalancerId) -> Option<BTreeMap<TargetPlace, TargetHealth>> {
        let slot = self.0.slots().get(&id).cloned()?;
        slot.health().clone()
    }

    fn apply_balancer(&self, spec: BalancerSpec) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(self.0.apply(spec))
    }

    fn remove_balancer(&self, id: LoadBalancerId) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(async move { self.0.remove(id).await.map_err(unavailable) })
    }

    fn on_balancer_change(&self, call: OnBalancerChange) {
        self.0.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }
}
