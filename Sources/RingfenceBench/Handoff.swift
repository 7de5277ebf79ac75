// SPDX-License-Identifier: Apache-2.0
//
// `handoff.*`: one lock, 64 waiters, nobody pausing. What a hand-off costs in commands is Redis' own count, and what it
// costs in time is given in PING round trips of the same client, because that is the unit in which a network would
// multiply it. The figure is worth nothing if the order is not kept, so that is proven twice: exactly, with waiters
// that arrive one after the other, and during the measurement, where nobody may be granted twice while another waits.

import Hiredis
import Logging
import NIOCore
import NIOPosix
import Ringfence
import RingfenceConsole

/// Hand-offs among the waiters of one process.
struct Handoff: Sendable {
    private static let name = "bench-handoff"
    private static let orderChecks = 20

    let settings: BenchSettings
    let configuration: RedisConfiguration

    /// What a round of hand-offs came to.
    private struct Round: Sendable {
        var commands: Double
        var microseconds: Double
        var pingMicroseconds: Double
        var latencies: [Double]
    }

    func run(report: (Figure) -> Void) async throws {
        try await LockPairs.withClient(settings) { client in
            for _ in 0..<Self.orderChecks { try await checkOrder(client) }
            var rounds: [Round] = []
            for _ in 0..<settings.rounds { rounds.append(try await round(client)) }
            let latencies = rounds.flatMap(\.latencies)
            report(
                Figure(
                    name: "handoff.commands.\(settings.tasks)", unit: "commands",
                    value: Statistics.median(rounds.map(\.commands)), trials: rounds.count, bar: .valueAtMost(2)))
            report(
                Figure(
                    name: "handoff.rtts.\(settings.tasks)", unit: "PINGs",
                    value: Statistics.median(rounds.map { $0.microseconds / $0.pingMicroseconds }),
                    reference: Statistics.median(rounds.map(\.pingMicroseconds)), trials: rounds.count,
                    p50: Statistics.percentile(latencies, 0.5), p99: Statistics.percentile(latencies, 0.99),
                    bar: .valueAtMost(12)))
        }
        try await Broadcast(settings: settings, configuration: configuration).run(report: report)
    }

    private func round(_ client: RingfenceClient) async throws -> Round {
        let ping = try await pingMicroseconds(client)
        let counter = try await CommandCounter(configuration, logger: settings.logger)
        let before = try await counter.clientCommands()
        let watch = Shared(FairnessWatch(tasks: settings.tasks))
        let outcome = try await Load.run(tasks: settings.tasks, seconds: settings.seconds) { task, _ in
            watch.withLock { $0.arrived(task) }
            let lease = try await client.acquire(Self.name, wait: .seconds(60))
            watch.withLock { $0.granted(task) }
            try await lease.release()
        }
        let overtakings = watch.value.overtakings
        guard overtakings * 1000 <= outcome.count else {
            throw CommandFailure("a waiter was overtaken in \(overtakings) of \(outcome.count) hand-offs")
        }
        let commands = try await counter.clientCommands() - before
        await counter.close()
        let latencies = outcome.sampled
        return Round(
            commands: Double(commands) / Double(outcome.count),
            microseconds: outcome.seconds * 1e6 / Double(outcome.count), pingMicroseconds: ping, latencies: latencies)
    }

    private func pingMicroseconds(_ client: RingfenceClient) async throws -> Double {
        var times: [Double] = []
        for _ in 0..<2000 { times.append(try await client.ping().microseconds) }
        return Statistics.percentile(times, 0.5) ?? 0
    }

