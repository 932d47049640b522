//! Can this machine give a guest a network?

use std::io::{self, Write as _};
use std::process::{Command, Output, Stdio};

use control::public_pool::PublicPool;
use network::{Conflict, Ipv4Net, Namespace, Surroundings, Tap};

use super::report::Check;

/// Each of these fails before the network does, and has its own check.
const NEEDS_NAMESPACE: &str = "See the remedy of the check `namespaces`.";

/// `tun`: a tap in a throw-away network namespace.
pub(crate) fn tun() -> Check {
    let outcome = Namespace::create().and_then(|namespace| Tap::create(&namespace, "probe0", 1).map(drop));
    judge_tun(outcome)
}

fn judge_tun(outcome: Result<(), network::Error>) -> Check {
    const NAME: &str = "tun";
    match outcome {
        Ok(()) => Check::ok(NAME, "a tap can be made"),
        Err(error @ network::Error::NotPermitted { .. }) => {
            Check::failed(NAME, error.to_string(), "Run as root: sudo nimbo …")
        }
        Err(error) => Check::failed(
            NAME,
            format!("{:#}", anyhow::Error::from(error)),
            "Load the driver: sudo modprobe tun. In a container, pass the device on: --device /dev/net/tun.",
        ),
    }
}

/// `nft`: the program, and nf_tables with what our rules use, in a throw-away network namespace.
pub(crate) fn nft() -> Check {
    const NAME: &str = "nft";
    let outcome = Namespace::create().and_then(|namespace| namespace.run(try_rules));
    match outcome {
        Ok(outcome) => judge_nft(outcome),
        Err(error) => Check::failed(NAME, format!("{:#}", anyhow::Error::from(error)), NEEDS_NAMESPACE),
    }
}

/// What a guest's network asks of the kernel: filtering by connection, and both kinds of address translation.
const RULES: &str = "\
table inet probe {
    chain forward { type filter hook forward priority 0; ct state established accept; }
    chain prerouting { type nat hook prerouting priority -100; tcp dport 8080 dnat ip to 10.0.0.4:80; }
    chain postrouting { type nat hook postrouting priority 100; masquerade; }
}
";

fn try_rules() -> io::Result<Output> {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = nft.stdin.take() {
        stdin.write_all(RULES.as_bytes())?;
    }
    nft.wait_with_output()
}

fn judge_nft(outcome: io::Result<Output>) -> Check {
    const NAME: &str = "nft";
    match outcome {
        Ok(output) if output.status.success() => {
            Check::ok(NAME, "nf_tables filters, tracks connections and translates addresses")
        }
        Ok(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            Check::failed(
                NAME,
                format!("the kernel refuses rules: {}", stderr.lines().next().unwrap_or("nft says nothing")),
                "Load the modules: sudo modprobe --all nf_tables nft_ct nft_nat nft_masq.",
            )
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Check::failed(NAME, "nft is not installed", "Install it: sudo apt-get install nftables.")
        }
        Err(error) => {
            Check::failed(NAME, format!("cannot run nft: {error}"), "Run `nft list ruleset` to see why.")
        }
    }
}

/// `addresses`: whether the public addresses of `nimbo serve` are in the way of this machine's own network.
pub(crate) fn addresses() -> Check {
    let range = PublicPool::default().range();
    let host = Namespace::current().and_then(|host| Surroundings::of(&host));
    judge_addresses(range, host.map(|host| host.conflicts(range, None)))
}

fn judge_addresses(range: Ipv4Net, conflicts: Result<Vec<Conflict>, network::Error>) -> Check {
    const NAME: &str = "addresses";
    let conflicts = match conflicts {
        Ok(conflicts) => conflicts,
        Err(error @ network::Error::NotPermitted { .. }) => {
            return Check::warning(NAME, error.to_string(), "Run as root: sudo nimbo …");
        }
        Err(error) => {
            let finding = format!("{:#}", anyhow::Error::from(error));
            return Check::warning(NAME, finding, "See what `ip route` says.");
        }
    };
    let told: Vec<_> = conflicts
        .iter()
        .map(|conflict| match conflict {
            Conflict::Taken { address, device } => format!("{address} is somebody's on {device}"),
            Conflict::Routed { range, device } => format!("{range} is reached by {device}"),
        })
        .collect();
    if told.is_empty() {
        return Check::ok(NAME, format!("nothing here is in the way of public addresses, {range}"));
    }
    Check::warning(
        NAME,
        format!("public addresses are taken from {range}, of which {}", told.join(", ")),
        "Name a range for instances that nobody uses: nimbo serve --public-pool RANGE.",
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;
    use crate::doctor::report::Status;

    fn nft_output(status: i32, stderr: &str) -> io::Result<Output> {
        let status = std::process::ExitStatus::from_raw(status << 8);
        Ok(Output { status, stdout: Vec::new(), stderr: stderr.as_bytes().to_vec() })
    }

    #[test]
    fn nft_that_is_not_there_names_its_package() {
        let check = judge_nft(Err(io::ErrorKind::NotFound.into()));
        assert!(check.remedy.unwrap().contains("apt-get install nftables"));
    }

    #[test]
    fn refused_rules_show_the_first_line_and_name_the_modules() {
        let check = judge_nft(nft_output(1, "netlink: Error: Operation not supported\nmore\n"));
        assert_eq!(check.status, Status::Failed);
        assert_eq!(check.finding, "the kernel refuses rules: netlink: Error: Operation not supported");
        assert_eq!(judge_nft(nft_output(0, "")).status, Status::Ok);
    }

    #[test]
    fn what_is_in_the_way_of_public_addresses_is_named_with_the_option_that_helps() {
        let judge = |found| judge_addresses(PublicPool::default().range(), found);
        assert_eq!(judge(Ok(Vec::new())).status, Status::Ok);
        let routed = Conflict::Routed { range: "198.18.0.0/30".parse().unwrap(), device: "tun0".to_owned() };
        let check = judge(Ok(vec![routed]));
        assert_eq!(check.status, Status::Warning);
        assert!(check.finding.ends_with("198.18.0.0/30 is reached by tun0"), "{}", check.finding);
        assert!(check.remedy.unwrap().contains("--public-pool"));
    }

    #[test]
    fn a_tap_that_is_not_permitted_asks_for_root() {
        let error = network::Error::NotPermitted { operation: "make a tap".into() };
        assert!(judge_tun(Err(error)).remedy.unwrap().contains("root"));
    }
}
