#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes the local Redis the primary. If the old one still answers, it hands over itself (Redis' own FAILOVER: it stops
# writes, waits until this replica has everything and follows it), planned or not; else this replica takes what it has.
# Alone at first: a replica that comes turns the fence on again (on-demote.sh).
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

# Also after an aborted switchover, when this is the primary still.
here CONFIG SET min-replicas-to-write 0 >/dev/null
here CLIENT UNPAUSE >/dev/null
[ "$(info role)" = slave ] || exit 0

if [ "$(info master_link_status)" = up ]; then
    old=$(info master_host)
    case $old in *:*) old="[$old]" ;; esac
    old=$old:$(info master_port)
    # While it is asked nobody can write: one that is frozen shall not take long to be found so.
    split "$RINGFENCE_ADDRESS"
    if patience=0.2 ask "$old" FAILOVER TO "$host" "$port" TIMEOUT 1000 >/dev/null 2>&1; then
        for _ in {1..60}; do
            [ "$(info role)" = slave ] || exit 0
            sleep 0.02
        done
        ask "$old" FAILOVER ABORT >/dev/null 2>&1 || true
    fi
fi
here REPLICAOF NO ONE >/dev/null
