#!/bin/sh
# Installs the Debian packages that the black-box tests drive. Never fails: the tests skip what is missing.
missing=""
for pair in prometheus:prometheus prometheus-pushgateway:prometheus-pushgateway \
    victoria-metrics:victoria-metrics prometheus-node-exporter:prometheus-node-exporter \
    nginx:nginx-light openssl:openssl systemd-analyze:systemd promtool:prometheus; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
# An engine for the tests that run receivers from images, unless there is one.
docker info >/dev/null 2>&1 || command -v dockerd >/dev/null 2>&1 || missing="$missing docker.io iptables"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "not installed, so the tests that need them will skip:$missing" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq || true
apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
    echo "could not install, so the tests that need them will skip:$missing" >&2
exit 0
