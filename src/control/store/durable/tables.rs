//! What the file says: two tables of redb's.
//!
//! ```text
//!   records   (mod revision, key) ──▶ (create revision, version, value)
//!   numbers   "schema" ──▶ version of the records' schema      "revision" ──▶ the store's revision
//! ```
//!
//! Records lie in the order in which they were put, so that what transactions put at about the same time is on the same pages, whatever
//! the keys: a commit writes less than half of the pages that it would write in the order of keys, where each random key is on a
//! page of its own. Nobody looks for a key here; that is done in memory.
//!
//! A file that lacks them is new. Another layout of these tables gets another name for `records`.

use std::collections::BTreeMap;

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError};

use crate::store::image::{Batch, Image};
use crate::store::{Entry, Key, Revision, Value};

/// Mod revision and key.
type Place = (u64, &'static [u8]);
/// Create revision, version and value.
type Record = (u64, u64, &'static [u8]);

const RECORDS: TableDefinition<'_, Place, Record> = TableDefinition::new("records");
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
const SCHEMA: &str = "schema";
const REVISION: &str = "revision";

/// The version of the records' schema, if the file is not new.
pub(super) fn schema_version(database: &Database) -> Result<Option<u64>, redb::Error> {
    number(database, SCHEMA)
}

/// All records.
pub(super) fn load(database: &Database) -> Result<Image, redb::Error> {
    let Some(revision) = number(database, REVISION)? else {
        return Ok(Image::new(Revision::ZERO, BTreeMap::new()));
    };
    let mut records = BTreeMap::new();
    for record in database.begin_read()?.open_table(RECORDS)?.iter()? {
        let (key, record) = record?;
        let (modified, key) = key.value();
        let (create, version, value) = record.value();
        let key = Key::from(key);
        let entry = Entry {
            key: key.clone(),
            value: Value::from(value),
            create_revision: Revision(create),
            mod_revision: Revision(modified),
            version,
        };
        records.insert(key, entry);
    }
    Ok(Image::new(Revision(revision), records))
}

/// Makes a batch durable, with the version of the schema that its records follow if that is another than before.
pub(super) fn save(database: &Database, batch: &Batch, schema: Option<u64>) -> Result<(), redb::Error> {
    // Immediate durability is the default.
    let transaction = database.begin_write()?;
    {
        let mut records = transaction.open_table(RECORDS)?;
        for entry in &batch.replaced {
            records.remove((entry.mod_revision.0, &*entry.key))?;
        }
        for entry in batch.records.values().flatten() {
            let value = (entry.create_revision.0, entry.version, &*entry.value);
            records.insert((entry.mod_revision.0, &*entry.key), value)?;
        }
        let mut numbers = transaction.open_table(NUMBERS)?;
        numbers.insert(REVISION, batch.revision.0)?;
        if let Some(version) = schema {
            numbers.insert(SCHEMA, version)?;
        }
    }
    Ok(transaction.commit()?)
}

fn number(database: &Database, name: &str) -> Result<Option<u64>, redb::Error> {
    match database.begin_read()?.open_table(NUMBERS) {
        Ok(numbers) => Ok(numbers.get(name)?.map(|number| number.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
