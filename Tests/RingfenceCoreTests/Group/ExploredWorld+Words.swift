// SPDX-License-Identifier: Apache-2.0

@testable import RingfenceCore

/// What may happen in the explored world.
extension ExploredWorld {
    enum Way: UInt8, CaseIterable { case well, cut, deaf, slow, asleep }

    /// What is not in the course of things.
    enum Disturbance: Hashable {
        case way(Int, Way)
        /// Nobody reaches Redis; each may come back for itself.
        case outage
        case order(RoleOrder)
        case remove(Int)
        /// Redis restarts with what it had so many steps ago, or with nothing.
        case loss(Int?)

        /// A member's way changes for itself; everything else comes to Redis before, between or after the members'
        /// calls.
        var comesToRedis: Bool {
            switch self {
            case .way, .outage: false
            case .order, .remove, .loss: true
            }
        }
    }
}
