//! Is there a KVM, and does it run the kernels that people have?

use std::fs;
use std::io;

use vmm::probe::{self, ProbeError};

use super::Kvm;
use super::report::Check;

/// An iteration of the probe's loop takes about 5 ns on hardware and some tens in the emulated lab, where the KVM
/// is a real one; page-table-based KVMs need over 1,000. The threshold is far from both.
const ITERATION_NS_MAX: f64 = 300.0;

const LAB: &str = "Until then `nimbo run` uses the lab by itself: an emulated machine with a real KVM.";

/// `kvm`: the device, its permissions, its version, what it can do.
pub(crate) fn device() -> Check {
    judge_device(probe::missing_capabilities(), cpu_has_virtualization())
}

fn judge_device(missing: Result<Vec<&'static str>, ProbeError>, cpu_can: Option<&'static str>) -> Check {
    const NAME: &str = "kvm";
    match missing {
        Ok(missing) if missing.is_empty() => Check::ok(NAME, "/dev/kvm can do all that is needed"),
        Ok(missing) => Check::failed(
            NAME,
            format!("KVM lacks {}", missing.join(", ")),
            "Use a newer kernel: Debian 12's 6.1 has all of it.",
        ),
        Err(ProbeError::Open { source }) => judge_open_error(NAME, &source, cpu_can),
        Err(error) => Check::failed(NAME, sentence(&error), "Use a newer kernel: Debian 12's 6.1 will do."),
    }
}

fn judge_open_error(name: &'static str, error: &io::Error, cpu_can: Option<&'static str>) -> Check {
    match (error.kind(), cpu_can) {
        (io::ErrorKind::PermissionDenied, _) => Check::failed(
            name,
            "no permission to open /dev/kvm",
            "Run as root, or join its group and log in again: sudo usermod --append --groups kvm $USER",
        ),
        (io::ErrorKind::NotFound, Some(module)) => Check::failed(
            name,
            "there is no /dev/kvm, though the processor can virtualize",
            format!(
                "Load the module: sudo modprobe {module}. If it refuses, turn virtualization on in the \
                 machine's firmware setup.\n{LAB}"
            ),
        ),
        (io::ErrorKind::NotFound, None) => Check::failed(
            name,
            "there is no /dev/kvm, and the processor shows neither VT-x nor SVM",
            format!(
                "Turn virtualization on in the machine's firmware setup, or, if this is a virtual machine, ask \
                 for nested virtualization.\n{LAB}"
            ),
        ),
        _ => Check::failed(
            name,
            format!("cannot open /dev/kvm: {error}"),
            format!("Look for messages of kvm in dmesg.\n{LAB}"),
        ),
    }
}

/// The module that drives this processor's virtualization, if it shows any.
fn cpu_has_virtualization() -> Option<&'static str> {
    module_for(&fs::read_to_string("/proc/cpuinfo").ok()?)
}

fn module_for(cpuinfo: &str) -> Option<&'static str> {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"))?;
    flags.split_whitespace().find_map(|flag| match flag {
        "vmx" => Some("kvm_intel"),
        "svm" => Some("kvm_amd"),
        _ => None,
    })
}

/// `kvm-speed`: does it run kernel mode natively?
pub(crate) fn speed() -> Check {
    judge_speed(probe::kernel_loop_ns())
}

fn judge_speed(loop_ns: Result<f64, ProbeError>) -> Check {
    const NAME: &str = "kvm-speed";
    match loop_ns {
        Ok(ns) if ns <= ITERATION_NS_MAX => {
            Check::ok(NAME, format!("{ns:.0} ns for an iteration of kernel code: it runs on the processor"))
        }
        Ok(ns) => Check::failed(
            NAME,
            format!("{ns:.0} ns for an iteration of kernel code: it is emulated, and Linux does not get far"),
            format!(
                "Small bare payloads run here. For Linux, use a machine with VT-x or SVM, or a virtual machine \
                 with nested virtualization.\n{LAB}"
            ),
        ),
        Err(error @ ProbeError::Open { .. }) => {
            Check::failed(NAME, sentence(&error), "See the remedy of the check `kvm`.")
        }
        Err(error) => Check::failed(
            NAME,
            sentence(&error),
            format!("KVM is there but does not run a small program: look in dmesg.\n{LAB}"),
        ),
    }
}

