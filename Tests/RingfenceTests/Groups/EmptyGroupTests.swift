// SPDX-License-Identifier: Apache-2.0
//
// Groups that go by themselves, on a real Redis. When they may is a matter of group.lua, and of its fuzz and stories.
import RingfenceCore
import TestSupport
import Testing

@testable import Ringfence

@Suite struct EmptyGroupTests {
    @Test
    func `a group that nobody is in goes by itself, and who joins again goes on above its last version and epoch`()
        async throws
    {
        try await withObservedRedis { server, observer in
            try await withClients(server.unixURL, 1) { clients in
                let group = try await clients[0].group("old")
                for number in 0..<3 { try await group.join("m\(number)").leave() }
                _ = try await clients[0].group("lived in").join("m", lease: .seconds(600))
                try await clients[0].group("paused").join("m").leave()
                try await clients[0].operations(on: "paused").pause(for: .seconds(3600))
                let version = try await clients[0].operations(on: "old").status().version
                try await withClient(server.unixURL) {
                    $0.limits.emptyGroups = .seconds(1)
                } _: { client in
                    try await eventually("the empty one is gone", within: .seconds(60)) {
                        try await client.groupNames() == ["lived in", "paused"]
                    }
                    let removals = try await observer.events("group.removed")
                    #expect(removals.count == 1)
                }
                // As after 30 days.
                try await observer.send("DEL", "ringfence:{default}:state:old")
                _ = try await clients[0].group("new").join("m", lease: .seconds(600))
                #expect(try await clients[0].operations(on: "new").status().version > version)
            }
        }
    }

    @Test func `a bad time is refused by its name and limit`() throws {
        for time in [Duration.milliseconds(999), .seconds(365 * 86_400 + 1), .zero] {
            var configuration = RingfenceConfiguration()
            configuration.limits.emptyGroups = time
            let error = #expect(throws: RingfenceError.self) { try RingfenceClient(configuration) }
            #expect(error?.message == "limits.emptyGroups must be 1 s to 365 days")
        }
        var configuration = RingfenceConfiguration()
        configuration.limits.waiters = 0
        let error = #expect(throws: RingfenceError.self) { try RingfenceClient(configuration) }
        #expect(error?.message == "limits.waiters must be 1 to 1000000, not 0")
    }
}
