//! Launch templates: what to launch instances with, by a name and a version.

mod template;
mod version;

use std::fmt::Display;
use std::sync::Arc;

use aws::{Error, Table, ec2};
use types::LaunchTemplateId;

use crate::plane::{Plane, Serve as _};
use crate::records::{LaunchTemplate, LaunchTemplateVersion};
use crate::state::View;

pub(crate) use version::data;

pub(super) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table
        .changes::<ec2::CreateLaunchTemplate>(template::create)
        .changes::<ec2::CreateLaunchTemplateVersion>(version::create)
        .changes::<ec2::DeleteLaunchTemplate>(template::delete)
        .changes::<ec2::DeleteLaunchTemplateVersions>(version::delete)
        .looks::<ec2::DescribeLaunchTemplateVersions>(version::describe)
        .looks::<ec2::DescribeLaunchTemplates>(template::describe)
        .changes::<ec2::ModifyLaunchTemplate>(template::modify)
}

/// The template that a request names, by its id or by its name.
///
/// # Errors
/// When it is named in both ways or none, and when there is none.
pub(crate) fn named<'a>(
    view: View<'a>,
    id: Option<&str>,
    name: Option<&str>,
) -> Result<&'a LaunchTemplate, Error> {
    match (id, name) {
        (Some(text), None) => {
            let id: LaunchTemplateId = text.parse().map_err(|_| malformed(text))?;
            view.get(id).ok_or_else(|| not_found(text))
        }
        (None, Some(name)) => by_name(view, name).ok_or_else(|| {
            let message =
                format!("The specified launch template, with template name {name}, does not exist.");
            Error::new("InvalidLaunchTemplateName.NotFoundException", message)
        }),
        (Some(_), Some(_)) => {
            let message = "Specify either a launch template id or a launch template name, not both.";
            Err(Error::new("InvalidParameterCombination", message))
        }
        (None, None) => {
            Err(Error::new("MissingParameter", "Specify a launch template id or a launch template name."))
        }
    }
}

fn by_name<'a>(view: View<'a>, name: &str) -> Option<&'a LaunchTemplate> {
    view.tables().launch_templates.iter().find(|template| template.name == name).map(AsRef::as_ref)
}

fn malformed(text: &str) -> Error {
    Error::new("InvalidLaunchTemplateId.Malformed", format!("Invalid launch template ID: \"{text}\""))
}

pub(super) fn not_found(template: impl Display) -> Error {
    let message = format!("The specified launch template, with template ID {template}, does not exist.");
    Error::new("InvalidLaunchTemplateId.NotFound", message)
}

/// A template's versions, the oldest first.
fn versions<'a>(view: View<'a>, template: &LaunchTemplate) -> Vec<&'a LaunchTemplateVersion> {
    view.tables().launch_template_versions.linked_to(template.id).map(AsRef::as_ref).collect()
}

/// The number of the latest version that there is.
fn latest(view: View<'_>, template: &LaunchTemplate) -> u64 {
    versions(view, template).last().map_or(template.last_version, |version| version.id.number)
}

fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