/// See [`super::try_kvm`].
pub(super) fn try_kvm() -> Kvm {
    match probe::kernel_loop_ns() {
        Ok(ns) if ns <= ITERATION_NS_MAX => Kvm::Hardware,
        Err(ProbeError::Open { source }) if source.kind() == io::ErrorKind::PermissionDenied => {
            Kvm::Forbidden(explain_open_error(&source))
        }
        Err(ProbeError::Open { source }) if source.kind() == io::ErrorKind::NotFound => {
            Kvm::Unusable("there is no /dev/kvm".to_owned())
        }
        Err(error) => Kvm::Unusable(sentence(&error)),
        Ok(ns) => {
            Kvm::Unusable(format!("this machine's KVM emulates kernel code ({ns:.0} ns for an iteration)"))
        }
    }
}

/// See [`super::open_kvm`].
pub(super) fn open() -> anyhow::Result<()> {
    let opened = fs::File::options().read(true).write(true).open("/dev/kvm");
    opened.map(drop).map_err(|error| anyhow::anyhow!(explain_open_error(&error)))
}

fn explain_open_error(error: &io::Error) -> String {
    let check = judge_open_error("kvm", error, cpu_has_virtualization());
    format!("{}\n{}", check.finding, check.remedy.unwrap_or_default())
}

/// An error with its causes, in one line.
fn sentence(error: &ProbeError) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::Status;

    fn open_error(errno: i32) -> Result<Vec<&'static str>, ProbeError> {
        Err(ProbeError::Open { source: io::Error::from_raw_os_error(errno) })
    }

    #[test]
    fn a_missing_device_is_told_apart_by_what_the_processor_can() {
        let check = judge_device(open_error(libc::ENOENT), Some("kvm_amd"));
        assert!(check.remedy.unwrap().contains("modprobe kvm_amd"));
        let check = judge_device(open_error(libc::ENOENT), None);
        assert!(check.finding.contains("neither VT-x nor SVM"));
        assert!(check.remedy.unwrap().contains("nested virtualization"));
    }

    #[test]
    fn a_closed_device_names_the_group() {
        let check = judge_device(open_error(libc::EACCES), Some("kvm_intel"));
        assert_eq!(check.status, Status::Failed);
        assert!(check.remedy.unwrap().contains("--groups kvm"));
    }

    #[test]
    fn missing_capabilities_are_named() {
        let check = judge_device(Ok(vec!["KVM_CAP_IRQFD", "KVM_CAP_IOEVENTFD"]), None);
        assert_eq!(check.finding, "KVM lacks KVM_CAP_IRQFD, KVM_CAP_IOEVENTFD");
        assert_eq!(judge_device(Ok(vec![]), None).status, Status::Ok);
    }

    #[test]
    fn hardware_and_the_lab_pass_and_emulated_kernel_mode_does_not() {
        for (ns, status) in
            [(0.3, Status::Ok), (5.0, Status::Ok), (90.0, Status::Ok), (1_000.0, Status::Failed)]
        {
            assert_eq!(judge_speed(Ok(ns)).status, status, "{ns}");
        }
    }

    #[test]
    fn the_processors_flags_choose_the_module() {
        assert_eq!(module_for("model name\t: x\nflags\t\t: fpu svm\n"), Some("kvm_amd"));
        assert_eq!(module_for("flags\t\t: fpu vmx\n"), Some("kvm_intel"));
        assert_eq!(module_for("flags\t\t: fpu svm_lock\n"), None);
    }
}
