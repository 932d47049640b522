//! How an instance's guest may ask for its metadata.

use aws::{Error, ec2};

use super::{named, show};
use crate::ec2::errors::invalid_value;
use crate::records::{Instance, MetadataOptions};
use crate::state::Transaction;

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceMetadataOptionsRequest.html>.
const HOP_LIMITS: std::ops::RangeInclusive<i32> = 1..=64;

/// What a request says of them, each if it says so.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub tokens: Option<ec2::HttpTokensState>,
    pub hop_limit: Option<i32>,
    pub endpoint: Option<ec2::InstanceMetadataEndpointState>,
    pub tags: Option<ec2::InstanceMetadataTagsState>,
    pub ipv6: Option<ec2::InstanceMetadataProtocolState>,
}

impl Default for MetadataOptions {
    /// What instances have that nobody said anything of.
    fn default() -> Self {
        Self { is_enabled: true, requires_token: false, token_hop_limit: 1, shows_tags: false }
    }
}

impl Wanted {
    /// The options after this.
    ///
    /// # Errors
    /// What there cannot be.
    pub(super) fn over(&self, before: MetadataOptions) -> Result<MetadataOptions, Error> {
        if self.ipv6 == Some(ec2::InstanceMetadataProtocolState::Enabled) {
            return Err(Error::new("UnsupportedOperation", "nimbo serves metadata over IPv4 only."));
        }
        let token_hop_limit = match self.hop_limit {
            None => before.token_hop_limit,
            Some(limit) => {
                u8::try_from(limit).ok().filter(|_| HOP_LIMITS.contains(&limit)).ok_or_else(|| {
                    invalid_value(limit, "HttpPutResponseHopLimit", "The value must be between 1 and 64.")
                })?
            }
        };
        Ok(MetadataOptions {
            is_enabled: self
                .endpoint
                .map_or(before.is_enabled, |state| state == ec2::InstanceMetadataEndpointState::Enabled),
            requires_token: self
                .tokens
                .map_or(before.requires_token, |state| state == ec2::HttpTokensState::Required),
            token_hop_limit,
            shows_tags: self
                .tags
                .map_or(before.shows_tags, |state| state == ec2::InstanceMetadataTagsState::Enabled),
        })
    }
}

pub(super) fn modify(
    tx: &mut Transaction<'_>,
    input: ec2::ModifyInstanceMetadataOptionsRequest,
) -> Result<ec2::ModifyInstanceMetadataOptionsResult, Error> {
    let instance = named(tx, &input.instance_id)?;
    let wanted = Wanted {
        tokens: input.http_tokens,
        hop_limit: input.http_put_response_hop_limit,
        endpoint: input.http_endpoint,
        tags: input.instance_metadata_tags,
        ipv6: input.http_protocol_ipv6,
    };
    let (id, options) = (instance.id, wanted.over(instance.metadata_options)?);
    tx.update::<Instance>(id, |instance| instance.metadata_options = options);
    Ok(ec2::ModifyInstanceMetadataOptionsResult {
        instance_id: Some(id.to_string()),
        instance_metadata_options: Some(show::metadata_options(&options)),
    })
}
