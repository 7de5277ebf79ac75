// SPDX-License-Identifier: Apache-2.0
//
// The way in. A client owns one pipelined connection to Redis, a second one for pub/sub once somebody waits, and the
// machines that run on them; any number of tasks use it at once. Everything that must go on in time runs on the event
// loop, so the client works as soon as it is made; `run()` only ties its end to that of the application.

package import Hiredis
public import Logging
import NIOCore
import RingfenceCore
public import ServiceLifecycle
import Synchronization

/// A client of Ringfence on one Redis: locks with leases and fences.
///
/// ```swift
/// let ringfence = try RingfenceClient(.init(url: "redis://127.0.0.1:6379"))
/// let receipt = try await ringfence.withLock("account/4711", ttl: .seconds(10)) { lease in
///     try await ledger.debit("4711", 25_00, fence: lease.fence)
/// }
/// ```
///
/// It connects at the first use and again whenever the connection breaks. It is a `Service`: add it to a
/// `ServiceGroup`, and a graceful shutdown releases what it holds; or call ``shutdown()``. Keep it as long as its
/// leases: when its last reference goes without a shutdown, nothing is renewed any more, and each lease ends at its
/// deadline.
public final class RingfenceClient: Service, Sendable {
    let configuration: RingfenceConfiguration
    let keys: Keyspace
    /// An executor that runs tasks on the client's own event loop: about half the processor time for tasks that do
    /// little but lock.
    ///
    /// ```swift
    /// try await withTaskExecutorPreference(ringfence.taskExecutor) {
    ///     try await ringfence.withLock("account/4711") { lease in … }
    /// }
    /// ```
    ///
    /// Renewals and deadlines run on that loop too, so what runs there must never block nor compute for long: a task
    /// that keeps the loop for longer than a lease costs the client its leases. When in doubt leave it be.
    public let taskExecutor: any TaskExecutor
    /// Where all connections of the client go.
    package let locator: Locator
    let runner: ScriptRunner
    let watch: RedisWatch
    let scripts: LockScripts
    let table: LockTable
    let keeper: LeaseKeeper
    let groupScripts: GroupScripts
    let hub: GroupHub
    let cleanUp: CleanUp
    let nonces = NonceSource()
    let metrics = RingfenceMetrics()
    package let logger: Logger
    let feed: EventFeed
    private let inbox: Inbox
    private let ticker: Ticker
    private let emptyGroups: EmptyGroups?
    private let isShutDown = Atomic<Bool>(false)
    private let end = EndSignal()

