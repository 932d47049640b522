//! GRUB's menu: which kernels it would offer, the default first.
//!
//! A configuration is a program, so it is run: variables, tests, functions, loops and included files
//! work, and `menuentry` collects. What concerns a screen, a timer or a real machine does nothing and
//! succeeds. Each entry's body runs in its own copy of the variables, and its `linux` and `initrd`
//! commands make a [`GrubEntry`].
//!
//! The script is the guest's: it may do [`WORK_MAX`] work, no more.
//!
//! Nothing is saved, so nothing is done that would have to be remembered. `next_entry` of the environment
//! block (`grub-reboot`, "boot this once") is passed over: GRUB clears it before it boots, and who only
//! reads would boot that entry for ever. Ubuntu's "without an initrd first, and with it if that failed" takes the
//! second way at once, for a failure would repeat itself.

mod evaluate;
mod parse;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

pub(super) use parse::ScriptError;

use super::filesystem::Files;
use evaluate::{MenuItem, Script};

/// How much a configuration may do, counted in about the bytes that it moves; real ones need a
/// hundredth of it.
const WORK_MAX: usize = 4 << 20;
const ENTRIES_MAX: usize = 256;
const MENU_DEPTH_MAX: usize = 4;

/// One way to boot, with paths as the script wrote them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GrubEntry {
    pub(super) title: String,
    /// The device that paths without one are on, as [`evaluate`] writes it.
    pub(super) root: String,
    pub(super) kernel: String,
    pub(super) initrds: Vec<String>,
    pub(super) command_line: String,
}

/// The entries of the configuration at `path`, the default first.
pub(super) fn entries(files: &dyn Files, path: &str, text: &str) -> Result<Vec<GrubEntry>, ScriptError> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut script = Script::new(files, folder);
    script.run(&parse::parse(text)?);
    let wanted = script.variable("default").to_owned();
    let menu = script.take_menu();

    let mut collected = Vec::new();
    collect(&script, &menu, &mut Vec::new(), &mut collected);
    let default = find(&script, &menu, &wanted).unwrap_or_default();
    // A submenu as the default means its first entry.
    let first = collected.iter().position(|(path, _)| path.starts_with(&default)).unwrap_or(0);
    if first < collected.len() {
        collected[..=first].rotate_right(1);
    }
    Ok(collected.into_iter().map(|(_, entry)| entry).collect())
}

/// All entries below `menu`, each with its indices from the top menu on.
fn collect(
    script: &Script<'_>,
    menu: &[MenuItem],
    path: &mut Vec<usize>,
    collected: &mut Vec<(Vec<usize>, GrubEntry)>,
) {
    for (index, item) in menu.iter().enumerate() {
        path.push(index);
        if item.is_submenu {
            if path.len() < MENU_DEPTH_MAX {
                collect(script, &script.open(item), path, collected);
            }
        } else if collected.len() < ENTRIES_MAX
            && let Some(entry) = script.boot(item)
        {
            collected.push((path.clone(), entry));
        }
        path.pop();
    }
}

/// Where the item is that `wanted` names: an index, a title or an id, or several with `>` between.
fn find(script: &Script<'_>, menu: &[MenuItem], wanted: &str) -> Option<Vec<usize>> {
    let wanted = if wanted.is_empty() { "0" } else { wanted };
    let (first, rest) = match wanted.split_once('>') {
        Some((first, rest)) => (first, Some(rest)),
        None => (wanted, None),
    };
    let is_meant = |item: &MenuItem| item.title == first || item.id.as_deref() == Some(first);
    let index =
        first.parse::<usize>().ok().or_else(|| menu.iter().position(is_meant)).filter(|i| *i < menu.len())?;
    let mut path = vec![index];
    if let (Some(rest), true) = (rest, menu[index].is_submenu) {
        path.extend(find(script, &script.open(&menu[index]), rest).unwrap_or_default());
    }
    Some(path)
}

/// The variables of an environment block (`grubenv`): lines `name=value` after a comment, `#` to
/// the end.
pub(super) fn environment(text: &str) -> HashMap<String, String> {
    let pairs = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
