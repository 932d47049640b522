//! From what a user names to interfaces of microVMs, by their control sockets.
//!
//! The server tells which interface is which instance's, and a microVM which of its devices has that hardware address. What is done to an interface
//! then is the microVM's own, and nothing of it passes through the server.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, anyhow, bail};
use types::{InstanceId, MacAddress, NetworkInterfaceId, Region};
use vmm::control::api::{InterfaceStatus, Interfaces};
use vmm::control::client::Client as Machine;

use crate::client::{self, Client, Which};
use crate::serve::RUN_FOLDER;
use crate::socket;

/// What a user names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// All interfaces of it.
    Instance(InstanceId),
    Interface(NetworkInterfaceId),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let instance = || text.parse().map(Target::Instance);
        let interface = |_| text.parse().map(Target::Interface);
        let expected = |_| {
            format!(
                "expected an instance, {}…, or an interface, {}…",
                InstanceId::PREFIX,
                NetworkInterfaceId::PREFIX
            )
        };
        instance().or_else(interface).map_err(expected)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Instance(id) => id.fmt(f),
            Target::Interface(id) => id.fmt(f),
        }
    }
}

// Where microVMs are found.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// A microVM's control socket, as nimbo run --control makes it, instead of an instance
    #[arg(long, value_name = "PATH", conflicts_with = "target")]
    control: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
    /// Where the server has its sockets
    #[arg(long, value_name = "FOLDER", default_value = RUN_FOLDER)]
    run: PathBuf,
}

/// A microVM, with those of its interfaces that are meant.
pub(crate) struct Found {
    control: PathBuf,
    /// `None` if it is no server's.
    pub(crate) instance: Option<InstanceId>,
    pub(crate) interfaces: Vec<FoundInterface>,
}

/// An interface, by the name that the user knows it by.
pub(crate) struct FoundInterface {
    pub(crate) name: String,
    pub(crate) status: InterfaceStatus,
}

impl FoundInterface {
    /// A path of it on the control socket.
    pub(crate) fn path(&self, what: &str) -> String {
        format!("/v1/interfaces/{}/{what}", self.status.id)
    }
}

/// An interface as the server tells of it.
#[derive(Debug, Clone)]
struct Attached {
    id: NetworkInterfaceId,
    mac: MacAddress,
}

impl Place {
    /// The interfaces that are meant; without a target, those of all microVMs.
    ///
    /// # Errors
    /// When there is no such interface, or its microVM does not answer.
    pub(crate) fn find(&self, target: Option<Target>) -> anyhow::Result<Vec<Found>> {
        if let Some(path) = &self.control {
            let interfaces = named(connect(path)?, |status| Some(status.id.to_string()))?;
            return Ok(vec![Found { control: path.clone(), instance: None, interfaces }]);
        }
        let attached = client::run(async {
            let client = self.which.connect(true).await?;
            let attached = attached(&client, target).await?;
            target.map_or(Ok(()), |target| client.ensure_is_real(target))?;
            anyhow::Ok(attached)
        })?;
        let mut all = Vec::new();
        for (instance, attached) in attached {
            let found = self.of_instance(instance, &attached)?;
            match (&found, target) {
                (None, Some(target)) => bail!("{target}: {instance} does not run, so no packet passes"),
                (Some(found), Some(target)) if found.interfaces.is_empty() => {
                    bail!("{target}: the microVM of {instance} does not have it yet; try again in a moment")
                }
                _ => all.extend(found),
            }
        }
        Ok(all)
    }

    /// The microVM of an instance, if it has one.
    fn of_instance(&self, instance: InstanceId, attached: &[Attached]) -> anyhow::Result<Option<Found>> {
        let control = self.run.join("instances").join(instance.to_string()).join("control");
        let machine = match connect(&control) {
            Err(error) if is_nobody_there(&error) => return Ok(None),
            connected => connected?,
        };
        let name = |status: &InterfaceStatus| {
            attached.iter().find(|known| known.mac == status.mac).map(|known| known.id.to_string())
        };
        let interfaces = named(machine, name)?;
        Ok(Some(Found { control, instance: Some(instance), interfaces }))
    }
}

impl Found {
    /// A conversation with the microVM, which ends it when nothing is said for minutes.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn connect(&self) -> anyhow::Result<Machine> {
        connect(&self.control)
    }
}