    /// Holds the lock, lets waiters arrive one after the other, lets go, and compares the order of the grants.
    ///
    /// All of it runs on one thread, where a call of `acquire` has taken its place in the queue before the next task's
    /// call begins. So the order of the calls is the order of arrival, with nothing to argue about.
    private func checkOrder(_ client: RingfenceClient) async throws {
        let granted = Shared<[Int]>([])
        let first = try await client.acquire(Self.name)
        let arrivals = Shared<[Int]>([])
        try await withThrowingTaskGroup(of: Void.self) { group in
            let thread = OneThread()
            for waiter in 0..<settings.tasks {
                group.addTask(executorPreference: thread) {
                    arrivals.withLock { $0.append(waiter) }
                    let lease = try await client.acquire(Self.name, wait: .seconds(60))
                    granted.withLock { $0.append(waiter) }
                    try await lease.release()
                }
            }
            while arrivals.value.count < settings.tasks { try await Task.sleep(for: .milliseconds(1)) }
            try await first.release()
            for try await _ in group {}
        }
        let (arrived, order) = (arrivals.value, granted.value)
        guard order == arrived else {
            throw CommandFailure("the lock was granted out of order: arrived \(arrived), granted \(order)")
        }
    }
}

/// Counts how often a task is granted twice while another, which was there before, still waits.
///
/// A task notes its arrival just before it calls `acquire`; if its thread is put aside between the two for as long as a
/// whole turn of all waiters takes, that looks like being overtaken. So a few in a thousand prove nothing here, while
/// an unfair queue shows in every second hand-off; the exact proof is `checkOrder`.
struct FairnessWatch: Sendable {
    private(set) var overtakings = 0
    private var grants = 0
    /// At each waiter's arrival, how many grants there had been; nil while it does not wait.
    private var waitingSince: [Int?]
    /// Each task's last grant, as the number of that grant; 0: none.
    private var lastGrant: [Int]

    init(tasks: Int) {
        waitingSince = Array(repeating: nil, count: tasks)
        lastGrant = Array(repeating: 0, count: tasks)
    }

    mutating func arrived(_ task: Int) { waitingSince[task] = grants }

    mutating func granted(_ task: Int) {
        grants += 1
        waitingSince[task] = nil
        let previous = lastGrant[task]
        lastGrant[task] = grants
        if waitingSince.contains(where: { since in since.map { $0 < previous } ?? false }) { overtakings += 1 }
    }
}

/// A task executor of one thread.
final class OneThread: TaskExecutor {
    private let eventLoop = MultiThreadedEventLoopGroup.singleton.next()

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        let executor = asUnownedTaskExecutor()
        eventLoop.execute { job.runSynchronously(on: executor) }
    }
}

/// Redis' own count of the commands it got.
struct CommandCounter: Sendable {
    private let client: RedisClient

    init(_ configuration: RedisConfiguration, logger: Logger) async throws {
        client = RedisClient(configuration, logger: logger)
    }

    func close() async { await client.close() }

    /// How often clients sent any of `commands`. Redis counts in `commandstats` what scripts call by themselves, too,
    /// so the caller names commands that the scripts at work do not use.
    func clientCommands(_ commands: Set<String> = Self.sentByTheLibrary) async throws -> Int {
        let reply = try await client.send { writer in
            writer.begin(2)
            writer.argument("INFO")
            writer.argument("commandstats")
        }
        guard let text = reply.text else { throw CommandFailure("INFO was not answered with a text") }
        return Self.count(text, commands)
    }

    /// All that the library sends: scripts and what keeps its connections.
    static let sentByTheLibrary: Set<String> = [
        "evalsha", "eval", "script|load", "subscribe", "unsubscribe", "ping", "wait", "client|kill",
    ]

    /// The sum over the lines `cmdstat_<command>:calls=<n>,…`.
    static func count(_ text: String, _ commands: Set<String>) -> Int {
        var sum = 0
        for line in text.split(whereSeparator: \.isNewline) where line.hasPrefix("cmdstat_") {
            guard let colon = line.firstIndex(of: ":"), let equals = line.firstIndex(of: "=") else { continue }
            let command = line[..<colon].dropFirst("cmdstat_".count)
            guard commands.contains(String(command)) else { continue }
            sum += Int(line[line.index(after: equals)...].prefix { $0.isNumber }) ?? 0
        }
        return sum
    }
}