    /// A client as configured. Nothing is sent before its first use, unless ``NamespaceLimits/emptyGroups`` is set.
    /// Metrics are made from the metrics factory in force now.
    ///
    /// - Throws: ``RingfenceError`` with code `argument.invalid` and effect `none`, naming the field and the limit. The
    ///   files of TLS and the password are not read here, but at each attempt to connect.
    public init(_ configuration: RingfenceConfiguration, logger: Logger = .current) throws {
        var redis = try Self.checked(configuration)
        var logger = logger
        logger[metadataKey: LoggingKeys.process] = "\(nonces.process)"
        logger[metadataKey: LoggingKeys.namespace] = "\(configuration.namespace)"
        keys = Keyspace(namespace: configuration.namespace, flavour: ScriptFlavour(redis.place))
        watch = RedisWatch(
            keys: keys, refusesEviction: configuration.refusesEviction, user: redis.username, logger: logger)
        let locator = Locator(redis, logger: logger) { [weak watch] status in watch?.located(status) }
        redis.locator = locator
        self.configuration = configuration
        self.locator = locator
        self.logger = logger
        scripts = LockScripts(
            keys: keys, auditLength: configuration.auditLength, waiters: configuration.limits.waiters,
            fenceRetention: configuration.fenceRetention)
        runner = ScriptRunner(redis, logger: logger) { [weak watch] info in watch?.connected(info) }
        watch.attach(runner.main, runner.refusals)
        taskExecutor = LoopExecutor(runner.main.eventLoop)
        ticker = Ticker(eventLoop: runner.main.eventLoop)
        cleanUp = CleanUp(runner: runner, metrics: metrics, logger: logger)
        keeper = LeaseKeeper(runner: runner, scripts: scripts, ticker: ticker, metrics: metrics, logger: logger)
        table = LockTable(
            runner: runner, scripts: scripts, cleanUp: cleanUp, keeper: keeper, ticker: ticker, nonces: nonces,
            metrics: metrics, watch: watch)
        groupScripts = GroupScripts(
            keys: keys, eventLength: configuration.eventLength, nonces: nonces, limits: configuration.limits,
            text: configuration.groupScript, mayBeElected: { [watch] in !watch.lacksMajority })
        feed = EventFeed(redis, scripts: EventScripts(keys: keys), metrics: metrics, logger: logger)
        hub = GroupHub(
            feed: feed, runner: runner, scripts: groupScripts, cleanUp: cleanUp, nonces: nonces, metrics: metrics,
            commandTimeout: Nanos(saturating: configuration.commandTimeout), owner: configuration.owner, logger: logger)
        emptyGroups = configuration.limits.emptyGroups.map { [groupScripts, runner] after in
            EmptyGroups(runner, groupScripts, after: after, owner: configuration.owner, logger: logger)
        }
        inbox = Inbox(
            redis, channel: keys.inbox(nonces.process), eventLoop: runner.main.eventLoop, table: table,
            keeper: keeper, watch: watch, logger: logger)
        // The table has the keeper, so this holds both until the client goes (not by a weak reference, for which the
        // table would pay with every lease). Who has a lease then has the table by it, and nobody waits there any more.
        keeper.onLoss { [table] lease in table.forget(lease) }
        ticker.onTick { [table, keeper] now in
            keeper.tick(now: now)
            table.tick(now: now)
            return !(keeper.isEmpty && table.isEmpty)
        }
        emptyGroups?.start()
    }

    /// Checks every field, and gives the connection's part of them.
    private static func checked(_ configuration: RingfenceConfiguration) throws -> RedisConfiguration {
        do {
            try Limits.check(namespace: configuration.namespace)
            try Limits.check(owner: configuration.owner)
            let timeouts = 1 * Nanos.millisecond...3600 * Nanos.second
            try Limits.check(Nanos(saturating: configuration.commandTimeout), "commandTimeout", timeouts)
            try Limits.check(Nanos(saturating: configuration.connectTimeout), "connectTimeout", timeouts)
            guard (1...10_000_000).contains(configuration.maximumCommandsInFlight) else {
                throw InvalidArgument("maximumCommandsInFlight", "must be 1 to 10000000")
            }
            guard (0...100_000_000).contains(configuration.auditLength) else {
                throw InvalidArgument("auditLength", "must be 0 (no audit) to 100000000")
            }
            try Limits.check(configuration.eventLength, "eventLength", Limits.eventLength)
            guard RingfenceConfiguration.fenceRetentionRange.contains(configuration.fenceRetention) else {
                throw InvalidArgument("fenceRetention", "must be 1 minute to 365 days")
            }
            try Limits.check(configuration.limits.members, "limits.members", NamespaceLimits.memberRange)
            try Limits.check(configuration.limits.groups, "limits.groups", NamespaceLimits.groupRange)
            try Limits.check(configuration.limits.waiters, "limits.waiters", NamespaceLimits.waiterRange)
            if let empty = configuration.limits.emptyGroups, !NamespaceLimits.emptyGroupRange.contains(empty) {
                throw InvalidArgument("limits.emptyGroups", "must be 1 s to 365 days")
            }
        } catch let error as InvalidArgument {
            throw RingfenceError(error)
        }
        do {
            var redis = try configuration.redisConfiguration()
            redis.clientName = "ringfence"
            redis.hashTag = configuration.namespace
            redis.log = ConnectionLog()
            // A dead connection must be noticed while the leases on it can still be renewed on another.
            redis.probeInterval = min(.seconds(5), max(.milliseconds(500), configuration.commandTimeout))
            redis.maximumCommandsInFlight = configuration.maximumCommandsInFlight
            return redis
        } catch {
            throw RingfenceError(.argumentInvalid, effect: .none, underlying: error, "url: \(error.message)")
        }
    }

