//! nimbo: the one binary. It only composes: every subcommand is a file here, what it is made of are the other crates.
//!
//! | command | is |
//! | --- | --- |
//! | `nimbo run` | one microVM in the foreground, with a network and metadata of its own |
//! | `nimbo serve` | the API of a region |
//! | `nimbo down` | what that has left running is ended |
//! | `nimbo capture`, `nimbo impair` | packets as they pass, and links made worse |
//! | `nimbo coverage` | what of AWS's API that serves |
//! | `nimbo status` | what it is, and what there is |
//! | `nimbo console`, `nimbo logs`, `nimbo ssh` | a guest's console, what it wrote there, a shell in it |
//! | `nimbo env` | what AWS's clients need to know of it |
//! | `nimbo account` | who may use it |
//! | `nimbo doctor` | what this machine lacks to run one |
//! | `nimbo image` | images built, and images imported |
//! | `nimbo volume` | volumes made, checked, copied, and served to other programs; their snapshots |
//! | `nimbo balancer` | one load balancer, without a cloud |
//! | `nimbo nfs` | one folder as a network file system, without a cloud |
//! | `nimbo zone` | zones that fail and recover |
//! | `nimbo notice` | what instances are told that is to become of them |
//! | `nimbo why` | what passes a packet between two ends, or stops it |
//! | `nimbo explain` | what is decided about an Auto Scaling group, and why |
//! | `nimbo completions` | what shells need to complete all this |
//! | `nimbo vmm` | the process of one microVM; others start it |

#![deny(unsafe_code)]

mod account;
mod balancer;
mod boot_source;
mod cache;
mod capture;
mod checkout;
mod client;
mod completions;
mod console;
mod coverage;
mod credentials_file;
mod doctor;
mod drops;
mod env;
mod explain;
mod failure;
mod host;
mod image;
mod impair;
mod interfaces;
mod logs;
mod microvm;
mod nfs;
mod notice;
mod progress;
mod quantity;
mod run;
mod serve;
mod signals;
mod socket;
mod ssh;
mod status;
#[allow(unsafe_code)]
mod sys;
mod table;
mod vhost_user;
mod vmm_process;
mod volume;
mod why;
mod zone;

use std::process::ExitCode;

use clap::{ArgAction, CommandFactory as _, Parser, Subcommand};
use tracing::level_filters::LevelFilter;

const EXAMPLES: &str = "\
Exit status:
  0  done
  1  an error, which was printed
  2  the command line is wrong
  Each subcommand's help tells what else it returns.

Examples:
  nimbo doctor
  nimbo run --image debian.qcow2 --user-data user-data.sh --publish 8080:80";

/// Runs real virtual machines from unmodified cloud images
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    /// Say more on standard error: -v what is done, -vv in detail
    #[arg(short, long, global = true, display_order = 900, action = ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

// What a subcommand takes is described when it is the one: to describe all of them takes as long as to start a process.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum Command {
    /// Boots a disk image as a virtual machine, with its console on the terminal
    Run(Box<run::Args>),
    /// Serves the API of AWS
    Serve(serve::Args),
    /// Ends what a server has left running on this machine, and gives back what it changed of it
    Down(serve::down::Args),
    /// Tells what a server is, and which instances and volumes there are
    Status(status::Args),
    /// Shows an instance's serial console, and types there
    Console(console::Args),
    /// Prints what an instance wrote to its console
    Logs(logs::Args),
    /// Logs in to an instance
    Ssh(ssh::Args),
    /// Shows the packets of an instance, or writes them to a file
    Capture(capture::Args),
    /// Makes the links of an instance slower, later, or lossy
    Impair(impair::Args),
    /// Tells which operations of AWS are served
    Coverage(coverage::Args),
    /// Prints what to export for the AWS CLI, boto3, Terraform and Ansible
    Env(env::Args),
    /// Accounts, and the access keys by which they are known
    #[command(subcommand)]
    Account(account::Command),
    /// Checks whether this machine can run guests, and says how to mend what is missing
    Doctor(doctor::Args),
    /// Builds and imports disk images
    #[command(subcommand)]
    Image(image::Command),
    /// Makes, checks, copies and serves volumes: disks of a folder each, thin and crash-proof; and their snapshots
    #[command(subcommand)]
    Volume(volume::Command),
    /// Serves one load balancer from a file, without a cloud
    Balancer(balancer::Args),
    /// Serves a folder as a network file system, without a cloud
    Nfs(nfs::Args),
    /// Availability zones that fail and recover
    #[command(subcommand)]
    Zone(zone::Command),
    /// Tells an instance what is to become of it, as AWS does before an interruption or maintenance
    Notice(notice::Args),
    /// Tells how many packets networks have dropped, and why
    Drops(drops::Args),
    /// Tells what passes a packet from one end to another, or stops it, and the answer to it
    Why(why::Args),
    /// Tells what is decided about something, and why
    #[command(subcommand)]
    Explain(explain::Command),
    /// Prints completions of the command line, for a shell
    Completions(completions::Args),
}

