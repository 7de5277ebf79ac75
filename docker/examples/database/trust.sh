#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# An operator's word, never called by the agent: "this copy is the truth". For a group that has forgotten its past, or a
# copy whose better is gone for good: what only the other one had is lost by this. Give it to one member, and see that the
# other one's data directory (with its .ringfence) is removed before its agent starts again.
#   trust.sh REIGN    the last reign, as pre-promote.sh names it when it refuses
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
lock
[[ ${1:?the last reign} =~ ^[0-9]+$ ]] || fail 'a reign is a number'
write_holds "$1"
