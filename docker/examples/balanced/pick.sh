#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# One call of a service by somebody who is not written in Swift: ask ringfence whom to call, call, say what came of it.
#
#     pick.sh http://127.0.0.1:7420 shop /pay
#
# Prints the answer. 0: it is one; 1: the call failed; 2: nobody was called. RINGFENCE_TOKEN, if set, is sent to ringfence.
# What the service refuses (4xx) is an answer: it was well. Never called twice: whether that does harm is for you to know.
set -euo pipefail

base=$1 group=$2 path=$3
ask=(curl -sS --noproxy '*' --max-time 2 -H 'Content-Type: application/json')
[ -z "${RINGFENCE_TOKEN:-}" ] || ask+=(-H "Authorization: Bearer $RINGFENCE_TOKEN")

# Counted as outstanding for 5 s at most: longer than the call may take.
picked=$("${ask[@]}" -f -d '{"policy":"leastLoaded","trackMs":5000}' "$base/v1/groups/$group/pick") || exit 2
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" <<<"$picked"; }
address=$(field address) call=$(field call)
# A member says its own address: it must look like one before it becomes part of a URL. That it is a service to be paid with
# is for TLS and the service's own credentials to show.
[[ $address =~ ^([A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\]):[1-9][0-9]{0,4}$ ]] || exit 2

outcome=success
answer=$(curl -s --noproxy '*' --max-time 1 -w '\n%{http_code}' "http://$address$path") || outcome=failure
case ${answer##*$'\n'} in 5??) outcome=failure ;; esac
printf '%s\n' "${answer%$'\n'*}"

# Report to the instance that picked. Without it the call teaches nothing.
if [ -n "$call" ]; then
    "${ask[@]}" -o /dev/null -d "{\"outcome\":\"$outcome\"}" "$base/v1/groups/$group/calls/$call" || true
fi
[ "$outcome" = success ]
