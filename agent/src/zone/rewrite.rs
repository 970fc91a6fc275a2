//! Names that stand for others, as CoreDNS's plugin `rewrite` has them.
//!
//! Rules work on a name's text: small letters, with the final dot.

use regex::Regex;

use super::Name;

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Which names it is for, and what becomes of them.
    pub rule: Rule,
    /// Names in answers become again what was asked for. Always so for [`Rule::Exact`].
    pub auto: bool,
    /// What becomes of names in answers beside that.
    pub answers: Vec<AnswerRule>,
    /// The rules after it are tried too.
    pub goes_on: bool,
}

/// Which names a rule is for, and what becomes of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// This name becomes that one.
    Exact(String, String),
    /// The beginning is replaced.
    Prefix(String, String),
    /// The end is replaced, wherever a label begins.
    Suffix(String, String),
    /// Every occurrence is replaced.
    Substring(String, String),
    /// The whole name is replaced; `{1}` is what the first group matched.
    Regex(Pattern, String),
}

/// What becomes of names in answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerRule {
    /// Names in the data of records, else their owners.
    pub value: bool,
    /// Which names.
    pub from: Pattern,
    /// What they become.
    pub to: String,
}

/// A regular expression.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

/// A name that was rewritten.
#[derive(Clone, Debug, Default)]
pub struct Rewritten {
    /// What is asked for instead; `None` where the rules make no name of it.
    pub name: Option<Name>,
    undo: Vec<Undo>,
}

#[derive(Clone, Debug)]
enum Undo {
    /// This name, and what is below it, become that one.
    Name(String, String),
    Suffix(String, String),
    Rule(AnswerRule),
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

impl Pattern {
    /// Compiles an expression.
    ///
    /// # Errors
    /// Where it is none.
    pub fn new(text: &str) -> Result<Self, regex::Error> {
        Regex::new(text).map(Self)
    }

    /// How many groups it has.
    pub fn groups(&self) -> usize {
        self.0.captures_len() - 1
    }

    /// The expression.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether it matches somewhere in a text.
    pub(super) fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    fn replace(&self, text: &str, to: &str) -> Option<String> {
        let groups = self.0.captures(text)?;
        let mut replaced = to.to_owned();
        for index in 0..groups.len() {
            let group = groups.get(index).map_or("", |group| group.as_str());
            replaced = replaced.replace(&format!("{{{index}}}"), group);
        }
        Some(replaced)
    }
}

impl Rule {
    /// What becomes of a name's text; `None` where the rule is not for it.
    fn apply(&self, text: &str) -> Option<String> {
        match self {
            Self::Exact(from, to) => (text == from).then(|| to.clone()),
            Self::Prefix(from, to) => text.strip_prefix(&**from).map(|rest| format!("{to}{rest}")),
            Self::Suffix(from, to) => text.strip_suffix(&**from).map(|rest| format!("{rest}{to}")),
            Self::Substring(from, to) => text.contains(&**from).then(|| text.replace(&**from, to)),
            Self::Regex(from, to) => from.replace(text, to),
        }
    }

    /// Whether the rule is for a name with this text.
    pub(super) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(from, _) => text == from,
            Self::Prefix(from, _) => text.starts_with(&**from),
            Self::Suffix(from, _) => text.ends_with(&**from),
            Self::Substring(from, _) => text.contains(&**from),
            Self::Regex(from, _) => from.matches(text),
        }
    }
}

impl Rewritten {
    /// What the first rule for a name makes of it, and those after it where it goes on. `None` where there is none.
    pub fn of(name: &Name, rules: &[Rewrite]) -> Option<Self> {
        if rules.is_empty() {
            return None;
        }
        let mut text = text_of(name);
        let mut undo: Vec<Undo> = Vec::new();
        let mut matched = false;
        for rewrite in rules {
            let Some(new) = rewrite.rule.apply(&text) else {
                continue;
            };
            matched = true;
            match &rewrite.rule {
                Rule::Suffix(from, to) if rewrite.auto => {
                    undo.push(Undo::Suffix(to.clone(), from.clone()));
                }
                Rule::Exact(..) => undo.push(Undo::Name(new.clone(), text.clone())),
                _ if rewrite.auto => undo.push(Undo::Name(new.clone(), text.clone())),
                _ => {}
            }
            undo.extend(rewrite.answers.iter().cloned().map(Undo::Rule));
            text = new;
            if !rewrite.goes_on || Name::from_text(&text).is_none() {
                break;
            }
        }
        undo.reverse();
        matched.then(|| Self {
            name: Name::from_text(&text),
            undo,
        })
    }

    /// What an owner in the answer becomes.
    pub fn owner(&self, text: &str) -> String {
        self.undone(text, false)
    }

    /// What a name in the data of a record becomes.
    pub fn value(&self, text: &str) -> String {
        self.undone(text, true)
    }

