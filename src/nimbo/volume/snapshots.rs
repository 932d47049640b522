//! `nimbo volume snapshots` and `nimbo volume delete-snapshot`

use std::process::ExitCode;

use ::volume::snapshot::{SnapshotError, SnapshotInfo, SnapshotName};
use anyhow::Context as _;
use indicatif::HumanBytes;
use serde::Serialize;
use types::ByteSize;

use super::output;
use super::store::StoreArgs;

const LIST_EXAMPLES: &str = "\
The oldest first. OWN is what a snapshot added to the store: less is freed when it is deleted, if later ones use it. The first
half of a name is the lineage, which a volume and all that were made from its snapshots have in common; within it
snapshots share what they can, and the last column, PARENT, is the second half of the name of whom it was shared with.

Exit status:
  0  printed
  1  the store cannot be read; a message tells why

Examples:
  nimbo volume snapshots
  nimbo volume snapshots --objects s3://backups/nimbo --json";

#[derive(Debug, clap::Args)]
#[command(after_help = LIST_EXAMPLES)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// For programs: one JSON array, amounts in bytes and times in seconds since 1970
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    size_bytes: u64,
    /// What it added to the store.
    own_bytes: u64,
    parent: Option<String>,
    created_s: u64,
}

impl From<SnapshotInfo> for Listed {
    fn from(info: SnapshotInfo) -> Self {
        Self {
            name: info.name.to_string(),
            size_bytes: info.size_bytes,
            own_bytes: info.own_bytes,
            parent: info.parent.map(|parent| parent.to_string()),
            created_s: info.created_s,
        }
    }
}

pub(super) fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let snapshots = args.store.open()?.snapshots();
    let mut listed = Vec::new();
    for name in snapshots.list()? {
        match snapshots.info(name) {
            Ok(info) => listed.push(Listed::from(info)),
            // Somebody deleted it a moment ago.
            Err(SnapshotError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    listed.sort_by(|one, other| (one.created_s, &one.name).cmp(&(other.created_s, &other.name)));
    if args.json {
        output::print([Ok(serde_json::to_string(&listed)?)])?;
    } else if !listed.is_empty() {
        let head = format!("{:65}  {:>8}  {:>11}  {:20}  PARENT", "NAME", "SIZE", "OWN", "CREATED");
        output::print([head].into_iter().chain(listed.iter().map(row)).map(Ok))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(snapshot: &Listed) -> String {
    let created = i64::try_from(snapshot.created_s).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
    let created = created.map_or_else(|| "-".to_owned(), |created| created.to_string());
    let parent = snapshot.parent.as_ref().and_then(|parent| parent.split_once('-'));
    format!(
        "{}  {:>8}  {:>11}  {created:20}  {}",
        snapshot.name,
        ByteSize::from_bytes(snapshot.size_bytes).to_string(),
        HumanBytes(snapshot.own_bytes).to_string(),
        parent.map_or("-", |(_, id)| id),
    )
}

const DELETE_EXAMPLES: &str = "\
What other snapshots share with it stays, and so does what a volume that was made from it has yet to fetch; that goes when the
volume has all of it (nimbo volume fill). A deletion that was interrupted is ended by the next one.

Exit status:
  0  it is deleted
  1  it is not, or not all of it yet; a message tells why

Examples:
  nimbo volume delete-snapshot 0123456789abcdef0123456789abcdef-fedcba9876543210fedcba9876543210";

#[derive(Debug, clap::Args)]
#[command(after_help = DELETE_EXAMPLES)]
pub(crate) struct DeleteArgs {
    /// The snapshot
    #[arg(value_name = "NAME")]
    name: SnapshotName,
    #[command(flatten)]
    store: StoreArgs,
}

pub(super) fn delete(args: &DeleteArgs) -> anyhow::Result<ExitCode> {
    let deleted = args.store.open()?.exclusive()?.snapshots.delete(args.name);
    deleted.with_context(|| format!("cannot delete the snapshot {}", args.name))?;
    Ok(ExitCode::SUCCESS)
}
