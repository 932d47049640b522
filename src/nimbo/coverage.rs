//! `nimbo coverage`: what of AWS's API is served.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use aws::table::Coverage;

const EXAMPLES: &str = "\
Exit status:
  0  told

Examples:
  nimbo coverage
  nimbo coverage --json | jq .EC2.served
  nimbo coverage --markdown > docs/aws-compat.md";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// For programs: each service with its operations, served and not
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// As a page
    #[arg(long)]
    markdown: bool,
}

pub(crate) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let coverage = control::table().coverage();
    if args.json {
        println!("{}", json(&coverage)?);
    } else if args.markdown {
        print!("{}", page(&coverage));
    } else {
        for service in &coverage {
            println!("{}: {}", service.service, summary(service));
            names(service, true).for_each(|name| println!("  {name}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn names(service: &Coverage, are_served: bool) -> impl Iterator<Item = &str> {
    service.operations.iter().filter(move |(_, is)| **is == are_served).map(|(name, _)| *name)
}

fn summary(service: &Coverage) -> String {
    format!("{} of {} operations are served", names(service, true).count(), service.operations.len())
}

fn json(coverage: &[Coverage]) -> anyhow::Result<String> {
    let services = coverage.iter().map(|service| {
        let of = |are_served| names(service, are_served).collect::<Vec<_>>();
        (service.service.to_owned(), serde_json::json!({ "served": of(true), "not_served": of(false) }))
    });
    serde_json::to_string_pretty(&services.collect::<serde_json::Map<_, _>>()).context("cannot write JSON")
}

fn page(coverage: &[Coverage]) -> String {
    let mut page = "# What of AWS's API is served\n\nMade by `nimbo coverage --markdown`.\n".to_owned();
    for service in coverage {
        let (served, not): (Vec<_>, Vec<_>) =
            (names(service, true).collect(), names(service, false).collect());
        // A String takes all that is written to it.
        let _ = write!(page, "\n## {}\n\n{}.\n\n", service.service, summary(service));
        served.iter().for_each(|name| page.push_str(&format!("- {name}\n")));
        let _ = write!(page, "\nNot served, and refused with an error that says so: {}.\n", not.join(", "));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_the_documentation_is_what_is_served() {
        let kept = include_str!("../../docs/aws-compat.md");
        assert!(
            kept == page(&control::table().coverage()),
            "make it anew: nimbo coverage --markdown > docs/aws-compat.md"
        );
    }
}
