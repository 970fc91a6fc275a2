//! What is pinned in the kernel has a version. Whoever changes the types must change the version as well.

use std::{fs, path::Path};

use anyhow::Context as _;

use super::words::code;

/// Files with the types of map keys and values.
const FILES: [&str; 11] = [
    "address", "count", "device", "dns", "filter", "flow", "log", "name", "service", "socket",
    "tally",
];

/// The version that the sources below had, and their hash.
const PINNED: (u32, u64) = (13, 0x9eae_e94c_e4df_6cde);

/// Compares the sources with the pinned hash.
pub(super) fn check(root: &Path) -> anyhow::Result<Option<String>> {
    let folder = root.join("common/src");
    let mut all = String::new();
    for file in FILES {
        let path = folder.join(file).with_extension("rs");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        all.push_str(&essence(&text));
    }
    let version = version(&fs::read_to_string(folder.join("layout.rs"))?)?;
    let hash = fnv(all.as_bytes());
    Ok(((version, hash) != PINNED).then(|| {
        format!(
            "common/src: the map types are no longer those of layout version {}. Where the layout of a key or value \
             changed, raise LAYOUT_VERSION in common/src/layout.rs. In either case set PINNED in \
             xtask/src/tidy/layout.rs to ({version} or its successor, {hash:#x})",
            PINNED.0
        )
    }))
}

fn version(source: &str) -> anyhow::Result<u32> {
    let (_, rest) = source
        .split_once("LAYOUT_VERSION: u32 = ")
        .context("common/src/layout.rs has no LAYOUT_VERSION")?;
    let (number, _) = rest.split_once(';').context("no end of LAYOUT_VERSION")?;
    Ok(number.parse()?)
}

/// The code without comments, tests and white space.
fn essence(source: &str) -> String {
    let code = code(source);
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    code.split_whitespace().collect()
}

/// FNV-1a: stable over versions of Rust, which the standard library's hashes are not.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_tests_do_not_count() {
        let a = "struct A {\n  b: u8, // why\n}\n#[cfg(test)]\nmod tests {}";
        assert_eq!(essence(a), essence("struct A { b: u8, }"));
        assert_ne!(essence(a), essence("struct A { b: u16, }"));
    }

    #[test]
    fn the_version_is_found() {
        assert_eq!(version("pub const LAYOUT_VERSION: u32 = 7;").unwrap(), 7);
        assert!(version("").is_err());
    }
}
