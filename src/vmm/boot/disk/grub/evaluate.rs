//! Running a script, up to the point where something would happen.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

use super::super::bls;
use super::super::filesystem::Files;
use super::parse::{Command, List, Part, Word, parse};
use super::{ENTRIES_MAX, GrubEntry, WORK_MAX, environment};

/// Functions that call functions, files that include files.
const CALL_DEPTH_MAX: usize = 16;
/// All values together. Doubling a variable in a loop must not eat the host.
const VALUE_BYTES_MAX: usize = 16 << 10;

/// What things cost of [`WORK_MAX`]; an expanded byte costs 1.
const COMMAND_WORK: usize = 64;
const FILE_WORK: usize = 4 << 10;
const ENTRIES_WORK: usize = 1 << 20;

/// What a script may ask about the GRUB that runs it.
const PREDEFINED: [(&str, &str); 13] = [
    ("grub_cpu", "x86_64"),
    ("grub_platform", "pc"),
    ("feature_menuentry_id", "y"),
    ("feature_menuentry_options", "y"),
    ("feature_default_font_path", "y"),
    ("feature_all_video_module", "y"),
    ("feature_platform_search_hint", "y"),
    ("feature_timeout_style", "y"),
    ("feature_200_final", "y"),
    ("feature_nativedisk_cmd", "y"),
    ("feature_chainloader_bpb", "y"),
    ("feature_ntldr", "y"),
    // Ubuntu's minimal images boot without their initrd, and with it when that failed: see the module's head.
    ("initrdfail", "1"),
];

/// Variables of the environment block that GRUB would clear there before it boots.
const ONE_TIME: [&str; 2] = ["next_entry", "prev_entry"];

/// Something to choose in a menu; its body has not run.
#[derive(Debug, Clone)]
pub(super) struct MenuItem {
    pub(super) title: String,
    pub(super) id: Option<String>,
    pub(super) is_submenu: bool,
    body: Rc<List>,
}

#[derive(Clone)]
pub(super) struct Script<'a> {
    files: &'a dyn Files,
    variables: HashMap<String, String>,
    value_bytes: usize,
    functions: HashMap<String, Rc<List>>,
    menu: Vec<MenuItem>,
    kernel: Option<(String, String)>,
    initrds: Vec<String>,
    depth: usize,
    /// Shared by all copies of the script.
    work_left: Rc<Cell<usize>>,
}

impl<'a> Script<'a> {
    /// A script whose configuration is in `folder`.
    pub(super) fn new(files: &'a dyn Files, folder: &str) -> Self {
        let mut variables: HashMap<String, String> =
            PREDEFINED.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        for name in ["prefix", "config_directory"] {
            variables.insert(name.into(), folder.into());
        }
        Self {
            files,
            variables,
            value_bytes: 0,
            functions: HashMap::new(),
            menu: Vec::new(),
            kernel: None,
            initrds: Vec::new(),
            depth: 0,
            work_left: Rc::new(Cell::new(WORK_MAX)),
        }
    }

    pub(super) fn variable(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }

    pub(super) fn take_menu(&mut self) -> Vec<MenuItem> {
        std::mem::take(&mut self.menu)
    }

    /// The items of a submenu.
    pub(super) fn open(&self, item: &MenuItem) -> Vec<MenuItem> {
        let mut inner = self.clone();
        inner.menu.clear();
        inner.run(&item.body);
        inner.menu
    }

    /// What an entry would boot, if it boots a Linux.
    pub(super) fn boot(&self, item: &MenuItem) -> Option<GrubEntry> {
        let mut inner = self.clone();
        inner.run(&item.body);
        let (kernel, command_line) = inner.kernel.take()?;
        Some(GrubEntry {
            title: item.title.clone(),
            root: inner.variable("root").to_owned(),
            kernel,
            initrds: inner.initrds,
            command_line,
        })
    }

    /// Runs commands; the result of the last is theirs.
    pub(super) fn run(&mut self, list: &List) -> bool {
        let mut result = true;
        for command in list {
            if !self.spend(COMMAND_WORK) {
                return false;
            }
            result = self.command(command);
        }
        result
    }

    /// Takes note of work to be done; false when there was too much already.
    fn spend(&self, work: usize) -> bool {
        let left = self.work_left.get();
        self.work_left.set(left.saturating_sub(work));
        left >= work
    }

    fn command(&mut self, command: &Command) -> bool {
        match command {
            Command::Simple(words) => self.simple(words),
            Command::If { branches, otherwise } => {
                for (condition, body) in branches {
                    if self.run(condition) {
                        return self.run(body);
                    }
                }
                self.run(otherwise)
            }
            Command::Loop { until, condition, body } => {
                while self.spend(COMMAND_WORK) && self.run(condition) != *until {
                    self.run(body);
                }
                true
            }
            Command::For { variable, words, body } => {
                for value in self.expand(words) {
                    if !self.spend(COMMAND_WORK) {
                        break;
                    }
                    self.set(variable, &value);
                    self.run(body);
                }
                true
            }
            Command::Function { name, body } => {
                self.functions.insert(name.clone(), Rc::clone(body));
                true
            }
            Command::Menu { submenu, words, body } => self.menu_item(*submenu, words, body),
        }
    }

