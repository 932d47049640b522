//! Processes that are killed, between any two steps: what they leave is gone on with, or nothing is left of it.

use std::process::{Command, Stdio};

use ::volume::crypt::KeyName;

use super::*;

/// Which folder the process that is to be killed works in.
const FOLDER: &str = "NIMBO_TEST_FOLDER";
const ROUNDS: u8 = 8;

/// Volumes of all kinds, and snapshots of them, until it is killed. Of round N are the numbers from 10 N on.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is run by another test, and never ends"]
async fn works_until_it_is_killed() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).unwrap());
    let volumes = open(&folder);
    volumes.go_on();
    let disks = disks(&volumes);
    for round in (1u8..=24).cycle() {
        let number = |place: u8| round * 10 + place;
        for place in [1, 2] {
            let key = (place == 2).then_some(OWN_KEY);
            disks.create(spec(vol(number(place)), Some(snap(place)), key)).await.unwrap();
        }
        let is_ready = |place| matches!(disks.disk(vol(number(place))), Some(Disk::Ready { .. }));
        until("volumes", async || (is_ready(1) && is_ready(2)).then_some(())).await;
        let moment = [1, 2].map(|place| SnapshotSpec { id: snap(number(place)), volume: vol(number(place)) });
        until("a moment", async || disks.begin_snapshots(moment.to_vec()).await.ok()).await;
        let is_complete = |place| disks.snapshot(snap(number(place))) == Some(SnapshotProgress::Complete);
        until("snapshots", async || (is_complete(1) && is_complete(2)).then_some(())).await;
        for (place, source) in [(3, 1), (4, 2)] {
            let copy = copy(snap(number(place)), snap(number(source)), Some(OTHER_KEY));
            disks.copy_snapshot(copy).await.unwrap();
        }
        until("copies", async || (is_complete(3) && is_complete(4)).then_some(())).await;
        for place in [1, 2] {
            disks.delete_snapshot(snap(number(place))).await.unwrap();
            disks.delete(vol(number(place))).await.unwrap();
        }
    }
}

fn start(folder: &Path) -> std::process::Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = "host::disks::tests::killed::works_until_it_is_killed";
    command.args(["--exact", name, "--ignored", "--nocapture"]).env(FOLDER, folder);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// A snapshot of each kind that others are made of.
async fn prepare(lab: &Lab) {
    for (number, key) in [(1, None), (2, Some(OWN_KEY))] {
        lab.create(vol(number), None, key).await;
        lab.write(vol(number), "survives").await;
        lab.snapshot(snap(number), vol(number)).await;
        lab.delete(vol(number)).await;
    }
}

/// Waits until all that was begun has come to its end, and looks whether that is what it should be.
async fn check(lab: &Lab) -> (Vec<VolumeId>, Vec<SnapshotId>) {
    let volumes = || lock(&lab.volumes.0.slots).keys().copied().collect::<Vec<_>>();
    let snapshots = || lock(&lab.volumes.0.known).keys().copied().collect::<Vec<_>>();
    let is_over = || {
        volumes().iter().all(|id| !matches!(lab.disks.disk(*id), Some(Disk::Making)))
            && snapshots().iter().all(|id| {
                matches!(
                    lab.disks.snapshot(*id),
                    Some(SnapshotProgress::Complete | SnapshotProgress::Failed(_)) | None
                )
            })
    };
    until("what was begun", async || is_over().then_some(())).await;
    for id in volumes() {
        assert!(matches!(lab.disks.disk(id), Some(Disk::Ready { .. }) | None), "{:?}", lab.disks.disk(id));
    }
    for id in snapshots() {
        assert_eq!(lab.disks.snapshot(id), Some(SnapshotProgress::Complete), "{id}");
    }
    (volumes(), snapshots())
}

/// Begins with `works_until_it_is_killed` at a time that is another in each round.
async fn kill_after(folder: &Path, round: u8) {
    let mut child = start(folder);
    tokio::time::sleep(Duration::from_millis(40 + u64::from(round) * 83 % 700)).await;
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_anywhere_leaves_nothing_half_made() {
    let mut lab = Lab::new();
    prepare(&lab).await;
    let before = (lab.objects(), lab.left());
    for round in 0..ROUNDS {
        kill_after(lab.folder.path(), round).await;
        lab.again();
        let (volumes, snapshots) = check(&lab).await;
        println!("round {round}: {} volumes, {} snapshots", volumes.len(), snapshots.len());
        for id in &snapshots {
            let Some(SnapshotRecord::Complete { key, .. }) = lab.volumes.snapshot_record(*id) else {
                panic!("{id} is not complete")
            };
            lab.create(vol(255), Some(*id), key.as_ref().map(KeyName::as_str)).await;
            lab.assert_reads(vol(255), "survives").await;
            lab.delete(vol(255)).await;
        }
        // Both of a moment are there until both have copies.
        for first in (1..=24).map(|round| round * 10 + 1) {
            let is_there = |place: u8| snapshots.contains(&snap(first - 1 + place));
            assert!(is_there(1) == is_there(2) || is_there(3) && is_there(4), "{snapshots:?}");
        }
        for id in volumes {
            lab.delete(id).await;
        }
        for id in snapshots.into_iter().filter(|id| ![snap(1), snap(2)].contains(id)) {
            lab.delete_snapshot(id).await;
        }
        assert_eq!((lab.objects(), lab.left()), before, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_made_though_the_process_that_makes_it_is_killed() {
    let lab = Lab::new();
    lab.create(vol(1), None, None).await;
    lab.write(vol(1), "survives").await;
    lab.volumes.serve(vol(1), instance(1)).await.unwrap();
    lab.disks.begin_snapshots(vec![SnapshotSpec { id: snap(1), volume: vol(1) }]).await.unwrap();
    let server = lab.server(vol(1)).await.unwrap();
    kill(server.pid, Signal::SIGKILL).unwrap();
    lab.complete(snap(1)).await;
    lab.volumes.release(vol(1), instance(1)).await;
    lab.create(vol(2), Some(snap(1)), None).await;
    lab.assert_reads(vol(2), "survives").await;
}
