//! The manual tells the truth: every command in `docs/control-api.md` is run, and what it prints compared.

use std::process::{Command, Stdio};

use super::fake::Served;

const MANUAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/control-api.md");

/// A command of the manual, and what should come of it.
struct Example {
    program: &'static str,
    text: String,
    expected: Option<String>,
}

/// The examples of the manual in their order.
fn examples(manual: &str) -> Vec<Example> {
    let mut found = Vec::new();
    for block in manual.split("\n```").skip(1).step_by(2) {
        let (language, text) = block.split_once('\n').unwrap();
        match language {
            "console" => {
                let sessions = text.strip_prefix("$ ").expect("a session begins with a command");
                for session in sessions.split("\n$ ") {
                    let (command, output) = session.split_once('\n').unwrap();
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

/// Without what is free to differ: white space, and the time.
fn essence(text: &str) -> String {
    let dense: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let mut pieces = dense.split("\"time_ms\":");
    let mut kept = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        kept.push_str("\"time_ms\":…");
        kept.push_str(piece.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    kept
}

#[test]
fn every_command_of_the_manual_prints_what_it_says() {
    let served = Served::new();
    served.output.write(b"[ 0.000000] Linux...");
    std::fs::write(served.folder.path().join("disk.raw"), "the disk").unwrap();
    let manual = std::fs::read_to_string(MANUAL).unwrap();
    let examples = examples(&manual);
    assert!(examples.len() > 15, "only {} examples were found", examples.len());
    for Example { program, text, expected } in examples {
        let output = Command::new(program)
            .args(["-c", &text])
            .env("S", &served.path)
            .current_dir(served.folder.path())
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .unwrap_or_else(|e| panic!("{program} cannot be run: {e}"));
        let printed = String::from_utf8(output.stdout).unwrap();
        match expected {
            Some(expected) => assert_eq!(essence(&printed), essence(&expected), "{text}\nprints\n{printed}"),
            None => assert!(output.status.success(), "{text}\nfails"),
        }
    }
    assert_eq!(*served.contents.lock().unwrap(), ["the disk"]);
}
