//! Images that are there before the first request.

use std::sync::Arc;

use aws::Error;
use serde::Deserialize;
use tokio::task::JoinSet;
use types::{AccountId, Region, VolumeKind};

use crate::plane::Plane;
use crate::records::{
    Image, ImageMapping, ImageOrigin, ImageState, Sharing, Snapshot, SnapshotSource, SnapshotState,
};
use crate::state::{Space, Transaction};

/// Debian's account at AWS, whose images AWS vouches for.
const DEBIAN: AccountId = match AccountId::new(136_693_071_363) {
    Some(account) => account,
    None => panic!("it has twelve digits"),
};

/// An image that everybody may launch, in every region.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedImage {
    pub name: String,
    #[serde(default)]
    pub description: String,
    pub owner: AccountId,
    /// `amazon`: what to call the owner by.
    #[serde(default)]
    pub owner_alias: Option<String>,
    /// Of the root volume.
    pub size_gib: u64,
    #[serde(default = "xvda")]
    pub root_device_name: String,
}

fn xvda() -> String {
    "/dev/xvda".to_owned()
}

/// What there is when nobody says otherwise.
pub fn default_seed() -> Vec<SeedImage> {
    vec![SeedImage {
        name: "debian-12-amd64-20250316-2053".to_owned(),
        description: "Debian 12 (20250316-2053)".to_owned(),
        owner: DEBIAN,
        owner_alias: Some("amazon".to_owned()),
        size_gib: 8,
        root_device_name: xvda(),
    }]
}

/// Sees to it that there are these images; those that are there by their names stay as they are.
///
/// # Errors
/// When nothing can be written.
pub async fn seed_images(plane: &Arc<Plane>, seeds: &[SeedImage]) -> Result<(), Error> {
    // All regions at once: the disk is waited for a few times, and not for each.
    let mut work = JoinSet::new();
    for region in Region::all() {
        work.spawn(seed_region(Arc::clone(plane), region, seeds.to_vec()));
    }
    while let Some(done) = work.join_next().await {
        done.map_err(|_| Error::internal())??;
    }
    Ok(())
}

async fn seed_region(plane: Arc<Plane>, region: Region, seeds: Vec<SeedImage>) -> Result<(), Error> {
    for seed in &seeds {
        let space = Space { account: seed.owner, region };
        plane.begin(space).await?;
        let put = |tx: &mut Transaction<'_>| {
            put(tx, seed);
            Ok(())
        };
        plane.write(space, put).await?;
    }
    Ok(())
}

fn put(tx: &mut Transaction<'_>, seed: &SeedImage) {
    if tx.tables().images.iter().any(|image| image.name == seed.name) {
        return;
    }
    let (snapshot, now) = (tx.new_id(), tx.now());
    tx.put(Snapshot {
        id: snapshot,
        source: SnapshotSource::Seed { name: seed.name.clone() },
        size_gib: seed.size_gib,
        description: seed.description.clone(),
        key: None,
        started: now,
        awaits: None,
        sharing: Sharing::default(),
        state: SnapshotState::Completed { ended: now },
    });
    let mapping = ImageMapping {
        device: seed.root_device_name.clone(),
        snapshot: Some(snapshot),
        size_gib: seed.size_gib,
        kind: VolumeKind::Gp3,
        iops: None,
        throughput_mib_s: None,
        is_encrypted: false,
        delete_on_termination: true,
    };
    let id = tx.new_id();
    tx.put(Image {
        id,
        name: seed.name.clone(),
        description: seed.description.clone(),
        origin: ImageOrigin::Seed { owner_alias: seed.owner_alias.clone() },
        root_device_name: seed.root_device_name.clone(),
        mappings: vec![mapping],
        boot_mode: None,
        requires_metadata_token: false,
        created: now,
        sharing: Sharing { is_public: true, ..Default::default() },
        state: ImageState::Available,
    });
}
