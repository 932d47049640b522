//! GRUB's script language, as far as boot menus use it: words and the shape of commands.
//!
//! ```text
//!   list      command (";" | newline) command …
//!   command   word word … │ if list then list [elif list then list]… [else list] fi
//!             │ while/until list do list done │ for name in words do list done
//!             │ function name { list } │ menuentry words { list } │ submenu words { list }
//!   word      bare, 'as is', "with $variables", ${variables}, and any of them side by side
//! ```
//!
//! Source: the GNU GRUB manual, "Shell-like scripting".

use std::rc::Rc;

/// Blocks within blocks; real ones have about four.
const DEPTH_MAX: usize = 32;

/// Why a script has no menu.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScriptError {
    #[error("line {line}: a quote is not closed")]
    OpenQuote { line: usize },
    #[error("line {line}: {expected} was expected")]
    Expected { line: usize, expected: &'static str },
    #[error("line {line}: blocks are nested too deeply")]
    TooDeep { line: usize },
}

/// A part of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Text(String),
    /// A variable; outside of quotes its value is split at white space.
    Variable {
        name: String,
        quoted: bool,
    },
}

pub(super) type Word = Vec<Part>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Simple(Vec<Word>),
    If { branches: Vec<(List, List)>, otherwise: List },
    Loop { until: bool, condition: List, body: List },
    For { variable: String, words: Vec<Word>, body: List },
    Function { name: String, body: Rc<List> },
    Menu { submenu: bool, words: Vec<Word>, body: Rc<List> },
}

pub(super) type List = Vec<Command>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(Word),
    /// `;`, a newline, or what is treated as one.
    Separator,
    Open,
    Close,
}

/// The commands of a script.
pub(super) fn parse(text: &str) -> Result<List, ScriptError> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0 };
    let list = parser.list(&[])?;
    match parser.peek() {
        None => Ok(list),
        Some(_) => Err(parser.expected("a command")),
    }
}

struct Parser {
    tokens: Vec<(Token, usize)>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    /// The next word, if it is one that could be a keyword.
    fn keyword(&self) -> Option<&str> {
        match self.peek()? {
            Token::Word(word) => plain(word),
            _ => None,
        }
    }

    fn expected(&self, expected: &'static str) -> ScriptError {
        let line = self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |(_, line)| *line);
        ScriptError::Expected { line, expected }
    }

    fn take_keyword(&mut self, keyword: &'static str) -> Result<(), ScriptError> {
        if self.keyword() != Some(keyword) {
            return Err(self.expected(keyword));
        }
        self.at += 1;
        Ok(())
    }

    /// Commands up to one of the keywords, a closing brace, or the end; those are left.
    fn list(&mut self, ends: &[&str]) -> Result<List, ScriptError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            let line = self.tokens.get(self.at).map_or(1, |(_, line)| *line);
            return Err(ScriptError::TooDeep { line });
        }
        let mut list = List::new();
        loop {
            match self.peek() {
                Some(Token::Separator) => self.at += 1,
                None | Some(Token::Close) => break,
                Some(_) if self.keyword().is_some_and(|word| ends.contains(&word)) => break,
                Some(_) => list.push(self.command()?),
            }
        }
        self.depth -= 1;
        Ok(list)
    }

    fn command(&mut self) -> Result<Command, ScriptError> {
        match self.keyword() {
            Some("if") => self.conditional(),
            Some(word @ ("while" | "until")) => {
                let until = word == "until";
                self.at += 1;
                let condition = self.list(&["do"])?;
                let body = self.loop_body()?;
                Ok(Command::Loop { until, condition, body })
            }
            Some("for") => self.for_loop(),
            Some("function") => {
                self.at += 1;
                let name = self.name()?;
                Ok(Command::Function { name, body: Rc::new(self.block()?) })
            }
            Some(word @ ("menuentry" | "submenu")) => {
                let submenu = word == "submenu";
                self.at += 1;
                let words = self.words();
                Ok(Command::Menu { submenu, words, body: Rc::new(self.block()?) })
            }
            _ => {
                let words = self.words();
                if words.is_empty() {
                    return Err(self.expected("a command"));
                }
                Ok(Command::Simple(words))
            }
        }
    }

    fn conditional(&mut self) -> Result<Command, ScriptError> {
        let mut branches = Vec::new();
        loop {
            self.at += 1;
            let condition = self.list(&["then"])?;
            self.take_keyword("then")?;
            branches.push((condition, self.list(&["elif", "else", "fi"])?));
            if self.keyword() != Some("elif") {
                break;
            }
        }
        let mut otherwise = List::new();
        if self.keyword() == Some("else") {
            self.at += 1;
            otherwise = self.list(&["fi"])?;
        }
        self.take_keyword("fi")?;
        Ok(Command::If { branches, otherwise })
    }

    fn for_loop(&mut self) -> Result<Command, ScriptError> {
        self.at += 1;
        let variable = self.name()?;
        self.take_keyword("in")?;
        let words = self.words();
        let body = self.loop_body()?;
        Ok(Command::For { variable, words, body })
    }

    fn loop_body(&mut self) -> Result<List, ScriptError> {
        while self.peek() == Some(&Token::Separator) {
            self.at += 1;
        }
        self.take_keyword("do")?;
        let body = self.list(&["done"])?;
        self.take_keyword("done")?;
        Ok(body)
    }

    fn block(&mut self) -> Result<List, ScriptError> {
        while self.peek() == Some(&Token::Separator) {
            self.at += 1;
        }
        if self.peek() != Some(&Token::Open) {
            return Err(self.expected("{"));
        }
        self.at += 1;
        let list = self.list(&[])?;
        if self.peek() != Some(&Token::Close) {
            return Err(self.expected("}"));
        }
        self.at += 1;
        Ok(list)
    }

    fn name(&mut self) -> Result<String, ScriptError> {
        let name = self.keyword().map(str::to_owned).ok_or_else(|| self.expected("a name"))?;
        self.at += 1;
        Ok(name)
    }

    fn words(&mut self) -> Vec<Word> {
        let mut words = Vec::new();
        while let Some(Token::Word(word)) = self.peek() {
            words.push(word.clone());
            self.at += 1;
        }
        words
    }
}

