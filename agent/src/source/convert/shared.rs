//! Texts that many objects have in common: names of namespaces, nodes, zones and ports.

use std::{cell::RefCell, collections::BTreeSet, sync::Arc};

/// With so few texts nobody looks for those that are not used any more.
const FEW: usize = 1024;

thread_local! {
    static TEXTS: RefCell<Texts> = const { RefCell::new(Texts::new()) };
}

/// A text that is the same memory for all who ask for it on this thread.
pub(super) fn shared(text: &str) -> Arc<str> {
    TEXTS.with_borrow_mut(|texts| texts.get(text))
}

struct Texts {
    known: BTreeSet<Arc<str>>,
    /// When there are so many, those that nobody has any more are forgotten.
    enough: usize,
}

impl Texts {
    const fn new() -> Self {
        Self {
            known: BTreeSet::new(),
            enough: FEW,
        }
    }

    fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        if self.known.len() >= self.enough {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.enough = FEW.max(2 * self.known.len());
        }
        let text: Arc<str> = text.into();
        self.known.insert(text.clone());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one() {
        assert!(Arc::ptr_eq(&shared("node-1"), &shared("node-1")));
        assert_eq!(&*shared("node-2"), "node-2");
    }

    #[test]
    fn texts_that_nobody_has_are_forgotten() {
        let mut texts = Texts::new();
        let kept = texts.get("kept");
        for number in 0..10 * FEW {
            texts.get(&number.to_string());
        }
        assert!(texts.known.len() <= FEW);
        assert!(Arc::ptr_eq(&kept, &texts.get("kept")));
    }
}
