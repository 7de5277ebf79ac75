// SPDX-License-Identifier: Apache-2.0
import RingfenceCore
import TestSupport
import Testing

@testable import Ringfence

@Suite struct RenewalBatchTests {
    @Test func `a batch of renewals that is refused for the sake of one lease renews all others`() async throws {
        try await withRingfence { server, client in
            var good: [Lease] = []
            for number in 0..<10 { good.append(try await client.acquire("good \(number)", ttl: .seconds(300))) }
            let bad = try await client.acquire("bad", ttl: .seconds(300))
            // From now on no call may name the key of that one; a call is one renewal of all.
            #expect(
                try await server.cli(
                    "ACL", "SETUSER", "default", "resetkeys", "~ringfence:{default}:lock:good*",
                    "~ringfence:{default}:[^l]*") == "OK")
            let before = good.map(\.deadline)
            let badBefore = bad.deadline
            client.keeper.lookAtAll(now: Moment.now)
            try await eventually("all others are renewed") {
                zip(good, before).allSatisfy { $0.deadline > $1 }
            }
            #expect(bad.isHeld && bad.deadline == badBefore, "its own renewal is refused")
            let refused = try await server.cli("INFO", "commandstats").split(whereSeparator: \.isNewline)
                .filter { $0.hasPrefix("cmdstat_eval") }
                .compactMap { $0.split(separator: "rejected_calls=").last.flatMap { Int($0.prefix { $0.isNumber }) } }
                .reduce(0, +)
            #expect(refused >= 2, "the batch, and the one")
            #expect(try await server.cli("ACL", "SETUSER", "default", "allkeys") == "OK")
            for lease in good + [bad] { try await lease.release() }
        }
    }
}
