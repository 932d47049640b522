//! Mounting NFS version 4 without mount.nfs: the kernel takes its options as text (nfs(5)), and asks of user space
//! only that it resolve names and say who we are.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;

use crate::modules::Modules;
use crate::mount::{Options, mount_at};
use crate::net::resolv;

const PORT: u16 = 2049;
/// Tried in this order where the options do not say.
const VERSIONS: [&str; 3] = ["4.2", "4.1", "4.0"];

/// Mounts `server:/path`.
pub fn mount(source: &str, target: &Path, options: &str) -> Result<()> {
    let (server, _path) = source.split_once(":/").with_context(|| format!("{source} is not SERVER:/PATH"))?;
    let address = resolv::look_up(server)?;
    let ours = our_address_towards(address).with_context(|| format!("find a way to {server} ({address})"))?;
    // Without these modules mount(2) says ENODEV, which is what is then reported.
    let modules = Modules::of_kernel();
    let loaded = modules.load("nfs", "").and_then(|()| modules.load("nfsv4", ""));
    let given = Options::parse(options);
    let mut last = None;
    for version in versions(&given.data)? {
        let data = format_data(&given.data, version, address, ours);
        match mount_at(source, target, "nfs4", &Options { flags: given.flags, data }) {
            Ok(()) => return Ok(()),
            Err(error) if is_version_refused(&error) => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    let error = last.context("no version of NFS to try")?;
    Err(match loaded {
        Ok(()) => error,
        Err(missing) => error.context(format!("{missing:#}")),
    })
}

/// The versions to try; `None` where the options say it themselves.
fn versions(data: &str) -> Result<Vec<Option<&'static str>>> {
    let mut words = data.split(',');
    let version = words.find_map(|word| word.strip_prefix("nfsvers=").or_else(|| word.strip_prefix("vers=")));
    match version {
        Some(version) if version.starts_with('4') => Ok(vec![None]),
        Some(version) => bail!("NFS version {version} is not done here, only 4"),
        None => Ok(VERSIONS.map(Some).to_vec()),
    }
}

fn is_version_refused(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<Errno>(), Some(Errno::EPROTONOSUPPORT | Errno::EINVAL | Errno::ENODEV))
}

fn format_data(given: &str, version: Option<&str>, server: Ipv4Addr, ours: Ipv4Addr) -> String {
    let for_mount_nfs = |word: &&str| !matches!(*word, "bg" | "fg") && !word.starts_with("retry=");
    let mut words: Vec<String> =
        given.split(',').filter(|word| !word.is_empty()).filter(for_mount_nfs).map(str::to_owned).collect();
    words.extend(version.map(|version| format!("vers={version}")));
    words.push(format!("addr={server}"));
    words.push(format!("clientaddr={ours}"));
    words.join(",")
}

/// The address that we have on the way to a server. Nothing is sent: connecting UDP only looks at the routes.
fn our_address_towards(server: Ipv4Addr) -> std::io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((server, PORT))?;
    match socket.local_addr()? {
        SocketAddr::V4(address) => Ok(*address.ip()),
        SocketAddr::V6(_) => Ok(Ipv4Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_gets_addresses_and_not_what_is_for_the_helper() {
        let (server, ours) = (Ipv4Addr::new(10, 0, 0, 4), Ipv4Addr::new(10, 0, 0, 9));
        let data = format_data("nfsvers=4.1,rsize=1048576,hard,retry=2,bg", None, server, ours);
        assert_eq!(data, "nfsvers=4.1,rsize=1048576,hard,addr=10.0.0.4,clientaddr=10.0.0.9");
        let data = format_data("", Some("4.2"), server, ours);
        assert_eq!(data, "vers=4.2,addr=10.0.0.4,clientaddr=10.0.0.9");
    }

    #[test]
    fn only_version_4_is_done() {
        assert_eq!(versions("hard,nfsvers=4.1").unwrap(), [None]);
        assert_eq!(versions("hard").unwrap().len(), 3);
        assert!(versions("vers=3").is_err());
    }

    #[test]
    fn our_address_is_the_one_on_the_way() {
        assert_eq!(our_address_towards(Ipv4Addr::LOCALHOST).unwrap(), Ipv4Addr::LOCALHOST);
    }
}
