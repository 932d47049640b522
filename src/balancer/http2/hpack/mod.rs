//! Fields in HTTP/2's compressed form (RFC 7541).
//!
//! What comes may use all of it. What is written uses the table of common fields, and nothing that has to be remembered: no text is compressed.

mod huffman;
mod table;

pub(super) use table::Table;

/// Fields, in the order in which they came. One can be used for many, one after the other.
#[derive(Debug, Default)]
pub struct Fields {
    text: Vec<u8>,
    /// Where in `text` a name begins and ends; the value follows up to the next.
    places: Vec<(usize, usize)>,
    /// There were more than are kept.
    is_cut: bool,
}

/// The most that is kept: names, values, and 32 bytes for each field (RFC 9113, 6.5.2).
pub(super) const FIELDS_BYTES_MAX: usize = 64 << 10;

impl Fields {
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.places.iter().enumerate().map(|(place, (from, to))| {
            let end = self.places.get(place + 1).map_or(self.text.len(), |(next, _)| *next);
            (&self.text[*from..*to], &self.text[*to..end])
        })
    }

    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.places.clear();
        self.is_cut = false;
    }

    /// Adds what `write` writes: the name, of which it tells the end, and the value.
    fn add<E>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<usize, E>) -> Result<(&[u8], &[u8]), E> {
        let from = self.text.len();
        let to = write(&mut self.text)?;
        self.places.push((from, to));
        Ok((&self.text[from..to], &self.text[to..]))
    }

    /// Forgets the last one if there are too many.
    fn bound(&mut self) {
        if self.text.len() + 32 * self.places.len() > FIELDS_BYTES_MAX {
            self.is_cut = true;
            if let Some((from, _)) = self.places.pop() {
                self.text.truncate(from);
            }
        }
    }
}

/// A block that means nothing. What follows on its connection cannot be read, either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadBlock;

/// Reads blocks of one connection, one after the other.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { table: Table::new() }
    }
}

impl Decoder {
    /// Reads a block that is whole into `fields`.
    ///
    /// # Errors
    /// [`BadBlock`] when it has no meaning.
    pub fn decode(&mut self, block: &[u8], fields: &mut Fields) -> Result<(), BadBlock> {
        fields.clear();
        let mut rest = block;
        while let Some(first) = rest.first().copied() {
            if first & 0x80 != 0 {
                let index = integer(&mut rest, 7)?;
                let (name, value) = self.table.get(index).ok_or(BadBlock)?;
                if fields.is_cut {
                    continue;
                }
                fields.add(|text| {
                    text.extend_from_slice(name);
                    let end = text.len();
                    text.extend_from_slice(value);
                    Ok::<_, BadBlock>(end)
                })?;
            } else if first & 0xe0 == 0x20 {
                // The table's size changes before the first field only (RFC 7541, 4.2).
                if !fields.places.is_empty() || fields.is_cut {
                    return Err(BadBlock);
                }
                let size = integer(&mut rest, 5)?;
                self.table.resize(size).map_err(|_| BadBlock)?;
            } else {
                let is_remembered = first & 0x40 != 0;
                let index = integer(&mut rest, if is_remembered { 6 } else { 4 })?;
                let table = &self.table;
                let added = fields.add(|text| {
                    match index {
                        0 => read_text(&mut rest, text)?,
                        _ => text.extend_from_slice(table.get(index).ok_or(BadBlock)?.0),
                    }
                    let end = text.len();
                    read_text(&mut rest, text)?;
                    Ok(end)
                })?;
                if is_remembered {
                    self.table.insert(added.0, added.1);
                }
            }
            fields.bound();
        }
        Ok(())
    }
}

/// A number of which the first byte has `bits` (RFC 7541, 5.1).
fn integer(rest: &mut &[u8], bits: u8) -> Result<usize, BadBlock> {
    let (first, mut after) = rest.split_first().ok_or(BadBlock)?;
    let mask = u8::MAX >> (8 - bits);
    let mut value = usize::from(first & mask);
    if value == usize::from(mask) {
        // Nothing that is meant is longer: 128 MiB.
        for shift in [0, 7, 14, 21] {
            let (byte, next) = after.split_first().ok_or(BadBlock)?;
            after = next;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                *rest = after;
                return Ok(value);
            }
        }
        return Err(BadBlock);
    }
    *rest = after;
    Ok(value)
}

fn read_text(rest: &mut &[u8], out: &mut Vec<u8>) -> Result<(), BadBlock> {
    let is_coded = rest.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(rest, 7)?;
    let (text, after) = rest.split_at_checked(length).ok_or(BadBlock)?;
    *rest = after;
    if is_coded {
        huffman::decode(text, out).map_err(|_| BadBlock)
    } else {
        out.extend_from_slice(text);
        Ok(())
    }
}

/// What the first block of a connection begins with: nothing will have to be remembered. So it does not matter what the other end says of its table.
pub(super) const BEGIN: &[u8] = &[0x20];

/// Writes a field, its name in lower case.
pub(super) fn write(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    match table::place(name, value) {
        Some((place, true)) => write_integer(place, 7, 0x80, out),
        Some((place, false)) => {
            write_integer(place, 4, 0, out);
            write_text(value, out);
        }
        None => {
            out.push(0);
            write_integer(name.len(), 7, 0, out);
            out.extend(name.iter().map(u8::to_ascii_lowercase));
            write_text(value, out);
        }
    }
}

fn write_text(text: &[u8], out: &mut Vec<u8>) {
    write_integer(text.len(), 7, 0, out);
    out.extend_from_slice(text);
}

fn write_integer(value: usize, bits: u8, flags: u8, out: &mut Vec<u8>) {
    let mask = usize::from(u8::MAX >> (8 - bits));
    let low = |value: usize| value.to_le_bytes()[0];
    if value < mask {
        out.push(flags | low(value));
        return;
    }
    out.push(flags | low(mask));
    let mut left = value - mask;
    while left >= 0x80 {
        out.push(low(left) | 0x80);
        left >>= 7;
    }
    out.push(low(left));
}

#[cfg(test)]
mod tests;
