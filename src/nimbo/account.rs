//! `nimbo account`: who may use the API.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use types::AccountId;

use crate::credentials_file;
use crate::serve::state_folder::{self, make_folder};

const ADD_EXAMPLES: &str = "\
A server that runs takes the new keys at once. To take keys away, remove their section from the file.

Exit status:
  0  the keys are in the file credentials of the state folder, in a section of the account's name
  1  they are not; a message tells why

Examples:
  nimbo account add 111122223333
  nimbo account add 111122223333 --name ci
  eval \"$(nimbo env --profile 111122223333)\"";

#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum Command {
    /// Makes access keys for an account
    Add(AddArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = ADD_EXAMPLES)]
pub(crate) struct AddArgs {
    /// Twelve digits
    account: AccountId,
    /// What to call the section [default: the account]
    #[arg(long)]
    name: Option<String>,
    /// The state folder of the server
    #[arg(long, value_name = "FOLDER", default_value = state_folder::DEFAULT)]
    state: PathBuf,
}

pub(crate) fn main(command: &Command) -> anyhow::Result<ExitCode> {
    let Command::Add(args) = command;
    let name = args.name.clone().unwrap_or_else(|| args.account.to_string());
    if name.is_empty() || !name.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter))
    {
        bail!("{name:?} is no name of a section: it may have letters, digits, `-`, `_` and `.`");
    }
    make_folder(&args.state)
        .with_context(|| format!("cannot make the state folder {}", args.state.display()))?;
    let path = args.state.join(credentials_file::NAME);
    credentials_file::add(&path, &name, args.account)?;
    println!("[{name}] in {}", path.display());
    Ok(ExitCode::SUCCESS)
}