    deinit {
        hub.abandon()
        emptyGroups?.stop()
        ticker.stop()
        watch.stop()
        keeper.onLoss { _ in }
    }

    /// Waits for a graceful shutdown or the cancellation of the task, calls ``shutdown()`` and returns. It throws
    /// nothing. The client works before `run()` is called and without it. A call of ``shutdown()`` elsewhere does not
    /// end it.
    public func run() async throws {
        let (stream, continuation) = AsyncStream<Void>.makeStream()
        await withTaskCancellationOrGracefulShutdownHandler {
            for await _ in stream {}
        } onCancelOrGracefulShutdown: {
            continuation.finish()
        }
        await shutdown()
    }

    /// Ends every wait with `client.shutDown`, leaves the groups it joined, tells holders that their leases are lost
    /// (which cancels the bodies of `withLock`), releases those leases, and closes the connections. A body has one
    /// command timeout to end before its lock goes to the next, and Redis another one to answer. Cancellation of the
    /// calling task does not cut it short.
    ///
    /// A ``LockGrant`` is not released: its holder is outside this process. A further call does nothing, and
    /// returns when the first has ended.
    public func shutdown() async {
        guard isShutDown.compareExchange(expected: false, desired: true, ordering: .acquiringAndReleasing).exchanged
        else { return await end.reached() }
        defer { end.reach() }
        table.shutDown()
        emptyGroups?.stop()
        async let left: Void = hub.shutDown()
        let leases = keeper.all
        for lease in leases { keeper.lose(lease, .shutDown) }
        let end = Moment.now.adding(Nanos(saturating: configuration.commandTimeout))
        while leases.contains(where: \.isWindingUp) || table.isReleasing, Moment.now < end {
            // Not `Task.sleep`: the task may be cancelled, that being why the client is shut down.
            try? await runner.main.eventLoop.scheduleTask(in: .milliseconds(5)) {}.futureResult.get()
        }
        for lease in leases where lease.claimLostRelease() { table.releaseInBackground(lease) }
        await left
        await cleanUp.settle(within: TimeAmount(configuration.commandTimeout))
        await feed.close()
        await inbox.close()
        await runner.close()
        ticker.stop()
        watch.stop()
    }

    /// What holds of this client are called, unless their options say otherwise.
    package var owner: String { configuration.owner }

    /// Connects now rather than at the first call.
    package func connect() { runner.main.connect() }

    /// Whether there is a connection to Redis now.
    package var isConnected: Bool { runner.main.isConnected }

    /// Starts to hear the inbox, before the first wait and with the first lease.
    func startInbox() { inbox.start() }

    /// Asks whether locks can be had here now: whether Redis answers, is neither a replica nor a Sentinel, evicts
    /// nothing, and takes from this user the commands that locks need. These are tried on a key of their own, which is
    /// removed again. Each call sends a `PING`; the rest is asked about once a second, however often this is called.
    ///
    /// - Returns: the time the `PING` took, connecting included.
    /// - Throws: ``RingfenceError``, whose message says what is wrong: `coordinator.refused`, `coordinator.unavailable`
    ///   and others. Nothing is changed by asking, whatever its effect.
    public func readiness() async throws -> Duration {
        let time = try await ping()
        try await watch.check()
        return time
    }

    /// Asks Redis whether it is there, and nothing more: see ``readiness()``.
    ///
    /// - Returns: the time the answer took, connecting included.
    /// - Throws: ``RingfenceError`` with effect `none`, since nothing is changed by asking: `coordinator.unavailable`;
    ///   `coordinator.refused` if Redis refuses this user; `coordinator.overloaded`; `cancelled`; `client.shutDown`.
    public func ping() async throws -> Duration {
        let start = ContinuousClock.now
        do {
            _ = try await runner.main.send { writer in
                writer.begin(1)
                writer.argument("PING")
            }
        } catch {
            var failure = RingfenceError(error, "PING")
            failure.effect = .none
            throw failure
        }
        return start.duration(to: .now)
    }
}
