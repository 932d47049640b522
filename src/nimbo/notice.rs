//! `nimbo notice`: what an instance is told that is to become of it, to see what it does then.

use std::fmt;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Context as _;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use control::records::{EventCode, InstanceNotices, InterruptionAction};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;
use types::InstanceId;

use crate::client::{self, Which};
use crate::table;
use crate::volume::output;

const EXAMPLES: &str = "\
A guest finds notices in its metadata, as on EC2: spot/instance-action, events/recommendations/rebalance, events/maintenance/scheduled. What they announce happens when
its time has come.

Exit status:
  0  it is so; what the instance has been told is printed
  1  there is no server, or it refuses: the instance does not run, say; a message tells why
  2  the command line is wrong

Examples:
  nimbo notice i-0123456789abcdef0 spot-interruption
  nimbo notice i-0123456789abcdef0 spot-interruption --in 30s --action stop
  nimbo notice i-0123456789abcdef0 event --code system-reboot --not-before 2030-01-31T02:00:00Z
  nimbo notice i-0123456789abcdef0 clear";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The instance
    #[arg(value_name = "INSTANCE")]
    id: InstanceId,
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    which: Which,
    /// For programs: one JSON object
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// That it is interrupted, as Spot Instances are
    #[command(after_help = EXAMPLES)]
    SpotInterruption {
        /// How long from now, such as 30s or 2m
        #[arg(long = "in", value_name = "TIME", default_value = "2m")]
        at: When,
        /// What becomes of it then; there is no hibernation here, so it is stopped
        #[arg(long, default_value = "terminate", value_parser = one_of(InterruptionAction::ALL, InterruptionAction::word))]
        action: InterruptionAction,
    },
    /// That its interruption is more likely than it was
    #[command(after_help = EXAMPLES)]
    Rebalance,
    /// That something is scheduled
    #[command(after_help = EXAMPLES)]
    Event {
        /// What
        #[arg(long, value_parser = one_of(EventCode::ALL, EventCode::word))]
        code: EventCode,
        /// When it happens: a time such as 2030-01-31T02:00:00Z, or how long from now, such as 10m
        #[arg(long, value_name = "TIME")]
        not_before: When,
    },
    /// Takes back what it was told, and has not happened
    #[command(after_help = EXAMPLES)]
    Clear,
    /// Tells what it was told
    #[command(after_help = EXAMPLES)]
    List,
}

/// What is asked of the server.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Wanted {
    SpotInterruption { action: InterruptionAction, at: When },
    Rebalance,
    Event { code: EventCode, not_before: When },
    Clear,
    List,
}

/// A time, as RFC 3339 writes it, or how long it is until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum When {
    At(Timestamp),
    In(SignedDuration),
}

impl When {
    /// The time, seen at `now`.
    pub(crate) fn after(self, now: Timestamp) -> Timestamp {
        match self {
            When::At(time) => time,
            When::In(duration) => now.saturating_add(duration).unwrap_or(Timestamp::MAX),
        }
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let time = text.parse().map(Self::At).ok();
        let time = time.or_else(|| text.parse().map(Self::In).ok());
        let is_to_come = |when: &Self| !matches!(when, Self::In(duration) if duration.is_negative());
        time.filter(is_to_come).ok_or_else(|| {
            format!("{text:?} is no time: expected one such as 2030-01-31T02:00:00Z, or how long from now, such as 90s or 2m")
        })
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(time) => time.fmt(f),
            Self::In(duration) => duration.fmt(f),
        }
    }
}

impl TryFrom<String> for When {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<When> for String {
    fn from(when: When) -> Self {
        when.to_string()
    }
}

/// Reads one of `all` by its word.
fn one_of<T: Copy + Send + Sync + 'static, const COUNT: usize>(
    all: [T; COUNT],
    word: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    let named = move |text: String| all.into_iter().find(|one| word(*one) == text);
    PossibleValuesParser::new(all.map(word))
        .try_map(move |text| named(text).ok_or("none of the possible values"))
}

impl Command {
    fn wanted(&self) -> Wanted {
        match *self {
            Command::SpotInterruption { at, action } => Wanted::SpotInterruption { action, at },
            Command::Rebalance => Wanted::Rebalance,
            Command::Event { code, not_before } => Wanted::Event { code, not_before },
            Command::Clear => Wanted::Clear,
            Command::List => Wanted::List,
        }
    }
}

pub(crate) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let told = client::run(async {
        let client = args.which.connect(true).await?;
        let path = format!("{}{}", crate::serve::NOTICES_PATH, args.id);
        client.ask(&path, &json!(args.command.wanted())).await
    })?;
    let told: InstanceNotices =
        serde_json::from_value(told).context("the server's answer is not understood")?;
    if args.json {
        println!("{}", serde_json::to_string(&told).context("cannot write JSON")?);
    } else {
        output::print(lines(&told).into_iter().map(Ok))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(told: &InstanceNotices) -> Vec<String> {
    let interruption = told.interruption.map(|interruption| {
        let (action, at) = (interruption.action.word(), interruption.at.to_string());
        ["spot-interruption", action, &at, "active", ""].map(str::to_owned)
    });
    let rebalance =
        told.rebalance.map(|time| ["rebalance", "", &time.to_string(), "active", ""].map(str::to_owned));
    let events = told.events.iter().map(|event| {
        let at = event.not_before.to_string();
        ["event", event.code.word(), &at, event.state.word(), &event.id].map(str::to_owned)
    });
    let rows: Vec<_> = interruption.into_iter().chain(rebalance).chain(events).collect();
    table::lines(["NOTICE", "WHAT", "TIME", "STATE", "ID"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_moments_or_from_now() {
        let now: Timestamp = "2030-01-31T02:00:00Z".parse().unwrap();
        let at = |text: &str| text.parse::<When>().map(|when| when.after(now).to_string());
        assert_eq!(at("2m"), Ok("2030-01-31T02:02:00Z".to_owned()));
        assert_eq!(at("90s"), Ok("2030-01-31T02:01:30Z".to_owned()));
        assert_eq!(at("2031-01-31T02:00:00+02:00"), Ok("2031-01-31T00:00:00Z".to_owned()));
        for wrong in ["", "soon", "-2m", "2031-01-31"] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
        let When::In(_) = String::from("2m".parse::<When>().unwrap()).parse().unwrap() else {
            panic!("it is told as it was");
        };
    }
}
