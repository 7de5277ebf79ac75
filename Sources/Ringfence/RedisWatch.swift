// SPDX-License-Identifier: Apache-2.0
//
// What must hold of a Redis for as long as it is used, and not only at a start.
//
// An eviction policy gives held locks away in silence, and may come with a Redis that is started anew, with a failover,
// or with one CONFIG SET. So the state of the server is part of each handshake (it is known before the first command is
// written), and is asked for again every minute. What is wrong is logged when it begins and when it ends, is a metric,
// and fails `readiness()`. That the server is a primary is for the handshake to see.
//
// Whether this client may do what locks need (role, rights, memory, slot, the state of the disk) is not asked but
// tried, by trial.lua, whenever somebody wants to know whether we are ready.

import CoreMetrics
import Hiredis
import Logging
import NIOCore
import RingfenceCore
import Synchronization

final class RedisWatch: Sendable {
    /// What may be wrong.
    enum Fault: String, CaseIterable, Sendable {
        /// It deletes held locks when its memory runs short.
        case evicts
        /// It refuses what locks need.
        case refuses
        /// It refuses what tells holders and waiters: grants by hand-off come late.
        case mute
        /// It does not let this client listen: grants by hand-off and events are looked for, and come late.
        case deaf

        /// For those who branch on it.
        var code: String {
            switch self {
            case .evicts: "redis.evicts"
            case .refuses: "redis.refuses"
            case .mute, .deaf: "redis.channelForbidden"
            }
        }
    }

    /// Looked at with each acquire: no more than one load.
    final class Gate: Sendable {
        private let shut = Atomic<Bool>(false)
        var isShut: Bool { shut.load(ordering: .relaxed) }
        fileprivate func set(_ isShut: Bool) { shut.store(isShut, ordering: .relaxed) }
    }

    private struct State {
        var client: RedisClient?
        var refusals: Refusals?
        var alarm: Alarm?
        var faults: [Fault: String] = [:]
        /// A majority of the Sentinels is required, and does not answer.
        var majority: RedisError?
        /// When INFO was answered last, or asked for.
        var lookedAt = Nanos.min
        /// As it was seen last.
        var server: ServerState?
        var verdict: (at: Nanos, error: RingfenceError?)?
        var isTrying = false
    }

    /// How often what must always hold is looked at, beside each new connection.
    private static let interval = 60 * Nanos.second
    /// For so long one answer is good for all who ask.
    private static let freshness = Nanos.second

    let gate = Gate()
    private let keys: Keyspace
    private let trial: RedisScript
    private let logger: Logger
    private let user: String
    private let places = PlaceMetrics()
    /// Whether a Redis that evicts gets no locks from us, or only our complaints.
    private let refusesEviction: Bool
    private let state = Mutex(State())

    init(keys: Keyspace, refusesEviction: Bool, user: String?, logger: Logger) {
        self.keys = keys
        self.user = user ?? "default"
        trial = RedisScript(keys.flavour.text(String(decoding: PackageResources.trial_lua, as: UTF8.self)))
        self.refusesEviction = refusesEviction
        self.logger = logger
    }

    /// Whose connection it is.
    func attach(_ client: RedisClient, _ refusals: Refusals) {
        let alarm = Alarm(eventLoop: client.eventLoop) { [weak self] _ in self?.look() }
        state.withLock { ($0.client, $0.refusals, $0.alarm) = (client, refusals, alarm) }
    }

    func stop() {
        let alarm = state.withLock { state in
            defer { (state.client, state.alarm) = (nil, nil) }
            return state.alarm
        }
        alarm?.stop()
    }

    /// A new connection is there, and no command of ours was written on it yet.
    func connected(_ info: ConnectionInfo) {
        state.withLock { $0.verdict = nil }
        saw(info.server)
    }

    // MARK: What must always hold

    /// Asks anew, in the background.
    private func look() {
        state.withLock { $0.lookedAt = Moment.now }
        state.withLock { $0.client }?.send { writer in
            writer.begin(1)
            writer.argument("INFO")
        } completion: { [weak self] result in
            guard let self else { return }
            switch result {
            case .success(let reply): saw(reply.text.map { ServerState(info: $0) })
            case .failure: saw(nil)
            }
        }
    }

    /// `server`: nil if it did not answer, or may not be asked; then what was known stays.
    private func saw(_ server: ServerState?) {
        let now = Moment.now
        state.withLock { $0.lookedAt = now }
        if let server {
            state.withLock { $0.server = server }
            report(.evicts, Self.eviction(server))
        }
        state.withLock { $0.alarm }?.set(now + Self.interval, now: now)
    }

    private static func eviction(_ server: ServerState) -> String? {
        guard let policy = server.evictionPolicy, policy != "noeviction", server.memoryLimit != 0 else { return nil }
        return
            "this Redis has maxmemory-policy \(policy): when its memory runs short it deletes held locks and members. "
            + "CONFIG SET maxmemory-policy noeviction, also in redis.conf"
    }

