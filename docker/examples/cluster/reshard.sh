#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Moves the slot of one namespace to another primary of its Cluster, key by key: `reshard.sh HOST:PORT NAMESPACE [TARGET]`.
# HOST:PORT is any node; TARGET is the id of the primary that gets the slot, by default the next one. REDISCLI_AUTH is the
# password, if there is one.
#
# It works as `redis-cli --cluster reshard` does, for one slot that is chosen by the namespace. Calls in the namespace wait
# from `begin` to `end`. A move that has moved keys must be finished: run it again, it goes on where it stopped.
set -eu

[ $# -ge 2 ] || { echo 'usage: reshard.sh HOST:PORT NAMESPACE [TARGET]' >&2; exit 64; }
any=$1 namespace=$2 target=${3-}

# at HOST:PORT COMMAND…
at() { at=$1; shift; redis-cli -h "${at%:*}" -p "${at##*:}" "$@"; }

# do_at HOST:PORT COMMAND…: must answer OK.
do_at() { answer=$(at "$@"); [ "$answer" = OK ] || { echo "reshard.sh: $*: $answer" >&2; exit 1; }; }

slot=$(at "$any" CLUSTER KEYSLOT "ringfence:{$namespace}:")

# id, HOST:PORT and `owner` of every primary that answers.
primaries() {
    at "$any" CLUSTER NODES | awk -v slot="$slot" '
        $3 ~ /master/ && $3 !~ /fail|noaddr|handshake/ {
            address = $2; sub(/@.*/, "", address); owner = "-"
            for (i = 9; i <= NF; i++) {
                if ($i ~ /^\[/) continue
                n = split($i, ends, "-"); last = n > 1 ? ends[2] : ends[1]
                if (slot + 0 >= ends[1] + 0 && slot + 0 <= last + 0) owner = "owner"
            }
            print $1, address, owner
        }' | sort
}

list=$(primaries)
source=$(echo "$list" | awk '$3 == "owner" { print $2 }')
source_id=$(echo "$list" | awk '$3 == "owner" { print $1 }')
[ -n "$source" ] || { echo "reshard.sh: nobody has slot $slot" >&2; exit 1; }
# The one behind the owner, or the first.
[ -n "$target" ] || target=$(echo "$list" | awk '
    was == "owner" && next_id == "" { next_id = $1 }
    $3 != "owner" && first == "" { first = $1 }
    { was = $3 }
    END { print next_id != "" ? next_id : first }')
target_at=$(echo "$list" | awk -v id="$target" '$1 == id && $3 != "owner" { print $2 }')
[ -n "$target_at" ] || { echo 'reshard.sh: there is no such other primary' >&2; exit 1; }

echo "slot $slot of namespace $namespace: $source -> $target_at"
do_at "$target_at" CLUSTER SETSLOT "$slot" IMPORTING "$source_id"
do_at "$source" CLUSTER SETSLOT "$slot" MIGRATING "$target"
echo begin

moved=0
while :; do
    keys=$(at "$source" CLUSTER GETKEYSINSLOT "$slot" 500)
    [ -n "$keys" ] || break
    echo "$keys" | tr '\n' '\0' | xargs -0 redis-cli -h "${source%:*}" -p "${source##*:}" \
        MIGRATE "${target_at%:*}" "${target_at##*:}" '' 0 10000 ${REDISCLI_AUTH:+AUTH "$REDISCLI_AUTH"} KEYS \
        >/dev/null
    moved=$((moved + $(echo "$keys" | wc -l)))
done

# The target first: should this stop here, nobody says that the slot is where it is not.
do_at "$target_at" CLUSTER SETSLOT "$slot" NODE "$target"
do_at "$source" CLUSTER SETSLOT "$slot" NODE "$target"
echo "end: $moved keys"
for node in $(echo "$list" | awk '{ print $2 }'); do
    [ "$node" = "$source" ] || [ "$node" = "$target_at" ] || do_at "$node" CLUSTER SETSLOT "$slot" NODE "$target"
done
