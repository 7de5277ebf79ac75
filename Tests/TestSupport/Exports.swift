// SPDX-License-Identifier: Apache-2.0

// Who tests with this starts servers too.
@_exported public import TestServers
