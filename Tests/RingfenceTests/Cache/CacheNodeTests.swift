// SPDX-License-Identifier: Apache-2.0
//
// One node on a real server that restarts with its data.
import Hiredis
import TestSupport
import Testing

@testable import Ringfence
@testable import RingfenceCache
@testable import RingfenceCacheCore
@testable import RingfenceCore

@Suite struct CacheNodeTests {
    /// What waits for a connection may go out on the next one, to a server that finds in its file the run it is asked
    /// of.
    @Test func `an answer counts only if it is of the run of the server that was asked`() async throws {
        try await withRedis { server in
            try await withClient(server.unixURL) { client in
                let scripts = CacheScripts(prefix: "ringfence:{t}:", group: "g", freshness: 60_000, hintLimit: 3)
                let node = try CacheNode(
                    id: "n", address: server.unixURL, options: .init(), scripts: scripts,
                    eventLoop: client.hub.eventLoop, logger: testLogger)
                try await eventually("it is connected") { node.run != nil }
                let run = try #require(node.run)
                let stamp = CacheStamp(epoch: 1, change: 7)
                for call in [
                    CacheCall.raise(layout: [1], began: 1), .begin(nonce: "once"), .end(nonce: "once", isFull: true),
                ] { _ = try await node.answer(to: call, stamp: stamp).get() }
                func whole(_ run: String) async -> Result<Int64, CacheFailure> {
                    await withCheckedContinuation { continuation in
                        node.call(.get(["k"]), stamp: stamp, run: run) {
                            continuation.resume(returning: $0.map(\.wholeEpoch))
                        }
                    }
                }
                #expect(await whole(run) == .success(1))

                let plain = RedisClient(try RedisConfiguration(url: server.unixURL), logger: testLogger)
                _ = try await plain.send { writer in
                    writer.begin(1)
                    writer.argument("SAVE")
                }
                try await server.restart()
                try await eventually("it is connected again") { node.run.map { $0 != run } ?? false }
                // The server itself takes it for its own.
                let late = scripts.call(.get(["k"]), stamp: stamp, run: run)
                let reply = try await plain.run(
                    late.script, keys: late.keys, arguments: late.arguments, late.encode)
                #expect(scripts.answer(to: .get(["k"]), reply)?.answer.wholeEpoch == 1)
                #expect(await whole(run) == .failure(.unknown))
                #expect(await whole(try #require(node.run)) == .success(-1))
                await plain.close()
                await node.close()
            }
        }
    }
}
