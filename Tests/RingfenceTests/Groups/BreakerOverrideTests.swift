// SPDX-License-Identifier: Apache-2.0
//
// An operator's order about a whole group's breaker, on a real Redis: heard by every process, told once, and kept.

import Ringfence
import TestSupport
import Testing

@Suite struct BreakerOverrideTests {
    @Test func `a forced breaker is heard by every process, told by one event each time, and kept for newcomers`()
        async throws
    {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 3) { clients in
                let groups = [try await clients[0].group("g"), try await clients[1].group("g")]
                let member = try await groups[0].join("m", lease: .seconds(60))
                #expect(groups[0].snapshot.breaker == .automatic)
                let orders: [(BreakerOverride, String)] = [
                    (.open, "wrong balances"), (.closed, "all is \"well\""), (.automatic, "ticket 4711"),
                ]
                for (state, why) in orders {
                    let version = try await clients[2].operations(on: "g").status().version
                    try await clients[2].operations(on: "g").overrideBreaker(state, actor: "ann", reason: why)
                    for group in groups { try await eventually(group, "it hears \(state)") { $0.breaker == state } }
                    // As it is already: no event and no version.
                    try await clients[1].operations(on: "g").overrideBreaker(state, actor: "bob", reason: "again")
                    let status = try await clients[2].operations(on: "g").status()
                    #expect(status.version == version + 1 && status.breaker == state)
                    #expect(status.settings == ElectionSettings(), "it is no setting of the election")
                    #expect(groups[0].snapshot.members.map(\.id) == ["m"], "members are as they were")
                    try await withClients(server.unixURL, 1) { late in
                        let group = try await late[0].group("g")
                        #expect(group.snapshot.breaker == state)
                    }
                }
                let page = try await clients[2].eventPage(after: .start, limit: 100)
                let events = page.events.filter { $0.type == .breakerForced }
                #expect(events.map(\.actor) == ["ann", "ann", "ann"])
                #expect(events.map(\.reason) == orders.map(\.1))
                #expect(events.map(\.detail) == orders.map { "{\"state\":\"\($0.0.rawValue)\"}" })
                try await observer.checkLog()
                try await member.leave()
            }
        }
    }

    @Test func `settings of the election and the breaker leave one another alone`() async throws {
        try await withRingfence { _, client in
            let group = try await client.group("g")
            _ = try await group.join("m", lease: .seconds(60))
            try await client.operations(on: "g").update(ElectionSettings(maxLag: 5))
            try await client.operations(on: "g").overrideBreaker(.open, reason: "drill")
            try await client.operations(on: "g").update(ElectionSettings(minStandbys: 1))
            let status = try await client.operations(on: "g").status()
            #expect(status.breaker == .open)
            #expect(status.settings.maxLag == 5 && status.settings.minStandbys == 1)
        }
    }

    @Test func `a bad order is refused by its field, and one for no group with its reason`() async throws {
        try await withRingfence { _, client in
            let silent = await failure { try await client.operations(on: "g").overrideBreaker(.open, reason: "") }
            #expect(silent?.code == .argumentInvalid)
            #expect(silent?.message.contains("reason must be 1 to 512 bytes") == true)
            let long = await failure {
                try await client.operations(on: "g").overrideBreaker(.open, reason: String(repeating: "x", count: 513))
            }
            #expect(long?.code == .argumentInvalid && long?.message.contains("reason") == true)
            let nobody = await failure {
                try await client.operations(on: "g").overrideBreaker(.open, actor: "", reason: "x")
            }
            #expect(nobody?.code == .argumentInvalid && nobody?.message.contains("actor") == true)
            let nowhere = await failure { try await client.operations(on: "").overrideBreaker(.open, reason: "x") }
            #expect(nowhere?.code == .argumentInvalid && nowhere?.message.contains("group") == true)
            let none = await failure { try await client.operations(on: "g").overrideBreaker(.open, reason: "x") }
            #expect(none?.code == .orderRefused && none?.reasons.map(\.code) == ["noGroup"])
        }
    }
}
