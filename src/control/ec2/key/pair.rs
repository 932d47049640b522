//! Key pairs by name.

use aws::filters::{Filtered, Values};
use aws::{Call, Error, ec2};
use types::KeyPairId;

use super::material::{self, Made, Public};
use crate::ec2::errors::{id, invalid_value, missing, not_found};
use crate::ec2::row::{Row, select};
use crate::ec2::tags;
use crate::records::{KeyPair, KeyType};
use crate::state::{Transaction, View};

const NAME_CHARS_MAX: usize = 255;

/// Of an account in a region. Source: <https://docs.aws.amazon.com/general/latest/gr/ec2-service.html>.
const PAIRS_MAX: usize = 5000;

/// Makes the keys.
pub(super) fn prepare(input: &ec2::CreateKeyPairRequest) -> Result<Made, Error> {
    check_name(&input.key_name)?;
    if input.key_format == Some(ec2::KeyFormat::Ppk) {
        let message = "nimbo gives private keys as PEM; puttygen makes a PPK file of it.";
        return Err(Error::new("UnsupportedOperation", message));
    }
    material::make(match input.key_type {
        Some(ec2::KeyType::Ed25519) => KeyType::Ed25519,
        Some(ec2::KeyType::Rsa) | None => KeyType::Rsa,
    })
}

pub(super) fn create(
    tx: &mut Transaction<'_>,
    input: ec2::CreateKeyPairRequest,
    made: Made,
) -> Result<ec2::KeyPair, Error> {
    let id = keep(tx, input.key_name, &input.tag_specifications, made.public)?;
    let pair = tx.get::<KeyPair>(id).ok_or_else(|| not_found(id))?;
    Ok(ec2::KeyPair {
        key_pair_id: Some(id.to_string()),
        tags: tags::shown(&tx.view(), id),
        key_name: Some(pair.name.clone()),
        key_fingerprint: Some(pair.fingerprint.clone()),
        key_material: Some(made.private),
    })
}

pub(super) fn import(
    tx: &mut Transaction<'_>,
    input: ec2::ImportKeyPairRequest,
) -> Result<ec2::ImportKeyPairResult, Error> {
    check_name(&input.key_name)?;
    let public = material::read(&input.public_key_material)?;
    let id = keep(tx, input.key_name, &input.tag_specifications, public)?;
    let pair = tx.get::<KeyPair>(id).ok_or_else(|| not_found(id))?;
    Ok(ec2::ImportKeyPairResult {
        key_fingerprint: Some(pair.fingerprint.clone()),
        key_name: Some(pair.name.clone()),
        key_pair_id: Some(id.to_string()),
        tags: tags::shown(&tx.view(), id),
    })
}

fn check_name(name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(missing("KeyName"));
    }
    let is_plain = name.chars().all(|char| char.is_ascii_graphic() || char == ' ');
    if !is_plain || name.len() > NAME_CHARS_MAX || name.trim() != name {
        let why = format!(
            "Names of key pairs have at most {NAME_CHARS_MAX} ASCII characters, and no spaces around them."
        );
        return Err(invalid_value(name, "keyName", why));
    }
    Ok(())
}

fn keep(
    tx: &mut Transaction<'_>,
    name: String,
    tag_specifications: &[ec2::TagSpecification],
    public: Public,
) -> Result<KeyPairId, Error> {
    let tags = tags::specified(tag_specifications, "key-pair")?;
    if by_name(tx.view(), &name).is_some() {
        return Err(Error::new("InvalidKeyPair.Duplicate", format!("The keypair '{name}' already exists.")));
    }
    if tx.tables().key_pairs.iter().len() >= PAIRS_MAX {
        let message = format!("An account has at most {PAIRS_MAX} key pairs in a region.");
        return Err(Error::new("KeyPairLimitExceeded", message));
    }
    let id: KeyPairId = tx.new_id();
    let Public { key_type, fingerprint, line } = public;
    tx.put(KeyPair { id, name, key_type, fingerprint, public_key: line, created: tx.now() });
    tags::add(tx, id, tags)?;
    Ok(id)
}

/// The key pair that instances are launched with by this name.
pub(in crate::ec2) fn by_name<'a>(view: View<'a>, name: &str) -> Option<&'a KeyPair> {
    view.tables().key_pairs.iter().find(|pair| pair.name == name).map(AsRef::as_ref)
}

/// A name that nothing has is no error: what is wanted is so.
pub(super) fn delete(
    tx: &mut Transaction<'_>,
    input: ec2::DeleteKeyPairRequest,
) -> Result<ec2::DeleteKeyPairResult, Error> {
    let found = match (&input.key_pair_id, &input.key_name) {
        (Some(text), None) => {
            let wanted: KeyPairId = id(text)?;
            tx.get::<KeyPair>(wanted).map(|pair| pair.id)
        }
        (None, Some(name)) => by_name(tx.view(), name).map(|pair| pair.id),
        (Some(_), Some(_)) => {
            let message = "The parameters KeyName and KeyPairId cannot be used together.";
            return Err(Error::new("InvalidParameterCombination", message));
        }
        (None, None) => return Err(missing("KeyName or KeyPairId")),
    };
    if let Some(found) = found {
        tx.remove::<KeyPair>(found);
    }
    let key_pair_id = found.map(|found| found.to_string());
    Ok(ec2::DeleteKeyPairResult { r#return: Some(true), key_pair_id })
}

pub(super) fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribeKeyPairsRequest>,
) -> Result<ec2::DescribeKeyPairsResult, Error> {
    let mut ids = call.input.key_pair_ids.clone();
    for name in &call.input.key_names {
        let pair = by_name(view, name).ok_or_else(|| {
            Error::new("InvalidKeyPair.NotFound", format!("The key pair '{name}' does not exist"))
        })?;
        ids.push(pair.id.to_string());
    }
    let with_key = call.input.include_public_key == Some(true);
    let rows = select::<KeyPair>(view, &ids, &call.input.filters)?;
    let key_pairs = Some(rows.iter().map(|row| shown(row, with_key)).collect());
    Ok(ec2::DescribeKeyPairsResult { key_pairs })
}

fn shown(row: &Row<'_, KeyPair>, with_key: bool) -> ec2::KeyPairInfo {
    let Row { view, record: pair } = *row;
    ec2::KeyPairInfo {
        key_pair_id: Some(pair.id.to_string()),
        key_type: Some(match pair.key_type {
            KeyType::Rsa => ec2::KeyType::Rsa,
            KeyType::Ed25519 => ec2::KeyType::Ed25519,
        }),
        tags: Some(tags::shown(&view, pair.id).unwrap_or_default()),
        // As AWS does it, with the name where a comment stands.
        public_key: with_key.then(|| format!("{} {}\n", pair.public_key, pair.name)),
        create_time: Some(pair.created),
        key_name: Some(pair.name.clone()),
        key_fingerprint: Some(pair.fingerprint.clone()),
    }
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeKeyPairs.html>.
impl Filtered for Row<'_, KeyPair> {
    const NAMES: &'static [&'static str] = &["fingerprint", "key-name", "key-pair-id"];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        let pair = self.record;
        match name {
            "fingerprint" => values.text(&pair.fingerprint),
            "key-name" => values.text(&pair.name),
            "key-pair-id" => values.shown(pair.id),
            _ => unreachable!("{name} is no filter of key pairs"),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        self.tag_pairs()
    }
}
