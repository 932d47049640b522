//! How guests are, as far as their hosts can tell.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Of the guest of an instance that runs: it begins anew with each of its starts and reboots.
///
/// ```text
/// Initializing ──it answers──▶ Well ◀──it answers── Impaired
///       │                       └──it does not──────▶ ▲
///       └──it never did, for too long────────────────┘
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It has not answered yet.
    #[default]
    Initializing,
    Well,
    Impaired {
        since: Timestamp,
    },
}
