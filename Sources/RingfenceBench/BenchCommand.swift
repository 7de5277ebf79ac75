// SPDX-License-Identifier: Apache-2.0
//
// `ringfence-bench`: is it fast enough here? Each figure is measured beside its reference, turn about, in this very
// invocation, because the pace of a machine changes from minute to minute and its ratios hardly do.
//
// It is a program of its own, so that what is shipped carries no benchmarks and none of their C. Where the service or
// the agent is measured, the program `ringfence` beside this one is started.

import ArgumentParser
import Hiredis
import Logging
import RingfenceConsole
import RingfenceOperations

@main
enum Beginning {
    static func main() { Program.begin { await BenchCommand.main() } }
}

/// `ringfence-bench`.
struct BenchCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ringfence-bench",
        abstract: "Measure how fast locks and the ring are on this machine, beside plain C.",
        discussion: """
            Each figure is measured in rounds, turn about with its reference: the same commands by a C program on \
            hiredis, or PING on the same connection. Value and reference are medians; the ratio is the median of the \
            rounds' ratios. Every answer is checked: a pair counts only if it was granted and released.

            Without --redis a private redis-server is started on a unix socket and ended after it, with nothing \
            written to disk. A named Redis should be idle. Run nothing else meanwhile, and use a release build.

            EXAMPLES
              ringfence-bench lock                          taking and releasing
              ringfence-bench handoff --json                hand-offs, as JSON lines
              ringfence-bench ring                          finding owners; needs no Redis
              ringfence-bench balancer                      picking members
              ringfence-bench topology                      Sentinels, Clusters and names that move
              ringfence-bench all --seconds 5 --rounds 9    everything else, at length
              ringfence-bench lock --redis redis://127.0.0.1:6379

            JSON: {"figure","unit","value","reference","ratio","trials","p50","p99","bar","met"}; what does not \
            apply is left out. p50 and p99 are the time of one pair or hand-off in microseconds (service.start: \
            milliseconds).

            `service`, and `failover` for one figure, start the program ringfence that lies beside this one.
            """,
        version: "ringfence-bench \(ringfenceVersion)",
        subcommands: [
            LockBench.self, HandoffBench.self, ServiceBench.self, RingBench.self, EventBench.self, BeatBench.self,
            FailoverBench.self, BalancerBench.self, CacheBench.self, TopologyBench.self, AllBench.self,
            BenchPrimaryCommand.self, BenchNamesCommand.self,
        ])

    static func main() async { await Program.run(BenchCommand.self, Array(CommandLine.arguments.dropFirst())) }
}

/// What all benchmarks share on the command line.
struct BenchOptions: ParsableArguments {
    @Flag(help: "Print one JSON object a line instead of a table.")
    var json = false

    @Option(help: ArgumentHelp("The Redis to use, instead of a private one.", valueName: "url"))
    var redis: String?

    @Option(help: "Seconds a round takes, for each of the two sides (0.1 to 60).")
    var seconds = 1.0

    @Option(help: "Rounds, 5 to 99.")
    var rounds = 5

    @Option(help: "Tasks, connections or waiters at once (2 to 1024). The bars are meant for 64.")
    var tasks = 64

    func validate() throws {
        guard (0.1...60).contains(seconds) else { throw ValidationError("--seconds must be 0.1 to 60, not \(seconds)") }
        guard (5...99).contains(rounds) else { throw ValidationError("--rounds must be 5 to 99, not \(rounds)") }
        guard (2...1024).contains(tasks) else { throw ValidationError("--tasks must be 2 to 1024, not \(tasks)") }
        try CommandRedis.check(url: redis)
    }
}

/// What a benchmark has to know.
struct BenchSettings: Sendable {
    var redis: CommandRedis
    var seconds: Double
    var rounds: Int
    var tasks: Int
    var logger: Logger

    /// Runs `body` with a plain connection, beside what is measured.
    func withPlain<Result: Sendable>(
        _ configuration: RedisConfiguration, _ body: @Sendable (RedisClient) async throws -> Result
    ) async throws -> Result {
        try await withConnection(configuration, logger: logger, body)
    }
}

/// Runs `body` with a plain connection, and closes it.
func withConnection<Result>(
    _ configuration: RedisConfiguration, logger: Logger, _ body: (RedisClient) async throws -> Result
) async throws -> Result {
    let client = RedisClient(configuration, logger: logger)
    do {
        let result = try await body(client)
        await client.close()
        return result
    } catch {
        await client.close()
        throw error
    }
}

extension BenchOptions {
    /// Which benchmarks to run.
    enum Part: Sendable { case lock, handoff, service, ring, events, beat, failover, balancer, cache }

    /// Prints what stands above the figures. - Returns: what prints one.
    func begin() throws -> @Sendable (Figure) -> Void {
        if !json {
            #if DEBUG
                try put("This is a debug build: the figures mean nothing. Build with: swift build -c release\n")
            #endif
            try put(Figure.header)
            try Output.flush()
        }
        return { [json] figure in
            // A failure ends the benchmarks (untilInterrupted), and is told at their end.
            try? put(json ? figure.json : figure.row)
            try? Output.flush()
        }
    }

