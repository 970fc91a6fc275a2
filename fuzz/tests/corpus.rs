//! Every input of the corpus once more.

use std::{fs, path::Path};

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("the corpus has a folder for each target") {
        let path = entry.expect("an entry").path();
        println!("{}", path.display());
        run(&fs::read(&path).expect("an input"));
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
}

#[test]
fn packets_of_the_corpus_are_handled_right() {
    replay("packets", signpost_fuzz::packets::run);
}

#[test]
fn questions_of_the_corpus_are_answered_right() {
    replay("questions", signpost_fuzz::questions::run);
}

#[test]
fn objects_of_the_corpus_are_read_right() {
    replay("objects", signpost_fuzz::objects::run);
}
