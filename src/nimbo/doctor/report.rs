//! What a check found, and how a report of them is printed.

use std::fmt::Write as _;

use serde::Serialize;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// As it should be.
    Ok,
    /// `nimbo run` works, but something is slower, weaker or less exact than it could be.
    Warning,
    /// `nimbo run` does not work here.
    Failed,
}

/// One check and its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// Short and stable: scripts select by it.
    pub(crate) name: &'static str,
    pub(crate) status: Status,
    /// What was seen.
    pub(crate) finding: String,
    /// What to do, where something is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remedy: Option<String>,
}

impl Check {
    pub(crate) fn ok(name: &'static str, finding: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, finding: finding.into(), remedy: None }
    }

    pub(crate) fn warning(name: &'static str, finding: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, status: Status::Warning, finding: finding.into(), remedy: Some(remedy.into()) }
    }

    pub(crate) fn failed(name: &'static str, finding: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, status: Status::Failed, finding: finding.into(), remedy: Some(remedy.into()) }
    }

    /// Lines for people; `colour` when they look at a terminal.
    pub(crate) fn render(&self, colour: bool) -> String {
        let (word, escape) = match self.status {
            Status::Ok => ("ok", "\x1b[32m"),
            Status::Warning => ("warning", "\x1b[33m"),
            Status::Failed => ("failed", "\x1b[1;31m"),
        };
        let (start, end) = if colour { (escape, "\x1b[0m") } else { ("", "") };
        let mut lines = format!("{start}{word:<8}{end} {:<11} {}\n", self.name, self.finding);
        for line in self.remedy.iter().flat_map(|remedy| remedy.lines()).flat_map(wrap) {
            // Writing to a String cannot fail.
            let _ = writeln!(lines, "{:21}{line}", "");
        }
        lines
    }
}

/// Lines of whole words, not longer than a terminal of 100 columns leaves room for.
fn wrap(text: &str) -> Vec<String> {
    const COLUMNS: usize = 79;
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= COLUMNS => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The worst of all outcomes.
pub(crate) fn worst(checks: &[Check]) -> Status {
    checks.iter().map(|check| check.status).max().unwrap_or(Status::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_stands_below_the_finding() {
        let check = Check::failed("kvm", "no /dev/kvm", "do this,\nthen that");
        assert_eq!(
            check.render(false),
            "failed   kvm         no /dev/kvm\n                     do this,\n                     then that\n"
        );
    }

    #[test]
    fn a_long_remedy_is_wrapped_between_words() {
        let words = "word ".repeat(40);
        let lines = wrap(words.trim_end());
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.len() <= 79));
        assert_eq!(lines.join(" "), words.trim_end());
    }

    #[test]
    fn colour_is_only_where_it_was_asked_for() {
        let check = Check::ok("tun", "works");
        assert!(!check.render(false).contains('\x1b'));
        assert_eq!(check.render(true), "\x1b[32mok      \x1b[0m tun         works\n");
    }

    #[test]
    fn one_failure_outweighs_warnings() {
        let checks = [Check::ok("a", ""), Check::failed("b", "", ""), Check::warning("c", "", "")];
        assert_eq!(worst(&checks), Status::Failed);
        assert_eq!(worst(&[]), Status::Ok);
    }

    #[test]
    fn json_leaves_out_the_remedy_where_there_is_none() {
        let json = serde_json::to_string(&Check::ok("tun", "works")).unwrap();
        assert_eq!(json, r#"{"name":"tun","status":"ok","finding":"works"}"#);
    }
}
