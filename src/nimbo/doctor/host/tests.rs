use super::*;
use crate::doctor::report::Status;

#[test]
fn missing_capabilities_are_named() {
    let all = "CapInh:\t0\nCapEff:\t000001ffffffffff\n".to_owned();
    assert_eq!(judge_privileges(Ok(all)).status, Status::Ok);
    let none = judge_privileges(Ok("CapEff:\t0000000000000000\n".to_owned()));
    assert_eq!(none.finding, "lacks CAP_SETGID, CAP_SETUID, CAP_NET_ADMIN, CAP_SYS_ADMIN");
    assert_eq!(judge_privileges(Ok("Name:\tnimbo\n".to_owned())).status, Status::Failed);
}

#[test]
fn namespaces_that_are_not_permitted_ask_for_root() {
    let check = judge_namespaces(Err(nix::Error::EPERM));
    assert_eq!(check.status, Status::Failed);
    assert!(check.remedy.unwrap().contains("Run as root"));
    assert_eq!(judge_namespaces(Ok(())).status, Status::Ok);
}

#[test]
fn a_ring_turned_off_by_sysctl_is_told_from_one_that_is_not_there() {
    let refused = || Err(io::Error::from_raw_os_error(libc::EPERM));
    let check = judge_io_uring(refused(), Some("2\n".to_owned()));
    assert!(check.remedy.unwrap().contains("kernel.io_uring_disabled=0"));
    let check = judge_io_uring(refused(), Some("0\n".to_owned()));
    assert!(check.remedy.unwrap().contains("seccomp"));
    assert_eq!(judge_io_uring(Ok(vec!["FALLOCATE"]), None).finding, "lacks FALLOCATE");
}

#[test]
fn cgroups_only_ever_warn() {
    assert_eq!(judge_cgroups(None).status, Status::Warning);
    let some = judge_cgroups(Some("cpuset cpu memory\n".to_owned()));
    assert_eq!((some.status, some.finding.as_str()), (Status::Warning, "version 2, without io, pids"));
    assert_eq!(judge_cgroups(Some("cpu io memory pids\n".to_owned())).status, Status::Ok);
}

#[test]
fn little_room_warns_and_hardly_any_fails() {
    let disk = |mib| Disk {
        folder: "/cache".into(),
        available: ByteSize::from_mib(mib).unwrap(),
        punches_holes: true,
        clones: false,
    };
    for (mib, status) in [(100, Status::Failed), (2_000, Status::Warning), (20_000, Status::Ok)] {
        assert_eq!(judge_disk(Path::new("/cache"), Ok(disk(mib))).status, status, "{mib} MiB");
    }
    let coarse = Disk { punches_holes: false, ..disk(20_000) };
    let check = judge_disk(Path::new("/cache"), Ok(coarse));
    assert_eq!(check.finding, "19.5 GiB free in /cache; keeps discarded space");
    assert_eq!(check.status, Status::Warning);
}

#[test]
fn a_folder_that_does_not_exist_yet_is_judged_by_its_parent() {
    let parent = tempfile::tempdir().unwrap();
    let disk = look_at_disk(&parent.path().join("not/yet")).unwrap();
    assert_eq!(disk.folder, parent.path());
}

#[test]
fn a_slow_clock_source_is_told() {
    assert_eq!(judge_clock(Some("kvm-clock"), Ok(true)).status, Status::Ok);
    assert_eq!(judge_clock(Some("tsc"), Ok(false)).status, Status::Warning);
    assert!(judge_clock(Some("hpet"), Ok(true)).finding.contains("slow"));
}

#[test]
fn an_older_landlock_warns_and_names_the_kernel_that_has_all_of_it() {
    let check = judge_landlock(Ok(2));
    assert_eq!(check.status, Status::Warning);
    assert_eq!(check.finding, "version 2 closes files; not TCP, devices, abstract sockets and signals");
    assert!(check.remedy.unwrap().contains("Linux 6.12"));
    assert_eq!(judge_landlock(Ok(6)).status, Status::Ok);
    assert_eq!(judge_landlock(Ok(9)).status, Status::Ok);
}

#[test]
fn a_landlock_that_is_off_is_told_from_none() {
    let check = judge_landlock(Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)));
    assert_eq!((check.status, &*check.finding), (Status::Warning, "is switched off"));
    let check = judge_landlock(Err(io::Error::from_raw_os_error(libc::ENOSYS)));
    assert_eq!((check.status, &*check.finding), (Status::Warning, "is not in this kernel"));
}