    /// Runs the benchmarks on the chosen Redis and prints each figure as soon as it is known.
    func run(_ parts: [Part]) async throws {
        let logger = Logger.command("ringfence.bench")
        let report = try begin()
        if parts.contains(.ring) {
            try await RingLookups(seconds: seconds, rounds: rounds).run { figure in
                report(figure)
                // It computes and is not cancelled; and there is nothing to clean up.
                if let failure = Output.ending { Program.end(BenchCommand.self, by: failure) }
            }
        }
        let parts = parts.filter { $0 != .ring }
        if parts.isEmpty { return }
        try await CommandRedis.with(url: redis, logger: logger) { [logger] redis in
            let configuration = try RedisConfiguration(url: redis.url)
            // The private server of a benchmark measures Redis, not this machine's disk.
            if redis.isPrivate { try await Self.send(["CONFIG", "SET", "appendonly", "no"], configuration, logger) }
            let settings = BenchSettings(
                redis: redis, seconds: seconds, rounds: rounds, tasks: tasks, logger: logger)
            for part in parts {
                switch part {
                case .lock:
                    try await PlainPairs(settings: settings, configuration: configuration).run(report: report)
                    try await LockPairs(settings: settings, configuration: configuration).run(report: report)
                case .handoff:
                    try await Handoff(settings: settings, configuration: configuration).run(report: report)
                case .service:
                    try await ServicePairs(settings: settings, configuration: configuration).run(report: report)
                case .ring: break  // Done above: it needs no Redis.
                case .events:
                    try await EventFlow(settings: settings, configuration: configuration).run(report: report)
                case .beat:
                    try await GroupLife(settings: settings, configuration: configuration).run(report: report)
                case .failover:
                    try await Failover(settings: settings, configuration: configuration).run(report: report)
                case .balancer:
                    try await Picks(seconds: seconds, rounds: rounds).run(report: report)
                    try await BalancedTail(settings: settings).run(report: report)
                case .cache:
                    try await Caching(settings: settings).run(report: report)
                }
            }
            // Locks and fences expire by themselves; the audit streams would stay in a Redis that outlives us.
            let audits = [LockPairs.namespace, ServiceProcess.namespace].map { "ringfence:{\($0)}:audit" }
            if !redis.isPrivate { try await Self.send(["UNLINK"] + audits, configuration, logger) }
        }
    }

    /// Sends one command on a connection of its own.
    private static func send(_ words: [String], _ configuration: RedisConfiguration, _ logger: Logger) async throws {
        let client = RedisClient(configuration, logger: logger)
        do {
            _ = try await client.send { writer in
                writer.begin(words.count)
                for word in words { writer.argument(word) }
            }
            await client.close()
        } catch {
            await client.close()
            throw error
        }
    }
}

/// `ringfence-bench lock`.
struct LockBench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "lock",
        abstract: "Pairs of acquire and release a second, plain and fenced, and the CPU they cost.",
        discussion: """
            lock.plain.pairs.64   SET NX PX and compare-and-delete on one connection, beside hiredis' async API
            lock.plain.pairs.1    the same by one task, beside blocking hiredis
            lock.pairs.64         the public API with fence, queue and audit, beside the same scripts from C;
                                  tasks that prefer the client's taskExecutor, as those that do little but lock should
            lock.cpu.64           this process' CPU time for a command in that run, beside the C loop's
            lock.pool.pairs.64    the same by tasks of the default executor, a pool of threads
            lock.pool.cpu.64
            lock.scoped.pairs.64  the same by withLock, whose body is a task of its own

            EXAMPLE
              ringfence-bench lock --json --rounds 7
            """)
    @OptionGroup var options: BenchOptions
    func run() async throws { try await options.run([.lock]) }
}

/// `ringfence-bench handoff`.
struct HandoffBench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "handoff",
        abstract: "What it costs to hand one lock from waiter to waiter, and whether the order is kept.",
        discussion: """
            handoff.commands.64   commands that this client sent to Redis for a hand-off, as Redis counted them
            handoff.rtts.64       the time of a hand-off, in PING round trips on the same connection
            handoff.broadcast.64  the usual way for comparison: tell all waiters, and all of them try again

            Ends with an error if the lock was ever granted out of order.

            EXAMPLE
              ringfence-bench handoff --tasks 64 --seconds 2
            """)
    @OptionGroup var options: BenchOptions
    func run() async throws { try await options.run([.handoff]) }
}

/// `ringfence-bench service`.
struct ServiceBench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "service",
        abstract: "Pairs over HTTP, and what the service takes to start and to idle.",
        discussion: """
            service.lock.pairs.64  acquire and release over 64 keep-alive connections, beside the scripts from C
            service.start          from starting the process to the first lock granted over HTTP
            service.memory         resident memory of the idle service

            EXAMPLE
              ringfence-bench service --json
            """)
    @OptionGroup var options: BenchOptions
    func run() async throws { try await options.run([.service]) }
}

