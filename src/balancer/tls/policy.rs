//! Security policies by the names that AWS publishes
//! (<https://docs.aws.amazon.com/elasticloadbalancing/latest/application/describe-ssl-policies.html>).
//!
//! rustls has TLS 1.2 and 1.3, and only suites with forward secrecy and authenticated encryption. So:
//!
//! - [`Coverage::Whole`]: all that the policy allows is served;
//! - [`Coverage::Modern`]: the policy's versions are all served, and of its suites those that are not obsolete (no CBC, no key exchange by RSA);
//! - all others are refused by name: they promise TLS 1.0 or 1.1, a validated module (FIPS), or exchanges of keys that are not there.
//!
//! Nothing is ever served that a policy does not have.

use rustls::crypto::ring::cipher_suite as suite;
use rustls::version::{TLS12, TLS13};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

/// What is taken if none is named. AWS's console takes it, too; its API's default has TLS 1.0.
pub const DEFAULT: &str = "ELBSecurityPolicy-TLS13-1-2-Res-2021-06";

/// How much of what a policy allows is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    Whole,
    Modern,
}

/// A policy that can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub name: &'static str,
    pub coverage: Coverage,
    has_tls12: bool,
    has_tls13: bool,
}

const fn policy(name: &'static str, has_tls12: bool, has_tls13: bool, coverage: Coverage) -> Policy {
    Policy { name, coverage, has_tls12, has_tls13 }
}

/// All that can be served.
pub const POLICIES: [Policy; 10] = [
    policy("ELBSecurityPolicy-TLS13-1-3-2021-06", false, true, Coverage::Whole),
    policy(DEFAULT, true, true, Coverage::Whole),
    policy("ELBSecurityPolicy-TLS13-1-2-2021-06", true, true, Coverage::Modern),
    policy("ELBSecurityPolicy-TLS13-1-2-Ext1-2021-06", true, true, Coverage::Modern),
    policy("ELBSecurityPolicy-TLS13-1-2-Ext2-2021-06", true, true, Coverage::Modern),
    policy("ELBSecurityPolicy-FS-1-2-Res-2020-10", true, false, Coverage::Whole),
    policy("ELBSecurityPolicy-FS-1-2-Res-2019-08", true, false, Coverage::Modern),
    policy("ELBSecurityPolicy-FS-1-2-2019-08", true, false, Coverage::Modern),
    policy("ELBSecurityPolicy-TLS-1-2-2017-01", true, false, Coverage::Modern),
    policy("ELBSecurityPolicy-TLS-1-2-Ext-2018-06", true, false, Coverage::Modern),
];

/// Of TLS 1.3, and of TLS 1.2; the server prefers those that come first.
const SUITES_13: [SupportedCipherSuite; 3] =
    [suite::TLS13_AES_128_GCM_SHA256, suite::TLS13_AES_256_GCM_SHA384, suite::TLS13_CHACHA20_POLY1305_SHA256];
const SUITES_12: [SupportedCipherSuite; 4] = [
    suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
];

impl Policy {
    /// None: it cannot be served, or AWS has none of this name.
    pub fn named(name: &str) -> Option<Self> {
        POLICIES.into_iter().find(|policy| policy.name == name)
    }

    pub(super) fn versions(self) -> Vec<&'static SupportedProtocolVersion> {
        let newest = self.has_tls13.then_some(&TLS13);
        newest.into_iter().chain(self.has_tls12.then_some(&TLS12)).collect()
    }

    pub(super) fn suites(self) -> Vec<SupportedCipherSuite> {
        let modern = SUITES_13.iter().filter(|_| self.has_tls13);
        modern.chain(SUITES_12.iter().filter(|_| self.has_tls12)).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_have_their_versions_and_others_are_none() {
        let versions =
            |name| Policy::named(name).map(|policy| (policy.versions().len(), policy.suites().len()));
        assert_eq!(versions("ELBSecurityPolicy-TLS13-1-3-2021-06"), Some((1, 3)));
        assert_eq!(versions("ELBSecurityPolicy-FS-1-2-Res-2020-10"), Some((1, 4)));
        assert_eq!(versions(DEFAULT), Some((2, 7)));
        for name in [
            "ELBSecurityPolicy-2016-08",
            "ELBSecurityPolicy-TLS13-1-0-2021-06",
            "ELBSecurityPolicy-FS-1-1-2019-08",
            "",
        ] {
            assert_eq!(versions(name), None, "{name}");
        }
    }
}
