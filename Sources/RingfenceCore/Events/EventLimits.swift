// SPDX-License-Identifier: Apache-2.0

extension Limits {
    package static let eventTypeBytes = 1...64
    package static let noteBytes = 2...16_384
    package static let eventLength = 100...10_000_000
}
