#!/bin/sh
# Install the real servers and clients that the tests put the balancer before. As root on Debian; elsewhere it only
# says what is missing, and the tests that need it fail with its name.
set -eu
# command:package
wanted="mariadbd:mariadb-server mariadb:mariadb-client mysqlslap:mariadb-client redis-server:redis-server \
mariadb-install-db:mariadb-server redis-benchmark:redis-tools redis-cli:redis-tools nginx:nginx wrk:wrk curl:curl \
rsync:rsync nc:netcat-openbsd sshd:openssh-server ssh:openssh-client ssh-keygen:openssh-client ip:iproute2 ss:iproute2 \
setpriv:util-linux unshare:util-linux openssl:openssl nft:nftables haproxy:haproxy promtool:prometheus \
systemd-analyze:systemd systemd-socket-activate:systemd chromium:chromium"
missing=""
PATH="$PATH:/usr/sbin:/sbin"
for pair in $wanted; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing="$missing postgresql"
ls /usr/lib/postgresql/*/bin/pgbench >/dev/null 2>&1 || missing="$missing postgresql-contrib"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    # Debian starts a server when its package is installed; the tests start their own.
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    apt-get update -qq
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "tests: missing packages:$missing" >&2
fi
