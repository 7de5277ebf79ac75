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
#   CACHE_MIN_REPLICAS  1 (default): a primary cut off from its replica refuses writes; 0: it goes on alone
# The agent adds RINGFENCE_ADDRESS (host:port of the local Redis) and the rest.
set -euo pipefail

: "${RINGFENCE_ADDRESS:?}"

# A Redis that hangs must not hang the hook: an answer comes in a second (or in $patience), or not at all.
ask() { # HOST:PORT COMMAND...
    local address=$1
    shift
    timeout "${patience:-1}" redis-cli -e --no-auth-warning -h "${address%:*}" -p "${address##*:}" "$@"
}
here() { ask "$RINGFENCE_ADDRESS" "$@"; }

# One field of INFO replication.
info() { here INFO replication | tr -d '\r' | sed -n "s/^$1://p"; }

# Whoever is connected, subscribers too, shall look for the primary anew.
cut_clients() {
    here CLIENT KILL TYPE normal SKIPME yes >/dev/null
    here CLIENT KILL TYPE pubsub >/dev/null
}
