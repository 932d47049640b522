//! Versions of templates. What one holds is kept as it came, by the names of EC2's model.

use aws::filters::{Filtered, Values};
use aws::page::Page;
use aws::{Call, Error, ec2, kept};
use serde_json::Value;

use super::template::no_version;
use super::{latest, named, number, versions};
use crate::ec2::row::{Row, read_filters};
use crate::records::{LaunchTemplate, LaunchTemplateVersion, VersionId};
use crate::state::{Transaction, View};

/// Puts a version that holds this.
///
/// # Errors
/// When it holds nothing.
pub(super) fn put(
    tx: &mut Transaction<'_>,
    id: VersionId,
    description: Option<String>,
    data: &ec2::RequestLaunchTemplateData,
) -> Result<(), Error> {
    put_json(tx, id, description, written(data)?)
}

fn put_json(
    tx: &mut Transaction<'_>,
    id: VersionId,
    description: Option<String>,
    data: Value,
) -> Result<(), Error> {
    if data.as_object().is_none_or(serde_json::Map::is_empty) {
        return Err(Error::new("MissingParameter", "The launch template data must say something."));
    }
    let created = tx.now();
    tx.put(LaunchTemplateVersion { id, description, created, data });
    Ok(())
}

/// Without what says nothing: a list without elements.
fn written(data: &ec2::RequestLaunchTemplateData) -> Result<Value, Error> {
    let mut json: Value = serde_json::from_slice(&kept::to_json(data)).map_err(|_| Error::internal())?;
    if let Some(members) = json.as_object_mut() {
        members.retain(|_, value| value.as_array().is_none_or(|list| !list.is_empty()));
    }
    Ok(json)
}

pub(super) fn create(
    tx: &mut Transaction<'_>,
    input: ec2::CreateLaunchTemplateVersionRequest,
) -> Result<ec2::CreateLaunchTemplateVersionResult, Error> {
    let view = tx.view();
    let template = named(view, input.launch_template_id.as_deref(), input.launch_template_name.as_deref())?;
    let mut data = match &input.source_version {
        Some(text) => find(view, template, text)?.data.clone(),
        None => Value::Object(serde_json::Map::new()),
    };
    // What the request says stands instead of what the source says.
    if let (Some(data), Value::Object(changes)) =
        (data.as_object_mut(), written(&input.launch_template_data)?)
    {
        data.extend(changes);
    }
    let id = VersionId { template: template.id, number: template.last_version + 1 };
    put_json(tx, id, input.version_description, data)?;
    tx.update::<LaunchTemplate>(id.template, |template| template.last_version = id.number);
    let view = tx.view();
    let made = view.get::<LaunchTemplate>(id.template).zip(view.get::<LaunchTemplateVersion>(id));
    let launch_template_version =
        made.map(|(template, version)| shown(view, template, version)).transpose()?;
    Ok(ec2::CreateLaunchTemplateVersionResult { launch_template_version, ..Default::default() })
}

pub(super) fn delete(
    tx: &mut Transaction<'_>,
    input: ec2::DeleteLaunchTemplateVersionsRequest,
) -> Result<ec2::DeleteLaunchTemplateVersionsResult, Error> {
    let template =
        named(tx.view(), input.launch_template_id.as_deref(), input.launch_template_name.as_deref())?.clone();
    let (mut deleted, mut left) = (Vec::new(), Vec::new());
    for text in &input.versions {
        let id = VersionId {
            template: template.id,
            number: text.parse().map_err(|_| no_version(&template, text))?,
        };
        let (launch_template_id, launch_template_name) =
            (Some(template.id.to_string()), Some(template.name.clone()));
        let version_number = Some(number(id.number));
        let error = if id.number == template.default_version {
            let message = "You cannot delete the default version of a launch template.";
            Some((ec2::LaunchTemplateErrorCode::UnexpectedError, message.to_owned()))
        } else if tx.get::<LaunchTemplateVersion>(id).is_none() {
            let message = no_version(&template, text).message;
            Some((ec2::LaunchTemplateErrorCode::LaunchTemplateVersionDoesNotExist, message))
        } else {
            tx.remove::<LaunchTemplateVersion>(id);
            None
        };
        match error {
            None => deleted.push(ec2::DeleteLaunchTemplateVersionsResponseSuccessItem {
                launch_template_id,
                launch_template_name,
                version_number,
            }),
            Some((code, message)) => left.push(ec2::DeleteLaunchTemplateVersionsResponseErrorItem {
                launch_template_id,
                launch_template_name,
                version_number,
                response_error: Some(ec2::ResponseError { code: Some(code), message: Some(message) }),
            }),
        }
    }
    Ok(ec2::DeleteLaunchTemplateVersionsResult {
        successfully_deleted_launch_template_versions: Some(deleted),
        unsuccessfully_deleted_launch_template_versions: Some(left),
    })
}

/// The version that a text names: a number, `$Latest` or `$Default`.
///
/// # Errors
/// When there is none.
pub(super) fn find<'a>(
    view: View<'a>,
    template: &LaunchTemplate,
    text: &str,
) -> Result<&'a LaunchTemplateVersion, Error> {
    let number = match text {
        "$Latest" => Some(latest(view, template)),
        "$Default" => Some(template.default_version),
        _ => text.parse().ok(),
    };
    let id = number.map(|number| VersionId { template: template.id, number });
    id.and_then(|id| view.get(id)).ok_or_else(|| no_version(template, text))
}

