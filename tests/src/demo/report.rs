//! The summary table, and whether every check held.

use std::fmt::Write;

/// The rows, in the order of their measurements.
#[derive(Debug, Default)]
pub(super) struct DemoReport {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    what: String,
    found: String,
    /// `None` is a measurement, which cannot fail.
    held: Option<bool>,
}

impl DemoReport {
    /// Adds something that must hold, with what was found.
    pub(super) fn check(&mut self, what: &str, held: bool, found: String) -> String {
        self.add(what, found, Some(held))
    }

    /// Adds something that was measured.
    pub(super) fn note(&mut self, what: &str, found: String) -> String {
        self.add(what, found, None)
    }

    fn add(&mut self, what: &str, found: String, held: Option<bool>) -> String {
        let row = Row { what: what.into(), found, held };
        let line = format!("   {} {}: {}", row.mark(), row.what, row.found);
        self.rows.push(row);
        line
    }

    pub(super) fn held(&self) -> bool {
        self.rows.iter().all(|row| row.held != Some(false))
            && self.rows.iter().any(|row| row.held == Some(true))
    }

    /// All rows, as the last step.
    pub(super) fn table(&self, step: u32) -> String {
        let width = self.rows.iter().map(|row| row.what.chars().count()).max().unwrap_or(0);
        let mut text = format!("{step}. Summary\n");
        for row in &self.rows {
            let first = row.found.lines().next().unwrap_or_default();
            let _ = writeln!(text, "   {} {:width$}  {first}", row.mark(), row.what);
        }
        let failed = self.rows.iter().filter(|row| row.held == Some(false)).count();
        let _ = match failed {
            0 => write!(text, "   All of it held."),
            n => write!(text, "   {n} did NOT hold."),
        };
        text
    }
}

impl Row {
    fn mark(&self) -> &'static str {
        match self.held {
            Some(true) => "ok  ",
            Some(false) => "FAIL",
            None => "    ",
        }
    }
}
