//! Pages of Auto Scaling's describing operations.

use aws::page::Page;
use aws::service::{Operation, Paginated};
use aws::{Call, Error};

use super::errors::constraint;

/// When a request does not say how many.
const ITEMS: usize = 50;
const ITEMS_MAX: i32 = 100;

/// The page that was asked for, and the token of the next one.
///
/// # Errors
/// As [`Page::of`], and when a page is to have too many.
pub(super) fn page<O: Paginated, T, K: AsRef<str>>(
    call: &Call<<O as Operation>::Input>,
    items: impl IntoIterator<Item = T>,
    key: impl Fn(&T) -> K,
) -> Result<(Vec<T>, Option<String>), Error> {
    if let Some(limit) = O::limit(&call.input).filter(|limit| !(1..=ITEMS_MAX).contains(limit)) {
        let rule = format!("Member must have value between 1 and {ITEMS_MAX}");
        return Err(constraint(limit, "maxRecords", rule));
    }
    Ok(Page::of::<O>(call)?.limited_to(ITEMS).take(items, key))
}
