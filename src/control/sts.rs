//! AWS Security Token Service: who is calling.

use std::sync::Arc;

use aws::{Call, Error, Table, sts};

use crate::plane::Plane;

/// The operations of STS that are served.
pub(crate) fn serve(table: Table<Arc<Plane>>) -> Table<Arc<Plane>> {
    table.serve_now::<sts::GetCallerIdentity>(identity)
}

fn identity(
    _: Arc<Plane>,
    call: Call<sts::GetCallerIdentityRequest>,
) -> Result<sts::GetCallerIdentityResponse, Error> {
    Ok(sts::GetCallerIdentityResponse {
        user_id: Some(call.caller.user_id.to_string()),
        account: Some(call.caller.account.to_string()),
        arn: Some(call.caller.arn.to_string()),
    })
}