/// What a request to launch instances holds that names a template: which version that is, and its data by the names of the model.
///
/// # Errors
/// When there is no such template, or version.
pub(crate) fn data(
    view: View<'_>,
    named_by: &ec2::LaunchTemplateSpecification,
) -> Result<(VersionId, Value), Error> {
    let template =
        named(view, named_by.launch_template_id.as_deref(), named_by.launch_template_name.as_deref())?;
    let version = find(view, template, named_by.version.as_deref().unwrap_or("$Default"))?;
    Ok((version.id, version.data.clone()))
}

pub(super) fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribeLaunchTemplateVersionsRequest>,
) -> Result<ec2::DescribeLaunchTemplateVersionsResult, Error> {
    let input = &call.input;
    let filters = read_filters::<Row<'_, LaunchTemplateVersion>>(&input.filters)?;
    let mut found: Vec<(&LaunchTemplate, &LaunchTemplateVersion)> = Vec::new();
    if input.launch_template_id.is_none() && input.launch_template_name.is_none() {
        all_latest_or_default(view, &input.versions, &mut found)?;
    } else {
        let template =
            named(view, input.launch_template_id.as_deref(), input.launch_template_name.as_deref())?;
        for text in &input.versions {
            found.push((template, find(view, template, text)?));
        }
        if input.versions.is_empty() {
            let bound = |text: &Option<String>| {
                text.as_ref().map(|text| find_bound(view, template, text)).transpose()
            };
            let (min, max) =
                (bound(&input.min_version)?.unwrap_or(0), bound(&input.max_version)?.unwrap_or(u64::MAX));
            let within = |version: &&LaunchTemplateVersion| (min..=max).contains(&version.id.number);
            found.extend(
                versions(view, template).into_iter().filter(within).map(|version| (template, version)),
            );
        }
    }
    found.sort_by_key(|(_, version)| version.id);
    found.dedup_by_key(|(_, version)| version.id);
    found.retain(|(_, record)| filters.admit(&Row { view, record: *record }));
    let page = Page::of::<ec2::DescribeLaunchTemplateVersions>(call)?;
    let key = |(_, version): &(&LaunchTemplate, &LaunchTemplateVersion)| {
        format!("{}/{:020}", version.id.template, version.id.number)
    };
    let (found, next_token) = page.take(found, key);
    let shown: Result<_, Error> =
        found.into_iter().map(|(template, version)| shown(view, template, version)).collect();
    Ok(ec2::DescribeLaunchTemplateVersionsResult { launch_template_versions: Some(shown?), next_token })
}

/// Of all templates, only the latest and the default versions can be asked for.
fn all_latest_or_default<'a>(
    view: View<'a>,
    texts: &[String],
    found: &mut Vec<(&'a LaunchTemplate, &'a LaunchTemplateVersion)>,
) -> Result<(), Error> {
    if texts.is_empty() || texts.iter().any(|text| text != "$Latest" && text != "$Default") {
        let message =
            "You must specify a launch template id or name, or only the versions $Latest and $Default.";
        return Err(Error::new("InvalidParameterValue", message));
    }
    for template in view.tables().launch_templates.iter() {
        for text in texts {
            found.push((template, find(view, template, text)?));
        }
    }
    Ok(())
}

/// The number of a version that there need not be.
fn find_bound(view: View<'_>, template: &LaunchTemplate, text: &str) -> Result<u64, Error> {
    match text.parse() {
        Ok(number) => Ok(number),
        Err(_) => Ok(find(view, template, text)?.id.number),
    }
}

fn shown(
    view: View<'_>,
    template: &LaunchTemplate,
    version: &LaunchTemplateVersion,
) -> Result<ec2::LaunchTemplateVersion, Error> {
    let data = kept::from_json(version.data.to_string().as_bytes()).map_err(|error| {
        tracing::error!("launch template {}: {error}", version.id);
        Error::internal()
    })?;
    Ok(ec2::LaunchTemplateVersion {
        launch_template_id: Some(template.id.to_string()),
        launch_template_name: Some(template.name.clone()),
        version_number: Some(number(version.id.number)),
        version_description: version.description.clone(),
        create_time: Some(version.created),
        created_by: Some(format!("arn:aws:iam::{}:root", view.space.account)),
        default_version: Some(version.id.number == template.default_version),
        launch_template_data: Some(data),
        ..Default::default()
    })
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeLaunchTemplateVersions.html>.
impl Filtered for Row<'_, LaunchTemplateVersion> {
    const NAMES: &'static [&'static str] =
        &["create-time", "ebs-optimized", "image-id", "instance-type", "is-default-version"];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        let Row { view, record: version } = *self;
        match name {
            "create-time" => values.text(&version.created.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
            "ebs-optimized" => values.flag(version.data["EbsOptimized"] == Value::Bool(true)),
            "image-id" => version.data["ImageId"].as_str().iter().for_each(|id| values.text(id)),
            "instance-type" => {
                version.data["InstanceType"].as_str().iter().for_each(|name| values.text(name))
            }
            _ => {
                let template = view.get::<LaunchTemplate>(version.id.template);
                values.flag(template.is_some_and(|template| template.default_version == version.id.number));
            }
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        None::<std::iter::Empty<_>>
    }
}
