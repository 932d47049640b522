//! Amazon EC2.

mod address;
mod errors;
mod group;
pub(crate) mod instance;
pub(crate) mod interface;
mod key;
mod launch_template;
mod once;
mod placement;
mod region;
mod row;
mod storage;
mod tagging;
mod tags;
mod vpc;

use std::sync::Arc;

pub(crate) use address::take_public;
use aws::Table;
pub(crate) use instance::launch_one;
pub(crate) use interface::{NewInterface, all_public, make as make_interface, remove as remove_interface};
pub(crate) use launch_template::{data as template_data, named as template_named};
pub use storage::{SeedImage, default_seed, seed_images};
pub(crate) use tags::add as add_tags;
pub(crate) use vpc::{fabric, free_count, onlookers};

use crate::plane::Plane;
use crate::state::Transaction;

/// What every account has in a region from its beginning.
pub(crate) fn begin(tx: &mut Transaction<'_>) {
    vpc::begin(tx);
}

/// The operations of EC2 that are served.
pub(crate) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    let table = address::serve(table);
    let table = group::serve(table);
    let table = interface::serve(table);
    let table = key::serve(table);
    let table = placement::serve(table);
    let table = region::serve(table);
    let table = tagging::serve(table);
    let table = instance::serve(table);
    let table = launch_template::serve(table);
    let table = storage::serve(table);
    vpc::serve(table)
}