    /// The inbox was heard, or this user may not listen to it.
    func channel(isRefused error: RedisError?) {
        let late = "grants by hand-off come up to a second late, and events too"
        report(.deaf, error.map { _ in "the user \(user) of Redis may not subscribe: \(late). \(channelRight)" })
    }

    /// What mends a missing right on the channels.
    private var channelRight: String {
        "ACL SETUSER \(user) &\(keys.prefix)* (Redis 7 gives a new user no channel)"
    }

    /// As it was seen last, and what is wrong with it though locks can be had.
    var view: (server: ServerState?, faults: [(code: String, message: String)]) {
        state.withLock { state in
            let faults = Fault.allCases.compactMap { fault in
                state.faults[fault].flatMap { $0.isEmpty ? nil : (code: fault.code, message: $0) }
            }
            return (state.server, faults)
        }
    }

    /// - Parameter isLogged: false where another fault says the same.
    private func report(_ fault: Fault, _ message: String?, isLogged: Bool = true) {
        let before = state.withLock { state in
            let before = state.faults.updateValue(message ?? "", forKey: fault)
            setGate(state)
            return before
        }
        guard before != message ?? "" else { return }
        Gauge(label: "ringfence_redis_fault", dimensions: [("fault", fault.rawValue)]).record(message == nil ? 0 : 1)
        if !isLogged { return }
        if let message {
            logger.error("\(message)")
        } else if before != nil {
            logger.notice("this fault of Redis is over", metadata: ["ringfence.fault": "\(fault.rawValue)"])
        }
    }

    /// What the locator knows.
    func located(_ status: Locator.Status) {
        places.changed(status)
        state.withLock { state in
            state.majority = status.sentinels?.refusal
            setGate(state)
        }
    }

    /// A majority of the Sentinels is required, and does not answer: no role is to begin either.
    var lacksMajority: Bool { gate.isShut && state.withLock { $0.majority != nil } }

    private func setGate(_ state: State) {
        gate.set(state.majority != nil || refusesEviction && state.faults[.evicts]?.isEmpty == false)
    }

    /// What is wrong now, and forbids that anything is locked here.
    private func refusal() -> RingfenceError? {
        let (majority, message) = state.withLock { ($0.majority, $0.faults[.evicts]) }
        if let majority {
            return RingfenceError(.coordinatorUnavailable, effect: .none, underlying: majority, majority.message)
        }
        guard let message, !message.isEmpty else { return nil }
        return RingfenceError(.coordinatorRefused, effect: .none, message)
    }

    /// Why the gate is shut; nil if it has been opened meanwhile. It is looked again soon: the fault may be mended by
    /// now.
    var gateRefusal: RingfenceError? {
        let isOld = state.withLock { $0.lookedAt < Moment.now - Self.freshness }
        if isOld { look() }
        return gate.isShut ? refusal() : nil
    }

    // MARK: Whether we are able

    /// Returns if locks can be had here now.
    /// - Throws: why not.
    func check() async throws {
        let now = Moment.now
        let known = state.withLock { state -> (at: Nanos, error: RingfenceError?)? in
            if let verdict = state.verdict, state.isTrying || verdict.at > now - Self.freshness { return verdict }
            state.isTrying = true
            return nil
        }
        if let known { if let error = known.error { throw error } else { return } }
        let error = await judge()
        // That one caller has gone says nothing to the others.
        let isVerdict = error?.code != .cancelled
        state.withLock { ($0.verdict, $0.isTrying) = (isVerdict ? (now, error) : nil, false) }
        if let error { throw error }
    }

    private func judge() async -> RingfenceError? {
        guard let client = state.withLock({ $0.client }) else { return .shutDown }
        do {
            let reply = try await client.send { writer in
                writer.begin(1)
                writer.argument("INFO")
            }
            saw(reply.text.map { ServerState(info: $0) })
        } catch  where error.code == .server {
            // It may not be asked.
        } catch {
            var failure = RingfenceError(error, "asking Redis for its state")
            failure.effect = .none  // it only reads
            return failure
        }
        if let refusal = refusal() { return refusal }
        do {
            let (key, absent, channel) = (keys.prefix + "trial", keys.absent, keys.prefix + "trial")
            let reply = try await client.run(trial, keys: 2, arguments: 1) { writer in
                writer.argument(key)
                writer.argument(absent)
                writer.argument(channel)
            }
            report(.refuses, nil)
            let refused = reply.text ?? ""
            let words = RedisServerError(message: refused).words
            report(
                .mute,
                refused.isEmpty
                    ? nil
                    : "the user \(user) of Redis may not publish (\(words)): waiters and holders hear of nothing, and "
                        + "grants by hand-off come some seconds late. \(channelRight)",
                isLogged: state.withLock { $0.faults[.deaf]?.isEmpty != false }
            )
            return nil
        } catch {
            let error = state.withLock { $0.refusals }?.noted(error) ?? error
            var failure = RingfenceError(error, "doing once what locks need")
            // It leaves nothing.
            failure.effect = .none
            if error.code == .server { report(.refuses, "this Redis refuses what locks need: \(error.message)") }
            return failure
        }
    }
}
