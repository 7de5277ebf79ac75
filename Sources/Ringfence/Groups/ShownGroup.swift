// SPDX-License-Identifier: Apache-2.0
//
// What readers of a group see: one object, snapshot and ring together, which they load without waiting for anybody
// (Published.swift).

import Logging
import NIOCore
import RingfenceCore
import Synchronization

struct ShownGroup: Sendable {
    /// A class, so that the ring of a snapshot is made once, by the first caller.
    final class LazyRing: Sendable {
        let made = AtomicLazyReference<Made>()
        final class Made: Sendable {
            let ring: HashRing
            init(_ ring: HashRing) { self.ring = ring }
        }
    }

    let view: GroupMachine.View
    let members: [Member]
    let sequence: Int64
    /// Of all members together.
    let weight: Int
    let hasCandidates: Bool
    let ring = LazyRing()

    init(_ view: GroupMachine.View, sequence: Int64) {
        self.view = view
        self.sequence = sequence
        members = view.members.map { Member($0) }
        weight = view.members.reduce(0) { $0 + $1.weight }
        hasCandidates = view.members.contains { $0.isCandidate }
    }

    /// Makes its ring, of the ring before it if that is given.
    ///
    /// - Parameter eventLoop: where a failure is logged: this may be under the group's lock, and a log is its user's.
    @discardableResult
    func makeRing(after previous: HashRing?, logger: Logger, on eventLoop: any EventLoop) -> HashRing {
        let policy = view.policy ?? GroupScripts.defaultPolicy
        let members = view.members.map { HashRing.Member(id: $0.id, zone: $0.zone, weight: $0.weight) }
        do {
            let made: HashRing
            if let previous, previous.seed == policy.seed, previous.pointsPerWeight == policy.pointsPerWeight {
                made = try previous.changed(to: members)
            } else {
                made = try HashRing(members, seed: policy.seed, pointsPerWeight: policy.pointsPerWeight)
            }
            return ring.made.storeIfNil(.init(made)).ring
        } catch {
            // Each member is within its limits; together they may have more points than a ring takes.
            eventLoop.execute {
                logger.error(
                    "no ring can be made of the group's members; the one before stays",
                    metadata: [LoggingKeys.error: "\(error)"])
            }
            return ring.made.storeIfNil(.init(previous ?? Self.none)).ring
        }
    }

    private static let none: HashRing = {
        do { return try HashRing() } catch { preconditionFailure("a ring without members: \(error)") }
    }()
}

extension HashRing {
    /// The ring of exactly these members, made of this one by what differs.
    fileprivate func changed(to members: [Member]) throws -> HashRing {
        let before = self.members
        var joining: [Member] = []
        var leaving: [String] = []
        var old = before[...]
        for member in members {
            while let first = old.first, first.id.isBefore(member.id) {
                leaving.append(first.id)
                old.removeFirst()
            }
            if let first = old.first, first.id.hasSameBytes(as: member.id) {
                old.removeFirst()
                if first != member { joining.append(member) }
            } else {
                joining.append(member)
            }
        }
        leaving += old.map(\.id)
        return try applying(joining: joining, leaving: leaving)
    }
}
