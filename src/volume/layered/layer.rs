//! The files of one layer, and where in them everything stands.
//!
//! ```text
//!   0        header slots 0 and 1
//!   64 KiB   log ring
//!   512 MiB  map pages, two slots each
//!   16 GiB   data: block N of the first file at N × 4 KiB
//! ```
//!
//! A file system ends somewhere (ext4 at 16 TiB), so a large layer has further files, which hold data alone, from their first byte on.
//! Every area has its place whatever the size, so that a layer can grow; what is not used is a hole.

use std::sync::Arc;

use super::error::{VolumeError, io_error};
use super::format::{BLOCK_BYTES, Header, LayerEntry, MapPage, PAGE_LEN, Page, Uuid};
use super::map::LayerId;
use super::storage::{Storage, StorageFile};

const PAGE_BYTES: u64 = PAGE_LEN as u64;
const LOG_AT: u64 = 64 << 10;
const MAP_AT: u64 = 512 << 20;
const DATA_AT: u64 = 16 << 30;
/// How many pages of the log are read at a time.
const LOG_PIECE_PAGES: usize = 64;

/// What is chosen when a layer is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// How many blocks stand in one file.
    pub(crate) segment_blocks: u64,
    /// How many records the log holds.
    pub(crate) log_pages: u32,
}

impl Default for Geometry {
    fn default() -> Self {
        Self { segment_blocks: (8 << 40) / BLOCK_BYTES, log_pages: 1024 }
    }
}

/// What a new layer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The top of a volume that nobody has open. Its log has its space, and is written by [`Layer::prepare_log`].
    FirstTop,
    /// The top of one that is in use: a flush must not have to allocate, from the first one on.
    Top,
    /// Below all others, and not written to by the guest.
    Lowest,
}

/// A layer with its files open.
#[derive(Debug)]
pub(crate) struct Layer<F> {
    pub(crate) id: LayerId,
    pub(crate) uuid: Uuid,
    pub(crate) blocks: u64,
    pub(crate) geometry: Geometry,
    segments: Vec<Arc<F>>,
}

/// Where a block stands in the files of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: usize,
    pub(crate) offset: u64,
    /// How many blocks from this one on stand in a row.
    pub(crate) run: u64,
}

/// The name of a layer's file.
pub(crate) fn file_name(id: LayerId, segment: usize) -> String {
    if segment == 0 { format!("layer-{id}") } else { format!("layer-{id}.{segment}") }
}

impl<F: StorageFile> Layer<F> {
    /// Makes a layer that holds nothing. It lasts when its first file, which alone has anything in it, and the folder are synced.
    ///
    /// # Errors
    /// When the storage fails; files may be left, which nothing refers to.
    pub(crate) fn create<S: Storage<File = F>>(
        storage: &S,
        id: LayerId,
        blocks: u64,
        geometry: Geometry,
        role: Role,
    ) -> Result<(Self, Header), VolumeError> {
        let name = file_name(id, 0);
        let uuid = Uuid(storage.unique().map_err(io_error("choose a name for", &name))?);
        let header = Header {
            layer: uuid,
            generation: 0,
            blocks,
            segment_blocks: geometry.segment_blocks,
            log_pages: geometry.log_pages,
            sealed: role == Role::Lowest,
            log_start: 0,
            map_pages: 0,
            map_digest: 0,
        };
        let mut layer = Self { id, uuid, blocks: 0, geometry, segments: Vec::new() };
        layer.grow(storage, blocks)?;
        // Written and not only reserved, as the other header: a flush must not have to allocate.
        layer.write_page(PAGE_BYTES, &[0; PAGE_LEN])?;
        match role {
            Role::FirstTop => {
                let taken = layer.main().allocate(LOG_AT, layer.log_bytes());
                taken.map_err(io_error("take space in", &name))?;
            }
            Role::Top | Role::Lowest => layer.write_log()?,
        }
        layer.write_header(&header)?;
        Ok((layer, header))
    }

    fn log_bytes(&self) -> u64 {
        u64::from(self.geometry.log_pages) * PAGE_BYTES
    }

    /// Makes all of the log zeroes, its first page last.
    fn write_log(&self) -> Result<(), VolumeError> {
        let zeroes = vec![0; PAGE_LEN * LOG_PIECE_PAGES];
        let mut left = self.log_bytes();
        while left > 0 {
            let len = left.min(zeroes.len() as u64);
            left -= len;
            let piece = &zeroes[..usize::try_from(len).expect("at most the buffer")];
            self.main().write_at(LOG_AT + left, piece).map_err(io_error("write", &self.name(0)))?;
        }
        Ok(())
    }

    /// Writes the log of a layer in which no record was ever written, unless that was done: then a flush does not have to allocate.
    ///
    /// # Errors
    /// When the storage fails; nothing that counts was changed.
    pub(crate) fn prepare_log(&self) -> Result<(), VolumeError> {
        let first = self.main().next_data(LOG_AT).map_err(io_error("look for the log of", &self.name(0)))?;
        if first == Some(LOG_AT) { Ok(()) } else { self.write_log() }
    }

