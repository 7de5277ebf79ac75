#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes the local Redis the replica of RINGFENCE_PRIMARY_ADDRESS (of nobody, if it is empty). Once it follows, the primary
# needs it: cut off from it, it refuses writes, which is what stops an old primary that nobody can reach.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

address=${RINGFENCE_PRIMARY_ADDRESS:-}
if [ -z "$address" ]; then
    [ "$(info role)" != master ] || here REPLICAOF 127.0.0.1 1 >/dev/null
    exit 0
fi
told_of "${RINGFENCE_PRIMARY:-}" "$address" ||
    fail "the primary $(printf '%q at %q' "${RINGFENCE_PRIMARY:-}" "$address") is none of those to follow," \
        "${CACHE_MEMBERS:-cache-1 cache-2}"
split "$address"
if [ "$(info role)" = master ]; then cut=1; else cut=0; fi
here REPLICAOF "$host" "$port" >/dev/null
here CLIENT UNPAUSE >/dev/null
[ "$cut" = 0 ] || cut_clients
until [ "$(info master_link_status)" = up ]; do sleep 0.1; done
ask "$address" CONFIG SET min-replicas-to-write "${CACHE_MIN_REPLICAS:-1}" >/dev/null
