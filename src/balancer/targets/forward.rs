//! A forward action: a group, by weight, and a target of it; both by a cookie if the client has one.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use types::Instant;

use super::cookie::{Cookies, Value};
use super::group::{Lease, Member};
use super::picker::Picker;
use super::random::Random;
use crate::config::{Protocol, ProtocolVersion, Stickiness};

/// Names of cookies, of which the second is for requests from other sites.
const GROUP: [&str; 2] = ["AWSALBTG", "AWSALBTGCORS"];
const TARGET: [&str; 2] = ["AWSALB", "AWSALBCORS"];
const APPLICATION: [&str; 1] = ["AWSALBAPP-0"];

/// A forward action of one worker's.
#[derive(Debug)]
pub struct Forwarder {
    /// Which of the worker's pickers a group has, and the group's weight.
    groups: Vec<(usize, u32)>,
    stickiness: Option<Duration>,
    random: Random,
}

/// Where a request goes.
#[derive(Debug)]
pub struct Choice {
    /// Which of the worker's pickers made it.
    pub picker: usize,
    pub lease: Lease,
    /// What its group's targets are asked in.
    pub protocol: Protocol,
    pub version: ProtocolVersion,
    /// What the answer is to make the client stay with.
    stays: Vec<Stay>,
    /// Who could not be asked before.
    tried: Vec<Arc<Member>>,
}

#[derive(Debug)]
struct Stay {
    names: &'static [&'static str],
    tag: u128,
    duration: Duration,
    application: Option<Application>,
}

/// A stay that goes on only with the application's own cookie.
#[derive(Debug)]
struct Application {
    cookie: String,
    /// The client has sent both cookies.
    is_under_way: bool,
}

impl Forwarder {
    /// `groups` are places in the list of pickers that [`Forwarder::choose`] is called with, and weights.
    pub fn new(groups: Vec<(usize, u32)>, stickiness_s: Option<u32>, random: Random) -> Self {
        let stickiness = stickiness_s.map(|s| Duration::from_secs(s.into()));
        Self { groups, stickiness, random }
    }

    /// Where the next request goes, which has `cookies`; none if no group has weight, or the chosen one no target that may have it. The
    /// choice between groups does not look at their targets: AWS does not go to another group, either.
    pub fn choose<'a, H>(
        &mut self,
        pickers: &mut [Picker],
        cookies: &Cookies<H>,
        now: Instant,
        wall: SystemTime,
    ) -> Option<Choice>
    where
        H: Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
    {
        let mut stays = Vec::new();
        let picker = match self.stickiness {
            None => self.by_weight()?,
            Some(duration) => {
                let value = cookies.value(&GROUP).filter(|value| !value.is_over(wall));
                let sticky = value.and_then(|value| self.by_tag(pickers, value.tag));
                let picker = sticky.map_or_else(|| self.by_weight(), Some)?;
                let tag = pickers[picker].group().tag;
                stays.push(Stay { names: &GROUP, tag, duration, application: None });
                picker
            }
        };
        let lease = target(&mut pickers[picker], cookies, now, wall, &mut stays)?;
        let group = pickers[picker].group();
        let (protocol, version) = (group.protocol, group.version);
        Some(Choice { picker, lease, protocol, version, stays, tried: Vec::new() })
    }

    fn by_weight(&mut self) -> Option<usize> {
        let mut at = self.random.below(self.groups.iter().map(|(_, weight)| weight).sum());
        let group = self.groups.iter().find(|(_, weight)| {
            let is_here = at < *weight;
            at = at.saturating_sub(*weight);
            is_here
        });
        group.map(|(picker, _)| *picker)
    }

    fn by_tag(&self, pickers: &[Picker], tag: u128) -> Option<usize> {
        let is_it = |(picker, weight): &&(usize, u32)| *weight > 0 && pickers[*picker].group().tag == tag;
        self.groups.iter().find(is_it).map(|(picker, _)| *picker)
    }
}

/// A target of `picker`'s group; adds to `stays` if the group makes clients stay with theirs.
fn target<'a, H>(
    picker: &mut Picker,
    cookies: &Cookies<H>,
    now: Instant,
    wall: SystemTime,
    stays: &mut Vec<Stay>,
) -> Option<Lease>
where
    H: Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
{
    let group = Arc::clone(picker.group());
    let (names, duration_s, cookie): (&'static [&'static str], _, _) = match &group.stickiness {
        None => return picker.pick(now),
        Some(Stickiness::LbCookie { duration_s }) => (&TARGET, *duration_s, None),
        Some(Stickiness::AppCookie { name, duration_s }) => (&APPLICATION, *duration_s, Some(name)),
    };
    // Without the application's cookie, the load balancer's means nothing.
    let value = match cookie {
        Some(name) if cookies.get(name).is_none() => None,
        _ => cookies.value(names),
    };
    let sticky = value.filter(|value| !value.is_over(wall)).and_then(|value| picker.sticky(value.tag));
    let lease = sticky.or_else(|| picker.pick(now))?;
    let application =
        cookie.map(|cookie| Application { cookie: cookie.clone(), is_under_way: value.is_some() });
    if let Some(tag) = picker.tag(lease.member()) {
        stays.push(Stay { names, tag, duration: Duration::from_secs(duration_s.into()), application });
    }
    Some(lease)
}

/// How many targets a request is given to at most, as long as none of them could be reached.
const TRIES_MAX: usize = 3;

impl Choice {
    /// Goes to another target, since this one cannot be reached; false if there is none. `picker` is the one that it was made by, unless there is
    /// another configuration since.
    pub fn go_to_another(&mut self, picker: &mut Picker, now: Instant) -> bool {
        if !picker.has(self.lease.member()) || self.tried.len() + 1 >= TRIES_MAX {
            return false;
        }
        self.tried.push(Arc::clone(self.lease.member()));
        let is_new = |lease: &Lease| !self.tried.iter().any(|tried| Arc::ptr_eq(tried, lease.member()));
        let Some(lease) = (0..picker.count()).find_map(|_| picker.pick(now).filter(is_new)) else {
            return false;
        };
        for stay in self.stays.iter_mut().filter(|stay| stay.names != GROUP) {
            stay.tag = picker.tag(lease.member()).unwrap_or(stay.tag);
        }
        self.lease = lease;
        true
    }

    /// The name of the target's own cookie that begins a stay, if there is one: the caller tells [`Choice::set_cookies`] if the target's answer
    /// has set it.
    pub fn application_cookie(&self) -> Option<&str> {
        self.stays
            .iter()
            .find_map(|stay| stay.application.as_ref())
            .map(|application| application.cookie.as_str())
    }

    /// Values of `Set-Cookie` fields to add to the answer, each of which makes the stay begin anew. `is_application_set` says that the target
    /// has set its own cookie, `is_cross_site_aware` that the client's browser wants to be told that a cookie is for other sites, too
    /// ([`super::is_cross_site_aware`]).
    pub fn set_cookies(
        &self,
        is_application_set: bool,
        is_cross_site_aware: bool,
        wall: SystemTime,
    ) -> Vec<String> {
        let mut fields = Vec::new();
        for stay in &self.stays {
            let value = Value::new(stay.tag, stay.duration, wall);
            match &stay.application {
                Some(application) if !is_application_set && !application.is_under_way => {}
                Some(_) => fields
                    .extend(stay.names.iter().map(|name| value.set_cookie(name, is_cross_site_aware, wall))),
                None => fields.extend(
                    stay.names.iter().map(|name| value.set_cookie(name, name.ends_with("CORS"), wall)),
                ),
            }
        }
        fields
    }
}

#[cfg(test)]
mod tests;
