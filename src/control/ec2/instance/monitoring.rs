//! Whether an instance's metrics come every minute, and not every five.

use aws::{Error, ec2};

use super::{all_named, show};
use crate::records::Instance;
use crate::state::Transaction;

pub(super) fn monitor(
    tx: &mut Transaction<'_>,
    input: ec2::MonitorInstancesRequest,
) -> Result<ec2::MonitorInstancesResult, Error> {
    let instance_monitorings = Some(set(tx, &input.instance_ids, true)?);
    Ok(ec2::MonitorInstancesResult { instance_monitorings })
}

pub(super) fn unmonitor(
    tx: &mut Transaction<'_>,
    input: ec2::UnmonitorInstancesRequest,
) -> Result<ec2::UnmonitorInstancesResult, Error> {
    let instance_monitorings = Some(set(tx, &input.instance_ids, false)?);
    Ok(ec2::UnmonitorInstancesResult { instance_monitorings })
}

fn set(
    tx: &mut Transaction<'_>,
    texts: &[String],
    is_monitored: bool,
) -> Result<Vec<ec2::InstanceMonitoring>, Error> {
    let ids = all_named(tx, texts)?;
    for id in &ids {
        tx.update::<Instance>(*id, |instance| instance.is_monitored = is_monitored);
    }
    let shown = |id: types::InstanceId| ec2::InstanceMonitoring {
        instance_id: Some(id.to_string()),
        monitoring: Some(show::monitoring(is_monitored)),
    };
    Ok(ids.into_iter().map(shown).collect())
}
