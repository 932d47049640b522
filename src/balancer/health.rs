mod matcher;
pub use matcher::{Matcher, MatcherError};
