# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What the hooks share; sourced by each. Two rules carry the whole recipe:
#
#  1. No server ever starts writable. Every start, for whatever reason, leaves standby.signal in the data directory; the
#     only way out of recovery is on-promote.sh, and that is run for an elected member only.
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
#   PG_MEMBERS  whom this member may follow: ids, better with their addresses (db-1=10.0.0.1:5432 db-2=10.0.0.2:5432);
#               without this, db-1 and db-2 at whatever address they say
# The agent adds RINGFENCE_MEMBER, RINGFENCE_ADDRESS (host:port, where the local server listens) and the rest.
set -euo pipefail

# PostgreSQL refuses root. setpriv replaces itself, so the agent's signals reach the script all the same.
if [ "$(id -u)" = 0 ]; then
    user=${PG_OS_USER:-postgres}
    exec setpriv --reuid="$user" --regid="$user" --init-groups -- "$BASH" "$0" "$@"
fi

: "${PGDATA:?}" "${RINGFENCE_MEMBER:?}" "${RINGFENCE_ADDRESS:?}"

say() { printf '%s: %s\n' "${0##*/}" "$*"; }
fail() { say "$@" >&2; exit 1; }

# What comes from Redis was written there by any client that may join the group. It is untrusted data, and ends up in
# SQL that a superuser runs: so its form is checked, it is quoted all the same, and only members named in PG_MEMBERS are
# followed.

# Splits HOST:PORT or [IPv6]:PORT into `host` and `port`.
split() {
    local LC_ALL=C
    [[ $1 =~ ^([A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\]):([1-9][0-9]{0,4})$ ]] ||
        fail "this is no HOST:PORT: $(printf %q "$1")"
    host=${BASH_REMATCH[1]#[}
    host=${host%]}
    port=${BASH_REMATCH[2]}
}

# Is the member $1 at the address $2 one of those that may be followed?
told_of() {
    local known
    for known in ${PG_MEMBERS:-db-1 db-2}; do
        case $known in "$1" | "$1=$2") return 0 ;; esac
    done
    return 1
}

# A value of a connection string, and a text of a configuration file.
value() { local text=${1//\\/\\\\}; printf "'%s'" "${text//\'/\\\'}"; }
text() { local text=${1//\\/\\\\}; printf "'%s'" "${text//\'/\'\'}"; }

[[ $RINGFENCE_MEMBER =~ ^[A-Za-z0-9._-]{1,63}$ ]] || fail 'a member needs an id of 1 to 63 of A-Z a-z 0-9 . _ - here'
[[ ${RINGFENCE_EPOCH:-0} =~ ^[0-9]+$ && ${RINGFENCE_PREVIOUS_EPOCH:-0} =~ ^[0-9]+$ ]] || fail 'an epoch is a number'
export PGUSER=${PGUSER:-postgres} PGCONNECT_TIMEOUT=${PGCONNECT_TIMEOUT:-3}
sockets=${PG_SOCKET:-/var/run/postgresql}
state=$PGDATA.ringfence
split "$RINGFENCE_ADDRESS"

if [ -n "${PG_BIN:-}" ]; then
    PATH=$PG_BIN:$PATH
else
    for directory in /usr/lib/postgresql/*/bin; do PATH=$directory:$PATH; done
fi
mkdir -p "$state"

# One hook at a time changes the server. Children get `9>&-`: a server that inherits the lock would hold it for ever.
lock() { exec 9>"$state/lock"; flock 9; }

# SQL on the local server; statements are arguments or on standard input.
sql() { psql -XAtq -v ON_ERROR_STOP=1 -h "$sockets" -p "$port" -d postgres "$@" 9>&-; }

# Whether the local server runs. Not by its process id alone: a killed one may be a zombie for a while, or its id another's.
running() {
    local pid
    { read -r pid <"$PGDATA/postmaster.pid"; } 2>/dev/null && [ "/proc/$pid/cwd" -ef "$PGDATA" ]
}

# Waits for a killed server's zombie, which PostgreSQL takes for a running server. Not for ever: where nobody reaps (a container
# without an init) it stays, and harms nobody (unclaim).
reaped() {
    local pid
    { read -r pid <"$PGDATA/postmaster.pid"; } 2>/dev/null || return 0
    for _ in {1..20}; do
        grep -qs '^State:.*zombie' "/proc/$pid/status" || return 0
        sleep 0.1
    done
    say "the killed server $pid stays a zombie: the container's first process does not reap; run it with --init" >&2
}

# The ids of PostgreSQL's processes in the data directory: all of them work there.
inhabitants() {
    local process
    for process in /proc/[0-9]*; do
        [ "$process/cwd" -ef "$PGDATA" ] || continue
        case $(readlink "$process/exe") in */postgres | */postgres' (deleted)') printf '%s\n' "${process#/proc/}" ;; esac
    done
}

# After a loss of power postmaster.pid, and the socket's lock, may name a number that another process of the same user has by
# now; or a zombie's. PostgreSQL takes that for a running server and never starts. They are removed if no PostgreSQL works in the data
# directory. A number that nobody has is left to PostgreSQL, which looks at more.
unclaim() {
    local file pid directory
    [ -z "$(inhabitants)" ] || return 0
    for file in "$PGDATA/postmaster.pid" "$sockets/.s.PGSQL.$port.lock"; do
        { read -r pid && read -r directory; } 2>/dev/null <"$file" || continue
        if [ "$directory" -ef "$PGDATA" ] && [ -d "/proc/${pid#-}" ]; then
            say "process $pid is no PostgreSQL of $PGDATA: removing $file"
            rm -f "$file"
        fi
    done
}

# At once, without a checkpoint, whatever its sessions are at; standby.signal first, so that nothing brings it back
# writable. Returns when no process of it is left that could still answer a client. A server that is stopped (SIGSTOP) or hangs
# obeys nobody: it is killed with all its processes, which is what an immediate stop is to its data too.
fence() {
    # On a full disk too: what is not marked is stopped all the same, and not started without the mark (start_fenced).
    touch "$PGDATA/standby.signal" || say 'cannot mark the server as a standby; stopping it'
    running || return 0
    local pid try
    read -r pid <"$PGDATA/postmaster.pid"
    kill -QUIT "$pid" && kill -CONT "$pid" || true
    for try in {1..20}; do
        running || return 0
        sleep 0.02
    done
    say "the server did not stop in $((try * 20)) ms; killing it"
    # The first one first: it would start others.
    kill -KILL "$pid" || true
    for try in {1..100}; do
        pid=$(inhabitants)
        [ -n "$pid" ] || return 0
        # shellcheck disable=SC2086
        kill -KILL $pid 2>/dev/null || true
        sleep 0.02
    done
    fail 'the server cannot be killed'
}

# Starts the server in recovery, following $1 (a connection string; empty: nobody). What belongs to this machine is on
# the command line: pg_rewind and pg_basebackup bring the other member's configuration files along. What is left of a
# server that was killed is in the way for a moment: hence another try.
start_fenced() {
    touch "$PGDATA/standby.signal"
    unclaim
    printf 'primary_conninfo = %s\n' "$(text "$1")" >>"$PGDATA/postgresql.auto.conf"
    local try options="-c listen_addresses=$host -c port=$port -c unix_socket_directories='$sockets'"
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
