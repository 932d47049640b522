//! Rules to add and to remove, as four operations ask for it, in the new way and in the old one.

use aws::{Error, ec2};

/// What all of them say.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub group_id: Option<String>,
    pub group_name: Option<String>,
    pub permissions: Vec<ec2::IpPermission>,
    pub rule_ids: Vec<String>,
    pub tag_specifications: Vec<ec2::TagSpecification>,
}

/// One permission as parameters of the request: how it was before requests had several.
#[derive(Debug, Default)]
pub(super) struct Flat {
    pub protocol: Option<String>,
    pub from_port: Option<i32>,
    pub to_port: Option<i32>,
    pub cidr: Option<String>,
    pub source_name: Option<String>,
    pub source_owner: Option<String>,
}

impl Flat {
    fn is_empty(&self) -> bool {
        self.protocol.is_none()
            && self.from_port.is_none()
            && self.to_port.is_none()
            && self.cidr.is_none()
            && self.source_name.is_none()
            && self.source_owner.is_none()
    }

    /// The permissions that these parameters stand for, beside those of the list.
    ///
    /// # Errors
    /// When there are both.
    pub(super) fn join(self, listed: Vec<ec2::IpPermission>) -> Result<Vec<ec2::IpPermission>, Error> {
        if self.is_empty() {
            return Ok(listed);
        }
        if !listed.is_empty() {
            let message = "The parameter 'ipPermissions' may not be used in combination with the parameters of a single permission.";
            return Err(Error::new("InvalidParameterCombination", message));
        }
        match self.source_name {
            Some(_) if self.protocol.is_some() || self.cidr.is_some() => Err(Error::new(
                "InvalidParameterCombination",
                "The parameter 'sourceSecurityGroupName' may not be used in combination with 'ipProtocol' or 'cidrIp': use 'ipPermissions'.",
            )),
            Some(name) => Ok(all_from(&name, self.source_owner.as_deref())),
            None => Ok(vec![ec2::IpPermission {
                ip_protocol: self.protocol,
                from_port: self.from_port,
                to_port: self.to_port,
                ip_ranges: self
                    .cidr
                    .map(|cidr| vec![ec2::IpRange { description: None, cidr_ip: Some(cidr) }]),
                ..Default::default()
            }]),
        }
    }
}

/// All of ICMP, TCP and UDP from a group.
fn all_from(name: &str, owner: Option<&str>) -> Vec<ec2::IpPermission> {
    let pair = ec2::UserIdGroupPair {
        user_id: owner.map(str::to_owned),
        group_name: Some(name.to_owned()),
        ..Default::default()
    };
    let permission = |(protocol, first, last): (&str, i32, i32)| ec2::IpPermission {
        ip_protocol: Some(protocol.to_owned()),
        from_port: Some(first),
        to_port: Some(last),
        user_id_group_pairs: Some(vec![pair.clone()]),
        ..Default::default()
    };
    [("icmp", -1, -1), ("tcp", 0, 65535), ("udp", 0, 65535)].map(permission).into()
}

/// The flat parameters of a request, which all have the same names.
macro_rules! flat {
    ($input:ident) => {
        $crate::ec2::group::request::Flat {
            protocol: $input.ip_protocol,
            from_port: $input.from_port,
            to_port: $input.to_port,
            cidr: $input.cidr_ip,
            source_name: $input.source_security_group_name,
            source_owner: $input.source_security_group_owner_id,
        }
    };
}
pub(super) use flat;
