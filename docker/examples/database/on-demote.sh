#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes this member a standby of RINGFENCE_PRIMARY_ADDRESS, whatever it is now: a primary that lost its role, a crashed
# server, a standby of somebody else, an empty directory. Then lets the primary wait for it with every commit, and only
# when that is proven notes that this copy holds the primary's reign. Without an address (nobody leads) the server is
# started in recovery, so that it can be a candidate again. Repeating it does no harm.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
lock

exists() { [ -e "$PGDATA/PG_VERSION" ]; }
recovering() { LC_ALL=C pg_controldata -D "$PGDATA" | grep -q '^Database cluster state: .* recovery$'; }

# A writable server goes first, before anything that can fail. One that does not answer yet may be on its way up.
if running; then
    case $(sql -c 'SELECT pg_is_in_recovery()' 2>/dev/null || echo unknown) in
        t) ;;
        f) fence ;;
        *) [ -e "$PGDATA/standby.signal" ] || fence ;;
    esac
fi

address=${RINGFENCE_PRIMARY_ADDRESS:-}
if [ -z "$address" ]; then
    exists && [ ! -e "$state/rewinding" ] || fail "no (whole) database in $PGDATA, and no primary to copy it from"
    running || start_fenced ''
    exit 0
fi
told_of "${RINGFENCE_PRIMARY:-}" "$address" ||
    fail "the primary $(printf '%q at %q' "${RINGFENCE_PRIMARY:-}" "$address") is none of those to follow, ${PG_MEMBERS:-db-1 db-2}"
there=$(split "$address" && printf 'host=%s port=%s user=%s' "$(value "$host")" "$port" "$(value "$PGUSER")")
primary() { psql -XAtq -v ON_ERROR_STOP=1 "$there dbname=postgres" "$@" 9>&-; }
follow="$there application_name=$(value "$RINGFENCE_MEMBER")"

# Waits up to $1 seconds until this copy receives what the primary writes now; 1: it does not. A copy that went another
# way connects too, again and again, but never reaches the primary's timeline. A primary that does not answer ends the
# script: then this copy may be the one that is needed next, and is left as it is.
streams() {
    local end=$((SECONDS + $1)) timeline
    while true; do
        timeline=$(primary -c "SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int") ||
            fail "$address is no primary (any more)"
        [[ $timeline =~ ^[0-9]+$ ]] || fail "$address does not say its timeline"
        if [ "$(sql -c "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver
                WHERE status = 'streaming' AND received_tli = $timeline)")" = t ]; then
            return 0
        fi
        [ "$SECONDS" -lt "$end" ] && running || return 1
        sleep 0.1
    done
}

# Takes out what this copy has and the primary has not, or copies all of it when that cannot be done.
rebuild() {
    # The primary's control file names its timeline only after a checkpoint.
    primary -c CHECKPOINT
    rm -f "$state/holds"
    if exists && [ ! -e "$state/rewinding" ]; then
        # Half a rewind is no database any more.
        touch "$state/rewinding"
        # To know where it stands, pg_rewind recovers a crashed primary by itself, but not one told to be a standby.
        rm -f "$PGDATA/standby.signal"
        reaped
        unclaim
        if pg_rewind -D "$PGDATA" --source-server="$there dbname=postgres" 9>&-; then
            rm "$state/rewinding"
            return
        fi
        say 'pg_rewind cannot; copying the primary instead'
    fi
    # The old copy stays until the new one is complete: it may be the only one left by then.
    rm -rf "$PGDATA.new"
    pg_basebackup -D "$PGDATA.new" -d "$there" -X stream -c fast 9>&-
    rm -rf "$PGDATA"
    mv "$PGDATA.new" "$PGDATA"
    rm -f "$state/rewinding"
}

if running; then
    if [ "$(sql -c 'SHOW primary_conninfo')" != "$follow" ]; then
        sql -v follow="$follow" -f - <<'END'
ALTER SYSTEM SET primary_conninfo = :'follow';
SELECT FROM pg_reload_conf();
END
    fi
elif exists && [ ! -e "$state/rewinding" ] && recovering; then
    # A standby goes on where it was. A rewind would make a primary of it to find out where that is.
    start_fenced "$follow"
fi
if running && ! streams 5; then
    # It has what the primary has not. Cleanly, so that pg_rewind need not recover it.
    pg_ctl stop -D "$PGDATA" -m fast -t 300 >/dev/null 9>&-
fi
if ! running; then
    rebuild
    start_fenced "$follow"
    streams 300 || fail "does not receive from $address"
fi

# From here on no commit is acknowledged without this copy. The primary's checkpointer puts the setting in force for all
# sessions at once. A session that began with the setting proves that the checkpointer was told, and its second
# checkpoint that it listened: it looks at its settings before each. What was acknowledged before is older than `target`.
names="\"$RINGFENCE_MEMBER\""
primary -c "ALTER SYSTEM SET synchronous_standby_names = '$names'" -c 'SELECT FROM pg_reload_conf()'
while true; do
    setting=$(primary -c 'SHOW synchronous_standby_names')
    [ "$setting" != "$names" ] || break
    sleep 0.01
done
target=$(primary -c CHECKPOINT -c CHECKPOINT -c 'SELECT pg_current_wal_flush_lsn()')
[[ $target =~ ^[0-9A-F]+/[0-9A-F]+$ ]] || fail "$address does not say how far it is"
while true; do
    arrived=$(primary -c "SELECT current_setting('synchronous_standby_names') = '$names', EXISTS (SELECT
        FROM pg_stat_replication WHERE application_name = '$RINGFENCE_MEMBER' AND flush_lsn >= '$target')")
    case $arrived in
        't|t') break ;;
        't|f') sleep 0.05 ;;
        *) fail 'somebody else set synchronous_standby_names' ;;
    esac
done
write_holds "${RINGFENCE_EPOCH:?}"
