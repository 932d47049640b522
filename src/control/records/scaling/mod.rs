//! Auto Scaling groups: what they are to be, who is in them, and what was done about it.
//!
//! ```text
//!            launched                  runs              hooks are over
//!           ───────────▶ Pending ────────────▶ PendingWait ───────────▶ InService ◀─────▶ Standby
//!                           │ runs, no hooks                               ▲ │               │
//!                           ├──────────────────────────────────────────────┘ │               │
//!                           │ fails, is abandoned              is to end     ▼               │
//!                           │                       hooks are over  TerminatingWait ◀────────┤
//!                           ▼                                              ▼                 │
//!                       Terminating ◀───────────────────────────────── Terminating ◀─────────┘
//! ```
//!
//! A member's record is there as long as its instance is in the group. An instance is in one group at most.

mod activity;
mod group;
mod member;
mod schedule;

pub use activity::{ActivityId, ActivityKind, ActivityStatus, ScalingActivity};
pub use group::{
    CapacityChange, DeletionProtection, GroupTag, HookResult, LaunchFailure, LifecycleHook, Place, Process,
    ScalingGroup, TemplateChoice, TemplateVersion, TerminationPolicy, Transition,
};
pub use member::{HookWait, LifecycleAction, MemberId, MemberState, ScalingMember, Unhealthy};
pub use schedule::{Recurrence, ScheduledAction};

/// A set of words that the API and the store know: its variants, each by its word.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ::serde::Serialize, ::serde::Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }

            /// The one with this word.
            pub fn of(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.as_str() == word)
            }
        }
    };
}
use words;
