#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# All hooks of the service: onPromote starts the job under the new epoch, the others stop it. Asking again does no harm.
# If a service does not answer when it must stop, that is no reason to believe it stopped: it is killed, if SERVICE_PID
# names a file with its process id, and its supervisor starts it again, without the job.
set -euo pipefail

: "${RINGFENCE_HOOK:?}" "${RINGFENCE_ADDRESS:?}"
[[ $RINGFENCE_ADDRESS =~ ^([A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\]):[1-9][0-9]{0,4}$ ]] || exit 1
if [ "$RINGFENCE_HOOK" = onPromote ]; then epoch=${RINGFENCE_EPOCH:?}; else epoch=0; fi
[[ $epoch =~ ^[0-9]+$ ]] || exit 1
code=0
curl -sf --noproxy '*' --max-time 0.3 -o /dev/null -X POST "http://$RINGFENCE_ADDRESS/job?epoch=$epoch" || code=$?
[ "$code" != 0 ] || exit 0
[ "$epoch" = 0 ] || exit 1
# 7: nobody listens there. It has not begun to serve, so nobody told it to run the job.
[ "$code" != 7 ] || exit 0
[ -s "${SERVICE_PID:-}" ] || exit 1
kill -9 "$(cat "$SERVICE_PID")" 2>/dev/null || true
