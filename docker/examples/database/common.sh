# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What the hooks share; sourced by each. Two rules carry the whole recipe:
#
#  1. No server ever starts writable. Whoever starts one, for whatever reason, leaves standby.signal in its data
#     directory; the only way out of recovery is on-promote.sh, and that is run for an elected member only.
#  2. `holds` says of which reigns (epochs of a ready primary) this copy has every acknowledged commit. It is written
#     before a server can acknowledge alone, and on a standby only once synchronous replication to it is proven.
#     pre-promote.sh compares it with the last reign the group knows.
#
# Settings, from the environment of the agent:
#   PGDATA      the data directory; beside it, in $PGDATA.ringfence, is what must not be copied from the other member
#   PGUSER      superuser of both servers and of replication (postgres); its password comes from PGPASSFILE
#   PG_BIN      PostgreSQL's programs (the newest in /usr/lib/postgresql)
#   PG_SOCKET   directory of the local server's socket (/var/run/postgresql)
#   PG_OS_USER  who runs the server if the agent is root (postgres)
# The agent adds RINGFENCE_MEMBER, RINGFENCE_ADDRESS (host:port, where the local server listens) and the rest.
set -euo pipefail

# PostgreSQL refuses root. setpriv replaces itself, so the agent's signals reach the script all the same.
if [ "$(id -u)" = 0 ]; then
    user=${PG_OS_USER:-postgres}
    exec setpriv --reuid="$user" --regid="$user" --init-groups -- "$BASH" "$0" "$@"
fi

: "${PGDATA:?}" "${RINGFENCE_MEMBER:?}" "${RINGFENCE_ADDRESS:?}"
export PGUSER=${PGUSER:-postgres} PGCONNECT_TIMEOUT=${PGCONNECT_TIMEOUT:-3}
sockets=${PG_SOCKET:-/var/run/postgresql}
state=$PGDATA.ringfence
host=${RINGFENCE_ADDRESS%:*}
port=${RINGFENCE_ADDRESS##*:}

if [ -n "${PG_BIN:-}" ]; then
    PATH=$PG_BIN:$PATH
else
    for directory in /usr/lib/postgresql/*/bin; do PATH=$directory:$PATH; done
fi
mkdir -p "$state"

say() { printf '%s: %s\n' "${0##*/}" "$*"; }
fail() { say "$@" >&2; exit 1; }

# One hook at a time changes the server. Children get `9>&-`: a server that inherits the lock would hold it for ever.
lock() { exec 9>"$state/lock"; flock 9; }

# SQL on the local server; statements are arguments or on standard input.
sql() { psql -XAtq -v ON_ERROR_STOP=1 -h "$sockets" -p "$port" -d postgres "$@" 9>&-; }

# Whether the local server runs. Not by its process id alone: a killed one may be a zombie for a while, or its id another's.
running() {
    local pid
    { read -r pid <"$PGDATA/postmaster.pid"; } 2>/dev/null && [ "/proc/$pid/cwd" -ef "$PGDATA" ]
}

# Waits for a killed server's zombie, which PostgreSQL takes for a running server.
reaped() {
    local pid
    { read -r pid <"$PGDATA/postmaster.pid"; } 2>/dev/null || return 0
    local try
    for try in {1..100}; do
        grep -qs '^State:.*zombie' "/proc/$pid/status" || return 0
        sleep 0.1
    done
    echo "the killed server $pid stays a zombie: the container's first process does not reap; run it with --init" >&2
    return 1
}

# At once, without a checkpoint, whatever its sessions are at; standby.signal first, so that nothing brings it back
# writable. Returns when no process of it is left that could still answer a client.
fence() {
    touch "$PGDATA/standby.signal"
    running || return 0
    pg_ctl stop -D "$PGDATA" -m immediate -t 60 >/dev/null 9>&-
}

# Starts the server in recovery, following $1 (a connection string; empty: nobody). What belongs to this machine is on
# the command line: pg_rewind and pg_basebackup bring the other member's configuration files along. What is left of a
# server that was killed is in the way for a moment: hence another try.
start_fenced() {
    touch "$PGDATA/standby.signal"
    printf "primary_conninfo = '%s'\n" "$1" >>"$PGDATA/postgresql.auto.conf"
    local try options="-c listen_addresses=$host -c port=$port -c unix_socket_directories=$sockets"
    for try in {1..20}; do
        pg_ctl start -D "$PGDATA" -w -t 300 -l "$state/log" -o "$options -c cluster_name=$RINGFENCE_MEMBER" \
            >/dev/null 2>&1 9>&- && return
        sleep 0.2
    done
    tail -n 5 "$state/log" >&2
    fail "the server does not start ($try tries)"
}

# On disk before it counts.
write_holds() {
    printf '%s\n' "$*" >"$state/holds.new"
    sync "$state/holds.new"
    mv "$state/holds.new" "$state/holds"
    sync "$state"
}
holds() { grep -qw -- "$1" "$state/holds" 2>/dev/null; }
