// SPDX-License-Identifier: Apache-2.0

/// Every metadata key this library logs, in one place; what is logged under them never holds secrets.
package enum LoggingKeys {
    package static let lock = "ringfence.lock"
    package static let fence = "ringfence.fence"
    package static let owner = "ringfence.owner"
    package static let actor = "ringfence.actor"
    package static let lease = "ringfence.lease"
    package static let site = "ringfence.site"
    package static let reason = "ringfence.reason"
    package static let error = "ringfence.error"
    package static let group = "ringfence.group"
    package static let member = "ringfence.member"
    package static let session = "ringfence.session"
    package static let policy = "ringfence.policy"
    package static let process = "ringfence.process"
    package static let namespace = "ringfence.namespace"
}
