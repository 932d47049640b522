//! Everything here is done by real processes on real volumes, and read by the library.

mod conformance;
mod killed;

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use ::volume::BlockBackend as _;
use control::ports::{Disk, DiskSpec, Disks, SnapshotCopySpec, SnapshotProgress, SnapshotSpec};
use nix::sys::signal::{Signal, kill};
use types::{InstanceId, RandomId as _, VolumeKind, VolumeSpec, Zone};

use super::*;
use crate::host::process;

const GIB: u64 = 1 << 30;

/// A host in a folder of its own. The processes that it started end with it.
struct Lab {
    folder: tempfile::TempDir,
    volumes: Volumes,
    disks: HostDisks,
}

/// MicroVMs that have what they are given.
struct Given {
    has: Mutex<BTreeSet<(InstanceId, VolumeId)>>,
    volumes: Volumes,
}

impl Plugs for Given {
    fn instances(&self) -> Vec<InstanceId> {
        lock(&self.has).iter().map(|(instance, _)| *instance).collect()
    }

    fn plugged(&self, instance: InstanceId) -> BTreeSet<VolumeId> {
        lock(&self.has).iter().filter(|(other, _)| *other == instance).map(|(_, volume)| *volume).collect()
    }

    fn plug<'a>(
        &'a self,
        instance: InstanceId,
        volume: VolumeId,
        socket: &'a Path,
        _: &'a str,
    ) -> BoxFuture<'a, Result<(), HostError>> {
        assert!(fs::symlink_metadata(socket).unwrap().file_type().is_socket());
        lock(&self.has).insert((instance, volume));
        Box::pin(async { Ok(()) })
    }

    fn unplug(
        &self,
        instance: InstanceId,
        volume: VolumeId,
        _: bool,
    ) -> BoxFuture<'_, Result<(), HostError>> {
        lock(&self.has).remove(&(instance, volume));
        let released = self.volumes.release(volume, instance);
        Box::pin(async {
            released.await;
            Ok(())
        })
    }
}

impl Lab {
    fn new() -> Self {
        Self::at(tempfile::tempdir_in("/var/tmp").unwrap())
    }

    fn at(folder: tempfile::TempDir) -> Self {
        let volumes = open(folder.path());
        volumes.go_on();
        let disks = disks(&volumes);
        Self { folder, volumes, disks }
    }

    /// As if the process were started anew.
    fn again(&mut self) {
        self.again_with(&[]);
    }

