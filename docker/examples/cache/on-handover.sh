#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The planned way out: hold writes, and say how far they went. The replica becomes primary when it has come as far.
# The pause ends by itself, should nobody end it.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

here CLIENT PAUSE "$(( ${RINGFENCE_DEADLINE_MS:-10000} + 5000 ))" WRITE >/dev/null
printf 'position=%s\n' "$(info master_repl_offset)"
