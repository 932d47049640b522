//! What the records mean, by a number, and how older ones are made what they are now.
//!
//! All migrations that a store needs are done in memory, and what they changed is one transaction of redb's, with the new version: a
//! store is migrated or it is not. To those who watch later it is one revision.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use redb::Database;

use super::{OpenError, tables};
use crate::store::image::{Draft, Image};
use crate::store::{Key, Operation, Value};

/// The version of the records that a program reads and writes, and how it gets there from older ones. Versions are numbered from 1.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    pub version: u64,
    pub migrations: &'static [Migration],
}

/// A step from one version to the next.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    pub from: u64,
    /// What it fails with is told to who opens the store, which stays as it was.
    pub apply: fn(&mut Rewrite<'_>) -> Result<(), Box<dyn Error + Send + Sync>>,
}

/// Records that are being migrated.
#[derive(Debug)]
pub struct Rewrite<'a> {
    image: &'a Image,
    changed: BTreeMap<Key, Option<Value>>,
}

impl Rewrite<'_> {
    /// The records whose keys begin with `prefix`, sorted by key.
    pub fn range(&self, prefix: &[u8]) -> Vec<(Key, Value)> {
        let old = self.image.range(prefix).map(|entry| (entry.key.clone(), Some(entry.value.clone())));
        let mut records: BTreeMap<_, _> = old.collect();
        let changed = self.changed.iter().filter(|(key, _)| key.starts_with(prefix));
        records.extend(changed.map(|(key, value)| (key.clone(), value.clone())));
        records.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }

    pub fn put(&mut self, key: impl Into<Key>, value: impl Into<Value>) {
        self.changed.insert(key.into(), Some(value.into()));
    }

    pub fn delete(&mut self, key: impl Into<Key>) {
        self.changed.insert(key.into(), None);
    }
}

impl Schema {
    /// From which version a store has to be migrated, if it has to be.
    pub(super) fn migrates(&self, path: &Path, database: &Database) -> Result<Option<u64>, OpenError> {
        let found = tables::schema_version(database).map_err(|error| database_error(path, error))?;
        match found {
            Some(found) if found > self.version => {
                Err(OpenError::Newer { path: path.to_owned(), found, known: self.version })
            }
            found => Ok(found.filter(|found| *found < self.version)),
        }
    }

    /// Reads a store's records, having made them what this version says; initialises one that is new.
    pub(super) fn load(&self, path: &Path, database: &Database) -> Result<Image, OpenError> {
        let failed = |error| database_error(path, error);
        let from = self.migrates(path, database)?;
        let is_new = tables::schema_version(database).map_err(failed)?.is_none();
        let mut image = tables::load(database).map_err(failed)?;
        if is_new || from.is_some() {
            let operations = self.migrate(path, &image, from.unwrap_or(self.version))?;
            let mut draft = Draft::new(&image);
            draft.change(operations);
            let batch = draft.into_batch();
            tables::save(database, &batch, Some(self.version)).map_err(failed)?;
            image.apply(batch);
        }
        Ok(image)
    }

    fn migrate(&self, path: &Path, image: &Image, from: u64) -> Result<Vec<Operation>, OpenError> {
        let mut rewrite = Rewrite { image, changed: BTreeMap::new() };
        for from in from..self.version {
            let path = path.to_owned();
            let Some(migration) = self.migrations.iter().find(|migration| migration.from == from) else {
                return Err(OpenError::NoMigration { path, from });
            };
            (migration.apply)(&mut rewrite).map_err(|source| OpenError::Migration { path, from, source })?;
        }
        let operations = rewrite.changed.into_iter().map(|(key, value)| match value {
            Some(value) => Operation::Put { key, value },
            None => Operation::Delete { key },
        });
        Ok(operations.collect())
    }
}

fn database_error(path: &Path, error: redb::Error) -> OpenError {
    OpenError::Database { path: path.to_owned(), source: Box::new(error) }
}
