//! What a host remembers of its volumes and snapshots: a file for each, in JSON, replaced in one step.
//!
//! A record says what is to become of something before anything is done about it, so that whoever finds it goes on, or undoes what was begun.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ::volume::crypt::KeyName;
use ::volume::snapshot::SnapshotName;
use anyhow::Context as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use types::{SnapshotId, VolumeId, VolumeSpec};

const SUFFIX: &str = ".json";
/// What a file is called until it has all that it is to have.
const NEW: &str = ".json.new";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VolumeRecord {
    /// What it is, and is to be when it is made.
    pub(super) spec: VolumeSpec,
    /// What it is made from. It may be gone since.
    pub(super) snapshot: Option<SnapshotId>,
    /// The key that it is encrypted by.
    #[serde(with = "key")]
    pub(super) key: Option<KeyName>,
    /// It is about to become another one than `spec` says, and may have that one's size already, which those limits may not allow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_changing: bool,
    pub(super) stage: VolumeStage,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum VolumeStage {
    /// What there is in its folder is no volume yet.
    Making,
    Ready {
        /// It has all of what it was made from.
        is_whole: bool,
    },
    /// It cannot be made, and there is no folder.
    Failed(String),
    /// What there is in its folder is no volume any more.
    Deleting,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SnapshotRecord {
    /// To be sealed together with others of the same moment. Unless all of them are, none is.
    Sealing {
        volume: VolumeId,
        name: SnapshotName,
        moment: SnapshotId,
    },
    /// Sealed. What changed is put into the store by the process that serves the volume.
    Keeping {
        volume: VolumeId,
        name: SnapshotName,
    },
    /// What another one holds is encrypted by another key, in a volume that nobody else sees, and put into the store under this name when
    /// there is one.
    Copying {
        source: SnapshotId,
        #[serde(with = "key")]
        key: Option<KeyName>,
        name: Option<SnapshotName>,
    },
    /// Several may have one name: copies that differ in nothing.
    Complete {
        name: SnapshotName,
        #[serde(with = "key")]
        key: Option<KeyName>,
    },
    Failed(String),
    /// It goes, with what there is of it: in a volume, and in the store.
    Deleting {
        volume: Option<VolumeId>,
        name: Option<SnapshotName>,
    },
}

impl SnapshotRecord {
    /// The volume that is sealed for it.
    pub(super) fn volume(&self) -> Option<VolumeId> {
        match self {
            Self::Sealing { volume, .. } | Self::Keeping { volume, .. } => Some(*volume),
            Self::Deleting { volume, .. } => *volume,
            Self::Copying { .. } | Self::Complete { .. } | Self::Failed(_) => None,
        }
    }

    /// What it is called in the store, if it has anything there.
    pub(super) fn name(&self) -> Option<SnapshotName> {
        match self {
            Self::Sealing { name, .. } | Self::Keeping { name, .. } | Self::Complete { name, .. } => {
                Some(*name)
            }
            Self::Copying { name, .. } | Self::Deleting { name, .. } => *name,
            Self::Failed(_) => None,
        }
    }
}

/// A key's name as text.
mod key {
    use ::volume::crypt::KeyName;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(key: &Option<KeyName>, serializer: S) -> Result<S::Ok, S::Error> {
        match key {
            Some(key) => serializer.serialize_some(key.as_str()),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<KeyName>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// A folder of records.
#[derive(Debug)]
pub(super) struct Records {
    folder: PathBuf,
}

impl Records {
    /// The records in a folder, which is made if there is none.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub(super) fn open(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// All of them. What was not written to its end is removed.
    ///
    /// # Errors
    /// When one cannot be read, or is none.
    pub(super) fn all<Id: FromStr + Ord, T: DeserializeOwned>(&self) -> anyhow::Result<BTreeMap<Id, T>> {
        let mut all = BTreeMap::new();
        for entry in self.folder.read_dir().with_context(|| self.cannot("read"))? {
            let path = entry.with_context(|| self.cannot("read"))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.ends_with(NEW) {
                match fs::remove_file(&path) {
                    // Who was before has written it to its end.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    removed => removed.with_context(|| format!("cannot remove {}", path.display()))?,
                }
            } else if let Some(id) = name.strip_suffix(SUFFIX).and_then(|id| id.parse().ok()) {
                let read = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                let record = serde_json::from_slice(&read);
                all.insert(id, record.with_context(|| format!("{} is damaged", path.display()))?);
            }
        }
        Ok(all)
    }

    /// Puts a record in the place of what is there; it is durable then.
    ///
    /// # Errors
    /// When the host fails; then the one before counts, or this one.
    pub(super) fn put(&self, id: impl ToString, record: &impl Serialize) -> anyhow::Result<()> {
        let id = id.to_string();
        let (new, path) = (self.folder.join(format!("{id}{NEW}")), self.folder.join(format!("{id}{SUFFIX}")));
        let put = || -> io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            self.sync()
        };
        put().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes a record, if there is one.
    ///
    /// # Errors
    /// When the host fails.
    pub(super) fn remove(&self, id: impl ToString) -> anyhow::Result<()> {
        let path = self.folder.join(format!("{}{SUFFIX}", id.to_string()));
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| self.sync()),
        };
        removed.with_context(|| format!("cannot remove {}", path.display()))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    fn cannot(&self, what: &str) -> String {
        format!("cannot {what} the folder {}", self.folder.display())
    }
}

#[cfg(test)]
mod tests {
    use types::{RandomId as _, VolumeKind};

    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_put_and_what_was_half_put_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        let (one, other) = (SnapshotId::from_random([1; 16]), SnapshotId::from_random([2; 16]));
        let name: SnapshotName = format!("{:032x}-{:032x}", 1, 2).parse().unwrap();
        let complete =
            SnapshotRecord::Complete { name, key: Some("arn:aws:kms:x:1:alias/aws/ebs".parse().unwrap()) };
        let deleting = SnapshotRecord::Deleting { volume: None, name: Some(name) };
        records.put(one, &deleting).unwrap();
        records.put(one, &complete).unwrap();
        records.put(other, &deleting).unwrap();
        fs::write(folder.path().join(format!("{other}{NEW}")), "{").unwrap();
        let all: BTreeMap<SnapshotId, SnapshotRecord> = records.all().unwrap();
        assert_eq!(all, BTreeMap::from([(one, complete), (other, deleting)]));
        assert_eq!(folder.path().read_dir().unwrap().count(), 2);
        records.remove(other).unwrap();
        records.remove(other).unwrap();
        assert_eq!(records.all::<SnapshotId, SnapshotRecord>().unwrap().len(), 1);
        fs::write(folder.path().join(format!("{other}{SUFFIX}")), "{").unwrap();
        let error = records.all::<SnapshotId, SnapshotRecord>().unwrap_err();
        assert!(error.to_string().contains("is damaged"), "{error}");
    }

    #[test]
    fn a_volumes_record_is_text_that_people_can_read() {
        let spec = VolumeSpec { kind: VolumeKind::Gp3, size_gib: 8, iops: None, throughput_mib_s: None };
        let stage = VolumeStage::Making;
        let record = VolumeRecord { spec, snapshot: None, key: None, is_changing: false, stage };
        let text = serde_json::to_string(&record).unwrap();
        assert!(text.contains(r#""stage":"making""#), "{text}");
        assert_eq!(serde_json::from_str::<VolumeRecord>(&text).unwrap(), record);
    }
}
