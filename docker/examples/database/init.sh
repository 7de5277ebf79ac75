#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes the first copy of the database, on one member only, once. It is not started writable: the first election does
# that. The other member needs nothing: its first on-demote.sh copies the primary.
#   PG_PASSWORD_FILE  password of PGUSER; without it everybody who reaches the server is trusted
#   PG_CLIENTS        who may connect, as pg_hba.conf writes it (samenet)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
lock

[ ! -e "$PGDATA/PG_VERSION" ] || { say "$PGDATA holds a database already"; exit 0; }
# Checksums are what pg_rewind needs to know which pages changed (or wal_log_hints).
if [ -n "${PG_PASSWORD_FILE:-}" ]; then
    method=scram-sha-256
    initdb -D "$PGDATA" -U "$PGUSER" -k -E UTF8 --locale=C --auth-local=trust --auth-host=$method \
        --pwfile="$PG_PASSWORD_FILE" >/dev/null 9>&-
else
    method=trust
    initdb -D "$PGDATA" -U "$PGUSER" -k -E UTF8 --locale=C --auth=$method >/dev/null 9>&-
fi
for database in all replication; do
    printf 'host %s all %s %s\n' "$database" "${PG_CLIENTS:-samenet}" "$method"
done >>"$PGDATA/pg_hba.conf"
cat >>"$PGDATA/postgresql.conf" <<'END'
# A standby that was away finds what it missed here; one that was away for longer is copied anew.
wal_keep_size = 1GB
# A connection to a member that vanished is given up soon, also while it waits.
tcp_keepalives_idle = 5
tcp_keepalives_interval = 1
tcp_keepalives_count = 5
wal_receiver_timeout = 5s
wal_sender_timeout = 5s
wal_retrieve_retry_interval = 200ms
# A client that was stopped or cut off inside a transaction keeps its locks no longer: its successor waits for them.
idle_in_transaction_session_timeout = 10s
END
# Nobody has led yet: reign 0, of which an empty database holds everything.
write_holds 0
start_fenced ''
