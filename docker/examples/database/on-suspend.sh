#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The lease could not be renewed and another member may be elected soon: accept nothing any more, now. No lock: whatever
# another hook is at, this goes first.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
fence
