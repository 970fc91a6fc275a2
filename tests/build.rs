//! Tells the benchmarks where the programs are that they measure against.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=DEP_SIGNPOST_FLOOR");
    let floor = std::env::var("DEP_SIGNPOST_FLOOR").unwrap_or_default();
    println!("cargo::rustc-env=SIGNPOST_FLOOR={floor}");
}
