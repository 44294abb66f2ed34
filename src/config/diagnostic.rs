//! What is wrong with a file, where, and how to mend it.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// What a file brings into a message (a key as long as the file) does not make it longer than this.
const MESSAGE_CHARS_MAX: usize = 400;

/// A place in a file; lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// As the user wrote it, or would open it from where the program was started.
    pub file: Arc<str>,
    pub line: u32,
    pub column: u32,
}

impl Place {
    /// For what concerns a whole file, or one that cannot be read.
    pub(super) fn start_of(file: &Arc<str>) -> Self {
        Self { file: file.clone(), line: 1, column: 1 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can, and probably does not do what was meant.
    Warning,
}

/// Its text begins `FILE:LINE:COLUMN: error: ` or `… warning: ` (contract).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Diagnostic {
    #[serde(flatten)]
    pub place: Place,
    pub severity: Severity,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What to do about it, as a sentence's end: "write `…` instead".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Diagnostic {
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    pub fn error(place: &Place, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, place, message.into())
    }

    pub fn warning(place: &Place, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, place, message.into())
    }

    fn new(severity: Severity, place: &Place, message: String) -> Self {
        let message = match message.char_indices().nth(MESSAGE_CHARS_MAX) {
            Some((end, _)) => format!("{}…", &message[..end]),
            None => message,
        };
        Self { place: place.clone(), severity, message, expected: None, help: None }
    }

    #[must_use]
    pub fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        // One diagnostic is one line, whatever the file's own text brought into it.
        let line = |text: &str| text.replace(char::is_control, " ");
        write!(f, "{}: {severity}: {}", self.place, line(&self.message))?;
        if let Some(expected) = &self.expected {
            write!(f, "; expected {}", line(expected))?;
        }
        if let Some(help) = &self.help {
            write!(f, "; {}", line(help))?;
        }
        Ok(())
    }
}

/// Where every check puts what it found, so that none hides another.
#[derive(Default)]
pub(super) struct Report {
    found: RefCell<Vec<Diagnostic>>,
}

impl Report {
    pub(super) fn push(&self, diagnostic: Diagnostic) {
        self.found.borrow_mut().push(diagnostic);
    }

    pub(super) fn error(&self, place: &Place, message: impl Into<String>, help: impl Into<String>) {
        self.push(Diagnostic::error(place, message).help(help));
    }

    pub(super) fn warning(&self, place: &Place, message: impl Into<String>, help: impl Into<String>) {
        self.push(Diagnostic::warning(place, message).help(help));
    }

    pub(super) fn has_errors(&self) -> bool {
        self.found.borrow().iter().any(|found| found.severity == Severity::Error)
    }

    /// In the order of `files`, then of lines; what two devices found in the same profile is said once.
    pub(super) fn into_sorted(self, files: &[Arc<str>]) -> Vec<Diagnostic> {
        let mut found = self.found.into_inner();
        let rank = |place: &Place| files.iter().position(|file| *file == place.file).unwrap_or(files.len());
        found.sort_by(|a, b| rank(&a.place).cmp(&rank(&b.place)).then_with(|| a.cmp(b)));
        found.dedup();
        found
    }
}
