//! Instances as the API shows them.

use std::fmt::Display;

use anyhow::{bail, ensure};
use serde::Serialize;
use types::{InstanceId, Region};

use super::{Client, Element, Refused};

/// What commands say of an instance.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ShownInstance {
    pub(crate) id: String,
    pub(crate) region: Region,
    /// The tag `Name`.
    pub(crate) name: Option<String>,
    pub(crate) instance_type: String,
    pub(crate) state: String,
    pub(crate) public_address: Option<String>,
    pub(crate) private_address: Option<String>,
    pub(crate) image: String,
}

impl ShownInstance {
    pub(crate) fn of(item: &Element, region: Region) -> Self {
        let text = |path: &[&str]| item.text(path).map(str::to_owned);
        let name = item.items(&["tagSet"]).iter().find(|tag| tag.text(&["key"]) == Some("Name"));
        Self {
            id: text(&["instanceId"]).unwrap_or_default(),
            region,
            name: name.and_then(|tag| tag.text(&["value"])).map(str::to_owned),
            instance_type: text(&["instanceType"]).unwrap_or_default(),
            state: text(&["instanceState", "name"]).unwrap_or_default(),
            public_address: text(&["ipAddress"]),
            private_address: text(&["privateIpAddress"]),
            image: text(&["imageId"]).unwrap_or_default(),
        }
    }
}

impl Client {
    /// All instances in a region.
    ///
    /// # Errors
    /// When the server does not tell them.
    pub(crate) async fn instances(&self, region: Region) -> anyhow::Result<Vec<ShownInstance>> {
        let mut all = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let mut parameters = vec![("MaxResults", "1000")];
            parameters.extend(token.as_deref().map(|token| ("NextToken", token)));
            let answer = self.ec2(region, "DescribeInstances", &parameters).await?;
            all.extend(shown(&answer, region));
            token = answer.text(&["nextToken"]).map(str::to_owned);
            if token.is_none() {
                return Ok(all);
            }
        }
    }

    /// The instance with this id, in the region that was named or in any that has some.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) async fn instance(&self, id: InstanceId) -> anyhow::Result<ShownInstance> {
        let others = self.about.regions.iter().copied().filter(|region| *region != self.region);
        for region in std::iter::once(self.region).chain(others) {
            let id = id.to_string();
            match self.ec2(region, "DescribeInstances", &[("InstanceId.1", &id)]).await {
                Ok(answer) => {
                    if let Some(found) = shown(&answer, region).next() {
                        return Ok(found);
                    }
                }
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(error),
            }
        }
        bail!("there is no instance {id} at {}: nimbo status tells which there are", self.endpoint)
    }

    /// That what an instance has can be reached from here.
    ///
    /// # Errors
    /// When it is simulated.
    pub(crate) fn ensure_is_real(&self, id: impl Display) -> anyhow::Result<()> {
        ensure!(
            !self.about.is_simulated,
            "{id} is simulated: nimbo serve --simulate runs nothing, so there is nobody to talk to"
        );
        Ok(())
    }
}

fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| refused.code == "InvalidInstanceID.NotFound")
}

fn shown(answer: &Element, region: Region) -> impl Iterator<Item = ShownInstance> {
    let reservations = answer.items(&["reservationSet"]).iter();
    let items = reservations.flat_map(|reservation| reservation.items(&["instancesSet"]));
    items.map(move |item| ShownInstance::of(item, region))
}