/// `ringfence-bench ring`.
struct RingBench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ring",
        abstract: "How long it takes to find the owner of a key, and to change the ring.",
        discussion: """
            ring.lookup.10 .100 .1000 .10000   the owner of a key of 20 bytes on a ring of that many members of 128 \
            points, hash included, beside Envoy's ring in C
            ring.preference3.1000              three members in three zones
            ring.join.1000                     a new ring after one member joined, beside building it as Envoy does
            ring.plan.1000                     which ranges one join moves

            Needs no Redis; --redis and --tasks mean nothing to it.

            EXAMPLE
              ringfence-bench ring --json
            """)
    @OptionGroup var options: BenchOptions
    func run() async throws { try await options.run([.ring]) }
}

/// `ringfence-bench events`.
struct EventBench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "events",
        abstract: "How long a change takes to its subscriber, and a subscriber to catch up.",
        discussion: """
            event.publish       from a member's update in one client to the event in another's iteration, beside a plain
                                PUBLISH between two plain connections
            event.replay.10000  10,000 missed events, on a new client, beside reading their pages and nothing else

            Ends with an error if an event was lost or came twice.

            EXAMPLE
              ringfence-bench events --json
            """)
    @OptionGroup var options: BenchOptions
    func run() async throws { try await options.run([.events]) }
}

/// `ringfence-bench beat`.
struct BeatBench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "beat",
        abstract: "What a membership costs Redis, and how soon its end is known.",
        discussion: """
            beat.cost                         processor time of the server for a beat with nothing new, beside PING
            death.overhead.3000 .1000 .200    from the end of a lease of that many ms, which nobody renewed, to the \
            event at a subscriber: the 99th percentile
            leave.event                       from a call of leave to the event at a subscriber: the 99th percentile

            --rounds 5 makes 100 deaths for each lease, 20 at once, and takes about a minute.

            EXAMPLE
              ringfence-bench beat --json
            """)
    @OptionGroup var options: BenchOptions
    func run() async throws { try await options.run([.beat]) }
}

/// `ringfence-bench failover`.
struct FailoverBench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "failover",
        abstract: "How long a group is without its primary when one dies, steps down or hands over.",
        discussion: """
            failover.overhead.3000 .1000 .300   a primary's process is killed (SIGKILL): from the end of its lease of \
            that many ms to primary.elected at a subscriber
            failover.release                    from stepping down to primary.elected at a subscriber
            failover.child                      from the death of a child of `ringfence agent exec` to the same
            switchover.gap                      nobody is inside withPrimary, in one process

            All are 99th percentiles. --rounds 5 kills 100 processes for each lease and takes about four minutes.

            EXAMPLE
              ringfence-bench failover --json
            """)
    @OptionGroup var options: BenchOptions
    func run() async throws { try await options.run([.failover]) }
}

/// `ringfence-bench balancer`.
struct BalancerBench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "balancer",
        abstract: "What it costs to pick a member, and what picking well is worth.",
        discussion: """
            pick.roundRobin .weighted .random .leastLoaded .peakEWMA .ringHash   one pick of ten members, by one thread
            pick.threads       picks of two threads at once, beside one thread's
            call.leastLoaded   a whole call of an empty body: picked, counted, learned from
            balancer.tail      the 99th percentile of calls to ten servers of which one takes twenty times as long, \
            least loaded beside round robin
            balancer.tail.peakEWMA   the same by what calls cost

            Needs two processors that are idle.

            EXAMPLE
              ringfence-bench balancer --json
            """)
    @OptionGroup var options: BenchOptions
    func run() async throws { try await options.run([.balancer]) }
}

/// `ringfence-bench cache`.
struct CacheBench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cache",
        abstract: "What three copies of a value cost beside one.",
        discussion: """
            cache.write.3.2     a write of 100 bytes to three servers that waits for two, one after the other, beside \
            a plain SET on one: the 50th percentile
            cache.read.3.2      a read from three that waits for two, beside a plain GET
            cache.drain.10000   from the moment a node is back until it has the 10,000 keys it missed

            Starts three redis-servers of its own, reached by TCP (Redis 7 or later); --redis is where their group is.

            EXAMPLE
              ringfence-bench cache --json
            """)
    @OptionGroup var options: BenchOptions
    func run() async throws { try await options.run([.cache]) }
}

/// `ringfence-bench all`.
struct AllBench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "all", abstract: "All benchmarks but that of topologies, one after the other.",
        discussion: """
            EXAMPLE
              ringfence-bench all --json > figures.jsonl
            """)
    @OptionGroup var options: BenchOptions
    func run() async throws {
        try await options.run([.lock, .handoff, .service, .ring, .events, .beat, .failover, .balancer, .cache])
    }
}