    /// Likewise, and a microVM that it finds has these volumes.
    fn again_with(&mut self, volumes: &[VolumeId]) {
        // The one before is not there to start any process again.
        lock(&self.volumes.0.slots).values().for_each(|slot| lock(&slot.wanted).clear());
        self.volumes = open(self.folder.path());
        volumes.iter().for_each(|volume| self.volumes.claim(*volume, instance(1)));
        self.volumes.go_on();
        self.disks = disks(&self.volumes);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn create(&self, id: VolumeId, snapshot: Option<SnapshotId>, key: Option<&str>) {
        self.disks.create(spec(id, snapshot, key)).await.unwrap();
        self.ready(id).await;
    }

    /// Waits until it can be used.
    async fn ready(&self, id: VolumeId) {
        until("a volume", async || match self.disks.disk(id) {
            Some(Disk::Ready { .. }) => Some(()),
            Some(Disk::Making) => None,
            other => panic!("{other:?}"),
        })
        .await;
    }

    async fn snapshot(&self, id: SnapshotId, volume: VolumeId) {
        self.disks.begin_snapshots(vec![SnapshotSpec { id, volume }]).await.unwrap();
        self.complete(id).await;
    }

    async fn complete(&self, id: SnapshotId) {
        until("a snapshot", async || match self.disks.snapshot(id) {
            Some(SnapshotProgress::Complete) => Some(()),
            Some(SnapshotProgress::Beginning | SnapshotProgress::Pending { .. }) => None,
            other => panic!("{other:?}"),
        })
        .await;
    }

    async fn delete(&self, id: VolumeId) {
        self.disks.delete(id).await.unwrap();
        until("the end of a volume", async || self.disks.disk(id).is_none().then_some(())).await;
    }

    async fn delete_snapshot(&self, id: SnapshotId) {
        self.disks.delete_snapshot(id).await.unwrap();
        until("the end of a snapshot", async || self.disks.snapshot(id).is_none().then_some(())).await;
    }

    /// Waits until no process has the volume, and opens it.
    async fn open(&self, id: VolumeId) -> ::volume::Volume {
        let slot = self.volumes.slot(id);
        until("nobody has the volume", async || {
            let _turn = slot.turn.lock().await;
            self.volumes.0.kept.open(&slot.place.folder).ok()
        })
        .await
    }

    /// Writes a text to the first byte of a volume that nobody has, and into its middle.
    async fn write(&self, id: VolumeId, text: &str) {
        let volume = self.open(id).await;
        let image = self.path("image.raw");
        let file = fs::File::create(&image).unwrap();
        file.set_len(GIB).unwrap();
        for place in [0, GIB / 2] {
            std::os::unix::fs::FileExt::write_all_at(&file, text.as_bytes(), place).unwrap();
        }
        let folder = self.volumes.slot(id).place.folder.clone();
        ::volume::import::import_into(&image, (&volume, &folder), &|_| {}, &|| false).unwrap();
    }

    async fn assert_reads(&self, id: VolumeId, text: &str) {
        let volume = self.open(id).await;
        for place in [0, GIB / 2] {
            let mut read = vec![0; text.len()];
            volume.read_at(place, &mut read).unwrap();
            assert_eq!(String::from_utf8_lossy(&read), text, "{id} at {place}");
        }
    }

    /// Everything that is in the object store.
    fn objects(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for part in ["snapshots", "deleted", "pins", "data"] {
            files(&self.path("state/objects").join(part), &mut found);
        }
        found
    }

    /// All that is left in the folders of volumes and snapshots.
    fn left(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for part in ["volumes", "snapshots", "copies"] {
            files(&self.path("state").join(part), &mut found);
        }
        found
    }

    async fn server(&self, id: VolumeId) -> Option<Process> {
        self.volumes.slot(id).place.find().await.unwrap()
    }
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in folder.read_dir().into_iter().flatten().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            files(&entry.path(), found);
        } else {
            found.push(entry.path());
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for slot in lock(&self.volumes.0.slots).values() {
            // So that none takes the place of one that is ended here.
            lock(&slot.wanted).clear();
            if let Ok(mut turn) = slot.turn.try_lock() {
                turn.uses = 0;
            }
        }
        end_servers(self.folder.path());
    }
}

