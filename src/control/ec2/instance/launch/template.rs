//! What a request says, and what the launch template says that it names.

use aws::{Error, ec2, kept};
use serde_json::Value;

use crate::ec2::launch_template;
use crate::state::View;

/// The request with what its template says where it says nothing itself.
///
/// # Errors
/// When there is no such template, or what it holds is nothing to launch.
pub(super) fn resolved(
    view: View<'_>,
    input: ec2::RunInstancesRequest,
) -> Result<ec2::RunInstancesRequest, Error> {
    let Some(named_by) = &input.launch_template else { return Ok(input) };
    // Both are by the names of the same model, and what they have in common is called the same.
    let mut whole = launch_template::data(view, named_by)?;
    let request: Value = serde_json::from_slice(&kept::to_json(&input)).map_err(|_| Error::internal())?;
    if let (Some(whole), Value::Object(request)) = (whole.as_object_mut(), request) {
        let says_something = |value: &Value| value.as_array().is_none_or(|list| !list.is_empty());
        whole.extend(request.into_iter().filter(|(_, value)| says_something(value)));
    }
    kept::from_json(whole.to_string().as_bytes()).map_err(|why| {
        Error::new("InvalidLaunchTemplateData", format!("The launch template cannot be launched: {why}"))
    })
}