    /// Opens the files of a layer of the manifest.
    ///
    /// # Errors
    /// When a file is missing or the header is damaged.
    pub(crate) fn open<S: Storage<File = F>>(
        storage: &S,
        entry: LayerEntry,
    ) -> Result<(Self, Header), VolumeError> {
        let id = LayerId(entry.id);
        let name = file_name(id, 0);
        let main = Arc::new(storage.open(&name).map_err(io_error("open", &name))?);
        let geometry = Geometry::default();
        let mut layer = Self { id, uuid: entry.uuid, blocks: 0, geometry, segments: vec![main] };
        let header = layer.read_header()?;
        layer.geometry = Geometry { segment_blocks: header.segment_blocks, log_pages: header.log_pages };
        layer.blocks = header.blocks;
        for segment in 1..usize::try_from(header.blocks.div_ceil(header.segment_blocks)).unwrap_or(usize::MAX)
        {
            let name = file_name(id, segment);
            layer.segments.push(Arc::new(storage.open(&name).map_err(io_error("open", &name))?));
        }
        Ok((layer, header))
    }

    /// Gives the layer room for `blocks` blocks. The header does not say so yet, and nothing is synced.
    pub(crate) fn grow<S: Storage<File = F>>(&mut self, storage: &S, blocks: u64) -> Result<(), VolumeError> {
        let count = usize::try_from(blocks.div_ceil(self.geometry.segment_blocks)).unwrap_or(usize::MAX);
        for segment in self.segments.len()..count {
            let name = file_name(self.id, segment);
            let file = match storage.open(&name) {
                // Left by a growth that did not come to its end.
                Ok(file) => file,
                Err(_) => storage.create(&name).map_err(io_error("create", &name))?,
            };
            self.segments.push(Arc::new(file));
        }
        for (segment, file) in self.segments.iter().enumerate() {
            let before = segment as u64 * self.geometry.segment_blocks;
            let bytes = (blocks - before).min(self.geometry.segment_blocks) * BLOCK_BYTES;
            let len = if segment == 0 { DATA_AT + bytes } else { bytes };
            let name = file_name(self.id, segment);
            if file.len().map_err(io_error("find the length of", &name))? < len {
                file.set_len(len).map_err(io_error("extend", &name))?;
            }
        }
        self.blocks = blocks;
        Ok(())
    }

    /// The same layer with room for more blocks.
    pub(crate) fn grown<S: Storage<File = F>>(&self, storage: &S, blocks: u64) -> Result<Self, VolumeError> {
        let segments = self.segments.clone();
        let mut layer =
            Self { id: self.id, uuid: self.uuid, blocks: self.blocks, geometry: self.geometry, segments };
        layer.grow(storage, blocks)?;
        Ok(layer)
    }

    pub(crate) fn main(&self) -> &F {
        &self.segments[0]
    }

    pub(crate) fn segment(&self, index: usize) -> &Arc<F> {
        &self.segments[index]
    }

    pub(crate) fn segments(&self) -> usize {
        self.segments.len()
    }

    pub(crate) fn name(&self, segment: usize) -> String {
        file_name(self.id, segment)
    }

    pub(crate) fn place(&self, block: u64) -> Place {
        let (segment, within) = (block / self.geometry.segment_blocks, block % self.geometry.segment_blocks);
        let start = if segment == 0 { DATA_AT } else { 0 };
        Place {
            segment: usize::try_from(segment).expect("at most SEGMENTS_MAX"),
            offset: start + within * BLOCK_BYTES,
            run: self.geometry.segment_blocks - within,
        }
    }

    /// The parts of a range of blocks that stand in a row: where, and how many.
    pub(crate) fn places(&self, first: u64, end: u64) -> impl Iterator<Item = (Place, u64)> {
        let mut next = first;
        std::iter::from_fn(move || {
            if next >= end {
                return None;
            }
            let place = self.place(next);
            let count = place.run.min(end - next);
            next += count;
            Some((place, count))
        })
    }

    /// The files that hold a range of blocks, as bits.
    pub(crate) fn segments_of(&self, first: u64, end: u64) -> u64 {
        self.places(first, end).fold(0, |mask, (place, _)| mask | 1 << place.segment)
    }

    pub(crate) fn read_blocks(&self, first: u64, bytes: &mut [u8]) -> Result<(), VolumeError> {
        let mut rest = bytes;
        for (place, count) in self.places(first, first + rest.len() as u64 / BLOCK_BYTES) {
            let (part, after) =
                rest.split_at_mut(usize::try_from(count * BLOCK_BYTES).expect("at most the buffer"));
            let read = self.segments[place.segment].read_at(place.offset, part);
            read.map_err(io_error("read", &self.name(place.segment)))?;
            rest = after;
        }
        Ok(())
    }