fn end_servers(folder: &Path) {
    for volume in folder.join("state/volumes").read_dir().into_iter().flatten() {
        if let Ok(Some(pid)) = process::listener(&volume.unwrap().path().join("control")) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

/// The program itself is made by the same build.
fn open(folder: &Path) -> Volumes {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().and_then(Path::parent).unwrap().join("nimbo");
    assert!(program.exists(), "there is no {}: cargo build -p nimbo makes it", program.display());
    Volumes::open_with(&program, &folder.join("state"), &folder.join("run"), true, None).unwrap()
}

fn disks(volumes: &Volumes) -> HostDisks {
    let given = Given { has: Mutex::default(), volumes: volumes.clone() };
    HostDisks::new(volumes.clone(), Arc::new(given))
}

fn instance(number: u8) -> InstanceId {
    InstanceId::from_random([number; 16])
}

fn vol(number: u8) -> VolumeId {
    VolumeId::from_random([number; 16])
}

fn snap(number: u8) -> SnapshotId {
    SnapshotId::from_random([number; 16])
}

fn gp3(size_gib: u64) -> VolumeSpec {
    VolumeSpec { kind: VolumeKind::Gp3, size_gib, iops: None, throughput_mib_s: None }
}

fn zone() -> Zone {
    "us-east-1".parse::<types::Region>().unwrap().zones()[0]
}

fn spec(id: VolumeId, snapshot: Option<SnapshotId>, key: Option<&str>) -> DiskSpec {
    DiskSpec { id, zone: zone(), spec: gp3(1), snapshot, key: key.map(str::to_owned) }
}

fn copy(id: SnapshotId, source: SnapshotId, key: Option<&str>) -> SnapshotCopySpec {
    let region = zone().region();
    SnapshotCopySpec { id, source, source_region: region, region, key: key.map(str::to_owned) }
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            match look().await {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    match tokio::time::timeout(Duration::from_secs(30), wait).await {
        Ok(found) => found,
        Err(_) => panic!("{what}: not within 30 s"),
    }
}

const OWN_KEY: &str = "arn:aws:kms:us-east-1:123456789012:alias/aws/ebs";
const OTHER_KEY: &str = "arn:aws:kms:eu-west-1:123456789012:alias/aws/ebs";

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_served_by_one_process_until_it_is_released() {
    let mut lab = Lab::new();
    lab.create(vol(1), None, None).await;
    let socket = lab.volumes.serve(vol(1), instance(1)).await.unwrap();
    assert!(fs::symlink_metadata(&socket).unwrap().file_type().is_socket());
    let first = lab.server(vol(1)).await.unwrap();
    assert_eq!(lab.volumes.serve(vol(1), instance(1)).await.unwrap(), socket);
    // Another process takes it as it is, if a guest has it.
    lab.again_with(&[vol(1)]);
    let slot = lab.volumes.slot(vol(1));
    until("it is taken over", async || slot.turn.lock().await.server.is_some().then_some(())).await;
    assert_eq!(lab.volumes.serve(vol(1), instance(2)).await.unwrap(), socket);
    assert_eq!(lab.server(vol(1)).await.unwrap().pid, first.pid);
    // As long as another guest has it, nobody's leave ends it.
    lab.volumes.release(vol(1), instance(1)).await;
    lab.volumes.release(vol(1), instance(1)).await;
    assert!(!first.has_ended());
    // It is replaced when it dies.
    kill(first.pid, Signal::SIGKILL).unwrap();
    let next =
        until("another process", async || lab.server(vol(1)).await.filter(|now| now.pid != first.pid)).await;
    lab.volumes.release(vol(1), instance(2)).await;
    assert!(next.has_ended() && lab.server(vol(1)).await.is_none() && !socket.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_no_microvm_has_is_taken_from_who_holds_on_to_it() {
    let lab = Lab::new();
    lab.create(vol(1), None, None).await;
    let socket = lab.volumes.serve(vol(1), instance(1)).await.unwrap();
    let server = lab.server(vol(1)).await.unwrap();
    // What is left of a guest does not part for longer than anybody waits.
    let guest = crate::socket::connect(&socket).unwrap();
    until("a guest", async || {
        ask::status(&lab.volumes.slot(vol(1)).place).await.ok().filter(|status| status.guests == 1)
    })
    .await;
    lab.volumes.release(vol(1), instance(1)).await;
    assert!(server.has_ended() && !lab.volumes.slot(vol(1)).is_wanted());
    drop(guest);
    // Whoever wants it while it is let go has it.
    lab.volumes.serve(vol(1), instance(1)).await.unwrap();
    let released = lab.volumes.release(vol(1), instance(1));
    lab.volumes.serve(vol(1), instance(1)).await.unwrap();
    released.await;
    assert!(lab.server(vol(1)).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_of_a_volume_has_no_files_but_its_own() {
    let lab = Lab::new();
    lab.create(vol(1), None, Some(OWN_KEY)).await;
    lab.create(vol(2), None, None).await;
    lab.volumes.serve(vol(1), instance(1)).await.unwrap();
    let pid = lab.server(vol(1)).await.unwrap().pid;
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    let inside = |path: &Path| root.join(path.strip_prefix("/").unwrap());
    let volumes = lab.path("state/volumes");
    assert!(inside(&volumes.join(vol(1).to_string()).join("volume")).exists());
    assert!(inside(&lab.path("state/objects")).is_dir() && inside(&lab.path("state/keys/volumes")).exists());
    let found: Vec<_> =
        fs::read_dir(inside(&volumes)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(found, [vol(1).to_string().as_str()]);
    let mut found: Vec<_> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    found.sort();
    let top = lab.folder.path().components().nth(1).unwrap().as_os_str();
    assert_eq!(found, ["proc".as_ref(), top]);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for line in ["NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"] {
        assert!(status.contains(line), "no {line:?} in {status}");
    }
    let network = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).unwrap();
    assert_ne!(network(&pid.to_string()), network("self"));
    // What it is for it can do.
    lab.snapshot(snap(1), vol(1)).await;
    lab.volumes.release(vol(1), instance(1)).await;
    assert!(!lab.volumes.slot(vol(1)).place.socket.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn several_snapshots_of_a_volume_are_begun_at_once_and_deleted_in_any_order() {
    let lab = Lab::new();
    lab.create(vol(1), None, None).await;
    lab.write(vol(1), "begun").await;
    for number in 1..=5 {
        let spec = SnapshotSpec { id: snap(number), volume: vol(1) };
        lab.disks.begin_snapshots(vec![spec]).await.unwrap();
    }
    lab.delete_snapshot(snap(2)).await;
    for number in [1, 3, 4, 5] {
        lab.complete(snap(number)).await;
    }
    lab.create(vol(2), Some(snap(4)), None).await;
    lab.assert_reads(vol(2), "begun").await;
    for number in [3, 1, 5, 4] {
        lab.delete_snapshot(snap(number)).await;
    }
    for number in [1, 2] {
        lab.delete(vol(number)).await;
    }
    assert_eq!((lab.objects(), lab.left()), (Vec::new(), Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_nobody_wants_is_ended_by_the_next() {
    let mut lab = Lab::new();
    lab.create(vol(1), None, None).await;
    lab.volumes.serve(vol(1), instance(1)).await.unwrap();
    let server = lab.server(vol(1)).await.unwrap();
    lab.again();
    tokio::time::timeout(Duration::from_secs(30), server.ended()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn why_something_cannot_be_done_is_told() {
    let lab = Lab::new();
    let error = lab.volumes.serve(vol(1), instance(1)).await.unwrap_err();
    assert!(error.to_string().contains("there is no volume vol-"), "{error}");
    let error = lab.disks.create(spec(vol(1), Some(snap(1)), None)).await.unwrap_err();
    assert!(error.to_string().contains("no data of the snapshot snap-"), "{error}");
    let error =
        lab.disks.begin_snapshots(vec![SnapshotSpec { id: snap(1), volume: vol(1) }]).await.unwrap_err();
    assert!(error.to_string().contains("there is no volume vol-"), "{error}");
    assert_eq!((lab.disks.disk(vol(1)), lab.disks.snapshot(snap(1))), (None, None));
    // Of a key that nobody has made there is no volume.
    let unknown = "arn:aws:kms:us-east-1:123456789012:key/nobodys";
    lab.disks.create(spec(vol(2), None, Some(unknown))).await.unwrap();
    let failed = until("the failure", async || match lab.disks.disk(vol(2)) {
        Some(Disk::Failed(message)) => Some(message),
        _ => None,
    });
    assert!(failed.await.contains("nimbo volume key new arn:"));
    lab.delete(vol(2)).await;
    assert_eq!(lab.left(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_from_a_snapshot_has_what_the_other_had_and_nothing_stays_of_them() {
    let mut lab = Lab::new();
    lab.create(vol(1), None, None).await;
    lab.write(vol(1), "first").await;
    lab.snapshot(snap(1), vol(1)).await;
    lab.write(vol(1), "second").await;
    // Served or not, it is the same.
    lab.volumes.serve(vol(1), instance(1)).await.unwrap();
    lab.snapshot(snap(2), vol(1)).await;
    lab.volumes.release(vol(1), instance(1)).await;
    lab.create(vol(2), Some(snap(1)), None).await;
    lab.create(vol(3), Some(snap(2)), None).await;
    lab.delete_snapshot(snap(1)).await;
    lab.delete(vol(1)).await;
    lab.again();
    lab.assert_reads(vol(2), "first").await;
    lab.assert_reads(vol(3), "second").await;
    lab.delete(vol(3)).await;
    lab.delete_snapshot(snap(2)).await;
    lab.delete(vol(2)).await;
    assert_eq!((lab.objects(), lab.left()), (Vec::new(), Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_encrypted_stays_so_by_its_key_or_another() {
    let lab = Lab::new();
    lab.create(vol(1), None, Some(OWN_KEY)).await;
    lab.write(vol(1), "secret").await;
    let keys = fs::metadata(lab.path("state/keys/volumes")).unwrap();
    assert_eq!(keys.mode() & 0o777, 0o600);
    lab.snapshot(snap(1), vol(1)).await;
    lab.disks.copy_snapshot(copy(snap(2), snap(1), Some(OTHER_KEY))).await.unwrap();
    lab.complete(snap(2)).await;
    lab.delete_snapshot(snap(1)).await;
    lab.delete(vol(1)).await;
    for (number, key) in [(2, OTHER_KEY), (3, OWN_KEY)] {
        lab.create(vol(number), Some(snap(2)), Some(key)).await;
        lab.assert_reads(vol(number), "secret").await;
        assert_eq!(lab.open(vol(number)).await.key().unwrap().as_str(), key);
    }
    let error = lab.disks.copy_snapshot(copy(snap(3), snap(2), None)).await.unwrap_err();
    assert!(error.to_string().contains("not copied as plain"), "{error}");
    for volume in [2, 3] {
        lab.delete(vol(volume)).await;
    }
    lab.delete_snapshot(snap(2)).await;
    assert_eq!((lab.objects(), lab.left()), (Vec::new(), Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_plain_becomes_encrypted() {
    let lab = Lab::new();
    lab.create(vol(1), None, None).await;
    lab.write(vol(1), "plain").await;
    lab.snapshot(snap(1), vol(1)).await;
    lab.create(vol(2), Some(snap(1)), Some(OWN_KEY)).await;
    lab.disks.copy_snapshot(copy(snap(2), snap(1), Some(OWN_KEY))).await.unwrap();
    lab.complete(snap(2)).await;
    lab.delete_snapshot(snap(1)).await;
    lab.create(vol(3), Some(snap(2)), Some(OWN_KEY)).await;
    for number in [2, 3] {
        lab.assert_reads(vol(number), "plain").await;
        assert_eq!(lab.open(vol(number)).await.key().unwrap().as_str(), OWN_KEY);
        lab.delete(vol(number)).await;
    }
    lab.delete_snapshot(snap(2)).await;
    lab.delete(vol(1)).await;
    assert_eq!((lab.objects(), lab.left()), (Vec::new(), Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_by_the_same_key_are_one_snapshot_until_the_last_is_deleted() {
    let lab = Lab::new();
    lab.create(vol(1), None, None).await;
    lab.write(vol(1), "shared").await;
    lab.snapshot(snap(1), vol(1)).await;
    let before = lab.objects();
    lab.disks.copy_snapshot(copy(snap(2), snap(1), None)).await.unwrap();
    lab.complete(snap(2)).await;
    assert_eq!(lab.objects(), before);
    lab.delete_snapshot(snap(1)).await;
    lab.create(vol(2), Some(snap(2)), None).await;
    lab.assert_reads(vol(2), "shared").await;
    lab.delete_snapshot(snap(2)).await;
    assert_eq!(lab.objects(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_is_of_all_its_volumes_or_is_none() {
    let lab = Lab::new();
    for number in [1, 2] {
        lab.create(vol(number), None, None).await;
        lab.write(vol(number), "moment").await;
    }
    let moment = |numbers: &[u8]| {
        numbers.iter().map(|number| SnapshotSpec { id: snap(*number), volume: vol(*number) }).collect()
    };
    lab.disks.begin_snapshots(moment(&[1, 2, 3])).await.unwrap_err();
    assert!([1, 2, 3].iter().all(|number| lab.disks.snapshot(snap(*number)).is_none()));
    lab.disks.begin_snapshots(moment(&[1, 2])).await.unwrap();
    // It is of that moment: whatever is asked again does nothing.
    lab.disks.begin_snapshots(moment(&[1, 2])).await.unwrap();
    for number in [1, 2] {
        lab.complete(snap(number)).await;
        lab.create(vol(number + 10), Some(snap(number)), None).await;
        lab.assert_reads(vol(number + 10), "moment").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_grows_and_is_as_fast_as_told_whether_it_is_served_or_not() {
    let lab = Lab::new();
    lab.create(vol(1), None, None).await;
    lab.disks.modify(vol(1), gp3(2)).await.unwrap();
    assert_eq!(lab.open(vol(1)).await.size_bytes(), 2 * GIB);
    lab.volumes.serve(vol(1), instance(1)).await.unwrap();
    let io2 = VolumeSpec { kind: VolumeKind::Io2, size_gib: 5, iops: Some(4000), throughput_mib_s: None };
    for _ in 0..2 {
        lab.disks.modify(vol(1), io2).await.unwrap();
    }
    let status = ask::status(&lab.volumes.slot(vol(1)).place).await.unwrap();
    assert_eq!((status.size_bytes.bytes(), status.limits), (5 * GIB, Some(ask::limits_of(io2))));
    let spec = io2;
    let plugged = BTreeSet::new();
    assert_eq!(lab.disks.disk(vol(1)), Some(Disk::Ready { spec, optimized_percent: 100, plugged }));
    // Who serves it next does so by the same limits.
    let server = lab.server(vol(1)).await.unwrap();
    kill(server.pid, Signal::SIGKILL).unwrap();
    let next =
        until("another process", async || lab.server(vol(1)).await.filter(|now| now.pid != server.pid));
    next.await;
    let status = ask::status(&lab.volumes.slot(vol(1)).place).await.unwrap();
    assert_eq!(status.limits, Some(ask::limits_of(io2)));
    let error = lab.disks.modify(vol(1), gp3(1)).await.unwrap_err();
    assert!(error.to_string().contains("can only grow"), "{error}");
    assert!(matches!(lab.disks.disk(vol(1)), Some(Disk::Ready { spec, .. }) if spec == io2));
}
