//! Access keys, and whose they are.

use std::sync::Arc;

use aws::sigv4::{Credential, Credentials};
use types::AccountId;

/// The access keys of a simulation: known to everybody, for there is nothing to be kept from anybody.
pub(super) struct Simulated {
    account: AccountId,
}

impl Simulated {
    const KEY: &str = "test";

    pub(super) fn new(account: AccountId) -> Self {
        Self { account }
    }
}

impl Credentials for Simulated {
    fn find(&self, access_key: &str) -> Option<Credential> {
        let account = if access_key == Self::KEY { self.account } else { access_key.parse().ok()? };
        let account: Arc<str> = account.to_string().into();
        Some(Credential {
            secret: Self::KEY.to_owned(),
            session_token: None,
            arn: format!("arn:aws:iam::{account}:root").into(),
            user_id: account.clone(),
            account,
        })
    }
}
