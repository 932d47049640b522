//! What pid 1 does when it cannot go on. It must not end: the kernel would panic, and say less than we can.

use nix::sys::reboot::{RebootMode, reboot};
use nix::unistd::sync;

use crate::cmdline::{CommandLine, OnFault};
use crate::console::say;
use crate::services;

/// Makes a panic of pid 1 a fault like any other.
pub fn install_hook() {
    std::panic::set_hook(Box::new(|panic| end(&panic.to_string())));
}

/// Says why, and does what `nimbo.panic=` asks for. Where no shell can be had, the machine is powered off.
pub fn end(why: &str) -> ! {
    say!("cannot go on: {why}");
    let mode = match CommandLine::of_kernel().on_fault {
        OnFault::Reboot => RebootMode::RB_AUTOBOOT,
        OnFault::PowerOff => RebootMode::RB_POWER_OFF,
        OnFault::Shell => {
            shell();
            RebootMode::RB_POWER_OFF
        }
    };
    sync();
    let Err(errno) = reboot(mode);
    say!("the kernel refuses to stop ({errno}); stop this machine from outside");
    loop {
        nix::unistd::pause();
    }
}

fn shell() {
    say!("a shell follows; the machine is powered off when it ends");
    match services::program("/bin/sh").status() {
        Ok(_) => {}
        Err(error) => say!("no shell: /bin/sh: {error}"),
    }
}
