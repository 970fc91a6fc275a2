//! Kernel modules, loaded in the order that they need each other in.

use std::{collections::HashMap, fs, io, os::fd::AsRawFd as _, process::ExitCode};

use anyhow::{Context as _, bail};
use xtask::errand::{MODULES, Module};

/// The modules under all their names.
pub(crate) type Index = HashMap<String, Module>;

/// Reads the index.
pub(crate) fn index() -> anyhow::Result<Index> {
    let text = fs::read_to_string(MODULES).context(MODULES)?;
    let modules: Vec<Module> = serde_json::from_str(&text).context(MODULES)?;
    let mut index = Index::new();
    for module in modules {
        for alias in &module.aliases {
            index.insert(underscored(alias), module.clone());
        }
        index.insert(module.name.clone(), module);
    }
    Ok(index)
}

/// Loads a module after those that it needs.
pub(crate) fn load(index: &Index, name: &str) -> anyhow::Result<()> {
    let Some(module) = index.get(&underscored(name)) else {
        bail!("this kernel's package has none of this name");
    };
    for needed in &module.needs {
        load(index, needed).with_context(|| format!("needs {needed}"))?;
    }
    let file = fs::File::open(&module.path).context(module.path.clone())?;
    // SAFETY: a descriptor that is open, and an empty string.
    let result =
        unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::EEXIST) {
        return Ok(());
    }
    Err(error).context(module.path.clone())
}

/// What the kernel calls as `modprobe -q -- NAME`.
pub(crate) fn probe(arguments: impl Iterator<Item = String>) -> ExitCode {
    let names = arguments.filter(|argument| !argument.starts_with('-'));
    let loaded =
        index().and_then(|index| names.into_iter().try_for_each(|name| load(&index, &name)));
    if loaded.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn underscored(name: &str) -> String {
    name.replace('-', "_")
}
