//! Manuals that tell the truth: every command of one is run, and what it prints compared.

use std::path::Path;
use std::process::{Command, Stdio};

/// Where a manual's commands are run, and what of their output is not compared.
#[derive(Debug, Clone, Copy)]
pub struct Manual<'a> {
    pub text: &'a str,
    pub folder: &'a Path,
    pub environment: &'a [(&'a str, &'a str)],
    /// Members whose values are different each time.
    pub free_members: &'a [&'a str],
}

/// A command of a manual, and what should come of it.
struct Example {
    program: &'static str,
    text: String,
    expected: Option<String>,
}

impl Manual<'_> {
    /// Runs all that is in it, in its order, and says how many those are.
    ///
    /// # Panics
    /// When something else is printed, or a program cannot be run.
    pub fn check(&self) -> usize {
        let examples = self.examples();
        for Example { program, text, expected } in &examples {
            let output = Command::new(program)
                .args(["-c", text])
                .envs(self.environment.iter().copied())
                .current_dir(self.folder)
                .stdin(Stdio::null())
                .stderr(Stdio::inherit())
                .output()
                .unwrap_or_else(|e| panic!("{program} cannot be run: {e}"));
            let printed = String::from_utf8_lossy(&output.stdout);
            match expected {
                Some(expected) => {
                    assert_eq!(self.essence(&printed), self.essence(expected), "{text}\nprints\n{printed}");
                }
                None => assert!(output.status.success(), "{text}\nfails"),
            }
        }
        examples.len()
    }

    fn examples(&self) -> Vec<Example> {
        let mut found = Vec::new();
        for block in self.text.split("\n```").skip(1).step_by(2) {
            let (language, text) = block.split_once('\n').expect("a block has lines");
            match language {
                "console" => {
                    let sessions = text.strip_prefix("$ ").expect("a session begins with a command");
                    for session in sessions.split("\n$ ") {
                        let (command, output) = session.split_once('\n').expect("a command prints something");
                        let expected = Some(output.to_owned());
                        found.push(Example { program: "sh", text: command.to_owned(), expected });
                    }
                }
                "python" => {
                    found.push(Example { program: "python3", text: text.to_owned(), expected: None });
                }
                other => panic!("nobody knows how to run {other:?}"),
            }
        }
        found
    }

    /// Without what is free to differ.
    fn essence(&self, text: &str) -> String {
        let dense: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        self.free_members.iter().fold(dense, |text, member| {
            let name = format!("\"{member}\":");
            let mut pieces = text.split(&name);
            let first = pieces.next().unwrap_or_default().to_owned();
            pieces.fold(first, |kept, piece| {
                let value = piece.find([',', '}', ']']).unwrap_or(piece.len());
                kept + &name + "…" + &piece[value..]
            })
        })
    }
}