fn main() -> ExitCode {
    // One starts with every instance. It has no options, and to describe all of nimbo's would take it longer than to
    // open the machine.
    let outcome = if std::env::args_os().skip(1).eq(["vmm"]) {
        log(LevelFilter::WARN);
        vmm_process::main()
    } else {
        let cli = Cli::parse();
        log(match cli.verbose {
            0 => LevelFilter::WARN,
            1 => LevelFilter::INFO,
            2 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        });
        match cli.command {
            Command::Run(args) => run::main(&args),
            Command::Serve(args) => serve::main(&args),
            Command::Down(args) => serve::down::main(&args),
            Command::Status(args) => status::main(&args),
            Command::Console(args) => console::main(&args),
            Command::Logs(args) => logs::main(&args),
            Command::Ssh(args) => ssh::main(&args),
            Command::Capture(args) => capture::main(&args),
            Command::Impair(args) => impair::main(&args),
            Command::Coverage(args) => coverage::main(&args),
            Command::Env(args) => env::main(&args),
            Command::Account(command) => account::main(&command),
            Command::Doctor(args) => doctor::main(&args),
            Command::Image(command) => image::main(&command),
            Command::Volume(command) => volume::main(&command),
            Command::Balancer(args) => balancer::main(&args),
            Command::Nfs(args) => nfs::main(&args),
            Command::Zone(command) => zone::main(&command),
            Command::Notice(args) => notice::main(&args),
            Command::Drops(args) => drops::main(&args),
            Command::Why(args) => why::main(&args),
            Command::Explain(command) => explain::main(&command),
            Command::Completions(args) => Ok(completions::main(&args, Cli::command())),
        }
    };
    outcome.unwrap_or_else(|error| {
        eprint!("{}", failure::render(&error));
        ExitCode::FAILURE
    })
}

fn log(level: LevelFilter) {
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Options that commands share must have no documentation of their own: it would be told instead of the command's.
    #[test]
    fn a_subcommand_says_of_itself_what_is_said_of_it() {
        fn abouts(command: &clap::Command) -> Vec<String> {
            command.get_subcommands().map(|command| format!("{:?}", command.get_about())).collect()
        }
        let described: [clap::Command; 5] = [
            Cli::command(),
            account::Command::augment_subcommands(clap::Command::new("account")),
            image::Command::augment_subcommands(clap::Command::new("image")),
            volume::Command::augment_subcommands(clap::Command::new("volume")),
            zone::Command::augment_subcommands(clap::Command::new("zone")),
        ];
        for mut command in described.map(|command| command.disable_help_subcommand(true)) {
            let listed = abouts(&command);
            command.build();
            assert_eq!(abouts(&command), listed);
        }
    }

    #[test]
    fn every_subcommand_that_people_use_has_examples_and_exit_statuses() {
        let mut cli = Cli::command();
        cli.build();
        // That which prints help is clap's.
        let ours = |command: &clap::Command| !command.is_hide_set() && command.get_name() != "help";
        for command in cli.get_subcommands_mut().filter(|command| ours(command)) {
            let mut commands: Vec<_> =
                command.get_subcommands().filter(|command| ours(command)).cloned().collect();
            if commands.is_empty() {
                commands.push(command.clone());
            }
            for mut command in commands {
                let help = command.render_long_help().to_string();
                assert!(help.contains("Examples:"), "{help}");
                assert!(help.contains("Exit status:"), "{help}");
            }
        }
    }
}
