//! Numbered steps, each with commands, what they printed, and checks.

use std::io::{IsTerminal as _, Write as _};

/// What was told so far.
pub(crate) struct Story {
    steps: Vec<Step>,
    colour: bool,
}

struct Step {
    title: String,
    held: bool,
}

impl Story {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self {
            steps: Vec::new(),
            colour,
        }
    }

    /// Begins a step.
    pub(crate) fn step(&mut self, title: &str) {
        let number = self.steps.len() + 1;
        self.print(&format!(
            "\n{}",
            self.paint("1", &format!("{number}. {title}"))
        ));
        self.steps.push(Step {
            title: title.to_owned(),
            held: true,
        });
    }

    /// Says something that is neither command nor output.
    pub(crate) fn say(&self, text: &str) {
        self.print(&self.paint("2", text));
    }

    /// Shows a command, and where it is run.
    pub(crate) fn command(&self, place: &str, command: &str) {
        self.print(&format!(
            "   {}",
            self.paint("36", &format!("{place} $ {command}"))
        ));
    }

    /// Shows what a command printed.
    pub(crate) fn output(&self, text: &str) {
        for line in text.trim_end().lines() {
            self.print(&format!("   {line}"));
        }
    }

    /// Shows whether something is as it should be.
    pub(crate) fn check(&mut self, held: bool, sentence: &str) {
        let mark = if held {
            self.paint("32", "✔")
        } else {
            self.paint("31", "✘")
        };
        self.print(&format!("   {mark} {sentence}"));
        if let Some(step) = self.steps.last_mut() {
            step.held &= held;
        }
    }

    /// Shows all steps once more, and gives whether all held.
    pub(crate) fn summary(&self) -> bool {
        self.print(&format!("\n{}", self.paint("1", "Summary")));
        for (number, step) in (1..).zip(&self.steps) {
            let mark = if step.held {
                self.paint("32", "✔")
            } else {
                self.paint("31", "✘")
            };
            self.print(&format!("   {mark} {number}. {}", step.title));
        }
        let held = self.steps.iter().filter(|step| step.held).count();
        self.print(&format!("{held} of {} steps held", self.steps.len()));
        held == self.steps.len()
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn print(&self, line: &str) {
        // Whoever reads may have gone away; the steps are checked all the same.
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}
