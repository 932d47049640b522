//! What the models say of a member of a structure: its names on each wire and the bounds of its value.

/// A member of a structure, the elements of a list, or the values of a map. The latter two have no name of their own.
#[derive(Debug)]
pub struct Member {
    /// Its name in the model, which is its key in JSON and CBOR.
    pub(crate) name: &'static str,
    /// Its name in a query. Of elements: what stands between the list's name and their number, if anything.
    pub(crate) query: &'static str,
    /// Its tags in XML, empty for a flattened list.
    pub(crate) open: &'static str,
    pub(crate) close: &'static str,
    pub(crate) is_required: bool,
    /// Where a REST protocol has it.
    pub(crate) place: Place,
    /// Of a number: its value; of text and blobs: their length; of lists and maps: their size.
    pub(crate) min: f64,
    pub(crate) max: f64,
    item: Option<&'static Member>,
}

/// Where a REST protocol has a member of an operation's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Body,
    /// `{name}` of the path.
    Label(&'static str),
    Query(&'static str),
    Header(&'static str),
}

/// What is not further described.
pub(crate) static ANY: Member = Member::new("", "", "<member>", "</member>");

impl Member {
    pub const fn new(
        name: &'static str,
        query: &'static str,
        open: &'static str,
        close: &'static str,
    ) -> Self {
        Self {
            name,
            query,
            open,
            close,
            is_required: false,
            place: Place::Body,
            min: f64::NEG_INFINITY,
            max: f64::INFINITY,
            item: None,
        }
    }

    pub const fn required(mut self) -> Self {
        self.is_required = true;
        self
    }

    pub const fn placed(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    pub const fn between(mut self, min: f64, max: f64) -> Self {
        self.min = min;
        self.max = max;
        self
    }

    pub const fn holding(mut self, item: &'static Member) -> Self {
        self.item = Some(item);
        self
    }

    /// Whether it holds others: it is a list or a map.
    pub(crate) fn is_list(&self) -> bool {
        self.item.is_some()
    }

    pub(crate) fn item(&self) -> &'static Member {
        self.item.unwrap_or(&ANY)
    }
}
