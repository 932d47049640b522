//! A record of a layer's log: what became of some blocks, in one page.

use super::{BLOCKS_MAX, BlockState, Damage, PAGE_LEN, Page, Uuid, open, put, seal_with_checksum};

const MAGIC: &[u8; 8] = b"NIMBOLOG";
const ENTRIES_AT: usize = 64;
const ENTRY_LEN: usize = 16;

/// How many entries a record can have.
pub(crate) const ENTRIES_MAX: usize = (PAGE_LEN - ENTRIES_AT) / ENTRY_LEN;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// The data of its blocks was on stable storage before the record was written.
    Durable,
    /// Data and record were put on stable storage together: as long as it is the last one, each block with data counts only if its
    /// data has the checksum that stands here.
    Checked,
}

/// Some blocks in a row and what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) first: u64,
    pub(crate) count: u32,
    pub(crate) state: BlockState,
    /// Of the data of the one block, in a checked record; otherwise zero.
    pub(crate) checksum: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) layer: Uuid,
    /// One more with each record; it stands in page `sequence` modulo the ring's length.
    pub(crate) sequence: u64,
    /// The sequence number of the first record that was written for the same flush.
    pub(crate) group: u64,
    pub(crate) kind: RecordKind,
    pub(crate) entries: Vec<Entry>,
}

impl Record {
    pub(crate) fn encode(&self) -> Box<Page> {
        assert!(self.entries.len() <= ENTRIES_MAX, "a record is one page");
        let mut page = Box::new([0; PAGE_LEN]);
        let bytes = &mut page[..];
        let kind: u32 = match self.kind {
            RecordKind::Durable => 0,
            RecordKind::Checked => 1,
        };
        let count = u32::try_from(self.entries.len()).expect("at most ENTRIES_MAX");
        put(bytes, 0, *MAGIC);
        put(bytes, 12, kind.to_le_bytes());
        put(bytes, 16, self.layer.0);
        put(bytes, 32, self.sequence.to_le_bytes());
        put(bytes, 40, self.group.to_le_bytes());
        put(bytes, 48, count.to_le_bytes());
        for (index, entry) in self.entries.iter().enumerate() {
            let at = ENTRIES_AT + index * ENTRY_LEN;
            put(bytes, at, (entry.first | u64::from(entry.state.code()) << 56).to_le_bytes());
            put(bytes, at + 8, entry.count.to_le_bytes());
            put(bytes, at + 12, entry.checksum.to_le_bytes());
        }
        seal_with_checksum(bytes);
        page
    }

    pub(crate) fn decode(page: &Page, layer: Uuid) -> Result<Self, Damage> {
        let fields = open(page, MAGIC)?;
        let kind = match fields.u32(12) {
            0 => RecordKind::Durable,
            1 => RecordKind::Checked,
            _ => return Err(Damage::at(12, "the record is of a kind that this program does not know")),
        };
        if fields.uuid(16) != layer {
            return Err(Damage::at(16, "the record belongs to another layer"));
        }
        let (sequence, group) = (fields.u64(32), fields.u64(40));
        if sequence > u64::MAX / 2 || group > sequence {
            return Err(Damage::at(32, "the sequence number is out of range"));
        }
        let count = usize::try_from(fields.u32(48)).unwrap_or(usize::MAX);
        if count > ENTRIES_MAX {
            return Err(Damage::at(48, "the record has more entries than it has room for"));
        }
        let end = ENTRIES_AT + count * ENTRY_LEN;
        fields.expect_zero(52, ENTRIES_AT)?;
        fields.expect_zero(end, PAGE_LEN)?;
        let entries = (ENTRIES_AT..end).step_by(ENTRY_LEN).map(|at| {
            let word = fields.u64(at);
            let [.., code] = word.to_le_bytes();
            let state = BlockState::from_code(code)
                .ok_or_else(|| Damage::at(at + 7, "a block has a state that there is not"))?;
            let (first, count) = (word & ((1 << 56) - 1), fields.u32(at + 8));
            if count == 0 || first + u64::from(count) > BLOCKS_MAX {
                return Err(Damage::at(at, "the blocks are out of range"));
            }
            let (is_checked, checksum) =
                (kind == RecordKind::Checked && state == BlockState::Data, fields.u32(at + 12));
            if is_checked && count != 1 {
                return Err(Damage::at(at + 8, "one checksum stands for several blocks"));
            }
            if !is_checked && checksum != 0 {
                return Err(Damage::at(at + 12, "there is a checksum of nothing"));
            }
            Ok(Entry { first, count, state, checksum })
        });
        Ok(Self { layer, sequence, group, kind, entries: entries.collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_entry(kind: RecordKind) -> impl Strategy<Value = Entry> {
        let state = prop_oneof![Just(BlockState::Absent), Just(BlockState::Data), Just(BlockState::Zero)];
        (0..BLOCKS_MAX, 1u32..5000, state, any::<u32>()).prop_map(move |(first, count, state, checksum)| {
            let alone = kind == RecordKind::Checked && state == BlockState::Data;
            let (count, checksum) = if alone { (1, checksum) } else { (count, 0) };
            Entry { first: first.min(BLOCKS_MAX - u64::from(count)), count, state, checksum }
        })
    }

    fn any_record() -> impl Strategy<Value = Record> {
        prop_oneof![Just(RecordKind::Durable), Just(RecordKind::Checked)].prop_flat_map(|kind| {
            let entries = prop::collection::vec(any_entry(kind), 0..=ENTRIES_MAX);
            (0..u64::MAX / 2, 0u64..100, entries).prop_map(move |(sequence, earlier, entries)| Record {
                layer: Uuid([5; 16]),
                sequence,
                group: sequence.saturating_sub(earlier),
                kind,
                entries,
            })
        })
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded_and_any_changed_bit_is_noticed(
            record in any_record(), bit in 0usize..8 * PAGE_LEN,
        ) {
            let mut page = record.encode();
            prop_assert_eq!(Record::decode(&page, record.layer), Ok(record.clone()));
            prop_assert!(Record::decode(&page, Uuid([6; 16])).is_err());
            page[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Record::decode(&page, record.layer).is_err());
        }
    }
}
