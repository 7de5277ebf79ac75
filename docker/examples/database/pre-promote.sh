#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# May this copy become the primary? Only if it is known to hold every commit acknowledged in the last reign the group
# remembers. A standby that was away while the other one went on alone is older than that, and refuses; so does any copy
# once the group has forgotten its past (Redis lost its data and no agent was left to remember): see trust.sh.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

last=${RINGFENCE_PREVIOUS_EPOCH:-0}
holds "$last" || fail "may lack commits: this copy holds all of reign(s) $(cat "$state/holds" 2>/dev/null || echo none)," \
    "the last primary (${RINGFENCE_PREVIOUS:-none}) was ready in $last"
