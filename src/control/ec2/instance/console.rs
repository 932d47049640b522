//! `GetConsoleOutput`: what a guest wrote to its console last.
//!
//! AWS keeps what it had after an instance's last change of state, and tells what is newer only if it is asked for `Latest`. Here
//! the newest is always at hand, and told either way.

use aws::{Call, Error, ec2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use types::InstanceId;

use crate::ec2::errors::{id, not_found};
use crate::ports::{BoxFuture, Machines};
use crate::records::{Instance, InstanceState};
use crate::state::View;

/// Whose console, and until when it may have said something.
pub(super) struct Question {
    id: InstanceId,
    until: Timestamp,
}

pub(super) fn question(view: View<'_>, call: &Call<ec2::GetConsoleOutputRequest>) -> Result<Question, Error> {
    let id: InstanceId = id(&call.input.instance_id)?;
    let instance = view.get::<Instance>(id).ok_or_else(|| not_found(id))?;
    let until = match instance.state {
        InstanceState::Stopped { since, .. } | InstanceState::Terminated { since, .. } => since,
        _ => view.now,
    };
    Ok(Question { id, until })
}

pub(super) fn ask(
    machines: &dyn Machines,
    question: Question,
) -> BoxFuture<'_, Result<ec2::GetConsoleOutputResult, Error>> {
    Box::pin(async move {
        let Question { id, until } = question;
        let output = machines.console(id).await.map_err(|error| {
            tracing::warn!(%id, "the console cannot be read: {error}");
            Error::internal()
        })?;
        Ok(ec2::GetConsoleOutputResult {
            instance_id: Some(id.to_string()),
            timestamp: Some(until),
            output: (!output.is_empty()).then(|| STANDARD.encode(output)),
        })
    })
}

#[cfg(test)]
mod tests {
    use types::RandomId as _;

    use super::*;
    use crate::simulation::Simulation;

    #[tokio::test]
    async fn what_the_host_has_is_told_in_base64() {
        let (machines, id) = (Simulation::default(), InstanceId::from_random([7; 16]));
        let told = async || {
            let answer = ask(&machines, Question { id, until: Timestamp::UNIX_EPOCH }).await.unwrap();
            (answer.instance_id.unwrap(), answer.output)
        };
        assert_eq!(told().await, (id.to_string(), None));
        machines.say(id, b"login: ");
        assert_eq!(told().await, (id.to_string(), Some("bG9naW46IA==".to_owned())));
    }
}
