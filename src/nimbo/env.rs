//! `nimbo env`: what AWS's clients need to know.

use std::process::ExitCode;

use anyhow::Context as _;

use crate::client::{self, Which};

const EXAMPLES: &str = "\
A server that was started a moment ago is waited for. Its access keys are read from its state folder, which only the user that it runs as
may read; those of a simulation are `test` and `test`.

Exit status:
  0  told
  1  there is no server, or its access keys cannot be read: nothing is told, but on standard error
  2  the command line is wrong

Examples:
  eval \"$(nimbo env)\"
  aws ec2 describe-vpcs";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
}

pub(crate) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    // What was exported before may be of another server.
    let client = client::run(args.which.connect(false))?;
    let mut exports = vec![
        ("AWS_ENDPOINT_URL", client.endpoint.to_string()),
        ("AWS_REGION", client.region.to_string()),
        ("AWS_DEFAULT_REGION", client.region.to_string()),
        ("AWS_ACCESS_KEY_ID", client.keys.access_key),
        ("AWS_SECRET_ACCESS_KEY", client.keys.secret),
    ];
    if let Some(ca) = &client.ca {
        let ca = ca.canonicalize().with_context(|| format!("cannot find {}", ca.display()))?;
        exports.push(("AWS_CA_BUNDLE", ca.display().to_string()));
    }
    for (name, value) in exports {
        println!("export {name}={}", quoted(&value));
    }
    // Of another account, a token would be sent along.
    println!("unset AWS_SESSION_TOKEN AWS_PROFILE");
    Ok(ExitCode::SUCCESS)
}

/// A word of the shell.
fn quoted(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/+=@%".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_one_word() {
        assert_eq!(quoted("http://127.0.0.1:4566"), "http://127.0.0.1:4566");
        assert_eq!(quoted("/a folder/it's"), "'/a folder/it'\\''s'");
        assert_eq!(quoted(""), "''");
    }
}
