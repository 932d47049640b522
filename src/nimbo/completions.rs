//! `nimbo completions`: what a shell needs to complete the command line.

use std::process::ExitCode;

use clap_complete::Shell;

const EXAMPLES: &str = "\
Exit status:
  0  printed

Examples:
  nimbo completions bash > /etc/bash_completion.d/nimbo
  nimbo completions zsh > ~/.zfunc/_nimbo
  nimbo completions fish > ~/.config/fish/completions/nimbo.fish";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(crate) fn main(args: &Args, mut command: clap::Command) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "nimbo", &mut script);
    print!("{}", String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}
