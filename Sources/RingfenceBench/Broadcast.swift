// SPDX-License-Identifier: Apache-2.0
//
// `handoff.broadcast.*`: what the usual Redis lock does, for comparison. The release publishes that the lock is free,
// all waiters hear it, all try SET NX, and one wins: a herd. It is measured on the same wrapper and connections as
// ours, so that the difference is the protocol alone.

import Hiredis
import Logging
import RingfenceConsole
import Synchronization

/// Broadcast and retry.
struct Broadcast: Sendable {
    private static let key = "bench:broadcast"
    private static let channel = "bench:broadcast:free"
    private static let releaseScript = """
        if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
        redis.call('DEL', KEYS[1])
        redis.call('PUBLISH', KEYS[2], '')
        return 1
        """

    let settings: BenchSettings
    let configuration: RedisConfiguration

    func run(report: (Figure) -> Void) async throws {
        let client = RedisClient(configuration, logger: settings.logger)
        let bell = Bell()
        let subscriber = RedisSubscriber(
            configuration, channels: [Self.channel], eventLoop: client.eventLoop, logger: settings.logger
        ) { _ in bell.ring() }
        subscriber.start()
        await bell.wait(after: 0)
        let result: (commands: Double, microseconds: Double)
        do {
            result = try await contend(client, bell)
        } catch {
            bell.retire()
            await subscriber.close()
            await client.close()
            throw error
        }
        await subscriber.close()
        await client.close()
        report(
            Figure(
                name: "handoff.broadcast.\(settings.tasks)", unit: "commands", value: result.commands, trials: 1,
                p50: result.microseconds, bar: nil))
    }

    private func contend(_ client: RedisClient, _ bell: Bell) async throws -> (commands: Double, microseconds: Double) {
        let counter = try await CommandCounter(configuration, logger: settings.logger)
        let before = try await counter.clientCommands(["set", "evalsha"])
        let script = RedisScript(Self.releaseScript)
        let handOffs = Shared((last: -1, count: 0))
        let outcome = try await Load.run(tasks: settings.tasks, seconds: settings.seconds) { task, serial in
            while true {
                let heard = bell.generation
                let reply = try await client.send { writer in
                    writer.begin(6)
                    writer.argument("SET")
                    writer.argument(Self.key)
                    writer.argument(serial)
                    writer.argument("NX")
                    writer.argument("PX")
                    writer.argument("10000")
                }
                if reply == .ok { break }
                await bell.wait(after: heard)
            }
            handOffs.withLock { $0 = (task, $0.count + ($0.last == task ? 0 : 1)) }
            let released = try await client.run(script, keys: 2, arguments: 1) { writer in
                writer.argument(Self.key)
                writer.argument(Self.channel)
                writer.argument(serial)
            }
            guard released == .integer(1) else { throw CommandFailure("a release was answered with \(released)") }
        } whenOver: {
            bell.retire()
        }
        let commands = try await counter.clientCommands(["set", "evalsha"]) - before
        await counter.close()
        let count = Double(max(1, handOffs.value.count))
        return (Double(commands) / count, outcome.seconds * 1e6 / count)
    }
}

/// Wakes all who wait, as often as it is rung.
final class Bell: Sendable {
    private struct State {
        var generation = 0
        var isRetired = false
        var waiters: [CheckedContinuation<Void, Never>] = []
    }

    private let state = Mutex(State())

    /// How often it was rung.
    var generation: Int { state.withLock { $0.generation } }

    func ring() {
        let waiters = state.withLock { state in
            state.generation += 1
            defer { state.waiters = [] }
            return state.waiters
        }
        for waiter in waiters { waiter.resume() }
    }

    /// Nobody waits any more from now on.
    func retire() {
        state.withLock { $0.isRetired = true }
        ring()
    }

    /// Returns once it was rung more than `generation` times.
    func wait(after generation: Int) async {
        await withCheckedContinuation { continuation in
            let mayGo = state.withLock { state in
                if state.generation > generation || state.isRetired { return true }
                state.waiters.append(continuation)
                return false
            }
            if mayGo { continuation.resume() }
        }
    }
}