    fn undone(&self, text: &str, value: bool) -> String {
        let step = |text: String, undo: &Undo| match undo {
            Undo::Name(from, to) if text == *from => to.clone(),
            Undo::Name(from, to) | Undo::Suffix(from, to) => {
                let below = text.strip_suffix(&**from);
                let border = matches!(undo, Undo::Suffix(..));
                match below.filter(|rest| border || rest.ends_with('.')) {
                    Some(rest) => format!("{rest}{to}"),
                    None => text,
                }
            }
            Undo::Rule(rule) if rule.value == value => {
                rule.from.replace(&text, &rule.to).unwrap_or(text)
            }
            Undo::Rule(_) => text,
        };
        self.undo.iter().fold(text.to_owned(), step)
    }
}

/// A name's text as rules see it.
pub(super) fn text_of(name: &Name) -> String {
    let text = name.to_string();
    if text == "." {
        text
    } else {
        format!("{text}.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrite(rule: Rule, auto: bool) -> Rewrite {
        Rewrite {
            rule,
            auto,
            answers: Vec::new(),
            goes_on: false,
        }
    }

    fn becomes(rules: &[Rewrite], name: &str) -> Option<String> {
        let rewritten = Rewritten::of(&Name::from_text(name).unwrap(), rules)?;
        Some(rewritten.name.unwrap().to_string())
    }

    fn owned(from: &str, to: &str) -> (String, String) {
        (from.to_owned(), to.to_owned())
    }

    #[test]
    fn each_kind_of_rule_makes_another_name() {
        let (from, to) = owned("a.test.", "b.test.");
        let exact = [rewrite(Rule::Exact(from, to), false)];
        assert_eq!(becomes(&exact, "A.test").as_deref(), Some("b.test"));
        assert_eq!(becomes(&exact, "x.a.test"), None);
        let (from, to) = owned("old-", "new-");
        let prefix = [rewrite(Rule::Prefix(from, to), false)];
        assert_eq!(
            becomes(&prefix, "old-x.test").as_deref(),
            Some("new-x.test")
        );
        let (from, to) = owned(".test.", ".svc.cluster.local.");
        let suffix = [rewrite(Rule::Suffix(from, to), false)];
        assert_eq!(
            becomes(&suffix, "a.b.test").as_deref(),
            Some("a.b.svc.cluster.local")
        );
        let (from, to) = owned("us-west", "eu");
        let substring = [rewrite(Rule::Substring(from, to), false)];
        assert_eq!(
            becomes(&substring, "x.us-west.test").as_deref(),
            Some("x.eu.test")
        );
        let pattern = Pattern::new(r"(.*)-(us)\.test\.$").unwrap();
        let regex = [rewrite(
            Rule::Regex(pattern, "{2}.{1}.example.".to_owned()),
            false,
        )];
        assert_eq!(
            becomes(&regex, "a-us.test").as_deref(),
            Some("us.a.example")
        );
    }

    #[test]
    fn a_rule_ends_the_list_unless_it_goes_on() {
        let (from, to) = owned("a.test.", "b.test.");
        let mut first = rewrite(Rule::Exact(from, to), false);
        let (from, to) = owned("b.test.", "c.test.");
        let second = rewrite(Rule::Exact(from, to), false);
        assert_eq!(
            becomes(&[first.clone(), second.clone()], "a.test").as_deref(),
            Some("b.test")
        );
        first.goes_on = true;
        let both = [first, second];
        assert_eq!(becomes(&both, "a.test").as_deref(), Some("c.test"));
        let rewritten = Rewritten::of(&Name::from_text("a.test").unwrap(), &both).unwrap();
        assert_eq!(rewritten.owner("c.test."), "a.test.");
        assert_eq!(rewritten.value("x.c.test."), "x.a.test.");
    }

    #[test]
    fn answers_get_their_names_back() {
        let (from, to) = owned(".test.", ".default.svc.cluster.local.");
        let auto = [rewrite(Rule::Suffix(from, to), true)];
        let rewritten = Rewritten::of(&Name::from_text("web.test").unwrap(), &auto).unwrap();
        assert_eq!(
            rewritten.owner("web.default.svc.cluster.local."),
            "web.test."
        );
        assert_eq!(
            rewritten.value("a.web.default.svc.cluster.local."),
            "a.web.test."
        );
        assert_eq!(rewritten.owner("www.example.com."), "www.example.com.");
        let rule = AnswerRule {
            value: false,
            from: Pattern::new(r"(.*)\.default\.svc\.cluster\.local\.").unwrap(),
            to: "{1}.test.".to_owned(),
        };
        let (from, to) = owned(".test.", ".default.svc.cluster.local.");
        let mut by_rule = rewrite(Rule::Suffix(from, to), false);
        by_rule.answers.push(rule);
        let rewritten = Rewritten::of(&Name::from_text("web.test").unwrap(), &[by_rule]).unwrap();
        assert_eq!(
            rewritten.owner("web.default.svc.cluster.local."),
            "web.test."
        );
        let value = "web.default.svc.cluster.local.";
        assert_eq!(rewritten.value(value), value);
    }
}
