//! What the kernel's command line says to us. The README lists the words.

use std::time::Duration;

/// What to do when the machine cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFault {
    #[default]
    Shell,
    PowerOff,
    Reboot,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// The value of `root=`, unparsed.
    pub root: Option<String>,
    pub root_type: Option<String>,
    pub root_flags: String,
    pub read_only: bool,
    pub root_wait: Duration,
    /// The program to execute in the root.
    pub init: Option<String>,
    pub on_fault: OnFault,
    /// Whether metadata and user-data are asked for.
    pub cloud: bool,
}

impl Default for CommandLine {
    fn default() -> Self {
        CommandLine {
            root: None,
            root_type: None,
            root_flags: String::new(),
            read_only: false,
            root_wait: Duration::from_secs(30),
            init: None,
            on_fault: OnFault::default(),
            cloud: true,
        }
    }
}

impl CommandLine {
    /// The command line of the running kernel; all defaults while `/proc` is not mounted.
    pub fn of_kernel() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default())
    }

    /// A later word wins over an earlier one, as in the kernel. Words after `--` are arguments for init.
    pub fn parse(text: &str) -> Self {
        let mut line = CommandLine::default();
        for word in words(text) {
            let (key, value) = word.split_once('=').unwrap_or((&word, ""));
            match key {
                "--" => break,
                "root" => line.root = Some(value.to_owned()),
                "rootfstype" => line.root_type = Some(value.to_owned()),
                "rootflags" => line.root_flags = value.to_owned(),
                "ro" => line.read_only = true,
                "rw" => line.read_only = false,
                "init" => line.init = Some(value.to_owned()),
                "nimbo.cloud" => line.cloud = value != "off",
                "rootwait" => {
                    if let Ok(seconds) = value.parse() {
                        line.root_wait = Duration::from_secs(seconds);
                    }
                }
                "nimbo.panic" => match value {
                    "poweroff" => line.on_fault = OnFault::PowerOff,
                    "reboot" => line.on_fault = OnFault::Reboot,
                    _ => line.on_fault = OnFault::Shell,
                },
                _ => {}
            }
        }
        line
    }
}

/// Splits at spaces outside double quotes, and drops the quotes (kernel/params.c does the same).
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_words_it_knows_and_no_others() {
        let line = CommandLine::parse(
            "BOOT_IMAGE=/vmlinuz root=LABEL=nimbo ro rw rootflags=\"data=ordered,noatime\" console=ttyS0 \
             rootwait=5 nimbo.panic=poweroff nimbo.cloud=off -- root=/dev/sda\n",
        );
        let want = CommandLine {
            root: Some("LABEL=nimbo".into()),
            root_flags: "data=ordered,noatime".into(),
            root_wait: Duration::from_secs(5),
            on_fault: OnFault::PowerOff,
            cloud: false,
            ..CommandLine::default()
        };
        assert_eq!(line, want);
    }

    #[test]
    fn a_bare_rootwait_keeps_the_default() {
        assert_eq!(CommandLine::parse("rootwait"), CommandLine::default());
    }

    #[test]
    fn quotes_keep_spaces() {
        assert_eq!(words("a=\"b c\" d \"e f\"g"), ["a=b c", "d", "e fg"]);
    }
}
