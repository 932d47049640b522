//! What the models say of a member of a structure: its names on each wire and the bounds of its value.
//!
//! There are thousands of these in every program that serves the API, and most of its processes never look at one. So they have no
//! addresses in them: names are places in one text, and items are numbers in one table. The loader then has nothing to
//! write into these tables when a process starts, and their pages stay on the disk until somebody reads them.

use crate::generated::tables::{ITEMS, TEXT};

/// A member of a structure, the elements of a list, or the values of a map. The latter two have no name of their own.
#[derive(Debug)]
pub struct Member {
    name: Text,
    query: Text,
    tags: Text,
    located: Text,
    /// Where a REST protocol has it.
    pub(crate) place: Place,
    pub(crate) is_required: bool,
    /// Of what it holds, in the table of items: 0 if it is neither a list nor a map.
    item: u16,
    /// Of a number: its value; of text and blobs: their length; of lists and maps: their size.
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// Where a REST protocol has a member of an operation's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Body,
    /// `{name}` of the path.
    Label,
    Query,
    Header,
}

/// A part of the text of all names.
#[derive(Debug, Clone, Copy)]
pub struct Text {
    /// Its first byte.
    pub at: u32,
    /// Its bytes.
    pub len: u32,
}

impl Text {
    const EMPTY: Self = Self { at: 0, len: 0 };

    fn get(self) -> &'static str {
        &TEXT[self.at as usize..][..self.len as usize]
    }
}

/// What has no name and no bounds.
pub static ANY: &Member = &ITEMS[0];

impl Member {
    /// `tags` are those of XML, `<tag></tag>`, or empty for a flattened list.
    pub const fn new(name: Text, query: Text, tags: Text) -> Self {
        Self {
            name,
            query,
            tags,
            located: Text::EMPTY,
            place: Place::Body,
            is_required: false,
            item: 0,
            min: f64::NEG_INFINITY,
            max: f64::INFINITY,
        }
    }

    pub const fn required(mut self) -> Self {
        self.is_required = true;
        self
    }

    pub const fn placed(mut self, place: Place, name: Text) -> Self {
        self.place = place;
        self.located = name;
        self
    }

    pub const fn between(mut self, min: f64, max: f64) -> Self {
        self.min = min;
        self.max = max;
        self
    }

    pub const fn holding(mut self, item: u16) -> Self {
        self.item = item;
        self
    }

    /// Its name in the model, which is its key in JSON and CBOR.
    pub(crate) fn name(&self) -> &'static str {
        self.name.get()
    }

    /// Its name in a query. Of elements: what stands between the list's name and their number, if anything.
    pub(crate) fn query(&self) -> &'static str {
        self.query.get()
    }

    /// Its name where a REST protocol has it, unless that is the body.
    pub(crate) fn located(&self) -> &'static str {
        self.located.get()
    }

    /// Its tags in XML.
    pub(crate) fn tags(&self) -> (&'static [u8], &'static [u8]) {
        // The closing one has a slash more.
        self.tags.get().as_bytes().split_at(self.tags.len as usize / 2)
    }

    /// Whether it holds others: it is a list or a map.
    pub(crate) fn is_list(&self) -> bool {
        self.item != 0
    }

    pub(crate) fn item(&self) -> &'static Member {
        &ITEMS[usize::from(self.item)]
    }
}
