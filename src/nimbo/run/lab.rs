//! The same command in the lab, for a machine whose own KVM will not do.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, anyhow};
use network::publish::Protocol;

use super::args::Args;
use super::terminal::say;
use crate::checkout;

/// Set to 1 by the lab for what runs in it; a path outside of it tells where the lab's script is.
const VARIABLE: &str = "NIMBO_LAB";

/// Whether this process runs in the lab.
pub(crate) fn is_here() -> bool {
    env::var_os(VARIABLE).is_some_and(|value| value == "1")
}

/// Becomes `scripts/lab`, which runs this command there. `image` is the image as it is on this machine after
/// conversion: emulation is no place for that.
///
/// # Errors
/// When the lab's script cannot be found or started; otherwise this does not return.
pub(super) fn run(args: &Args, image: Option<&Path>, why: &str) -> anyhow::Error {
    let script = match find_script(why) {
        Ok(script) => script,
        Err(error) => return error,
    };
    say(&format!("{why}; running in the lab ({})", script.display()));
    if args.control.is_some() || args.vsock.is_some() {
        say(&format!("its sockets are in the lab too: {} -- COMMAND runs a command there", script.display()));
    }
    for publish in args.publish.iter().filter(|publish| publish.protocol == Protocol::Tcp) {
        forward(&script, publish.listen.port());
    }
    let binary = match env::current_exe().context("cannot find the running binary's own path") {
        Ok(binary) => binary,
        Err(error) => return error,
    };
    let arguments = with_image(env::args_os().skip(1), image);
    let error = Command::new(&script).arg("--").arg(binary).args(arguments).exec();
    anyhow!(error).context(format!("cannot start the lab, {}", script.display()))
}

fn find_script(why: &str) -> anyhow::Result<PathBuf> {
    let named = env::var_os(VARIABLE).map(PathBuf::from);
    named.or_else(|| checkout::script("lab")).ok_or_else(|| {
        anyhow!(
            "{why}, and the lab, which would do, was not found.\nSet {VARIABLE} to the path of scripts/lab in \
             nimbo's source, or use --here to try it on this machine"
        )
    })
}

/// Lets this machine's port reach the lab's port of the same number. A forward outlives the command, so one that is
/// there already may be our own of an earlier run: then the guest answers, and else the lab has said why not.
fn forward(script: &Path, port: u16) {
    let _ = std::io::stderr().flush();
    let port = port.to_string();
    let forwarded = Command::new(script).args(["forward", &port, &port]).status();
    if !forwarded.is_ok_and(|status| status.success()) {
        say(&format!("port {port} may not reach the guest: it could not be forwarded to the lab"));
    }
}

/// The command line with another image in it.
fn with_image(arguments: impl Iterator<Item = OsString>, image: Option<&Path>) -> Vec<OsString> {
    let Some(image) = image else { return arguments.collect() };
    let mut replaced = Vec::new();
    let mut is_value = false;
    for argument in arguments {
        if is_value {
            replaced.push(image.as_os_str().to_owned());
        } else if argument.as_encoded_bytes().starts_with(b"--image=") {
            replaced.push([OsStr::new("--image="), image.as_os_str()].into_iter().collect());
        } else {
            replaced.push(argument.clone());
        }
        is_value = !is_value && argument == "--image";
    }
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(line: &str, image: Option<&str>) -> String {
        let arguments = line.split(' ').map(OsString::from);
        let arguments = with_image(arguments, image.map(Path::new));
        arguments.iter().map(|argument| argument.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn only_the_image_is_replaced_in_either_form() {
        assert_eq!(
            replaced("run --image a.qcow2 --cpus 2", Some("/c/a.raw")),
            "run --image /c/a.raw --cpus 2"
        );
        assert_eq!(
            replaced("run --image=a.qcow2 --disk a.qcow2", Some("/c/a.raw")),
            "run --image=/c/a.raw --disk a.qcow2"
        );
        assert_eq!(replaced("run --image a.raw", None), "run --image a.raw");
    }
}
