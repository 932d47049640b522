//! Records as describing operations see them: found by id, filtered, in pages.

use std::fmt::Display;

use aws::ec2::Filter;
use aws::filters::{Filtered, Filters};
use aws::page::Page;
use aws::service::{Operation, Paginated};
use aws::{Call, Error};
use jiff::Timestamp;

use super::errors::{Identified, ids, not_found};
use crate::records::{Stored, TagSet};
use crate::state::{Space, View};

/// A record, and all that belongs to it.
pub(super) struct Row<'a, R> {
    pub view: View<'a>,
    pub record: &'a R,
}

impl<R> Clone for Row<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Row<'_, R> {}

impl<'a, R: Stored> Row<'a, R> {
    /// For [`Filtered::tags`].
    pub fn tag_pairs(&self) -> Option<impl Iterator<Item = (&'a str, &'a str)> + use<'a, R>> {
        let set = R::resource(self.record.id()).and_then(|resource| self.view.get::<TagSet>(resource));
        Some(
            set.into_iter()
                .flat_map(|set| set.tags.iter().map(|(key, value)| (key.as_str(), value.as_str()))),
        )
    }
}

/// The rows with these ids, or all if none is named, that the filters admit.
///
/// # Errors
/// When an id is none or nothing has it, and what is wrong with a filter.
pub(super) fn select<'a, R>(
    view: View<'a>,
    named: &[String],
    filters: &[Filter],
) -> Result<Vec<Row<'a, R>>, Error>
where
    R: Stored<Id: Identified>,
    Row<'a, R>: Filtered,
{
    let filters = read_filters::<Row<'a, R>>(filters)?;
    let row = |record| Row { view, record };
    let mut rows: Vec<Row<'a, R>> = if named.is_empty() {
        R::table(view.tables()).iter().map(|record| row(record.as_ref())).collect()
    } else {
        let mut wanted: Vec<R::Id> = ids(named)?;
        wanted.sort_unstable();
        wanted.dedup();
        let found = wanted.into_iter().map(|id| view.get::<R>(id).map(row).ok_or_else(|| not_found(id)));
        found.collect::<Result<_, Error>>()?
    };
    rows.retain(|row| filters.admit(row));
    Ok(rows)
}

/// Filters for items of a kind.
///
/// # Errors
/// As [`Filters::new`].
pub(super) fn read_filters<T: Filtered>(filters: &[Filter]) -> Result<Filters, Error> {
    Filters::new::<T>(filters.iter().map(|filter| (filter.name.as_deref(), filter.values.as_slice())))
}

/// The page that was asked for, and the token of the next one.
///
/// # Errors
/// As [`Page::of`].
pub(super) fn page<'a, O: Paginated, R: Stored>(
    call: &Call<<O as Operation>::Input>,
    rows: Vec<Row<'a, R>>,
) -> Result<(Vec<Row<'a, R>>, Option<String>), Error> {
    Ok(Page::of::<O>(call)?.take(rows, |row| row.record.id().to_string()))
}

/// The name of a resource among those of all services: `kind` is `security-group`, say.
pub(super) fn arn(space: Space, kind: &str, id: impl Display) -> String {
    format!("arn:aws:ec2:{}:{}:{kind}/{id}", space.region, space.account)
}

/// A moment as filters know it: as answers have it.
pub(super) fn time(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}
