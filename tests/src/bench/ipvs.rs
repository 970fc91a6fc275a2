//! The IPVS mode beside the real kube-proxy's, and beside the eBPF mode, on a kernel that has IPVS: in a virtual machine,
//! which `cargo xtask bench ipvs` starts.

use super::{
    Options,
    figure::{Against, Figure, Reach},
    statistics::Estimate,
};

mod connections;
mod syncs;

/// Measures it.
///
/// # Errors
/// Without root or IPVS, or where one of them does not carry out a Service.
pub fn run(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let mut figures = syncs::run(options)?;
    figures.extend(connections::run(options)?);
    Ok(figures)
}

/// Times of signpost against those of kube-proxy, pair by pair.
fn against_kube_proxy(
    what: String,
    unit: &str,
    (ours, theirs): (&[f64], &[f64]),
    reach: Option<Reach>,
) -> Figure {
    let pairs = || ours.iter().copied().zip(theirs.iter().copied());
    let ratios: Vec<f64> = pairs().map(|(ours, theirs)| ours / theirs).collect();
    Figure {
        suite: "ipvs".to_owned(),
        what,
        unit: unit.to_owned(),
        measured: Estimate::of(ours),
        against: Some(Against {
            what: "kube-proxy IPVS".to_owned(),
            measured: Estimate::of(theirs),
            ratio: Estimate::of(&ratios),
            cpu: None,
        }),
        reach,
        samples: pairs().flat_map(|(ours, theirs)| [ours, theirs]).collect(),
    }
}