/// The text of a word that has no variables.
fn plain(word: &Word) -> Option<&str> {
    match word.as_slice() {
        [Part::Text(text)] => Some(text),
        _ => None,
    }
}

/// Splits a script into tokens, each with the number of its line.
fn tokens(text: &str) -> Result<Vec<(Token, usize)>, ScriptError> {
    let mut scanner = Scanner { rest: text.chars().peekable(), line: 1 };
    let mut tokens = Vec::new();
    while let Some(next) = scanner.rest.peek().copied() {
        let line = scanner.line;
        match next {
            '\n' | ';' | '&' | '|' => {
                scanner.take();
                tokens.push((Token::Separator, line));
            }
            ' ' | '\t' | '\r' => {
                scanner.take();
            }
            '#' => while scanner.rest.next_if(|next| *next != '\n').is_some() {},
            // A brace is one only by itself: `${` and `{` within a word are not.
            '{' | '}' => {
                scanner.take();
                tokens.push((if next == '{' { Token::Open } else { Token::Close }, line));
            }
            _ => {
                if let Some(word) = scanner.word()? {
                    tokens.push((Token::Word(word), line));
                }
            }
        }
    }
    Ok(tokens)
}

struct Scanner<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    line: usize,
}

impl Scanner<'_> {
    fn take(&mut self) -> Option<char> {
        let next = self.rest.next();
        if next == Some('\n') {
            self.line += 1;
        }
        next
    }

    /// A word; `None` if it was only a line continued.
    fn word(&mut self) -> Result<Option<Word>, ScriptError> {
        let mut parts = Word::new();
        let mut is_word = false;
        while let Some(next) = self.rest.peek().copied() {
            if matches!(next, ' ' | '\t' | '\r' | '\n' | ';' | '&' | '|') {
                break;
            }
            self.take();
            match next {
                '\\' => match self.take() {
                    Some('\n') | None => continue,
                    Some(escaped) => push(&mut parts, escaped),
                },
                '\'' => self.single_quoted(&mut parts)?,
                '"' => self.double_quoted(&mut parts)?,
                '$' => self.variable(&mut parts, false),
                other => push(&mut parts, other),
            }
            is_word = true;
        }
        Ok(is_word.then_some(parts))
    }

    fn single_quoted(&mut self, parts: &mut Word) -> Result<(), ScriptError> {
        let line = self.line;
        touch(parts);
        loop {
            match self.take() {
                Some('\'') => return Ok(()),
                Some(other) => push(parts, other),
                None => return Err(ScriptError::OpenQuote { line }),
            }
        }
    }

    fn double_quoted(&mut self, parts: &mut Word) -> Result<(), ScriptError> {
        let line = self.line;
        touch(parts);
        loop {
            match self.take() {
                Some('"') => return Ok(()),
                Some('$') => self.variable(parts, true),
                Some('\\') => match self.take() {
                    Some('\n') => {}
                    Some(escaped @ ('"' | '\\' | '$')) => push(parts, escaped),
                    Some(other) => {
                        push(parts, '\\');
                        push(parts, other);
                    }
                    None => return Err(ScriptError::OpenQuote { line }),
                },
                Some(other) => push(parts, other),
                None => return Err(ScriptError::OpenQuote { line }),
            }
        }
    }

    /// What follows a `$`, which stands for itself if no name does.
    fn variable(&mut self, parts: &mut Word, quoted: bool) {
        let is_name = |next: &char| next.is_ascii_alphanumeric() || *next == '_';
        let braced = self.rest.next_if_eq(&'{').is_some();
        let mut name = String::new();
        if let Some(special) = self.rest.next_if(|next| matches!(next, '?' | '@' | '*' | '#')) {
            name.push(special);
        } else {
            while let Some(next) = self.rest.next_if(is_name) {
                name.push(next);
            }
        }
        if braced {
            self.rest.next_if_eq(&'}');
        }
        if name.is_empty() {
            push(parts, '$');
        } else {
            parts.push(Part::Variable { name, quoted });
        }
    }
}

fn push(parts: &mut Word, next: char) {
    match parts.last_mut() {
        Some(Part::Text(text)) => text.push(next),
        _ => parts.push(Part::Text(next.into())),
    }
}

/// Makes a quoted word exist even if nothing is in the quotes.
fn touch(parts: &mut Word) {
    if !matches!(parts.last(), Some(Part::Text(_))) {
        parts.push(Part::Text(String::new()));
    }
}
