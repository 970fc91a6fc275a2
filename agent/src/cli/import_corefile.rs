//! `signpost dns import-corefile`.

use std::{
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;

use crate::corefile::{self, Imported};

/// Which file is converted.
#[derive(Args, Clone, Debug)]
pub struct ImportArgs {
    /// The Corefile; `-` for the standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Writes the configuration to the standard output, and what is left out to the standard error.
///
/// # Errors
/// Where the file cannot be read or is no Corefile.
pub fn run(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    let name = args.file.display().to_string();
    let text = if args.file == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        text
    } else {
        std::fs::read_to_string(&args.file).with_context(|| name.clone())?
    };
    let variable = |name: &str| std::env::var(name).ok();
    let imported =
        corefile::import(&text, variable).map_err(|error| anyhow::anyhow!("{name}:{error}"))?;
    super::print(&yaml(&name, &imported)?)?;
    let mut out = io::stderr().lock();
    for left_out in &imported.left_out {
        writeln!(out, "{name}:{left_out}")?;
    }
    Ok(if imported.left_out.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The file, with what is left out as comments at its head.
fn yaml(name: &str, imported: &Imported) -> anyhow::Result<String> {
    let mut text = format!("# Converted from {name}.\n");
    for left_out in &imported.left_out {
        text += &format!("# {name}:{left_out}\n");
    }
    Ok(text + &serde_saphyr::to_string(&imported.config)?)
}
