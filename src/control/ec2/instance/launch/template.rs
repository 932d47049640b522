//! What a request says, and what the launch template says that it names.

use std::collections::BTreeMap;

use aws::{Error, ec2, kept};
use serde_json::Value;

use crate::ec2::launch_template;
use crate::records::VersionId;
use crate::state::View;

/// The request with what its template says where it says nothing itself, and which template that is.
///
/// # Errors
/// When there is no such template, or what it holds is nothing to launch.
pub(super) fn resolved(
    view: View<'_>,
    input: ec2::RunInstancesRequest,
) -> Result<(ec2::RunInstancesRequest, Option<VersionId>), Error> {
    let Some(named_by) = &input.launch_template else { return Ok((input, None)) };
    // Both are by the names of the same model, and what they have in common is called the same.
    let (version, mut whole) = launch_template::data(view, named_by)?;
    let request: Value = serde_json::from_slice(&kept::to_json(&input)).map_err(|_| Error::internal())?;
    if let (Some(whole), Value::Object(request)) = (whole.as_object_mut(), request) {
        let says_something = |value: &Value| value.as_array().is_none_or(|list| !list.is_empty());
        whole.extend(request.into_iter().filter(|(_, value)| says_something(value)));
    }
    let resolved = kept::from_json(whole.to_string().as_bytes()).map_err(|why| {
        Error::new("InvalidLaunchTemplateData", format!("The launch template cannot be launched: {why}"))
    })?;
    Ok((resolved, Some(version)))
}

/// The tags by which an instance is known to be of a template.
///
/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/launch-instances-from-launch-template.html>.
pub(super) fn tags(version: VersionId) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("aws:ec2launchtemplate:id".to_owned(), version.template.to_string()),
        ("aws:ec2launchtemplate:version".to_owned(), version.number.to_string()),
    ])
}
