//! Regions by AWS's names, each with three availability zones.
//!
//! Source: <https://docs.aws.amazon.com/global-infrastructure/latest/regions/aws-regions.html> for names and the
//! prefixes of zones' ids. Where AWS has more zones or fewer than three in a region, here are three as everywhere.

use std::fmt;
use std::str::FromStr;

use crate::text::as_text;

/// Name, and what ids of its zones begin with.
const REGIONS: [(&str, &str); 17] = [
    ("ap-northeast-1", "apne1"),
    ("ap-northeast-2", "apne2"),
    ("ap-northeast-3", "apne3"),
    ("ap-south-1", "aps1"),
    ("ap-southeast-1", "apse1"),
    ("ap-southeast-2", "apse2"),
    ("ca-central-1", "cac1"),
    ("eu-central-1", "euc1"),
    ("eu-north-1", "eun1"),
    ("eu-west-1", "euw1"),
    ("eu-west-2", "euw2"),
    ("eu-west-3", "euw3"),
    ("sa-east-1", "sae1"),
    ("us-east-1", "use1"),
    ("us-east-2", "use2"),
    ("us-west-1", "usw1"),
    ("us-west-2", "usw2"),
];

const ZONES: [char; 3] = ['a', 'b', 'c'];

/// A region that AWS opens to every account.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region(&'static (&'static str, &'static str));

/// One of a region's zones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Zone {
    region: Region,
    letter: char,
}

/// A text that names no region, or no zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseRegionError {
    #[error("there is no region {0:?}")]
    Region(String),
    #[error("there is no availability zone {0:?}")]
    Zone(String),
}

impl Region {
    /// In the order of their names.
    pub fn all() -> impl Iterator<Item = Self> {
        REGIONS.iter().map(Self)
    }

    pub const fn name(self) -> &'static str {
        self.0.0
    }

    pub fn zones(self) -> [Zone; 3] {
        ZONES.map(|letter| Zone { region: self, letter })
    }
}

impl Zone {
    pub const fn region(self) -> Region {
        self.region
    }

    /// `use1-az2`, say.
    pub fn id(self) -> String {
        let number = 1 + ZONES.iter().take_while(|letter| **letter != self.letter).count();
        format!("{}-az{number}", self.region.0.1)
    }
}

impl FromStr for Region {
    type Err = ParseRegionError;

    fn from_str(text: &str) -> Result<Self, ParseRegionError> {
        Self::all()
            .find(|region| region.name() == text)
            .ok_or_else(|| ParseRegionError::Region(text.to_owned()))
    }
}

impl FromStr for Zone {
    type Err = ParseRegionError;

    fn from_str(text: &str) -> Result<Self, ParseRegionError> {
        let mut letters = text.chars();
        let letter = letters.next_back().filter(|letter| ZONES.contains(letter));
        let region = letters.as_str().parse().ok();
        let zone = letter.zip(region).map(|(letter, region)| Self { region, letter });
        zone.ok_or_else(|| ParseRegionError::Zone(text.to_owned()))
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.region, self.letter)
    }
}

as_text! { Region Zone }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_region_and_zone_is_found_by_its_name() {
        for region in Region::all() {
            assert_eq!(region.name().parse(), Ok(region));
            for zone in region.zones() {
                assert_eq!(zone.to_string().parse(), Ok(zone));
                assert_eq!(zone.region(), region);
            }
        }
        assert!(Region::all().is_sorted());
    }

    #[test]
    fn zones_have_ids_by_region_and_number() {
        let zone: Zone = "eu-west-1c".parse().unwrap();
        assert_eq!(zone.id(), "euw1-az3");
    }

    #[test]
    fn what_is_no_region_or_zone_is_refused() {
        for bad in ["", "us-east", "us-east-1a", "US-EAST-1"] {
            assert!(bad.parse::<Region>().is_err(), "{bad:?} was accepted");
        }
        for bad in ["", "a", "us-east-1", "us-east-1d", "mars-1a", "us-east-1ä"] {
            assert!(bad.parse::<Zone>().is_err(), "{bad:?} was accepted");
        }
    }
}
