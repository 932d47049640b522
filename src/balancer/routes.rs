//! Where requests go: a configuration made ready for all workers, and what each of them remembers of it.
//!
//! ```text
//! LoadBalancer ──Plan::new──▶ Plan: tables of rules, groups ──Routes::new, in each worker──▶ Routes: turns, random numbers
//!                              │ of all                                                       │ of one
//!                              └ health ─▶ standing of members                                └ decide ─▶ Decision
//! ```

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::server::ProducesTickets;
use types::Instant;

use crate::access_log::Log;
use crate::config::{Action, ConfigError, FixedResponse, LoadBalancer, Redirect};
use crate::http1::Request;
use crate::rules::{self, Table, without_port};
use crate::targets::{Choice, Cookies, Forwarder, Group, Picker, Random, TagKey};
use crate::tls;

/// Secrets of a load balancer's, the same for all that it is to be.
pub struct Keys {
    pub tags: TagKey,
    /// Sessions of TLS are resumed by these.
    tickets: Arc<dyn ProducesTickets>,
}

impl Keys {
    /// `secret` is what stickiness cookies are made with.
    ///
    /// # Errors
    /// When there are no random numbers.
    pub fn new(secret: [u8; 32]) -> Result<Self, rustls::Error> {
        Ok(Self { tags: TagKey::new(secret), tickets: tls::tickets()? })
    }
}

/// A configuration that was checked, in the form in which it is used.
pub struct Plan {
    pub config: LoadBalancer,
    /// Of each listener, in the configuration's order.
    tables: Vec<Table>,
    /// What sessions of each listener are made from.
    tls: Vec<Option<Arc<ServerConfig>>>,
    groups: BTreeMap<String, Arc<Group>>,
    /// Of all targets.
    addresses: HashSet<SocketAddr>,
    /// Where requests are written down, if they are.
    pub(crate) log: Option<Log>,
}

impl Plan {
    /// Targets of `previous` that are still there keep their standing. `zone`: the one to keep to.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn new(
        config: LoadBalancer,
        zone: Option<&str>,
        keys: &Keys,
        previous: Option<&Self>,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let has_http2 = config.attributes.http2;
        let tls = config.listeners.iter().enumerate();
        let tls = tls.map(|(place, listener)| tls::of_listener(listener, place, has_http2, &keys.tickets));
        let tls = tls.collect::<Result<_, _>>()?;
        let tables = config.listeners.iter().map(|listener| Table::new(&listener.rules)).collect();
        let group = |(name, group): (&String, _)| {
            let before = previous.and_then(|plan| plan.groups.get(name));
            (name.clone(), Arc::new(Group::new(name, group, zone, &keys.tags, before.map(AsRef::as_ref))))
        };
        let groups = config.target_groups.iter().map(group).collect();
        let targets = config.target_groups.values().flat_map(|group| &group.targets);
        let addresses = targets.map(|target| SocketAddr::new(target.ip, target.port)).collect();
        Ok(Self { config, tables, tls, groups, addresses, log: None })
    }

    /// Takes the place of `previous`: targets that are there no more have their delay from `now` on.
    pub(crate) fn succeed(&self, previous: &Self, now: Instant) {
        for (name, group) in &previous.groups {
            match self.groups.get(name) {
                Some(next) => next.succeed(group, now),
                None => group.dissolve(now),
            }
        }
    }

    /// There is a target at this address.
    pub(crate) fn has_target(&self, address: SocketAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// What sessions with clients of a listener are made from; none if it is plain.
    pub(crate) fn tls(&self, listener: usize) -> Option<&Arc<ServerConfig>> {
        self.tls.get(listener).and_then(Option::as_ref)
    }

    /// The target groups by their names.
    pub fn groups(&self) -> &BTreeMap<String, Arc<Group>> {
        &self.groups
    }
}

/// What becomes of a request.
#[derive(Debug)]
pub(crate) enum Decision {
    Forward(Choice),
    Answer(FixedResponse),
    /// To this URL, by this status.
    Redirect {
        status: u16,
        location: String,
    },
    /// There is nobody to ask.
    Nobody,
}

