//! `docs/control-api.md` tells the truth.

use super::fake::Served;
use crate::testing::manual::Manual;

#[test]
fn every_command_of_the_manual_prints_what_it_says() {
    let served = Served::new();
    served.output.write(b"[ 0.000000] Linux...");
    std::fs::write(served.folder.path().join("disk.raw"), "the disk").unwrap();
    let manual = Manual {
        text: include_str!("../../../../docs/control-api.md"),
        folder: served.folder.path(),
        environment: &[("S", served.path.to_str().unwrap())],
        free_members: &["time_ms"],
    };
    assert!(manual.check() > 15);
    assert_eq!(*served.contents.lock().unwrap(), ["the disk"]);
}
