#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The planned way out: a fast shutdown ends all sessions, and does not end before the standby has everything, including
# the record that says so. The standby can then be promoted without loss, and this copy follows it without a rewind.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
lock

if running; then
    touch "$PGDATA/standby.signal"
    kill -INT "$(head -n 1 "$PGDATA/postmaster.pid")"
    # pg_ctl would look only every 100 ms, and all this time nobody can write.
    while [ -e "$PGDATA/postmaster.pid" ]; do sleep 0.005; done
fi
# The last thing written: two 32 bit numbers in hexadecimal.
lsn=$(LC_ALL=C pg_controldata -D "$PGDATA" | sed -n 's/^Latest checkpoint location: *//p')
printf 'position=%d\n' "$(( 0x${lsn%/*} << 32 | 0x${lsn#*/} ))"
