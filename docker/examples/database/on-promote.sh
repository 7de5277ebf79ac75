#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes this member the writable one. A server that leaves recovery in a new reign acknowledges alone until a standby is
# proven to keep up (on-demote.sh there turns synchronous replication on): this election is the one place where the other
# copy is given up, and its epoch is how that copy will know. Within a reign a standby that is needed stays needed, dead or
# alive. To go on without it, start a new reign: stop the server (README.md).
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
lock

running || start_fenced ''
if ! holds "${RINGFENCE_EPOCH:?}"; then
    # Still in recovery, unless this very server was the primary before: then it keeps its setting.
    sql -f - <<'END'
SELECT pg_is_in_recovery() AS fenced \gset
\if :fenced
    ALTER SYSTEM SET synchronous_standby_names = '';
    SELECT FROM pg_reload_conf();
\endif
END
    # Before anything can be acknowledged. The reign before counts too: until this one is ready, the group remembers that.
    last=${RINGFENCE_PREVIOUS_EPOCH:-0}
    if holds "$last"; then write_holds "$last" "$RINGFENCE_EPOCH"; else write_holds "$RINGFENCE_EPOCH"; fi
fi
# pg_promote's own waiting looks only every 100 ms.
sql -f - <<'END'
SELECT pg_is_in_recovery() AS fenced \gset
\if :fenced
    SELECT FROM pg_promote(false);
    DO $$ BEGIN WHILE pg_is_in_recovery() LOOP PERFORM pg_sleep(0.005); END LOOP; END $$;
\endif
END
