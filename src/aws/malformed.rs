//! What is wrong with an input, and the error that each protocol has for it.

use std::fmt::Write as _;

use crate::decode::Wire;
use crate::error::Error;
use crate::member::Member;

/// An error repeats no more of a value than so many characters.
const SHOWN_MAX: usize = 200;

/// A value that an operation's input cannot have.
#[derive(Debug, Clone)]
pub struct Malformed(Box<Details>);

#[derive(Debug, Clone)]
struct Details {
    /// From the inside.
    steps: Vec<Step>,
    problem: Problem,
    value: String,
}

#[derive(Debug, Clone)]
enum Step {
    Member(&'static Member),
    /// Of a list, from 1.
    Number(u32),
    /// The key of a map, or what no structure knows.
    Name(String),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Problem {
    Missing,
    Unknown,
    /// The service has it, and nimbo does not serve it.
    NotServed,
    /// It is there twice.
    Twice,
    /// It is not what is named: `a whole number`.
    NotA(&'static str),
    NotOneOf(&'static [&'static str]),
    OutOfRange {
        min: f64,
        max: f64,
    },
    /// In characters, or bytes of a blob.
    Length {
        min: f64,
        max: f64,
    },
    /// Elements of a list or a map.
    Count {
        min: f64,
        max: f64,
    },
}

impl Malformed {
    pub fn new(problem: Problem, value: &str) -> Self {
        let value = value.chars().take(SHOWN_MAX).collect();
        Self(Box::new(Details { steps: Vec::new(), problem, value }))
    }

    pub(crate) fn in_member(mut self, member: &'static Member) -> Self {
        self.0.steps.push(Step::Member(member));
        self
    }

    pub(crate) fn in_number(mut self, number: u32) -> Self {
        self.0.steps.push(Step::Number(number));
        self
    }

    pub(crate) fn in_name(mut self, name: &str) -> Self {
        self.0.steps.push(Step::Name(name.chars().take(SHOWN_MAX).collect()));
        self
    }

    /// Where it is, as the protocol names it: `BlockDeviceMapping.1.Ebs.VolumeSize`, or `tags.1.member.key`.
    pub fn path(&self, wire: Wire) -> String {
        let mut path = String::new();
        for step in self.0.steps.iter().rev() {
            if !path.is_empty() {
                path.push('.');
            }
            let _ = match step {
                Step::Member(member) if wire == Wire::Ec2 => write!(path, "{}", member.query()),
                Step::Member(member) => write!(path, "{}", lower_first(member.name())),
                Step::Number(number) if wire == Wire::Ec2 => write!(path, "{number}"),
                Step::Number(number) => write!(path, "{number}.member"),
                Step::Name(name) => write!(path, "{name}"),
            };
        }
        path
    }

    /// The error that the service answers.
    pub fn error(&self, wire: Wire) -> Error {
        let path = self.path(wire);
        match (wire, self.0.problem) {
            (Wire::Ec2, _) => self.ec2_error(&path),
            (_, Problem::NotServed) => {
                let code = if wire == Wire::Query {
                    "UnsupportedOperation"
                } else {
                    "UnsupportedOperationException"
                };
                Error::new(code, format!("nimbo does not serve the parameter {path}"))
            }
            (Wire::Query, _) => Error::new("ValidationError", self.validation(&path)),
            (Wire::Json | Wire::Cbor, Problem::NotA(what)) => {
                Error::new("SerializationException", format!("{path} must be {what}"))
            }
            (Wire::Json | Wire::Cbor, Problem::Twice | Problem::Unknown) => {
                Error::new("SerializationException", self.validation(&path))
            }
            (Wire::Json | Wire::Cbor, _) => Error::new("ValidationException", self.validation(&path)),
        }
    }

    fn ec2_error(&self, path: &str) -> Error {
        let why = match self.0.problem {
            Problem::Missing => {
                return Error::new(
                    "MissingParameter",
                    format!("The request must contain the parameter {path}"),
                );
            }
            Problem::Unknown => {
                return Error::new("UnknownParameter", format!("The parameter {path} is not recognized"));
            }
            Problem::NotServed => {
                return Error::new(
                    "UnsupportedOperation",
                    format!("nimbo does not serve the parameter {path}."),
                );
            }
            Problem::Twice => "It is given twice.".to_owned(),
            Problem::NotA(what) => format!("It must be {what}."),
            Problem::NotOneOf(words) => format!("It must be one of {}.", words.join(", ")),
            Problem::OutOfRange { min, max } => format!("Expecting a value {}.", range(min, max)),
            Problem::Length { min, max } => format!("Expecting a length {}.", range(min, max)),
            Problem::Count { min, max } => format!("Expecting a number of elements {}.", range(min, max)),
        };
        let value = &self.0.value;
        Error::new("InvalidParameterValue", format!("Value ({value}) for parameter {path} is invalid. {why}"))
    }

    /// The sentence that most services have for this.
    fn validation(&self, path: &str) -> String {
        let value = &self.0.value;
        let constraint = match self.0.problem {
            Problem::Missing => {
                return format!(
                    "1 validation error detected: Value null at '{path}' failed to satisfy constraint: Member must not be null"
                );
            }
            Problem::Unknown => return format!("{path} is no member of this operation's input"),
            Problem::Twice => return format!("{path} is given twice"),
            Problem::NotServed => return format!("nimbo does not serve {path}"),
            Problem::NotA(what) => format!("Member must be {what}"),
            Problem::NotOneOf(words) => format!("Member must satisfy enum value set: [{}]", words.join(", ")),
            Problem::OutOfRange { min, max } => format!("Member must have value {}", range(min, max)),
            Problem::Length { min, max } | Problem::Count { min, max } => {
                format!("Member must have length {}", range(min, max))
            }
        };
        format!(
            "1 validation error detected: Value '{value}' at '{path}' failed to satisfy constraint: {constraint}"
        )
    }
}

fn range(min: f64, max: f64) -> String {
    match (min.is_finite(), max.is_finite()) {
        (true, true) => format!("between {min} and {max}"),
        (true, false) => format!("greater than or equal to {min}"),
        _ => format!("less than or equal to {max}"),
    }
}

fn lower_first(name: &str) -> String {
    let mut rest = name.chars();
    rest.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(rest).collect()
}
