//! The command line of `nimbo run`.

use std::path::PathBuf;
use std::str::FromStr;

use network::Publish;
use types::ByteSize;

use crate::volume::{Access, WhenFull};

/// Where the guest's kernel is decompressed and its first programs fit.
pub(crate) const MEMORY_MIN: ByteSize = ByteSize::from_bytes(64 << 20);

const EXAMPLES: &str = "\
The console is the terminal: keys go to the guest as they are, except Ctrl-], which asks the guest to power
off, and pressed again ends it. Without a terminal, input and output are plain streams, and SIGINT and SIGTERM
do what Ctrl-] does.

The image stays as it was: what the guest writes goes to a temporary layer that ends with it. A qcow2 image is
converted once and kept in ~/.cache/nimbo.

Where the processor's virtualization cannot be used, the same command runs in the lab, an emulated machine
(scripts/lab in the source, or what NIMBO_LAB names): slow, but real. See nimbo doctor.

Exit status:
  0  the guest powered off
  1  it could not be started, or something on this side failed; a message tells what
  2  the command line is wrong
  3  the guest did not end by itself: it was ended, or its process died
  in the lab also 125, when the lab failed

Examples:
  nimbo run --image debian-12-genericcloud-amd64.qcow2 --ssh-key ~/.ssh/id_ed25519.pub --publish 2222:22
  nimbo run --image debian.raw --cpus 2 --memory 1G --user-data first-boot.sh --publish 8080:80
  nimbo run --image tiny.raw --size 4G --disk data.raw
  nimbo run --image tiny.raw --disk /srv/volumes/data
  nimbo run --disk /srv/volumes/web --memory 512M
  nimbo run --kernel vmlinux --initrd initrd.img --no-network";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The disk to boot from, raw or qcow2; it is only read. Without it, the guest boots from the first --disk
    #[arg(long, value_name = "FILE", required_unless_present_any = ["kernel", "disk"])]
    pub(super) image: Option<PathBuf>,
    /// Processors, 1 to 32
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(super) cpus: u8,
    /// Memory: a whole number and K, M, G or T
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = parse_memory)]
    pub(super) memory: ByteSize,
    /// What cloud-init runs or reads at the first boot: a script, #cloud-config, …
    #[arg(long, value_name = "FILE")]
    pub(super) user_data: Option<PathBuf>,
    /// A public key that may log in by SSH, as the user that the image chose; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(super) ssh_key: Vec<PathBuf>,
    /// Make a port of this machine reach one of the guest; may be repeated
    #[arg(long, value_name = "[ADDRESS:]PORT:GUEST_PORT[/udp]")]
    pub(super) publish: Vec<Publish>,
    /// A disk, after the image: a raw file, the folder of a volume, or the socket of a nimbo volume serve --vhost-user. The guest's writes
    /// go into it, unless ,ro follows; may be repeated
    #[arg(long, value_name = "PATH[,ro]")]
    pub(super) disk: Vec<Disk>,
    /// Show the image's disk larger than it is; cloud-init grows the root file system into it
    #[arg(long, value_name = "SIZE", requires = "image")]
    pub(super) size: Option<ByteSize>,
    /// What the guest is called, instead of ip-10-0-0-4 and the like
    #[arg(long, value_name = "NAME", value_parser = parse_hostname, conflicts_with = "no_network")]
    pub(super) hostname: Option<String>,
    /// Boot this kernel, a bzImage or an ELF, instead of the one that the image's boot loader names
    #[arg(long, value_name = "FILE")]
    pub(super) kernel: Option<PathBuf>,
    /// The initrd for --kernel
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub(super) initrd: Option<PathBuf>,
    /// The kernel's command line, instead of what the image's boot loader names; console=ttyS0 with --kernel
    #[arg(long, value_name = "TEXT")]
    pub(super) cmdline: Option<String>,
    /// Leave out the network, and so the metadata; this takes no privilege but that to use /dev/kvm
    #[arg(long, conflicts_with_all = ["user_data", "ssh_key", "publish"])]
    pub(super) no_network: bool,
    /// Make the control socket here, to pause, resume or inspect the microVM: see docs/control-api.md
    #[arg(long, value_name = "PATH")]
    pub(super) control: Option<PathBuf>,
    /// Make sockets between the guest and this machine (vsock). A program here connects to the Unix socket PATH and
    /// writes "CONNECT PORT" and a newline; "OK" and a port come back, and then it talks with the guest's port. When the
    /// guest connects to port N of address 2, it gets whoever listens at PATH_N. The guest's own address is 3
    #[arg(long, value_name = "PATH")]
    pub(super) vsock: Option<PathBuf>,
    /// What becomes of a write when the file system that a volume among the disks is on is full
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    pub(super) when_full: WhenFull,
    /// For the volumes among the disks
    #[command(flatten)]
    pub(super) access: Access,
    /// Let other processes see the guest's memory, so that disks which they serve can be plugged in by the control socket;
    /// with such a --disk it is so by itself
    #[arg(long)]
    pub(super) share_memory: bool,
    /// Run on this machine, even where its KVM is too slow for stock kernels
    #[arg(long)]
    pub(super) here: bool,
}

