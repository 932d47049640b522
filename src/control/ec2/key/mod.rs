//! Key pairs.

mod material;
mod pair;

use std::sync::Arc;

use aws::{Table, ec2};

use crate::plane::{Plane, Serve as _};

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .prepares::<ec2::CreateKeyPair, _>(pair::prepare, pair::create)
        .changes::<ec2::DeleteKeyPair>(pair::delete)
        .looks::<ec2::DescribeKeyPairs>(pair::describe)
        .changes::<ec2::ImportKeyPair>(pair::import)
}