/// A request, with what is known of where it came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Incoming<'a> {
    pub(crate) head: &'a [u8],
    pub(crate) request: &'a Request,
    pub(crate) source: SocketAddr,
    /// Which listener it came to.
    pub(crate) listener: usize,
}

/// What one worker knows of a plan.
pub(crate) struct Routes {
    plan: Arc<Plan>,
    pickers: Vec<Picker>,
    /// Of each listener.
    actions: Vec<Actions>,
}

struct Actions {
    default: Act,
    /// Of its rules, in the configuration's order.
    rules: Vec<Act>,
}

enum Act {
    Forward(Forwarder),
    Redirect(Redirect),
    Answer(FixedResponse),
}

impl Routes {
    pub(crate) fn new(plan: Arc<Plan>, random: &mut Random) -> Self {
        let places: BTreeMap<&str, usize> =
            plan.groups.keys().enumerate().map(|(place, name)| (name.as_str(), place)).collect();
        let pickers =
            plan.groups.values().map(|group| Picker::new(Arc::clone(group), random.fork())).collect();
        let mut act = |action: &Action| match action {
            Action::Forward(forward) => {
                // That all are there was checked.
                let groups = forward.target_groups.iter();
                let groups =
                    groups.filter_map(|group| Some((*places.get(group.name.as_str())?, group.weight)));
                Act::Forward(Forwarder::new(groups.collect(), forward.stickiness_s, random.fork()))
            }
            Action::Redirect(redirect) => Act::Redirect(redirect.clone()),
            Action::FixedResponse(response) => Act::Answer(response.clone()),
        };
        let actions = plan.config.listeners.iter().map(|listener| Actions {
            default: act(&listener.default_action),
            rules: listener.rules.iter().map(|rule| act(&rule.action)).collect(),
        });
        let actions = actions.collect();
        Self { plan, pickers, actions }
    }

    /// Has a choice go to another target of its group, if there is one.
    pub(crate) fn go_to_another(&mut self, choice: &mut Choice, now: Instant) -> bool {
        self.pickers.get_mut(choice.picker).is_some_and(|picker| choice.go_to_another(picker, now))
    }

    /// The group that a choice was made by.
    pub(crate) fn group_name(&self, picker: usize) -> Option<&String> {
        self.plan.groups.keys().nth(picker)
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Also tells the priority of the rule that it went by, 0 for the default action.
    pub(crate) fn decide(
        &mut self,
        incoming: &Incoming<'_>,
        now: Instant,
        wall: SystemTime,
    ) -> (Decision, u32) {
        let Incoming { head, request, source, listener } = *incoming;
        let target = &head[request.target.clone()];
        let (path, query) = match memchr::memchr(b'?', target) {
            Some(at) => (&target[..at], Some(&target[at + 1..])),
            None => (target, None),
        };
        let fields =
            request.fields.iter().map(|field| (&head[field.name.clone()], &head[field.value.clone()]));
        let view = rules::RequestView {
            host: &head[request.host.clone()],
            path,
            query,
            method: &head[request.method.clone()],
            headers: fields.clone(),
            source: source.ip(),
        };
        let Some(actions) = self.actions.get_mut(listener) else { return (Decision::Nobody, 0) };
        let rule = self.plan.tables[listener].pick(&view);
        let priority = rule.map_or(0, |rule| self.plan.config.listeners[listener].rules[rule].priority);
        let act = match rule {
            Some(rule) => &mut actions.rules[rule],
            None => &mut actions.default,
        };
        let decision = match act {
            Act::Forward(forwarder) => forwarder
                .choose(&mut self.pickers, &Cookies::new(fields), now, wall)
                .map_or(Decision::Nobody, Decision::Forward),
            Act::Answer(response) => Decision::Answer(response.clone()),
            Act::Redirect(redirect) => {
                let its = &self.plan.config.listeners[listener];
                let origin = rules::Origin {
                    protocol: its.protocol,
                    host: without_port(view.host),
                    port: its.address.port(),
                    path,
                    query,
                };
                Decision::Redirect { status: redirect.status, location: rules::location(redirect, origin) }
            }
        };
        (decision, priority)
    }
}
