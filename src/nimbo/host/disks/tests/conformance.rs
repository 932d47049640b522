//! What every host of the control plane keeps to: the simulated one, and this.

use control::simulation::Simulation;

use super::*;

/// A host, whose effects take their time.
async fn settled(disks: &dyn Disks, volumes: &[VolumeId], snapshots: &[SnapshotId]) {
    let is_settled = || {
        volumes.iter().all(|id| !matches!(disks.disk(*id), Some(Disk::Making)))
            && snapshots.iter().all(|id| {
                matches!(
                    disks.snapshot(*id),
                    Some(SnapshotProgress::Complete | SnapshotProgress::Failed(_)) | None
                )
            })
    };
    until("what was begun", async || is_settled().then_some(())).await;
}

/// Each effect twice: the second time nothing is different.
async fn conform(disks: &dyn Disks) {
    let is_ready = |id| matches!(disks.disk(id), Some(Disk::Ready { .. }));
    assert!(disks.disk(vol(1)).is_none() && disks.snapshot(snap(1)).is_none());
    for _ in 0..2 {
        disks.create(spec(vol(1), None, None)).await.unwrap();
        assert!(disks.disk(vol(1)).is_some(), "it is known as soon as that is told");
        settled(disks, &[vol(1)], &[]).await;
        assert!(is_ready(vol(1)));
    }
    for _ in 0..2 {
        disks.modify(vol(1), gp3(2)).await.unwrap();
        let spec = gp3(2);
        let plugged = BTreeSet::new();
        assert_eq!(disks.disk(vol(1)), Some(Disk::Ready { spec, optimized_percent: 100, plugged }));
    }
    let instance = InstanceId::from_random([1; 16]);
    for _ in 0..2 {
        disks.plug(vol(1), instance, "/dev/sdf").await.unwrap();
        let plugged = until("the guest has it", async || match disks.disk(vol(1)) {
            Some(Disk::Ready { plugged, .. }) if !plugged.is_empty() => Some(plugged),
            _ => None,
        });
        assert_eq!(plugged.await, BTreeSet::from([instance]));
    }
    for _ in 0..2 {
        disks.begin_snapshots(vec![SnapshotSpec { id: snap(1), volume: vol(1) }]).await.unwrap();
        assert!(disks.snapshot(snap(1)).is_some());
        settled(disks, &[], &[snap(1)]).await;
        assert_eq!(disks.snapshot(snap(1)), Some(SnapshotProgress::Complete));
    }
    for _ in 0..2 {
        disks.unplug(vol(1), instance, false).await.unwrap();
        until("the guest has let go", async || match disks.disk(vol(1)) {
            Some(Disk::Ready { plugged, .. }) if plugged.is_empty() => Some(()),
            _ => None,
        })
        .await;
    }
    for _ in 0..2 {
        disks.copy_snapshot(copy(snap(2), snap(1), None)).await.unwrap();
        settled(disks, &[], &[snap(2)]).await;
        assert_eq!(disks.snapshot(snap(2)), Some(SnapshotProgress::Complete));
    }
    for _ in 0..2 {
        disks.delete_snapshot(snap(1)).await.unwrap();
        settled(disks, &[], &[snap(1)]).await;
        assert_eq!(disks.snapshot(snap(1)), None);
    }
    let of_snapshot = DiskSpec { spec: gp3(2), ..spec(vol(2), Some(snap(2)), None) };
    disks.create(of_snapshot).await.unwrap();
    settled(disks, &[vol(2)], &[]).await;
    assert!(is_ready(vol(2)));
    for id in [vol(1), vol(2), vol(1)] {
        disks.delete(id).await.unwrap();
        settled(disks, &[id], &[]).await;
        assert_eq!(disks.disk(id), None);
    }
    disks.delete_snapshot(snap(2)).await.unwrap();
    settled(disks, &[], &[snap(2)]).await;
    assert_eq!(disks.snapshot(snap(2)), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_simulated_host_conforms() {
    conform(&Simulation::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn this_host_conforms() {
    let lab = Lab::new();
    conform(&lab.disks).await;
    assert_eq!((lab.objects(), lab.left()), (Vec::new(), Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_listens_is_told_of_every_change() {
    let lab = Lab::new();
    let changed = Arc::new(tokio::sync::Notify::new());
    let nudge = Arc::clone(&changed);
    lab.disks.on_disk_change(Arc::new(move |_| nudge.notify_one()));
    lab.disks.create(spec(vol(1), None, None)).await.unwrap();
    let ready = async {
        while !matches!(lab.disks.disk(vol(1)), Some(Disk::Ready { .. })) {
            changed.notified().await;
        }
        lab.disks.begin_snapshots(vec![SnapshotSpec { id: snap(1), volume: vol(1) }]).await.unwrap();
        while lab.disks.snapshot(snap(1)) != Some(SnapshotProgress::Complete) {
            changed.notified().await;
        }
        lab.disks.delete_snapshot(snap(1)).await.unwrap();
        while lab.disks.snapshot(snap(1)).is_some() {
            changed.notified().await;
        }
        lab.disks.delete(vol(1)).await.unwrap();
        while lab.disks.disk(vol(1)).is_some() {
            changed.notified().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ready).await.unwrap();
}
