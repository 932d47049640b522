//! Health checks: asks targets, and says how they stand.
//!
//! ```text
//! Schedule ─▶ due ─▶ probe ─▶ Passed / Failed ─▶ State::next ─▶ Group::set_standing
//! ```
//!
//! One thread has all states; [`probe`] asks.

mod probe;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use types::{Clock as _, Instant, SystemClock};

use crate::config::{Target, TargetGroup};
use crate::health::{Event, Schedule, State, Thresholds};
use crate::routes::Plan;
use crate::targets::Member;
use probe::Probe;

/// How often it is looked whether targets that were taken away have done what they had to.
const LOOK_PERIOD: Duration = Duration::from_millis(200);

/// A target in a group.
type Key = (String, SocketAddr);
type States = Arc<Mutex<BTreeMap<Key, State>>>;

/// Who checks. It ends when this is dropped.
pub(crate) struct Checks {
    plans: Option<UnboundedSender<Arc<Plan>>>,
    states: States,
    changes: watch::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Checks {
    /// Begins to check a plan's targets.
    pub(crate) fn begin(plan: Arc<Plan>) -> io::Result<Self> {
        let (plans, inbox) = unbounded_channel();
        let states = States::default();
        let (changed, changes) = watch::channel(());
        let mut owner = Owner {
            plan,
            schedules: BTreeMap::new(),
            leaving: BTreeMap::new(),
            states: Arc::clone(&states),
            changed,
        };
        owner.follow();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = move || runtime.block_on(owner.work(inbox));
        let thread = thread::Builder::new().name("checks".to_owned()).spawn(work)?;
        Ok(Self { plans: Some(plans), states, changes, thread: Some(thread) })
    }

    /// Checks this plan's targets from now on.
    pub(crate) fn follow(&self, plan: Arc<Plan>) {
        // It ends with this only.
        let _ = self.plans.as_ref().map(|plans| plans.send(plan));
    }

    /// Has something new whenever [`Self::state`] would say something else.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.clone()
    }

    /// The health of a target of a group.
    pub(crate) fn state(&self, group: &str, target: SocketAddr) -> State {
        locked(&self.states).get(&(group.to_owned(), target)).copied().unwrap_or_default()
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.plans = None;
        if let Some(thread) = self.thread.take() {
            // A panic was printed.
            let _ = thread.join();
        }
    }
}

struct Owner {
    plan: Arc<Plan>,
    schedules: BTreeMap<String, Schedule<SocketAddr>>,
    /// Targets that were taken away and still answer.
    leaving: BTreeMap<Key, Leaving>,
    states: States,
    changed: watch::Sender<()>,
}

/// A target that answers what it was asked before it was taken away.
struct Leaving {
    members: Vec<Arc<Member>>,
    until: Instant,
}

impl Owner {
    async fn work(mut self, mut plans: UnboundedReceiver<Arc<Plan>>) {
        let mut probes = JoinSet::new();
        loop {
            self.begin_due(&mut probes);
            self.let_go();
            let next = self.schedules.values().filter_map(Schedule::next_due).min();
            let wait = next.map_or(Duration::MAX, |next| next.since(SystemClock.now()));
            let wait = if self.leaving.is_empty() { wait } else { wait.min(LOOK_PERIOD) };
            tokio::select! {
                plan = plans.recv() => match plan {
                    Some(plan) => {
                        let previous = std::mem::replace(&mut self.plan, plan);
                        self.take_leave(&previous);
                        self.follow();
                    }
                    None => return,
                },
                Some(Ok((key, event))) = probes.join_next() => self.note(&key, event),
                () = sleep(wait) => {}
            }
        }
    }

    /// Begins to check targets that are new, and no more those that have gone.
    fn follow(&mut self) {
        let now = SystemClock.now();
        let mut there = BTreeSet::new();
        self.schedules.retain(|name, _| self.plan.config.target_groups.contains_key(name));
        for (name, group) in &self.plan.config.target_groups {
            let interval = Duration::from_secs(group.health_check.interval_s.into());
            // A schedule keeps its interval: another one begins anew.
            let schedule = self.schedules.entry(name.clone()).or_insert_with(|| Schedule::new(interval));
            if schedule.interval() != interval {
                *schedule = Schedule::new(interval);
            }
            for target in &group.targets {
                schedule.add(address(target), now);
                there.insert((name.clone(), address(target)));
            }
        }
        for (name, schedule) in &mut self.schedules {
            schedule.retain(|target| there.contains(&(name.clone(), *target)));
        }
        self.leaving.retain(|key, _| !there.contains(key));
        there.iter().for_each(|key| self.note(key, Event::Registered));
    }

