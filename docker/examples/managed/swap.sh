#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Lets a name lead to another address, as a managed service does with its primary endpoint after a failover: here in a
# file of hosts, elsewhere in DNS. `swap.sh NAME ADDRESS [FILE]`
set -eu
name=$1 address=$2 file=${3:-/etc/hosts}
others=$(awk -v name="$name" '{ for (i = 2; i <= NF; i++) if ($i == name) next; print }' "$file")
# Into the same file, for it may be mounted. Who looks in that moment finds no such name, and stays where it is.
printf '%s\n%s %s\n' "$others" "$address" "$name" >"$file"
