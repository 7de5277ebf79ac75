// SPDX-License-Identifier: Apache-2.0
//
// Many members of one process in one group.

import Hiredis
import RingfenceCore
import TestSupport
import Testing

@testable import Ringfence

@Suite struct ManyMembersTests {
    private func calls(_ observer: Observer) async throws -> Int {
        let text = try await observer.send("INFO", "commandstats").text ?? ""
        let count = text.split(separator: "cmdstat_evalsha:calls=").dropFirst().first?.prefix { $0.isNumber }
        return count.flatMap { Int($0) } ?? 0
    }

    @Test func `beats of many members are written together, and each is heard of by itself`() async throws {
        try await withObservedRedis { server, observer in
            try await withClient(server.unixURL) { client in
                let group = try await client.group("g")
                var joined: [Membership] = []
                for number in 0..<120 {
                    joined.append(try await group.join("m\(number)", lease: .seconds(2), rejoins: number == 1))
                }
                let members = joined
                let begin = members.map(\.deadline).max()!
                let before = try await calls(observer)
                // A beat moves it on by a pace, a fifth of the lease.
                try await eventually("each has beaten five times") {
                    members.allSatisfy { $0.deadline > begin + .seconds(2) }
                }
                let made = try await calls(observer) - before
                #expect(made < 5 * 120 / 2, "\(made) calls for five beats of each")
                // What became of one of them is told to that one.
                for id in ["m0", "m1"] { _ = try await client.operations(on: "g").removeMember(id, actor: "ann") }
                let one = members[1].session
                try await withClient(server.unixURL) { other in
                    _ = try await other.group("g").join("m2", lease: .seconds(60))
                    try await eventually("they know") {
                        members[0].state == .expired && members[1].session != one && members[2].state == .replaced
                    }
                }
                #expect(members[3...].allSatisfy { $0.isMember })
                try await eventually("it came back") { group.snapshot.member("m1")?.session == members[1].session }
            }
        }
    }
}