fn connect(control: &Path) -> anyhow::Result<Machine> {
    let cannot = || format!("cannot reach the microVM at {}", control.display());
    let stream = socket::connect(control).with_context(cannot)?;
    Machine::over(stream).with_context(cannot)
}

fn is_nobody_there(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref().map(io::Error::kind);
    matches!(kind, Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused))
}

/// The interfaces of a microVM that have a name.
fn named(
    mut machine: Machine,
    name: impl Fn(&InterfaceStatus) -> Option<String>,
) -> anyhow::Result<Vec<FoundInterface>> {
    let found: Interfaces =
        machine.get("/v1/interfaces").context("the microVM does not tell its interfaces")?;
    let named = found.interfaces.into_iter();
    Ok(named.filter_map(|status| Some(FoundInterface { name: name(&status)?, status })).collect())
}

/// The interfaces that are attached to instances, and are meant.
async fn attached(
    client: &Client,
    target: Option<Target>,
) -> anyhow::Result<BTreeMap<InstanceId, Vec<Attached>>> {
    let others = client.about.regions.iter().copied().filter(|region| *region != client.region);
    let mut all = BTreeMap::<_, Vec<_>>::new();
    let mut is_known = false;
    for region in std::iter::once(client.region).chain(others) {
        for (instance, attached) in attached_in(client, region, target).await? {
            is_known = true;
            if let Some(instance) = instance {
                all.entry(instance).or_default().push(attached);
            }
        }
    }
    let endpoint = &client.endpoint;
    match target {
        Some(Target::Instance(id)) if !is_known => Err(anyhow!(
            "there is no instance {id} with a network interface at {endpoint}: nimbo status tells which there are"
        )),
        Some(Target::Interface(id)) if !is_known => {
            Err(anyhow!("there is no network interface {id} at {endpoint}"))
        }
        Some(target) if all.is_empty() => Err(anyhow!("{target} is not attached to an instance")),
        _ => Ok(all),
    }
}

async fn attached_in(
    client: &Client,
    region: Region,
    target: Option<Target>,
) -> anyhow::Result<Vec<(Option<InstanceId>, Attached)>> {
    let (name, value) = match target {
        Some(Target::Instance(id)) => ("attachment.instance-id", id.to_string()),
        Some(Target::Interface(id)) => ("network-interface-id", id.to_string()),
        None => ("attachment.status", "attached".to_owned()),
    };
    let mut all = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let mut parameters =
            vec![("MaxResults", "1000"), ("Filter.1.Name", name), ("Filter.1.Value.1", value.as_str())];
        parameters.extend(token.as_deref().map(|token| ("NextToken", token)));
        let answer = client.ec2(region, "DescribeNetworkInterfaces", &parameters).await?;
        for item in answer.items(&["networkInterfaceSet"]) {
            let text = |path: &[&str]| item.text(path).unwrap_or_default();
            let wrong = "the server tells of an interface what is none";
            let id = text(&["networkInterfaceId"]).parse().context(wrong)?;
            let mac = text(&["macAddress"]).parse().context(wrong)?;
            // Others than instances have interfaces too, such as NAT gateways.
            let instance = text(&["attachment", "instanceId"]).parse().ok();
            all.push((instance, Attached { id, mac }));
        }
        token = answer.text(&["nextToken"]).map(str::to_owned);
        if token.is_none() {
            return Ok(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_and_interfaces_are_told_apart_by_their_ids() {
        let id = "0123456789abcdef0";
        assert!(matches!(format!("i-{id}").parse(), Ok(Target::Instance(_))));
        assert!(matches!(format!("eni-{id}").parse(), Ok(Target::Interface(_))));
        let error = "vol-0123456789abcdef0".parse::<Target>().unwrap_err();
        assert_eq!(error, "expected an instance, i-…, or an interface, eni-…");
    }

    #[test]
    fn a_microvm_that_has_ended_is_told_from_one_that_cannot_be_reached() {
        let folder = tempfile::tempdir().unwrap();
        let control = folder.path().join("control");
        assert!(is_nobody_there(&connect(&control).unwrap_err()));
        drop(std::os::unix::net::UnixListener::bind(&control).unwrap());
        assert!(is_nobody_there(&connect(&control).unwrap_err()));
        assert!(!is_nobody_there(&connect(&control.join("below")).unwrap_err()), "a socket is no folder");
    }
}
