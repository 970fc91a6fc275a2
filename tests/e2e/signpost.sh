# shellcheck shell=bash
# Signpost as what provides Services, cluster DNS, or both, in a harness that runs Kubernetes' own end-to-end tests on
# network namespaces. The harness sources this file and calls the three functions below it; it is no part of the
# project and of its tests.
#
#   cargo build --release --package signpost
#   E2E_PROVIDERS=tests/e2e PROXY=signpost DNS=signpost HARNESS/up.sh
#   HARNESS/run.sh 'Services should serve a basic endpoint'
#
# What it starts: an agent in each node's network namespace (PROXY=signpost), and `signpost dns` as the Pods of a
# DaemonSet in kube-system with the label k8s-app: kube-dns (DNS=signpost), which learn the zone from their node's
# agent, or from the API server where another proxy runs (PROXY=kube-proxy-nftables DNS=signpost).
#
# SIGNPOST         the binary [default: the project's newest build]
# SIGNPOST_FLAGS   more flags for the agents, such as --log-level=debug

PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
SIGNPOST=${SIGNPOST:-$(ls -t "$PROJECT"/target/{release,debug}/signpost 2>/dev/null | head -n 1)}
PINS=/sys/fs/bpf/signpost-e2e

start_node() { # NODE NETNS
	[[ $PROXY = signpost ]] || return 0
	mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf
	mkdir -p "$PINS/$1" "$RUN/signpost/$1"
	# shellcheck disable=SC2086 # several flags
	start "signpost-$1" "$2" "nodes/$1" "$SIGNPOST" agent --source kube --kubeconfig "$RUN/conf/agent" \
		--node-name "$1" --cluster-domain "$DOMAIN" --bpffs-root "$PINS/$1" \
		--run-folder "$RUN/signpost/$1" --state-folder "$RUN/nodes/$1/signpost" \
		--cgroup-root "$(cgroup_root)/nodes/$1" ${SIGNPOST_FLAGS:-}
}

stop_node() { # NODE
	stop "signpost-$1"
	rm -rf "${PINS:?}/$1"
	rmdir --ignore-fail-on-non-empty "$PINS" 2>/dev/null || true
}

deploy() {
	[[ -x $SIGNPOST ]] || { echo "no binary: cargo build --release --package signpost" >&2; return 1; }
	# The rights are those that the project's manifests give, for the agents' user and for the DNS Pods' account.
	kubectl apply -f "$PROJECT/deploy/base/rbac.yaml" >/dev/null
	kubectl create clusterrolebinding e2e-agent --clusterrole signpost-agent --user e2e:agent \
		--serviceaccount kube-system:signpost-dns >/dev/null
	[[ $DNS = signpost ]] || return 0

	cat >"$E2E_CACHE/images.d/signpost.json" <<-EOC
		{"Files": {"/signpost": "$SIGNPOST"}, "Entrypoint": ["/signpost"]}
	EOC
	kubectl apply -f "$PROJECT/deploy/base/kube-dns.yaml" >/dev/null
	# The agents' folders lie beside each other on this machine, so each Pod takes its node's.
	local source=agent token=false
	[[ $PROXY = signpost ]] || source=kube token=true
	mkdir -p "$RUN/signpost"
	kubectl apply -f - >/dev/null <<-EOC
		apiVersion: apps/v1
		kind: DaemonSet
		metadata: {name: signpost-dns, namespace: kube-system, labels: {k8s-app: kube-dns}}
		spec:
		  selector: {matchLabels: {k8s-app: kube-dns}}
		  template:
		    metadata: {labels: {k8s-app: kube-dns}}
		    spec:
		      serviceAccountName: signpost-dns
		      automountServiceAccountToken: $token
		      priorityClassName: system-node-critical
		      dnsPolicy: Default
		      tolerations: [{operator: Exists}]
		      containers:
		      - name: dns
		        image: e2e.local/signpost
		        args: [dns, --source, $source, --run-folder, /run/signpost/\$(NODE), --cluster-domain, $DOMAIN]
		        env:
		        - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
		        ports:
		        - {containerPort: 53, name: dns, protocol: UDP}
		        - {containerPort: 53, name: dns-tcp, protocol: TCP}
		        readinessProbe: {httpGet: {path: /ready, port: 8181}, periodSeconds: 1}
		        securityContext:
		          allowPrivilegeEscalation: false
		          capabilities: {add: [NET_BIND_SERVICE], drop: [ALL]}
		          readOnlyRootFilesystem: true
		        volumeMounts:
		        - {name: run, mountPath: /run/signpost, readOnly: true}
		      volumes:
		      - name: run
		        hostPath: {path: $RUN/signpost}
	EOC
	wait_for 60 kubectl -n kube-system get serviceaccount signpost-dns
	kubectl -n kube-system rollout status daemonset/signpost-dns --timeout=60s >/dev/null
}
