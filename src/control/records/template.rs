//! Launch templates and their versions.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use types::{LaunchTemplateId, ResourceId};

use super::resource;
use crate::state::Record;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaunchTemplate {
    pub id: LaunchTemplateId,
    pub name: String,
    pub created: Timestamp,
    /// What `$Default` is.
    pub default_version: u64,
    /// The number that was given last: what `$Latest` is unless that was deleted.
    pub last_version: u64,
}

resource!(LaunchTemplate, LaunchTemplateId, "launch_template", |_this, _link| {});

/// What instances are launched with; it never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaunchTemplateVersion {
    pub id: VersionId,
    pub description: Option<String>,
    pub created: Timestamp,
    /// `RequestLaunchTemplateData`, by the names of EC2's model.
    pub data: serde_json::Value,
}

/// `lt-…/3`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct VersionId {
    pub template: LaunchTemplateId,
    pub number: u64,
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.template, self.number)
    }
}

/// A text that is no version's id.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not the id of a version of a launch template")]
pub struct ParseVersionIdError(String);

impl FromStr for VersionId {
    type Err = ParseVersionIdError;

    fn from_str(text: &str) -> Result<Self, ParseVersionIdError> {
        let parts = text
            .split_once('/')
            .and_then(|(template, number)| template.parse().ok().zip(number.parse().ok()));
        let (template, number) = parts.ok_or_else(|| ParseVersionIdError(text.to_owned()))?;
        Ok(Self { template, number })
    }
}

impl Serialize for VersionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for VersionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Record for LaunchTemplateVersion {
    type Id = VersionId;

    const KIND: &'static str = "launch_template_version";

    fn id(&self) -> VersionId {
        self.id
    }

    fn resource(_: VersionId) -> Option<ResourceId> {
        None
    }

    fn links(&self, link: &mut dyn FnMut(ResourceId)) {
        link(self.id.template.into());
    }
}
