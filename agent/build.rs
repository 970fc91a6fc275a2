//! Builds the BPF object that the agent carries: a nested cargo call, because the programs need another target, a
//! `core` built for it, and a linker of their own.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

const PACKAGE: &str = "signpost-ebpf";
const OBJECT: &str = "signpost-programs";
/// What the benchmarks measure against. It is not embedded; dependents find it by `DEP_SIGNPOST_FLOOR`.
const FLOOR: &str = "signpost-floor";
const TARGET: &str = "bpfel-unknown-none";

fn main() -> Result<(), String> {
    let root = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("..");
    let out = PathBuf::from(variable("OUT_DIR")?);
    for watched in [
        "ebpf/src",
        "ebpf/Cargo.toml",
        "common/src",
        "common/Cargo.toml",
        "Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    println!("cargo::rerun-if-env-changed=SIGNPOST_SKIP_PROGRAMS");
    println!("cargo::metadata=FLOOR={}", out.join(FLOOR).display());
    if env::var_os("SIGNPOST_SKIP_PROGRAMS").is_some() {
        // For tools that only read the sources; such an agent says at start that it has no programs.
        for object in [OBJECT, FLOOR] {
            std::fs::write(out.join(object), []).map_err(|e| e.to_string())?;
        }
        return Ok(());
    }

    let flags = [
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", linker(&root)?.display()),
        // 32-bit registers and all the comparisons: kernels since 5.1 have them (the floor is 5.10).
        "-Ctarget-cpu=v3".to_owned(),
        format!(
            "--cfg=bpf_target_arch=\"{}\"",
            variable("CARGO_CFG_TARGET_ARCH")?
        ),
    ];
    let target_dir = out.join("programs");
    let status = Command::new(variable("CARGO")?)
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            PACKAGE,
            "--bin",
            OBJECT,
            "--bin",
            FLOOR,
        ])
        .args(["--target", TARGET, "-Zbuild-std=core", "--target-dir"])
        .arg(&target_dir)
        .current_dir(&root)
        // `core` is built for the target by an unstable option. Set here and not for the workspace, so that the
        // crates of the host stay on plain stable.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env_remove("RUSTC")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_BUILD_TARGET")
        .status()
        .map_err(|e| format!("cargo could not be started for the BPF programs: {e}"))?;
    if !status.success() {
        return Err(
            "the BPF programs did not build; `cargo xtask setup` installs what they need"
                .to_owned(),
        );
    }
    for object in [OBJECT, FLOOR] {
        let built = target_dir.join(TARGET).join("release").join(object);
        std::fs::copy(&built, out.join(object)).map_err(|e| format!("{}: {e}", built.display()))?;
    }
    Ok(())
}

fn linker(root: &Path) -> Result<PathBuf, String> {
    let own = root.join("target/tools/bin/bpf-linker");
    let paths = env::var_os("PATH").unwrap_or_default();
    std::iter::once(own)
        .chain(env::split_paths(&paths).map(|folder| folder.join("bpf-linker")))
        .find(|candidate| candidate.is_file())
        .map(|found| std::path::absolute(&found).unwrap_or(found))
        .ok_or_else(|| "bpf-linker is missing; run `cargo xtask setup`".to_owned())
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("cargo did not set {name}"))
}
