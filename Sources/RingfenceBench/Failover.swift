// SPDX-License-Identifier: Apache-2.0
//
// `failover.*`, `switchover.gap`: how long a group is without its primary.
//
// A crash is a real one: the primary is a process, this executable again, and is ended by SIGKILL at a moment of no
// one's choosing. How long its lease still lasts then is asked of Redis, so "beyond the lease" is exact to Redis'
// millisecond and free of the phase in which the kill fell. A standby in this process is elected; a client of its own
// that follows the log is told.

import ArgumentParser
import FoundationEssentials
import Hiredis
import Logging
import Ringfence
import RingfenceConsole
import RingfenceOperations
import RingfencePlatform
import Synchronization

struct Failover: Sendable {
    static let namespace = "bench-failover"

    let settings: BenchSettings
    let configuration: RedisConfiguration

    func run(report: (Figure) -> Void) async throws {
        for lease in [3000, 1000, 300] { report(try await crashes(lease: lease)) }
        report(try await releases())
        report(try await children())
        report(try await switchovers())
    }

    // MARK: Crashes

    /// At once, each in a group of its own.
    private static let crashesAtOnce = 10

    private func crashes(lease: Int) async throws -> Figure {
        let late = try await EventArrivals.following("primary.elected", settings, Self.namespace) { arrivals in
            try await settings.withPlain(configuration) { plain in
                var late: [Double] = []
                for round in 0..<settings.rounds * 2 {
                    late += try await withThrowingTaskGroup(of: Double.self) { dying in
                        for number in 0..<Self.crashesAtOnce {
                            dying.addTask {
                                try await crash(plain, arrivals, "c\(lease)-\(round)-\(number)", lease: lease)
                            }
                        }
                        return try await dying.reduce(into: []) { $0.append($1) }
                    }
                }
                return late
            }
        }
        return Figure(name: "failover.overhead.\(lease)", late: late, bar: 10)
    }

    /// Milliseconds beyond the lease until the subscriber was told of the next primary.
    private func crash(_ plain: RedisClient, _ arrivals: EventArrivals, _ name: String, lease: Int) async throws
        -> Double
    {
        let process = try await start(
            OwnExecutable.path, ["bench-primary", "--group", name, "--lease-ms", String(lease)],
            redis: settings.redis.url)
        do {
            let group = try await arrivals.watcher.group(name)
            try await until("a primary in a process") { group.snapshot.primary?.phase == .ready }
            let standby = try await group.join("standby", lease: .milliseconds(lease))
            let candidacy = try await standby.campaign()
            // So that they do not all die in the same phase of their beats.
            try await Task.sleep(for: .milliseconds(Int.random(in: 300..<300 + lease)))
            arrivals.forget(name)
            process.signal(SIGKILL)
            _ = await process.wait()
            let left = try await leaseLeft(plain, name, "primary")
            let end = ContinuousClock.now + left
            let late = (await arrivals.arrival(of: name) - end).milliseconds
            try await until("the standby is primary") { candidacy.role.epoch != nil }
            try await standby.leave()
            return late
        } catch {
            process.signal(SIGKILL)
            throw error
        }
    }

    /// What is left of a lease by Redis' own clock.
    private func leaseLeft(_ plain: RedisClient, _ group: String, _ member: String) async throws -> Duration {
        let prefix = "ringfence:{\(Self.namespace)}:"
        let replies = try await plain.pipeline(count: 3, deadline: .seconds(5)) { writer in
            writer.begin(3)
            writer.argument("ZSCORE")
            writer.argument(prefix + "leases:", group)
            writer.argument(member)
            writer.begin(3)
            writer.argument("HGET")
            writer.argument(prefix + "state:", group)
            writer.argument("offset")
            writer.begin(1)
            writer.argument("TIME")
        }
        guard let ends = replies[0].text.flatMap({ Double($0) }), let time = replies[2].array,
            let seconds = time.first?.text.flatMap({ Int64($0) }),
            let micros = time.last?.text.flatMap({ Int64($0) })
        else { throw CommandFailure("\(group): the lease of \(member) is gone: \(replies)") }
        let offset = replies[1].text.flatMap { Int64($0) } ?? 0
        return .microseconds((Int64(ends) - offset) * 1000 - seconds * 1_000_000 - micros)
    }

    // MARK: Steps down, children, switchovers

    private func releases() async throws -> Figure {
        let late = try await EventArrivals.following("primary.elected", settings, Self.namespace) { arrivals in
            let group = try await arrivals.watcher.group("releases")
            var late: [Double] = []
            let members = [
                try await group.join("one", lease: .milliseconds(300)),
                try await group.join("two", lease: .milliseconds(300)),
            ]
            let candidacies = [try await members[0].campaign(), try await members[1].campaign()]
            for _ in 0..<settings.rounds * 20 {
                try await until("somebody is elected") { candidacies.contains { $0.role.epoch != nil } }
                guard let holder = candidacies.first(where: { $0.role.epoch != nil }), let epoch = holder.role.epoch
                else { continue }
                holder.ready(epoch)
                try await until("it is ready") { group.snapshot.primary?.phase == .ready }
                // A member that gave up is barred for a lease; it may be its turn again.
                try await Task.sleep(for: .milliseconds(310))
                arrivals.forget("releases")
                let start = ContinuousClock.now
                holder.giveUp(epoch)
                late.append((await arrivals.arrival(of: "releases") - start).milliseconds)
            }
            for member in members { try await member.leave() }
            return late
        }
        return Figure(name: "failover.release", late: late, bar: 5)
    }

