//! The syntax of a Corefile: server blocks of directives, which may have blocks of their own.

/// A directive, and its block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directive {
    /// Where it begins, counted from 1.
    pub line: usize,
    /// Its name and arguments. Of a server block these are its keys.
    pub words: Vec<String>,
    /// What is in its braces.
    pub block: Vec<Self>,
}

/// A text that is no Corefile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}: {reason}")]
pub struct CorefileError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

/// A word and its place.
#[derive(Clone, Debug)]
struct Token {
    line: usize,
    text: String,
    quoted: bool,
}

/// Reads the server blocks of a file. Snippets are put where they are imported; an import of something else stays a
/// directive.
///
/// # Errors
/// Where braces or quotes do not close, or a block has no key.
pub(super) fn parse(
    text: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Vec<Directive>, CorefileError> {
    let mut tokens = tokens(text)?;
    for token in &mut tokens {
        token.text = with_variables(&token.text, &variable);
    }
    let mut rest = tokens.as_slice();
    let mut blocks = Vec::new();
    while !rest.is_empty() {
        blocks.push(server_block(&mut rest)?);
    }
    let is_snippet = |block: &Directive| {
        let [key] = block.words.as_slice() else {
            return None;
        };
        let name = key.strip_prefix('(')?.strip_suffix(')')?;
        Some((name.to_owned(), block.block.clone()))
    };
    let snippets: Vec<(String, Vec<Directive>)> = blocks.iter().filter_map(is_snippet).collect();
    blocks.retain(|block| is_snippet(block).is_none());
    for block in &mut blocks {
        block.block = with_snippets(&block.block, &snippets, 0);
    }
    Ok(blocks)
}

fn tokens(text: &str) -> Result<Vec<Token>, CorefileError> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut chars = text.chars().peekable();
    while let Some(&first) = chars.peek() {
        if first.is_whitespace() {
            line += usize::from(first == '\n');
            chars.next();
        } else if first == '#' {
            while chars.next_if(|c| *c != '\n').is_some() {}
        } else if first == '"' {
            chars.next();
            let (begins, mut word) = (line, String::new());
            loop {
                match chars.next() {
                    Some('"') => break,
                    Some('\\') if chars.peek() == Some(&'"') => word.extend(chars.next()),
                    Some(c) => {
                        line += usize::from(c == '\n');
                        word.push(c);
                    }
                    None => {
                        return Err(CorefileError {
                            line: begins,
                            reason: "the quote does not end".to_owned(),
                        });
                    }
                }
            }
            tokens.push(Token {
                line: begins,
                text: word,
                quoted: true,
            });
        } else {
            let mut word = String::new();
            while let Some(c) = chars.next_if(|c| !c.is_whitespace()) {
                word.push(c);
            }
            tokens.push(Token {
                line,
                text: word,
                quoted: false,
            });
        }
    }
    Ok(tokens)
}

/// Puts in the values of `{$NAME}` and `{%NAME%}`; a variable that is not set is empty.
fn with_variables(text: &str, variable: &impl Fn(&str) -> Option<String>) -> String {
    let mut text = text.to_owned();
    for (open, close) in [("{$", "}"), ("{%", "%}")] {
        let mut from = 0;
        while let Some(start) = text[from..].find(open).map(|at| at + from) {
            let Some(end) = text[start..].find(close).map(|at| at + start) else {
                break;
            };
            let value = variable(&text[start + open.len()..end]).unwrap_or_default();
            text.replace_range(start..end + close.len(), &value);
            from = start + value.len();
        }
    }
    text
}

impl Token {
    fn opens(&self) -> bool {
        self.text == "{" && !self.quoted
    }

    fn closes(&self) -> bool {
        self.text == "}" && !self.quoted
    }
}

fn server_block(rest: &mut &[Token]) -> Result<Directive, CorefileError> {
    let line = rest.first().map_or(1, |token| token.line);
    let mut words = Vec::new();
    while let Some((token, after)) = rest.split_first() {
        if token.closes() {
            return Err(CorefileError {
                line: token.line,
                reason: "a brace closes that was not opened".to_owned(),
            });
        }
        *rest = after;
        if token.opens() {
            if words.is_empty() {
                return Err(CorefileError {
                    line,
                    reason: "a server block without a zone".to_owned(),
                });
            }
            return Ok(Directive {
                line,
                words,
                block: block(rest, token.line)?,
            });
        }
        let keys = token.text.split(',').filter(|key| !key.is_empty());
        words.extend(keys.map(str::to_owned));
    }
    Err(CorefileError {
        line,
        reason: "a server block without braces".to_owned(),
    })
}

/// Directives up to the brace that closes.
fn block(rest: &mut &[Token], opened: usize) -> Result<Vec<Directive>, CorefileError> {
    let mut directives: Vec<Directive> = Vec::new();
    // The line on which the last word was; another one begins another directive.
    let mut last = 0;
    while let Some((token, after)) = rest.split_first() {
        *rest = after;
        if token.closes() {
            return Ok(directives);
        }
        if token.opens() {
            let nested = block(rest, token.line)?;
            match directives.last_mut() {
                Some(directive) => directive.block = nested,
                None => {
                    return Err(CorefileError {
                        line: token.line,
                        reason: "a block that is nobody's".to_owned(),
                    });
                }
            }
            last = 0;
            continue;
        }
        match directives.last_mut() {
            Some(directive) if token.line == last => directive.words.push(token.text.clone()),
            _ => directives.push(Directive {
                line: token.line,
                words: vec![token.text.clone()],
                block: Vec::new(),
            }),
        }
        last = token.line + token.text.matches('\n').count();
    }
    Err(CorefileError {
        line: opened,
        reason: "the brace does not close".to_owned(),
    })
}

fn with_snippets(
    directives: &[Directive],
    snippets: &[(String, Vec<Directive>)],
    depth: usize,
) -> Vec<Directive> {
    const DEEPEST: usize = 10;
    let mut all = Vec::new();
    for directive in directives {
        let snippet = match directive.words.as_slice() {
            [import, name] if import == "import" && depth < DEEPEST => {
                snippets.iter().find(|(known, _)| known == name)
            }
            _ => None,
        };
        match snippet {
            Some((_, block)) => all.extend(with_snippets(block, snippets, depth + 1)),
            None => all.push(directive.clone()),
        }
    }
    all
}
