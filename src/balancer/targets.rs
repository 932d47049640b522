//! Which target serves a request.
//!
//! ```text
//! forward action ─▶ a group, by weight or by its cookie ─▶ a target, by its cookie or the group's algorithm ─▶ lease
//! ```
//!
//! Workers share [`Group`]s: what a configuration says of a target group, and its [`Member`]s, whose standing and number of outstanding
//! requests are atomics. Everything else that picking needs, such as whose turn it is, a worker has for itself in its [`Picker`]s and
//! [`Forwarder`]s, so no worker ever waits for another. A new configuration is a new `Group`, which takes over the members that stay: a
//! request keeps the [`Lease`] on the one it has, whatever becomes of the group.
//!
//! Invariants: a target that is out gets nothing; one that is doubtful gets something only while none of its group is ready (then the
//! group *fails open*, as AWS has it); a cookie can name only what it was made for, so a forged one does no more than none.
//!
//! Health is not decided here, see [`crate::health`]; and nothing here connects to a target.

mod cookie;
mod forward;
mod group;
mod picker;
mod random;

pub use cookie::{Cookies, TagKey, is_cross_site_aware, sets};
pub use forward::{Choice, Forwarder};
pub use group::{Group, Lease, Member, Standing};
pub use picker::Picker;
pub use random::Random;
