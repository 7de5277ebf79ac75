// SPDX-License-Identifier: Apache-2.0
//
// `lock.plain.pairs.*`: what the wrapper over hiredis alone is worth. The commands are those of a lock without fence,
// queue or audit: SET key token NX PX, then compare and delete. Ours and the reference send the same bytes.

import Hiredis
import Logging
import RingfenceConsole

/// Plain pairs, by the C reference and by `RedisClient`.
struct PlainPairs: Sendable {
    private static let script = """
        if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end
        """

    let settings: BenchSettings
    let configuration: RedisConfiguration

    func run(report: (Figure) -> Void) async throws {
        let reference = try CReference(configuration)
        let sha = try await reference.load(Self.script)
        let pair = CReference.Pair(
            acquire: .init(arguments: ["SET", "bench:plain:{client}", "{nonce}", "NX", "PX", "10000"], expected: "OK"),
            release: .init(arguments: ["EVALSHA", sha, "1", "bench:plain:{client}", "{nonce}"], expected: "1"))
        for (tasks, least) in [(settings.tasks, 0.70), (1, 0.60)] {
            var sampled: [Double] = []
            let rounds = try await Rounds.alternate(settings.rounds) {
                let loop = tasks == 1 ? CReference.Loop.blocking : .async(clients: tasks)
                return try await reference.run(pair, loop, seconds: settings.seconds).perSecond
            } ours: {
                let outcome = try await ours(tasks: tasks)
                sampled += outcome.sampled
                return outcome.perSecond
            }
            report(
                Figure(
                    name: "lock.plain.pairs.\(tasks)", unit: "pairs/s", rounds: rounds, latencies: sampled,
                    bar: .ratioAtLeast(least)))
        }
    }

    private func ours(tasks: Int) async throws -> Load.Outcome {
        let client = RedisClient(configuration, logger: settings.logger)
        let script = RedisScript(Self.script)
        let set = CommandTemplate(["SET"], following: 5)
        let keys = (0..<tasks).map { Array("bench:plain:\($0)".utf8) }
        // The connection and the script are there before the clock starts, as they are for the reference.
        _ = try await client.run(script, keys: 1, arguments: 1) { writer in
            writer.argument("bench:plain:0")
            writer.argument("")
        }
        do {
            let outcome = try await Load.run(tasks: tasks, seconds: settings.seconds) { task, serial in
                let set = try await client.send { writer in
                    writer.template(set)
                    writer.argument(keys[task])
                    writer.argument(serial)
                    writer.argument("NX")
                    writer.argument("PX")
                    writer.argument("10000")
                }
                guard set == .status("OK") else { throw CommandFailure("SET NX PX was answered with \(set)") }
                let released = try await client.run(script, keys: 1, arguments: 1) { writer in
                    writer.argument(keys[task])
                    writer.argument(serial)
                }
                guard released == .integer(1) else { throw CommandFailure("a release was answered with \(released)") }
            }
            await client.close()
            return outcome
        } catch {
            await client.close()
            throw error
        }
    }
}
