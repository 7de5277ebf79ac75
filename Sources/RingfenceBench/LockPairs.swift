// SPDX-License-Identifier: Apache-2.0
//
// `lock.pairs.*` and `lock.cpu.*`: the library as its users call it, with fence, queue and audit on, beside a C loop
// that sends the very same script calls. The ratio is what Swift, the state machines and the API cost over bare
// hiredis; what the scripts cost at the server is the same on both sides.

import Hiredis
import Logging
import Ringfence
import RingfenceConsole

/// Fenced pairs, by the C reference and by `RingfenceClient`.
struct LockPairs: Sendable {
    static let namespace = "bench"
    static let owner = "bench"

    let settings: BenchSettings
    let configuration: RedisConfiguration

    func run(report: (Figure) -> Void) async throws {
        let reference = try CReference(configuration)
        let pair = try await Self.pair(reference)
        let loop = CReference.Loop.async(clients: settings.tasks)
        for onLoop in [true, false] {
            var sampled: [Double] = []
            var cpu = Rounds()
            let rounds = try await Rounds.alternate(settings.rounds) {
                let outcome = try await reference.run(pair, loop, seconds: settings.seconds)
                cpu.references.append(outcome.microsecondsPerCommand)
                return outcome.perSecond
            } ours: {
                let outcome = try await acquireAndRelease(onLoop: onLoop)
                sampled += outcome.sampled
                cpu.values.append(outcome.cpuSeconds * 1e6 / Double(outcome.count * 2))
                return outcome.perSecond
            }
            let name = onLoop ? "lock" : "lock.pool"
            report(
                Figure(
                    name: "\(name).pairs.\(settings.tasks)", unit: "pairs/s", rounds: rounds, latencies: sampled,
                    bar: .ratioAtLeast(0.60)))
            report(
                Figure(
                    name: "\(name).cpu.\(settings.tasks)", unit: "us/command", rounds: cpu,
                    bar: onLoop ? .valueAtMost(3) : nil))
        }
        let scoped = try await Rounds.alternate(settings.rounds) {
            try await reference.run(pair, loop, seconds: settings.seconds).perSecond
        } ours: {
            try await withLock().perSecond
        }
        report(Figure(name: "lock.scoped.pairs.\(settings.tasks)", unit: "pairs/s", rounds: scoped, bar: nil))
    }

    /// The library's own script calls as arguments for C: acquire with a place in the queue, release with no successor.
    static func pair(_ reference: CReference) async throws -> CReference.Pair {
        let sha = try await reference.load(LockScriptText.lock)
        let prefix = "ringfence:{\(namespace)}:"
        let name = "bench-{client}"
        let keys = ["lock:", "fence:", "queue:"].map { prefix + $0 + name } + [prefix + "absent", prefix + "audit"]
        // As long as the library's: process, counter, and 128 random bits.
        let nonce = "0123456789abcdef-12345-{nonce}{nonce}"
        let call = ["EVALSHA", sha, "5"] + keys
        return CReference.Pair(
            acquire: .init(
                arguments: call
                    + ["acquire", "10000", "1000", "86400000", nonce, owner, "10110", "queue 10000"],
                expected: nil),
            release: .init(
                arguments: call + [
                    "release", "10000", "1000", "86400000", "{fence}:\(nonce):\(owner)", "", "", "", "",
                ],
                expected: "1"))
    }

    /// `onLoop`: in tasks on the client's own event loop, as tasks that do little but lock should be; else in the pool.
    private func acquireAndRelease(onLoop: Bool) async throws -> Load.Outcome {
        try await Self.withClient(settings) { client in
            try await Self.pairs(client, tasks: settings.tasks, seconds: settings.seconds, onLoop: onLoop)
        }
    }

    /// Tasks that take and release a lock each, for about `seconds`.
    static func pairs(
        _ client: RingfenceClient, tasks: Int, seconds: Double, onLoop: Bool = true
    ) async throws -> Load.Outcome {
        let names = (0..<tasks).map { "bench-\($0)" }
        return try await Load.run(tasks: tasks, seconds: seconds, executor: onLoop ? client.taskExecutor : nil) {
            task, _ in
            let lease = try await client.acquire(names[task])
            // Throws unless Redis held the lease to the end.
            try await lease.release()
        }
    }

    private func withLock() async throws -> Load.Outcome {
        try await Self.withClient(settings) { client in
            let names = (0..<settings.tasks).map { "bench-\($0)" }
            return try await Load.run(tasks: settings.tasks, seconds: settings.seconds) { task, _ in
                try await client.withLock(names[task]) { _ in }
            }
        }
    }

    /// A client that is connected and has its scripts loaded, and is shut down after `body`.
    static func withClient<Result: Sendable>(
        _ settings: BenchSettings, _ body: (RingfenceClient) async throws -> Result
    ) async throws -> Result {
        try await withRingfenceClient(
            .init(url: settings.redis.url, namespace: namespace, owner: owner), settings.logger
        ) { client in
            try await client.acquire("bench-warm-up").release()
            return try await body(client)
        }
    }
}
