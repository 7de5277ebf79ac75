# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What the hooks of the cache share; sourced by each.
#
# The rule that carries the recipe: no Redis ever starts writable. Its redis.conf makes it the replica of nobody, so one that
# restarts empty refuses writes, and refuses to be copied too, instead of emptying its replica. Only on-promote.sh, which an
# elected member runs, makes a primary.
#
# Settings, from the environment of the agent:
#   REDISCLI_AUTH       password of both servers, if they have one (redis-cli's own variable)
#   CACHE_MEMBERS       whom this member may follow: ids, better with their addresses (cache-1=10.0.0.1:6380 …); without this,
#                       cache-1 and cache-2 at whatever address they say
#   CACHE_MIN_REPLICAS  1 (default): a primary cut off from its replica refuses writes; 0: it goes on alone
# The agent adds RINGFENCE_ADDRESS (host:port of the local Redis) and the rest.
set -euo pipefail

: "${RINGFENCE_ADDRESS:?}"

fail() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# Splits HOST:PORT or [IPv6]:PORT into `host` and `port`. An address comes from Redis, where every member says its own: it is
# data, and must look like one.
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
    for known in ${CACHE_MEMBERS:-cache-1 cache-2}; do
        case $known in "$1" | "$1=$2") return 0 ;; esac
    done
    return 1
}

# A Redis that hangs must not hang the hook: an answer comes in a second (or in $patience), or not at all.
ask() { # HOST:PORT COMMAND...
    local host port
    split "$1"
    shift
    timeout "${patience:-1}" redis-cli -e --no-auth-warning -h "$host" -p "$port" "$@"
}
here() { ask "$RINGFENCE_ADDRESS" "$@"; }

# One field of INFO replication.
info() { here INFO replication | tr -d '\r' | sed -n "s/^$1://p"; }

# Connected clients, subscribers too, must look for the primary anew.
cut_clients() {
    here CLIENT KILL TYPE normal SKIPME yes >/dev/null
    here CLIENT KILL TYPE pubsub >/dev/null
}
