//! The names by which load balancers are found.
//!
//! Source: <https://docs.aws.amazon.com/elasticloadbalancing/latest/application/application-load-balancers.html#dns-name>.

use std::net::Ipv4Addr;

use types::Region;

use super::arn::digits;
use crate::records::{LoadBalancer, NetworkInterface, Scheme};
use crate::state::View;

/// `shop-1234567890.us-east-1.elb.amazonaws.com`, with `internal-` before it where there are no public addresses.
pub(crate) fn dns_name(region: Region, balancer: &LoadBalancer) -> String {
    let prefix = match balancer.scheme {
        Scheme::InternetFacing => "",
        Scheme::Internal => "internal-",
    };
    let digits = digits(balancer.id);
    let number = digits.get(8..).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or_default();
    format!("{prefix}{}-{number}.{}.elb.amazonaws.com", balancer.name, region.name())
}

/// Where the name leads: to one address for each zone.
pub(crate) fn addresses(view: View<'_>, balancer: &LoadBalancer) -> Vec<Ipv4Addr> {
    let interfaces = balancer.nodes.iter().filter_map(|node| view.get::<NetworkInterface>(node.interface));
    let primary = interfaces.filter_map(|interface| interface.addresses.first());
    let address = |address: &crate::records::PrivateAddress| match balancer.scheme {
        Scheme::InternetFacing => address.public_ip,
        Scheme::Internal => Some(address.ip),
    };
    primary.filter_map(address).collect()
}

/// The zone of Route 53 that Application Load Balancers' names are in.
/// Source: <https://docs.aws.amazon.com/general/latest/gr/elb.html>.
pub(super) fn hosted_zone(region: Region) -> Option<&'static str> {
    const ZONES: [(&str, &str); 17] = [
        ("ap-northeast-1", "Z14GRHDCWA56QT"),
        ("ap-northeast-2", "ZWKZPGTI48KDX"),
        ("ap-northeast-3", "Z5LXEXXYW11ES"),
        ("ap-south-1", "ZP97RAFLXTNZK"),
        ("ap-southeast-1", "Z1LMS91P8CMLE5"),
        ("ap-southeast-2", "Z1GM3OXH4ZPM65"),
        ("ca-central-1", "ZQSVJUPU6J1EY"),
        ("eu-central-1", "Z215JYRZR1TBD5"),
        ("eu-north-1", "Z23TAZ6LKFMNIO"),
        ("eu-west-1", "Z32O12XQLNTSW2"),
        ("eu-west-2", "ZHURV8PSTC4K8"),
        ("eu-west-3", "Z3Q77PNBQS71R4"),
        ("sa-east-1", "Z2P70J7HTTTPLU"),
        ("us-east-1", "Z35SXDOTRQ7X7K"),
        ("us-east-2", "Z3AADJGX6KTTL2"),
        ("us-west-1", "Z368ELLRRE2KJ0"),
        ("us-west-2", "Z1H1FL5HABSF5"),
    ];
    ZONES.iter().find(|(name, _)| *name == region.name()).map(|(_, zone)| *zone)
}
