# Starts systemd-resolved in a pod, the way it runs where it is the system's resolver, but without systemd beside it:
# /etc/resolv.conf is its stub, and it asks $1 with the search list $2.
set -e
mount -t tmpfs none /run
mkdir -p /run/systemd/resolve /run/systemd/resolved.conf.d
printf '[Resolve]\nDNS=%s\nDomains=%s\nFallbackDNS=\nLLMNR=no\nMulticastDNS=no\n' "$1" "$2" \
    > /run/systemd/resolved.conf.d/pod.conf
# Its own user may be missing; as root it would look for that.
chown 65534:65534 /run/systemd/resolve
printf 'nameserver 127.0.0.53\nsearch %s\n' "$2" > /run/systemd/resolve/stub-resolv.conf
chown 65534:65534 /run/systemd/resolve/stub-resolv.conf
mount --bind /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
# What its unit gives it.
caps=-all,+setpcap,+net_raw,+net_bind_service
PATH=$PATH:/usr/lib/systemd exec setpriv --reuid 65534 --regid 65534 --clear-groups \
    --inh-caps=$caps --ambient-caps=$caps systemd-resolved
