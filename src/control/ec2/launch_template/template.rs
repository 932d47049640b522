//! Templates themselves.

use aws::filters::{Filtered, Values};
use aws::page::Page;
use aws::{Call, Error, ec2};
use types::LaunchTemplateId;

use super::{by_name, latest, malformed, named, not_found, number, version};
use crate::ec2::errors::invalid_value;
use crate::ec2::once::once;
use crate::ec2::row::{Row, read_filters};
use crate::ec2::tags;
use crate::records::{LaunchTemplate, LaunchTemplateVersion, VersionId};
use crate::state::{Transaction, View};

const NAME_CHARS: std::ops::RangeInclusive<usize> = 3..=128;

pub(super) fn create(
    tx: &mut Transaction<'_>,
    input: ec2::CreateLaunchTemplateRequest,
) -> Result<ec2::CreateLaunchTemplateResult, Error> {
    let id = once::<ec2::CreateLaunchTemplate, _>(tx, input, make)?;
    Ok(ec2::CreateLaunchTemplateResult { launch_template: shown_by_id(tx, id), ..Default::default() })
}

fn make(
    tx: &mut Transaction<'_>,
    input: ec2::CreateLaunchTemplateRequest,
) -> Result<LaunchTemplateId, Error> {
    let name = input.launch_template_name;
    let is_allowed = |character: char| character.is_ascii_alphanumeric() || "().-/_".contains(character);
    if !NAME_CHARS.contains(&name.chars().count()) || !name.chars().all(is_allowed) {
        let message = "Invalid launch template name. The name must be between 3 and 128 characters, and may contain letters, numbers, and the characters ().-/_.";
        return Err(Error::new("InvalidLaunchTemplateName.MalformedException", message));
    }
    if by_name(tx.view(), &name).is_some() {
        let message = "Launch template name already in use.";
        return Err(Error::new("InvalidLaunchTemplateName.AlreadyExistsException", message));
    }
    let tags = tags::specified(&input.tag_specifications, "launch-template")?;
    let id: LaunchTemplateId = tx.new_id();
    let created = tx.now();
    tx.put(LaunchTemplate { id, name, created, default_version: 1, last_version: 1 });
    let version = VersionId { template: id, number: 1 };
    version::put(tx, version, input.version_description, &input.launch_template_data)?;
    tags::add(tx, id, tags)?;
    Ok(id)
}

pub(super) fn delete(
    tx: &mut Transaction<'_>,
    input: ec2::DeleteLaunchTemplateRequest,
) -> Result<ec2::DeleteLaunchTemplateResult, Error> {
    let view = tx.view();
    let template = named(view, input.launch_template_id.as_deref(), input.launch_template_name.as_deref())?;
    let shown = shown(&Row { view, record: template });
    let id = template.id;
    let versions: Vec<VersionId> = super::versions(view, template).iter().map(|version| version.id).collect();
    versions.into_iter().for_each(|version| tx.remove::<LaunchTemplateVersion>(version));
    tx.remove::<LaunchTemplate>(id);
    Ok(ec2::DeleteLaunchTemplateResult { launch_template: Some(shown) })
}

pub(super) fn modify(
    tx: &mut Transaction<'_>,
    input: ec2::ModifyLaunchTemplateRequest,
) -> Result<ec2::ModifyLaunchTemplateResult, Error> {
    let view = tx.view();
    let template = named(view, input.launch_template_id.as_deref(), input.launch_template_name.as_deref())?;
    let id = template.id;
    if let Some(text) = input.default_version {
        let version = version::find(view, template, &text)?.id.number;
        tx.update::<LaunchTemplate>(id, |template| template.default_version = version);
    }
    Ok(ec2::ModifyLaunchTemplateResult { launch_template: shown_by_id(tx, id) })
}

pub(super) fn describe(
    view: View<'_>,
    call: &Call<ec2::DescribeLaunchTemplatesRequest>,
) -> Result<ec2::DescribeLaunchTemplatesResult, Error> {
    let input = &call.input;
    let filters = read_filters::<Row<'_, LaunchTemplate>>(&input.filters)?;
    let mut found = Vec::new();
    for text in &input.launch_template_ids {
        let id: LaunchTemplateId = text.parse().map_err(|_| malformed(text))?;
        found.push(view.get::<LaunchTemplate>(id).ok_or_else(|| not_found(text))?);
    }
    for name in &input.launch_template_names {
        found.push(named(view, None, Some(name))?);
    }
    if found.is_empty() {
        found.extend(view.tables().launch_templates.iter().map(AsRef::as_ref));
    }
    found.sort_by_key(|template| template.id);
    found.dedup_by_key(|template| template.id);
    let rows = found.into_iter().map(|record| Row { view, record }).filter(|row| filters.admit(row));
    let page = Page::of::<ec2::DescribeLaunchTemplates>(call)?;
    let (rows, next_token) = page.take(rows, |row| row.record.id.to_string());
    let launch_templates = Some(rows.iter().map(shown).collect());
    Ok(ec2::DescribeLaunchTemplatesResult { launch_templates, next_token })
}

fn shown_by_id(tx: &Transaction<'_>, id: LaunchTemplateId) -> Option<ec2::LaunchTemplate> {
    let view = tx.view();
    view.get::<LaunchTemplate>(id).map(|record| shown(&Row { view, record }))
}

fn shown(row: &Row<'_, LaunchTemplate>) -> ec2::LaunchTemplate {
    let Row { view, record: template } = *row;
    ec2::LaunchTemplate {
        launch_template_id: Some(template.id.to_string()),
        launch_template_name: Some(template.name.clone()),
        create_time: Some(template.created),
        created_by: Some(format!("arn:aws:iam::{}:root", view.space.account)),
        default_version_number: Some(number(template.default_version)),
        latest_version_number: Some(number(latest(view, template))),
        tags: tags::shown(&view, template.id),
        ..Default::default()
    }
}

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeLaunchTemplates.html>.
impl Filtered for Row<'_, LaunchTemplate> {
    const NAMES: &'static [&'static str] = &["create-time", "launch-template-name"];

    fn values(&self, name: &str, values: &mut Values<'_>) {
        match name {
            "create-time" => values.text(&self.record.created.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
            _ => values.text(&self.record.name),
        }
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        self.tag_pairs()
    }
}

/// Why there is no such version.
pub(super) fn no_version(template: &LaunchTemplate, text: &str) -> Error {
    if text.parse::<u64>().is_err() {
        return invalid_value(text, "version", "It is a number, $Latest or $Default.");
    }
    let message = format!(
        "Could not find the specified version {text} for the launch template with ID {}.",
        template.id
    );
    Error::new("InvalidLaunchTemplateId.VersionNotFound", message)
}