    pub(crate) fn write_blocks(&self, first: u64, bytes: &[u8]) -> Result<(), VolumeError> {
        let mut rest = bytes;
        for (place, count) in self.places(first, first + rest.len() as u64 / BLOCK_BYTES) {
            let (part, after) =
                rest.split_at(usize::try_from(count * BLOCK_BYTES).expect("at most the buffer"));
            let written = self.segments[place.segment].write_at(place.offset, part);
            written.map_err(io_error("write", &self.name(place.segment)))?;
            rest = after;
        }
        Ok(())
    }

    pub(crate) fn sync(&self, segment: usize) -> Result<(), VolumeError> {
        self.segments[segment].sync_data().map_err(io_error("sync", &self.name(segment)))
    }

    /// Syncs the files whose bits are set.
    pub(crate) fn sync_segments(&self, mask: u64) -> Result<(), VolumeError> {
        (0..self.segments.len())
            .filter(|segment| mask >> segment & 1 == 1)
            .try_for_each(|segment| self.sync(segment))
    }

    pub(crate) fn write_header(&self, header: &Header) -> Result<(), VolumeError> {
        let offset = header.generation % 2 * PAGE_BYTES;
        self.main()
            .write_at(offset, &header.encode()[..])
            .map_err(io_error("write the header of", &self.name(0)))
    }

    /// The header that counts.
    pub(crate) fn read_header(&self) -> Result<Header, VolumeError> {
        let mut newest: Option<Header> = None;
        let mut damage = None;
        for slot in 0..2 {
            match self.header_slot(slot)? {
                Ok(header) if newest.is_none_or(|other| other.generation < header.generation) => {
                    newest = Some(header)
                }
                Ok(_) => {}
                Err(found) => damage = damage.or(Some((slot * PAGE_BYTES + found.offset, found.what))),
            }
        }
        let (offset, what) = damage.unwrap_or_default();
        newest.ok_or_else(|| VolumeError::Damaged { file: self.name(0), offset, what })
    }

    /// One of the two header slots; the inner error is what is wrong with it.
    pub(crate) fn header_slot(
        &self,
        slot: u64,
    ) -> Result<Result<Header, super::format::Damage>, VolumeError> {
        let page = self.read_page(slot * PAGE_BYTES)?;
        let damage = |offset, what| Err(super::format::Damage { offset, what });
        Ok(Header::decode(&page).and_then(|header| match () {
            () if header.layer != self.uuid => damage(16, "the header belongs to another layer"),
            () if header.generation % 2 != slot => damage(32, "the header is in the wrong place"),
            () => Ok(header),
        }))
    }

    /// Where a record of the log stands.
    pub(crate) fn log_offset(&self, sequence: u64) -> u64 {
        LOG_AT + sequence % u64::from(self.geometry.log_pages) * PAGE_BYTES
    }

    /// Calls `each` with the pages of the log in which there may be something, and where they stand.
    pub(crate) fn for_log_pages(&self, mut each: impl FnMut(u64, &Page)) -> Result<(), VolumeError> {
        let end = LOG_AT + u64::from(self.geometry.log_pages) * PAGE_BYTES;
        let mut piece = vec![[0; PAGE_LEN]; LOG_PIECE_PAGES];
        let mut next = LOG_AT;
        loop {
            let found =
                self.main().next_data(next).map_err(io_error("look for the log of", &self.name(0)))?;
            let Some(found) = found.filter(|found| *found < end) else { return Ok(()) };
            next = found - found % PAGE_BYTES;
            let pages = usize::try_from((end - next) / PAGE_BYTES)
                .map_or(LOG_PIECE_PAGES, |left| left.min(LOG_PIECE_PAGES));
            let piece = &mut piece[..pages];
            let read = self.main().read_at(next, piece.as_flattened_mut());
            read.map_err(io_error("read the log of", &self.name(0)))?;
            for page in piece {
                each(next, page);
                next += PAGE_BYTES;
            }
        }
    }

    /// Where a slot of a map page stands.
    pub(crate) fn map_offset(index: u64, slot: u64) -> u64 {
        MAP_AT + (index * 2 + slot) * PAGE_BYTES
    }

    /// The number of the first map page, from `index` on, of which there may be something.
    pub(crate) fn next_map_page(&self, index: u64) -> Result<Option<u64>, VolumeError> {
        let count = self.blocks.div_ceil(MapPage::BLOCKS);
        let found = self.main().next_data(Self::map_offset(index, 0));
        let found = found.map_err(io_error("look for the map of", &self.name(0)))?;
        let page = found.map(|offset| (offset.max(MAP_AT) - MAP_AT) / (2 * PAGE_BYTES));
        Ok(page.filter(|page| *page < count))
    }

    pub(crate) fn read_page(&self, offset: u64) -> Result<Box<Page>, VolumeError> {
        let mut page = Box::new([0; PAGE_LEN]);
        self.main().read_at(offset, &mut page[..]).map_err(io_error("read", &self.name(0)))?;
        Ok(page)
    }

    pub(crate) fn write_page(&self, offset: u64, page: &Page) -> Result<(), VolumeError> {
        self.main().write_at(offset, page).map_err(io_error("write the metadata of", &self.name(0)))
    }
}
