//! signpost beside the real kube-proxy, in nftables and in iptables mode, on one real API server.

use super::{Options, figure::Figure};

mod changes;
mod connections;
mod contest;
mod start;

use contest::Contest;

/// Measures it.
///
/// # Errors
/// Without root, or where one of the contestants does not carry out a Service.
pub fn run(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let mut contest = Contest::up()?;
    let mut figures = Vec::new();
    for &services in &options.services {
        contest.grow(services)?;
        for masquerading in [false, true] {
            contest.masquerade(masquerading)?;
            figures.extend(connections::run(
                options,
                &mut contest,
                services,
                masquerading,
            )?);
        }
        contest.masquerade(false)?;
        figures.extend(changes::run(&contest, services)?);
    }
    figures.extend(start::run(contest)?);
    Ok(figures)
}
