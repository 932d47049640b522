//! User-data that really runs, on a system in a temporary folder.

use super::*;
use std::cell::RefCell;

/// Writes down what would be done to the machine.
#[derive(Default)]
struct Recorder(RefCell<Vec<String>>);

impl Recorder {
    fn note(&self, what: impl Into<String>) {
        self.0.borrow_mut().push(what.into());
    }
}

impl Machine for Recorder {
    fn set_hostname(&self, name: &str) -> Result<()> {
        self.note(format!("hostname {name}"));
        Ok(())
    }
    fn grow_partition(&self) -> Result<()> {
        self.note("grow partition");
        Ok(())
    }
    fn grow_file_system(&self) -> Result<()> {
        self.note("grow file system");
        Ok(())
    }
    fn mount_all(&self, kind: fstab::Kind) {
        self.note(format!("mount {kind:?}"));
    }
    fn make_host_keys(&self) -> Result<()> {
        self.note("host keys");
        Ok(())
    }
    fn serve(&self) {
        self.note("serve");
    }
}

/// A system in a folder, which `ROOT` in user-data stands for.
struct System(tempfile::TempDir);

impl System {
    fn new() -> Self {
        System(tempfile::tempdir().unwrap())
    }

    /// Boots as this instance; gives back what was done to the machine, and how many steps failed.
    fn boot(&self, id: &str, user_data: &str) -> (Vec<String>, usize) {
        let root = self.0.path();
        let user_data = user_data.replace("ROOT", root.to_str().unwrap());
        let metadata = Metadata {
            instance_id: id.into(),
            local_hostname: Some("ip-10-0-0-5.ec2.internal".into()),
            public_keys: vec!["ssh-ed25519 LAB lab".into()],
            user_data: Some(user_data.into_bytes()),
        };
        let instance = Instance::enter(root, id).unwrap();
        let recorder = Recorder::default();
        let failures = run(root, &instance, &metadata, &recorder);
        (recorder.0.into_inner(), failures)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.path().join(path)).unwrap_or_else(|error| format!("{path}: {error}"))
    }
}

#[test]
fn a_script_runs_once_for_each_instance() {
    let system = System::new();
    let script = "#!/bin/sh\necho ran >> ROOT/log\n";
    let (done, failures) = system.boot("i-1", script);
    assert_eq!(failures, 0);
    assert_eq!(
        done,
        ["grow partition", "grow file system", "mount Network", "hostname ip-10-0-0-5", "host keys", "serve"]
    );
    let (done, _) = system.boot("i-1", script);
    assert_eq!(
        done,
        ["grow partition", "grow file system", "mount Network", "hostname ip-10-0-0-5", "serve"]
    );
    assert_eq!(system.read("log"), "ran\n");
    system.boot("i-2", script);
    assert_eq!(system.read("log"), "ran\nran\n");
    assert_eq!(system.read("root/.ssh/authorized_keys"), "ssh-ed25519 LAB lab\n");
    assert_eq!(system.read("etc/hostname"), "ip-10-0-0-5\n");
    assert_eq!(system.read("var/lib/cloud/data/previous-instance-id"), "i-1\n");
}

const MANY: &str = "Content-Type: multipart/mixed; boundary=B\nMIME-Version: 1.0\n\n\
--B\nContent-Type: text/x-shellscript\n\n#!/bin/sh\necho script >> ROOT/log\n\
--B\nContent-Type: text/x-shellscript-per-boot\n\n#!/bin/sh\necho per-boot >> ROOT/log\n\
--B\nContent-Type: text/cloud-boothook\n\n#cloud-boothook\necho hook $INSTANCE_ID >> ROOT/log\n\
--B\nContent-Type: text/cloud-config\n\n\
#cloud-config\n\
hostname: web\n\
bootcmd:\n- echo bootcmd $INSTANCE_ID >> ROOT/log\n\
runcmd:\n- echo runcmd >> ROOT/log\n- [sh, -c, 'cat ROOT/etc/early ROOT/etc/late >> ROOT/log']\n\
write_files:\n- {path: /etc/early, content: \"early\\n\"}\n- {path: /etc/late, content: \"late\\n\", owner: 'ada:ada', defer: true}\n\
users:\n- default\n- {name: ada, ssh_authorized_keys: [ssh-ed25519 ADA]}\n\
mounts:\n- ['10.0.0.4:/', /mnt/efs, nfs4, 'nfsvers=4.1,_netdev', '0', '0']\n\
--B--\n";

#[test]
fn the_parts_of_a_message_run_in_the_order_of_cloud_init() {
    let system = System::new();
    let (done, failures) = system.boot("i-1", MANY);
    assert_eq!(failures, 0, "{done:?}");
    let want = [
        "grow partition",
        "grow file system",
        "mount Local",
        "mount Network",
        "hostname web",
        "host keys",
        "serve",
    ];
    assert_eq!(done, want);
    let first = "hook i-1\nbootcmd i-1\nper-boot\nscript\nruncmd\nearly\nlate\n";
    assert_eq!(system.read("log"), first);
    let later = "hook i-1\nbootcmd i-1\nper-boot\n";
    assert_eq!(system.boot("i-1", MANY).1, 0);
    assert_eq!(system.read("log"), format!("{first}{later}"));
    assert_eq!(system.read("home/ada/.ssh/authorized_keys"), "ssh-ed25519 ADA\n");
    assert_eq!(
        system.read("etc/fstab"),
        "10.0.0.4:/\t/mnt/efs\tnfs4\tnfsvers=4.1,_netdev,comment=cloudconfig\t0\t0\n"
    );
}

#[test]
fn what_fails_is_counted_and_the_rest_is_done() {
    let system = System::new();
    let config = "#cloud-config\npackages: [nginx]\nusers: [{name: 'a:b'}]\n\
        write_files: [{path: /a, owner: nosuch}, {path: /b}]\nruncmd: ['echo ran > ROOT/log', 'exit 3']\n";
    let (_, failures) = system.boot("i-1", config);
    assert_eq!(failures, 4, "packages, users, write_files and runcmd");
    assert_eq!(system.read("log"), "ran\n");
    assert!(system.0.path().join("b").exists());
}

#[test]
fn a_default_user_gets_the_keys_and_root_may_be_left_without() {
    let system = System::new();
    let (_, failures) = system.boot("i-1", "#cloud-config\nuser: {name: admin}\ndisable_root: true\n");
    assert_eq!(failures, 0);
    assert_eq!(system.read("home/admin/.ssh/authorized_keys"), "ssh-ed25519 LAB lab\n");
    assert!(!system.0.path().join("root/.ssh").exists());
}

#[test]
fn growing_is_left_when_asked_for() {
    let system = System::new();
    let (done, _) = system.boot("i-1", "#cloud-config\ngrowpart: {mode: 'off'}\nresize_rootfs: false\n");
    assert!(!done.iter().any(|what| what.starts_with("grow")), "{done:?}");
}

#[test]
fn hooks_and_foreign_line_ends_become_programs() {
    let part = |kind, text: &str| Part { kind, name: "x".into(), content: text.into() };
    let hook = program_text(&part(Kind::Boothook, "#cloud-boothook\r\n\r\necho a\r\n"));
    assert_eq!(hook, b"#!/bin/sh\necho a\n");
    let script = program_text(&part(Kind::Script, "#!/bin/sh\r\necho a\r\n"));
    assert_eq!(script, b"#!/bin/sh\necho a\n");
}