    /// Targets that are there no more have their group's delay.
    fn take_leave(&mut self, previous: &Plan) {
        let now = SystemClock.now();
        let is_leaving = |key: &&Key| self.leaving.contains_key(*key);
        let keys: Vec<Key> = locked(&self.states).keys().filter(|key| !is_leaving(key)).cloned().collect();
        for key in keys {
            let config = |plan: &Plan| plan.config.target_groups.get(&key.0).cloned();
            let is_there = config(&self.plan)
                .is_some_and(|group| group.targets.iter().any(|target| address(target) == key.1));
            let Some(group) = config(&self.plan).or_else(|| config(previous)).filter(|_| !is_there) else {
                continue;
            };
            let until = now.after(Duration::from_secs(group.deregistration_delay_s.into()));
            let members = previous.groups().get(&key.0).map(|group| group.members()).unwrap_or_default();
            let members = members.iter().filter(|member| address(&member.target) == key.1).cloned().collect();
            let mut states = locked(&self.states);
            let before = states.get(&key).copied().unwrap_or_default();
            if let Ok(after) = before.next(Event::Deregistered { until }, thresholds(&group)) {
                states.insert(key.clone(), after);
                self.changed.send_replace(());
            }
            drop(states);
            self.leaving.insert(key, Leaving { members, until });
        }
    }

    /// Forgets targets that had their delay, or have nothing to answer any more.
    fn let_go(&mut self) {
        let now = SystemClock.now();
        let has_something = |leaving: &Leaving| leaving.members.iter().any(|member| member.outstanding() > 0);
        let states = &self.states;
        self.leaving.retain(|key, leaving| {
            let stays = now < leaving.until && has_something(leaving);
            if !stays {
                locked(states).remove(key);
            }
            stays
        });
    }

    fn begin_due(&mut self, probes: &mut JoinSet<(Key, Event)>) {
        let now = SystemClock.now();
        let mut due = Vec::new();
        for (name, schedule) in &mut self.schedules {
            due.extend(std::iter::from_fn(|| schedule.due(now)).map(|target| (name.clone(), target)));
        }
        for key in due {
            let Some(group) = self.plan.config.target_groups.get(&key.0) else { continue };
            let probe = Probe::new(key.1, group, self.plan.config.source);
            self.note(&key, Event::CheckBegins);
            probes.spawn(async move { (key, probe.run().await) });
        }
    }

    /// What an event makes of a target's health, and of its standing.
    fn note(&self, key: &Key, event: Event) {
        let (name, target) = key;
        let (Some(config), Some(group)) =
            (self.plan.config.target_groups.get(name), self.plan.groups().get(name))
        else {
            return;
        };
        let mut states = locked(&self.states);
        let before = states.get(key).copied().unwrap_or_default();
        // An answer may come when its target has gone; one that is registered stays so.
        let Ok(after) = before.next(event, thresholds(config)) else { return };
        states.insert(key.clone(), after);
        if before != after {
            self.changed.send_replace(());
        }
        let members = group.members().iter().filter(|member| address(&member.target) == *target);
        members.for_each(|member| group.set_standing(member, after.standing(), SystemClock.now()));
    }
}

fn locked(states: &States) -> std::sync::MutexGuard<'_, BTreeMap<Key, State>> {
    states.lock().unwrap_or_else(PoisonError::into_inner)
}

fn address(target: &Target) -> SocketAddr {
    SocketAddr::new(target.ip, target.port)
}

fn thresholds(group: &TargetGroup) -> Thresholds {
    let check = &group.health_check;
    Thresholds { healthy: check.healthy_threshold, unhealthy: check.unhealthy_threshold }
}