    fn menu_item(&mut self, is_submenu: bool, words: &[Word], body: &Rc<List>) -> bool {
        let mut words = self.expand(words).into_iter();
        let (mut title, mut id) = (None, None);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--id" => id = words.next(),
                "--class" | "--users" | "--hotkey" | "--source" => drop(words.next()),
                other if other.starts_with("--id=") => id = Some(other["--id=".len()..].to_owned()),
                other if other.starts_with("--") => {}
                _ => title = title.or(Some(word)),
            }
        }
        if self.menu.len() < ENTRIES_MAX {
            let (title, body) = (title.unwrap_or_default(), Rc::clone(body));
            self.menu.push(MenuItem { title, id, is_submenu, body });
        }
        true
    }

    fn simple(&mut self, words: &[Word]) -> bool {
        let words = self.expand(words);
        let Some((name, arguments)) = words.split_first() else { return true };
        if name == "!" {
            return !self
                .call(&arguments.first().cloned().unwrap_or_default(), arguments.get(1..).unwrap_or(&[]));
        }
        self.call(name, arguments)
    }

    fn call(&mut self, name: &str, arguments: &[String]) -> bool {
        if let Some(body) = self.functions.get(name).cloned() {
            return self.call_function(&body, arguments);
        }
        match name {
            "set" => arguments.first().is_none_or(|assignment| self.assign(assignment)),
            "unset" => {
                arguments.iter().for_each(|name| self.unset(name));
                true
            }
            "[" | "test" => {
                let end = arguments.len()
                    - usize::from(name == "[" && arguments.last().is_some_and(|last| last == "]"));
                self.test(&arguments[..end])
            }
            "load_env" => self.load_environment(arguments),
            "source" | "configfile" | "." => arguments.first().is_some_and(|path| self.include(path)),
            "search" | "search.fs_uuid" | "search.fs_label" | "search.file" => self.search(name, arguments),
            "linux" | "linux16" | "linuxefi" => {
                let Some((kernel, rest)) = arguments.split_first() else { return false };
                self.kernel = Some((kernel.clone(), rest.join(" ")));
                self.initrds.clear();
                true
            }
            "initrd" | "initrd16" | "initrdefi" => {
                self.initrds = arguments.to_vec();
                true
            }
            "blscfg" | "bls_import" => {
                self.boot_loader_entries();
                true
            }
            // Nobody presses a key, and there is no firmware to go to.
            "false" | "keystatus" | "fwsetup" => false,
            // A word with a `=` that no command has as its name is an assignment.
            _ => !name.contains('=') || self.assign(name),
        }
    }

    fn call_function(&mut self, body: &List, arguments: &[String]) -> bool {
        if self.depth == CALL_DEPTH_MAX {
            return false;
        }
        self.depth += 1;
        for (number, argument) in (1..=9).zip(arguments) {
            self.set(&number.to_string(), argument);
        }
        let result = self.run(body);
        self.depth -= 1;
        result
    }

    fn include(&mut self, path: &str) -> bool {
        let Some(text) = self.text(path) else { return false };
        let list = self.spend(text.len()).then(|| parse(&text).ok()).flatten();
        list.is_some_and(|list| self.call_function(&list, &[]))
    }

    fn text(&self, path: &str) -> Option<String> {
        if self.spend(FILE_WORK) { self.files.text(path) } else { None }
    }

    fn assign(&mut self, assignment: &str) -> bool {
        let Some((name, value)) = assignment.split_once('=') else { return false };
        self.set(name, value);
        true
    }

    fn set(&mut self, name: &str, value: &str) {
        let freed = self.variables.get(name).map_or(0, |old| name.len() + old.len());
        let total = self.value_bytes.saturating_sub(freed) + name.len() + value.len();
        if total <= VALUE_BYTES_MAX {
            self.value_bytes = total;
            self.variables.insert(name.to_owned(), value.to_owned());
        }
    }

    fn unset(&mut self, name: &str) {
        if let Some(old) = self.variables.remove(name) {
            self.value_bytes = self.value_bytes.saturating_sub(name.len() + old.len());
        }
    }

    /// `load_env [-f FILE] [NAME…]`
    fn load_environment(&mut self, arguments: &[String]) -> bool {
        let mut path = format!("{}/grubenv", self.variable("prefix"));
        let mut names = Vec::new();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "-f" | "--file" => path = arguments.next().cloned().unwrap_or_default(),
                other if other.starts_with("--file=") => path = other["--file=".len()..].to_owned(),
                other if other.starts_with('-') => {}
                other => names.push(other.to_owned()),
            }
        }
        let Some(text) = self.text(&path) else { return false };
        for (name, value) in environment(&text) {
            if !ONE_TIME.contains(&name.as_str()) && (names.is_empty() || names.contains(&name)) {
                self.set(&name, &value);
            }
        }
        true
    }

    /// `search [--fs-uuid | --label | --file] [--set[=NAME]] WHAT`: sets the variable to `uuid:WHAT` or
    /// `label:WHAT`, which stand for devices here. A search for a file changes nothing.
    fn search(&mut self, name: &str, arguments: &[String]) -> bool {
        let mut kind = match name {
            "search.fs_uuid" => "uuid",
            "search.fs_label" => "label",
            _ => "",
        };
        let mut target = "root";
        let mut what = None;
        let mut arguments = arguments.iter().peekable();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--fs-uuid" | "-u" => kind = "uuid",
                "--label" | "--fs-label" | "-l" => kind = "label",
                "--set" | "-s" => {}
                "--hint" => drop(arguments.next()),
                other if other.starts_with("--set=") => target = &other["--set=".len()..],
                other if other.starts_with('-') => {}
                other => what = what.or(Some(other)),
            }
        }
        if let (Some(what), false) = (what, kind.is_empty()) {
            let device = format!("{kind}:{what}");
            self.set(target, &device);
        }
        true
    }

    fn boot_loader_entries(&mut self) {
        if !self.spend(ENTRIES_WORK) {
            return;
        }
        for entry in bls::entries(self.files) {
            let quote = |text: &str| vec![Part::Text(text.to_owned())];
            let words = |options: &str| match parse(options).ok().as_deref() {
                Some([Command::Simple(words)]) => words.clone(),
                _ => Vec::new(),
            };
            let mut linux = vec![quote("linux"), quote(&entry.kernel)];
            linux.extend(words(&entry.options));
            let mut initrd = vec![quote("initrd")];
            initrd.extend(entry.initrds.iter().flat_map(|path| words(path)));
            if self.menu.len() < ENTRIES_MAX {
                self.menu.push(MenuItem {
                    title: entry.title,
                    id: Some(entry.id),
                    is_submenu: false,
                    body: Rc::new(vec![Command::Simple(linux), Command::Simple(initrd)]),
                });
            }
        }
    }

    /// The words with their variables replaced; one outside of quotes may become none or several.
    fn expand(&self, words: &[Word]) -> Vec<String> {
        let mut expanded = Vec::new();
        for word in words {
            let mut current: Option<String> = None;
            for part in word {
                let work = match part {
                    Part::Text(text) => text.len(),
                    Part::Variable { name, .. } => name.len() + self.variable(name).len(),
                };
                if !self.spend(1 + work) {
                    return expanded;
                }
                match part {
                    Part::Text(text) => current.get_or_insert_default().push_str(text),
                    Part::Variable { name, quoted: true } => {
                        current.get_or_insert_default().push_str(self.variable(name));
                    }
                    Part::Variable { name, quoted: false } => {
                        let value = self.variable(name);
                        if value.starts_with(char::is_whitespace) {
                            expanded.extend(current.take());
                        }
                        for (index, piece) in value.split_whitespace().enumerate() {
                            if index > 0 {
                                expanded.extend(current.take());
                            }
                            current.get_or_insert_default().push_str(piece);
                        }
                        if value.ends_with(char::is_whitespace) {
                            expanded.extend(current.take());
                        }
                    }
                }
            }
            expanded.extend(current);
        }
        expanded
    }

    /// The command `test`: `-o` binds least, then `-a`, then `!`.
    fn test(&self, words: &[String]) -> bool {
        if let Some(at) = words.iter().position(|word| word == "-o") {
            return self.test(&words[..at]) || self.test(&words[at + 1..]);
        }
        if let Some(at) = words.iter().position(|word| word == "-a") {
            return self.test(&words[..at]) && self.test(&words[at + 1..]);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            [] | [""] => false,
            ["!", ..] => {
                let negations = words.iter().take_while(|word| **word == "!").count();
                let rest: Vec<String> = words[negations..].iter().map(|word| (*word).to_owned()).collect();
                self.test(&rest) != (negations % 2 == 1)
            }
            ["-n", text] => !text.is_empty(),
            ["-z", text] => text.is_empty(),
            ["-e" | "-f" | "-s" | "-d", path] => self.spend(FILE_WORK) && self.files.has(path, words[0]),
            [_] => true,
            [left, operator, right] => compare(left, operator, right),
            _ => false,
        }
    }
}

fn compare(left: &str, operator: &str, right: &str) -> bool {
    let number = |text: &str| text.parse::<i64>().unwrap_or(0);
    let (left_number, right_number) = (number(left), number(right));
    match operator {
        "=" | "==" => left == right,
        "!=" => left != right,
        "<" => left < right,
        ">" => left > right,
        "-eq" => left_number == right_number,
        "-ne" => left_number != right_number,
        "-lt" => left_number < right_number,
        "-le" => left_number <= right_number,
        "-gt" => left_number > right_number,
        "-ge" => left_number >= right_number,
        _ => false,
    }
}