/// A disk that keeps what is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) file: PathBuf,
    pub(super) read_only: bool,
}

impl FromStr for Disk {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.strip_suffix(",ro") {
            Some(file) => Self { file: file.into(), read_only: true },
            None => Self { file: text.into(), read_only: false },
        })
    }
}

fn parse_memory(text: &str) -> Result<ByteSize, String> {
    let memory: ByteSize = text.parse().map_err(|error: types::ParseByteSizeError| error.to_string())?;
    if memory < MEMORY_MIN {
        return Err(format!("a guest needs at least {MEMORY_MIN}"));
    }
    if !memory.bytes().is_multiple_of(4096) {
        return Err("memory is given in multiples of 4K".to_owned());
    }
    Ok(memory)
}

/// RFC 1123, section 2.1: letters, digits and hyphens between dots, at most 63 in a row and 253 in all.
fn parse_hostname(text: &str) -> Result<String, String> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() <= 253 && text.split('.').all(is_label) {
        Ok(text.to_owned())
    } else {
        Err("a host name is letters, digits and hyphens, with dots between its parts".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, String> {
        let words = std::iter::once("run").chain(line.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.args).map_err(|error| error.to_string())
    }

    #[test]
    fn the_issues_own_command_line_is_understood() {
        let args = parse(
            "--image a.raw --cpus 2 --memory 1G --user-data u.sh --publish 8080:80 --publish 53:53/udp",
        )
        .unwrap();
        assert_eq!(args.image.unwrap(), PathBuf::from("a.raw"));
        assert_eq!((args.cpus, args.memory), (2, ByteSize::from_gib(1).unwrap()));
        assert_eq!(args.publish.len(), 2);
        assert!(!args.here);
    }

    #[test]
    fn there_is_something_to_boot_or_an_error() {
        assert!(parse("").unwrap_err().contains("--image"));
        assert!(parse("--kernel vmlinux").is_ok());
        assert!(parse("--disk web").is_ok());
        assert!(parse("--image a --initrd b").unwrap_err().contains("--kernel"));
    }

    #[test]
    fn numbers_out_of_range_are_refused_with_the_range() {
        for (line, hint) in [
            ("--image a --cpus 0", "1..=32"),
            ("--image a --cpus 33", "1..=32"),
            ("--image a --memory 1M", "at least 64M"),
            ("--image a --memory 67108865", "multiples of 4K"),
            ("--image a --memory lots", "such as 512M"),
            ("--image a --size 1.5G", "such as 512M"),
            ("--image a --publish 80", "only one port"),
            ("--image a --publish 70000:80", "65535"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(hint), "{line}: {error}");
        }
    }

    #[test]
    fn what_needs_a_network_does_not_go_without() {
        for line in ["--user-data u", "--publish 1:1", "--ssh-key k", "--hostname h"] {
            assert!(parse(&format!("--image a --no-network {line}")).is_err(), "{line}");
        }
    }

    #[test]
    fn a_disk_may_be_read_only() {
        let args = parse("--image a --disk b.raw --disk c.raw,ro").unwrap();
        let disks: Vec<_> =
            args.disk.iter().map(|disk| (disk.file.to_str().unwrap(), disk.read_only)).collect();
        assert_eq!(disks, [("b.raw", false), ("c.raw", true)]);
    }

    #[test]
    fn host_names_follow_the_standard() {
        for good in ["web", "web-1", "a.b.example", "1a"] {
            assert_eq!(parse_hostname(good), Ok(good.to_owned()));
        }
        for bad in ["", "-a", "a-", "a..b", "a_b", "ä", &"a".repeat(64), &"a.".repeat(130)] {
            assert!(parse_hostname(bad).is_err(), "{bad}");
        }
    }
}
