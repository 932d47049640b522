//! How an error that ends a command is told.

use std::fmt::Write as _;

/// The error on one line, then each cause on one, the first cause first:
///
/// ```text
/// error: cannot read the user data first.sh
///   because: No such file or directory (os error 2)
/// ```
pub(crate) fn render(error: &anyhow::Error) -> String {
    let mut text = format!("error: {}\n", indent(&error.to_string()));
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Some libraries repeat their cause in their own text: once is enough.
        if !said.contains(&cause) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  because: {}", indent(&cause));
        }
        said = cause;
    }
    text
}

/// Lines of a text after its first, moved below it.
fn indent(text: &str) -> String {
    text.trim_end().replace('\n', "\n    ")
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[test]
    fn causes_stand_below_the_error_in_order() {
        let error = anyhow!("refused").context("cannot open the tap").context("cannot make the network");
        assert_eq!(
            render(&error),
            "error: cannot make the network\n  because: cannot open the tap\n  because: refused\n"
        );
    }

    #[test]
    fn a_cause_that_was_said_is_not_said_again() {
        let error = anyhow!("refused").context("cannot open the tap: refused");
        assert_eq!(render(&error), "error: cannot open the tap: refused\n");
    }

    #[test]
    fn an_error_of_many_lines_stays_one_block() {
        let outcome: Result<(), _> = Err(anyhow!("looked in\n/boot\n/boot/efi\n")).context("no kernel");
        assert_eq!(
            render(&outcome.unwrap_err()),
            "error: no kernel\n  because: looked in\n    /boot\n    /boot/efi\n"
        );
    }
}
