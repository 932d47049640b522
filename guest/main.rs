//! nimbo-init: the first process of tiny images. The README says what it does and what an image must hold.
//!
//! One program, many lives:
//!
//! ```text
//! pid 1, initrd ──execve──▶ pid 1, root ──┬─ net      DHCP, on every interface, as they come     (restarted)
//!                                         │   │ a pipe: one line when the network is up
//!                                         ├─ cloud ── steps   metadata, user-data                (once)
//!                                         │   │ a pipe: one line when services may start
//!                                         └─ services, and a shell on the console                (restarted)
//! ```
//!
//! pid 1 parses nothing that comes from outside the machine, so no packet and no user-data can end it.
#![deny(unsafe_code)]

mod cloud;
mod cmdline;
mod console;
mod disk;
mod fault;
mod fstab;
mod grow;
mod http;
mod imds;
mod init;
mod initrd;
mod modules;
mod mount;
mod net;
mod nfs;
mod passwd;
mod power;
mod root;
mod services;
mod shutdown;
mod ssh;
#[allow(unsafe_code)]
mod sys;
mod terminal;
mod uevent;
mod userdata;

use std::process::ExitCode;

use console::say;

/// The modules to load, in the initrd and in the root.
const MODULES: &str = "/etc/nimbo/modules";

fn main() -> ExitCode {
    if std::process::id() == 1 {
        fault::install_hook();
        let ended = if initrd::is_root() {
            say!("up");
            initrd::run()
        } else {
            init::run()
        };
        let Err(error) = ended;
        fault::end(&format!("{error:#}"));
    }
    let result = match std::env::args().nth(1).as_deref() {
        Some("net") => net::run(),
        Some("cloud") => cloud::run(),
        Some("steps") => cloud::run_steps(),
        Some("leave") => shutdown::leave_file_systems(),
        Some("console") => terminal::run(),
        _ => {
            say!("this is the first process of a machine: it does nothing unless it is process 1");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
