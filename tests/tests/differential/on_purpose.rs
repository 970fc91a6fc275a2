//! Where signpost differs from kube-proxy on purpose, for scenarios that do not say what they expect.

use crate::{
    run::Look,
    scenario::{At, Observed, Source},
};

/// Why a pod's address is kept: the packet is translated at the pod's own interface, so the reply comes back there
/// whatever way it takes. kube-proxy has to masquerade, so that it comes back to the node.
pub(crate) const PODS_KEEP_THEIR_ADDRESS: &str =
    "a pod keeps its address towards its own node's NodePorts and towards external addresses";

/// What signpost shows where kube-proxy shows this.
pub(crate) fn instead(look: &Look<'_>, kube_proxy: &Observed) -> Observed {
    let from_outside = matches!(
        look.case.target.at,
        At::NodePort(_) | At::ExternalIp | At::Ingress
    );
    match kube_proxy {
        Observed::Answer {
            by,
            to: Source::Of(_) | Source::Asked,
        } if from_outside && look.case.client.is_pod() => Observed::Answer {
            by: by.clone(),
            to: Source::Own,
        },
        same => same.clone(),
    }
}
