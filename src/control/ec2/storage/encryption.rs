//! By which keys volumes and snapshots are encrypted.
//!
//! A key is known by its name. Clients may say it as KMS has it: an ARN, an id, an alias; it is kept and shown as an ARN.
//!
//! Source: <https://docs.aws.amazon.com/ebs/latest/userguide/encryption-by-default.html>.

use aws::{Call, Error, ec2};

use crate::ec2::errors::invalid_value;
use crate::records::{StorageSettings, StorageSettingsId};
use crate::state::{Transaction, View};

/// What a region's own key is called.
const OWN_KEY: &str = "alias/aws/ebs";

/// The ARN of a key that a request names.
///
/// # Errors
/// When that names no key of this region.
pub(super) fn key(view: View<'_>, text: &str) -> Result<String, Error> {
    let wrong = |why: &str| Err(invalid_value(text, "KmsKeyId", why));
    let is_name = |name: &str| {
        !name.is_empty()
            && name.len() <= 256
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_/:".contains(&b))
    };
    let Some(arn) = text.strip_prefix("arn:") else {
        if !is_name(text) || text.contains(':') {
            return wrong("It is no name, alias or ARN of a key.");
        }
        return Ok(arn_of(view, text));
    };
    let parts: Vec<&str> = arn.splitn(5, ':').collect();
    let ["aws", "kms", region, account, name] = parts[..] else { return wrong("It is no ARN of a key.") };
    let is_key = name.strip_prefix("key/").or_else(|| name.strip_prefix("alias/")).is_some_and(is_name);
    if !is_key || account.parse::<types::AccountId>().is_err() {
        return wrong("It is no ARN of a key.");
    }
    if region != view.space.region.name() {
        return wrong("The key is in another region.");
    }
    Ok(text.to_owned())
}

fn arn_of(view: View<'_>, name: &str) -> String {
    let (region, account) = (view.space.region, view.space.account);
    if name.starts_with("alias/") {
        return format!("arn:aws:kms:{region}:{account}:{name}");
    }
    format!("arn:aws:kms:{region}:{account}:key/{name}")
}

/// The key of what is encrypted by none in particular.
pub(super) fn default_key(view: View<'_>) -> String {
    settings(view).default_key.unwrap_or_else(|| own_key(view))
}

/// The region's own key, which is not shared with other accounts.
pub(super) fn own_key(view: View<'_>) -> String {
    arn_of(view, OWN_KEY)
}

/// By which key something new is encrypted, if it is: `wanted` and `name` are what the request says, `source` is the key of what it is made
/// of, if the caller has that key.
///
/// # Errors
/// When the request contradicts itself.
pub(super) fn chosen(
    view: View<'_>,
    wanted: Option<bool>,
    name: Option<&str>,
    source: Source<'_>,
) -> Result<Option<String>, Error> {
    let by_default = settings(view).encrypts_by_default;
    let must = by_default || source != Source::Plain;
    if wanted == Some(false) && source != Source::Plain {
        let message = "Encrypted cannot be false: what it is made of is encrypted.";
        return Err(Error::new("InvalidParameterCombination", message));
    }
    if name.is_some() && wanted != Some(true) && (!must || wanted == Some(false)) {
        let message = "The parameter KmsKeyId requires the parameter Encrypted to be set.";
        return Err(Error::new("InvalidParameterDependency", message));
    }
    if !must && wanted != Some(true) {
        return Ok(None);
    }
    match (name, source) {
        (Some(name), _) => key(view, name).map(Some),
        (None, Source::Encrypted { key: Some(key) }) => Ok(Some(key.to_owned())),
        (None, _) => Ok(Some(default_key(view))),
    }
}

/// What something new is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source<'a> {
    Plain,
    /// None: by a key that another one shall not use, of another account or region.
    Encrypted {
        key: Option<&'a str>,
    },
}

pub(super) fn sse(key: Option<&String>) -> Option<ec2::SSEType> {
    key.map(|_| ec2::SSEType::SseKms)
}

fn settings(view: View<'_>) -> StorageSettings {
    view.get::<StorageSettings>(StorageSettingsId).cloned().unwrap_or_default()
}

/// What is not told otherwise is not kept.
fn change(tx: &mut Transaction<'_>, change: impl FnOnce(&mut StorageSettings)) {
    let mut settings = settings(tx.view());
    change(&mut settings);
    if settings == StorageSettings::default() {
        tx.remove::<StorageSettings>(StorageSettingsId);
    } else {
        tx.put(settings);
    }
}

pub(super) fn enable(
    tx: &mut Transaction<'_>,
    _: ec2::EnableEbsEncryptionByDefaultRequest,
) -> Result<ec2::EnableEbsEncryptionByDefaultResult, Error> {
    change(tx, |settings| settings.encrypts_by_default = true);
    Ok(ec2::EnableEbsEncryptionByDefaultResult { ebs_encryption_by_default: Some(true) })
}

pub(super) fn disable(
    tx: &mut Transaction<'_>,
    _: ec2::DisableEbsEncryptionByDefaultRequest,
) -> Result<ec2::DisableEbsEncryptionByDefaultResult, Error> {
    change(tx, |settings| settings.encrypts_by_default = false);
    Ok(ec2::DisableEbsEncryptionByDefaultResult { ebs_encryption_by_default: Some(false) })
}

pub(super) fn get(
    view: View<'_>,
    _: &Call<ec2::GetEbsEncryptionByDefaultRequest>,
) -> Result<ec2::GetEbsEncryptionByDefaultResult, Error> {
    let is_on = settings(view).encrypts_by_default;
    let sse_type = if is_on { ec2::SSEType::SseKms } else { ec2::SSEType::None };
    Ok(ec2::GetEbsEncryptionByDefaultResult {
        ebs_encryption_by_default: Some(is_on),
        sse_type: Some(sse_type),
    })
}

fn shown_default(view: View<'_>) -> Option<String> {
    Some(settings(view).default_key.unwrap_or_else(|| OWN_KEY.to_owned()))
}

pub(super) fn get_key(
    view: View<'_>,
    _: &Call<ec2::GetEbsDefaultKmsKeyIdRequest>,
) -> Result<ec2::GetEbsDefaultKmsKeyIdResult, Error> {
    Ok(ec2::GetEbsDefaultKmsKeyIdResult { kms_key_id: shown_default(view) })
}

pub(super) fn modify_key(
    tx: &mut Transaction<'_>,
    input: ec2::ModifyEbsDefaultKmsKeyIdRequest,
) -> Result<ec2::ModifyEbsDefaultKmsKeyIdResult, Error> {
    let key = key(tx.view(), &input.kms_key_id)?;
    let is_own = key == own_key(tx.view());
    change(tx, |settings| settings.default_key = (!is_own).then_some(key));
    Ok(ec2::ModifyEbsDefaultKmsKeyIdResult { kms_key_id: shown_default(tx.view()) })
}

pub(super) fn reset_key(
    tx: &mut Transaction<'_>,
    _: ec2::ResetEbsDefaultKmsKeyIdRequest,
) -> Result<ec2::ResetEbsDefaultKmsKeyIdResult, Error> {
    change(tx, |settings| settings.default_key = None);
    Ok(ec2::ResetEbsDefaultKmsKeyIdResult { kms_key_id: shown_default(tx.view()) })
}
