//! Elastic Load Balancing, version 2.
//!
//! Who asks for a load balancer makes records; its [reconciler](crate::reconcile::balancer) has a host be what they say. What can be said of listeners, rules and
//! target groups is checked as who serves them will check it ([`balancer::config`]), so that nothing is accepted that cannot be served.
//!
//! Others who have targets, such as Auto Scaling, find groups by [`arn`], put instances into them and take them out by [`target`], and learn how they are from
//! [`target_health`].
//!
//! It deliberately does not: serve Network and Gateway Load Balancers, HTTPS, and targets that are functions or load balancers. Who asks for these is told so.

mod action;
pub(crate) mod arn;
mod attribute;
mod condition;
mod errors;
mod limits;
mod listener;
mod load_balancer;
mod names;
mod rule;
mod spec;
mod tags;
pub(crate) mod target;
mod target_group;
pub(crate) mod target_health;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use aws::Table;
pub(crate) use names::{addresses, dns_name};
pub(crate) use spec::{Outlook, outlook, users};

use crate::plane::Plane;

/// The operations of ELBv2 that are served.
pub(crate) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    let table = load_balancer::serve(table);
    let table = listener::serve(table);
    let table = rule::serve(table);
    let table = target_group::serve(table);
    let table = target::serve(table);
    let table = target_health::serve(table);
    let table = tags::serve(table);
    limits::serve(table)
}