    /// A supervised child is killed; its supervisor sees the end.
    private func children() async throws -> Figure {
        let late = try await EventArrivals.following("primary.elected", settings, Self.namespace) { arrivals in
            var late: [Double] = []
            for round in 0..<settings.rounds * 4 {
                let name = "child-\(round)"
                let directory = FileManager.default.temporaryDirectory.path
                let pidFile = "\(directory)/ringfence-bench-\(getpid())-\(round).pid"
                defer { _ = unlink(pidFile) }
                let supervisor = try await start(
                    OwnExecutable.sibling("ringfence"),
                    [
                        "agent", "exec", "--redis", settings.redis.url, "--namespace", Self.namespace, "--group", name,
                        "--member", "primary", "--lease", "10s", "--", "/bin/sh", "-c",
                        "echo $$ > \(pidFile); exec sleep 600",
                    ], redis: settings.redis.url)
                do {
                    let group = try await arrivals.watcher.group(name)
                    // The lease is long, so that it is not its end that is seen; nobody is elected before it.
                    try await until("the supervised one is primary", within: .seconds(60)) {
                        group.snapshot.primary?.phase == .ready
                    }
                    let standby = try await group.join("standby", lease: .seconds(3))
                    let candidacy = try await standby.campaign()
                    guard let pid = try? String(contentsOfFile: pidFile, encoding: .utf8),
                        let child = Int32(pid.filter(\.isNumber))
                    else { throw CommandFailure("the child did not say its process id") }
                    arrivals.forget(name)
                    let start = ContinuousClock.now
                    kill(child, SIGKILL)
                    late.append((await arrivals.arrival(of: name) - start).milliseconds)
                    withExtendedLifetime(candidacy) {}
                    try await standby.leave()
                } catch {
                    supervisor.signal(SIGKILL)
                    throw error
                }
                supervisor.signal(SIGKILL)
                _ = await supervisor.wait()
            }
            return late
        }
        return Figure(name: "failover.child", late: late, bar: 20)
    }

    /// When bodies were entered and left.
    private final class Diary: Sendable {
        private let gaps = Mutex((left: ContinuousClock.Instant?.none, gaps: [Double]()))
        var all: [Double] { gaps.withLock { $0.gaps } }

        func enter() {
            let now = ContinuousClock.now
            gaps.withLock { if let left = $0.left { $0.gaps.append((now - left).milliseconds) } }
        }
        func leave() {
            let now = ContinuousClock.now
            gaps.withLock { $0.left = now }
        }
    }

    private func switchovers() async throws -> Figure {
        let diary = Diary()
        let configuration = RingfenceConfiguration(url: settings.redis.url, namespace: Self.namespace)
        try await withRingfenceClient(configuration, settings.logger) { first in
            try await withRingfenceClient(configuration, settings.logger) { second in
                try await withThrowingTaskGroup(of: Void.self) { tasks in
                    for (name, client) in [("one", first), ("two", second)] {
                        tasks.addTask {
                            let membership = try await client.group("switchover").join(name, lease: .milliseconds(500))
                            while !Task.isCancelled {
                                do {
                                    try await membership.withPrimary { _ in
                                        diary.enter()
                                        defer { diary.leave() }
                                        try await Task.sleep(for: .seconds(3600))
                                    }
                                } catch let error as RingfenceError where error.code == .primaryLost {
                                } catch  where Task.isCancelled { break }
                            }
                            try await membership.leave()
                        }
                    }
                    let group = try await first.group("switchover")
                    for _ in 0..<settings.rounds * 20 {
                        try await until("both stand and one is ready") {
                            group.snapshot.primary?.phase == .ready
                                && group.snapshot.members.count(where: { $0.isCandidate }) == 2
                        }
                        try await first.operations(on: "switchover").switchover(timeout: .seconds(5))
                    }
                    tasks.cancelAll()
                    for try await _ in tasks {}
                }
            }
        }
        return Figure(name: "switchover.gap", late: diary.all, bar: 20)
    }

    // MARK: Helpers

    private func until(
        _ what: String, within limit: Duration = .seconds(30), _ condition: @Sendable () -> Bool
    ) async throws {
        let end = ContinuousClock.now + limit
        while !condition() {
            guard ContinuousClock.now < end else { throw CommandFailure("waited in vain until \(what)") }
            try await Task.sleep(for: .milliseconds(1))
        }
    }

    private func start(_ program: String, _ arguments: [String], redis url: String) async throws -> ChildProcess {
        var launch = ChildProcess.Launch([program] + arguments)
        launch.environment =
            Environment.current.filter { !$0.hasPrefix("RINGFENCE_") } + ["\(BenchPrimaryCommand.urlVariable)=\(url)"]
        let null = open("/dev/null", O_RDWR | O_CLOEXEC)
        defer { close(null) }
        (launch.input, launch.output) = (null, null)
        return try await ChildProcess.start(launch)
    }
}

/// `ringfence-bench bench-primary`, which only `ringfence-bench failover` starts: a primary to be killed.
struct BenchPrimaryCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench-primary", abstract: "A primary that is to be killed.", shouldDisplay: false)

    @Option var group: String
    @Option var leaseMs: Int

    /// Carries the URL, which may have a password in it, past the eyes of `ps`.
    static let urlVariable = "RINGFENCE_BENCH_REDIS"

    func run() async throws {
        guard let url = getenv(Self.urlVariable).map({ String(cString: $0) }) else {
            throw CommandFailure("bench-primary is started by ringfence-bench failover, not by hand")
        }
        let client = try RingfenceClient(
            RingfenceConfiguration(url: url, namespace: Failover.namespace),
            logger: .command("ringfence.bench", level: .critical))
        try await client.group(group).withPrimary(as: "primary", lease: .milliseconds(leaseMs)) { _ in
            try await Task.sleep(for: .seconds(3600))
        }
    }
}
