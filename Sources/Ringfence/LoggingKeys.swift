// SPDX-License-Identifier: Apache-2.0

/// Every metadata key this library logs, in one place; what is logged under them never holds secrets.
enum LoggingKeys {
    static let lock = "ringfence.lock"
    static let fence = "ringfence.fence"
    static let owner = "ringfence.owner"
    static let lease = "ringfence.lease"
    static let site = "ringfence.site"
    static let reason = "ringfence.reason"
    static let error = "ringfence.error"
    static let group = "ringfence.group"
    static let member = "ringfence.member"
    static let session = "ringfence.session"
    static let policy = "ringfence.policy"
    static let process = "ringfence.process"
    static let namespace = "ringfence.namespace"
}
