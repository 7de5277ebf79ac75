// SPDX-License-Identifier: Apache-2.0

import Ringfence
import TestSupport
import Testing

@Suite struct GroupEventTests {
    @Test func `what happens to a group is told once and in order, to its followers and to those of all`() async throws
    {
        try await withClient3 { server, client, other, third in
            let group = try await client.group("ledger")
            let first = try await other.group("ledger").join("a", zone: "x", lease: .seconds(60))
            let ofGroup = Listener(group.events)
            let ofAll = Listener(third.events(after: .start))
            try await ofGroup.began()
            guard case .state(let state) = ofGroup.items[0] else { return }
            #expect(state.groups.map(\.group) == ["ledger"])
            #expect(state.groups.first?.members.map(\.id) == ["a"] && state.groups.first?.version == 1)

            let second = try await other.group("ledger").join("b", weight: 2, lease: .seconds(60))
            let elsewhere = try await other.group("reports").join("c", lease: .seconds(60))
            try await second.update(weight: 0)
            try await second.leave()
            try await elsewhere.leave()
            try await first.leave()
            let wanted = ["member.joined b 2", "member.updated b 3", "member.left b 4", "member.left a 5"]
            func told(_ listener: Listener, _ group: String) -> [String] {
                listener.events.filter { $0.group == group }
                    .map { "\($0.type) \($0.member ?? "") \($0.version ?? 0)" }
            }
            try await eventually("all is told", within: .seconds(60)) { told(ofGroup, "ledger") == wanted }
            try await eventually("all is told", within: .seconds(60)) { ofAll.events.count == 7 }
            #expect(told(ofAll, "ledger") == ["member.joined a 1"] + wanted)
            #expect(told(ofAll, "reports") == ["member.joined c 1", "member.left c 2"])
            #expect(ofAll.events.map(\.sequence) == Array(1...7) && ofGroup.resets.isEmpty)
            #expect(ofGroup.events[0].joined?.weight == 2 && ofGroup.events[1].joined?.isDraining == true)
        }
    }

    private func withClient3(
        _ body: @Sendable (RedisServer, RingfenceClient, RingfenceClient, RingfenceClient) async throws -> Void
    ) async throws {
        try await withRedis { server in
            try await withClients(server.unixURL, 3) { clients in
                try await body(server, clients[0], clients[1], clients[2])
            }
        }
    }
}
