#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The role is over: no more writes, now. More replicas than there can be are asked for, so that every write is an error at
# once. One that does not even answer is fenced by what it was told before: without its replica it takes no writes.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

here CONFIG SET min-replicas-to-write 65535 >/dev/null
cut_clients
