//! Commands of `bootcmd` and `runcmd`, and running programs.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::yaml::Node;
use crate::services;

/// One item of `runcmd` or `bootcmd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A line for the shell.
    Shell(String),
    /// A program and its arguments, which the shell must not touch.
    Arguments(Vec<String>),
}

impl Command {
    pub fn read(node: &Node) -> Result<Self, String> {
        if let Some(text) = node.text() {
            return Ok(Command::Shell(text.to_owned()));
        }
        let Node::List(items) = node else {
            return Err(format!("{} where a command should be", node.describe()));
        };
        let words: Option<Vec<String>> = items.iter().map(|item| item.text().map(str::to_owned)).collect();
        match words {
            Some(words) if !words.is_empty() => Ok(Command::Arguments(words)),
            _ => Err("a list where one item is no text cannot be a command".to_owned()),
        }
    }
}

/// The shell script that runs the commands, whatever each of them answers.
pub fn shell_script(commands: &[Command]) -> String {
    let mut script = "#!/bin/sh\n".to_owned();
    for command in commands {
        match command {
            Command::Shell(line) => script.push_str(line),
            Command::Arguments(words) => {
                let quoted: Vec<String> = words.iter().map(|word| quote(word)).collect();
                script.push_str(&quoted.join(" "));
            }
        }
        script.push('\n');
    }
    script
}

/// A word as it is, for the shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Runs a program file, with its output where ours goes.
///
/// # Errors
/// If it could not be started, or did not end with success.
pub fn run(path: &Path, environment: &[(&str, &str)]) -> Result<()> {
    let mut command = services::program(path);
    let status = command
        .envs(environment.iter().copied())
        .stdin(std::process::Stdio::null())
        .status()
        .with_context(|| format!("start {} (is its interpreter there?)", path.display()))?;
    if !status.success() {
        bail!("{} ended with {status}", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_for_the_shell_and_lists_are_not() {
        let commands = [
            Command::Shell("a=1; echo $a".into()),
            Command::Arguments(vec!["echo".into(), "$a it's".into()]),
        ];
        assert_eq!(shell_script(&commands), "#!/bin/sh\na=1; echo $a\n'echo' '$a it'\\''s'\n");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn the_shell_sees_the_words_of_a_list_as_they_are(words in prop::collection::vec("[ -~\n]{0,12}", 1..5)) {
            let arguments = [vec!["printf".to_owned(), "%s\\0".to_owned()], words.clone()].concat();
            let script = shell_script(&[Command::Arguments(arguments)]);
            let output = std::process::Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
            let seen: Vec<_> = output.stdout.split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            prop_assert_eq!(&seen[..seen.len() - 1], &words[..]);
        }
    }
}
