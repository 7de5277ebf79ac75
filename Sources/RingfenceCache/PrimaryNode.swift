// SPDX-License-Identifier: Apache-2.0
//
// The way to the Redis that is primary: one connection for what it answers at once, and one for the writes that
// replicas must confirm, which go in turns (WriteTurns).
//
// A call that fails here must tell more than whether it was sent: WAIT can fail after a write that was done. So each
// reply of a turn is read on its own.

import Hiredis
import NIOCore
import Ringfence
import RingfenceCacheCore
import RingfenceCore
import Synchronization

/// A value that is stored, or removed.
struct PrimaryWrite: Sendable {
    var key: [UInt8]
    /// nil: removed.
    var value: [UInt8]?
    /// ms.
    var ttl: Int64?

    var bytes: Int { key.count + (value?.count ?? 0) }

    func encode(_ writer: inout CommandWriter) {
        guard let value else {
            writer.begin(2)
            writer.argument("DEL")
            return writer.argument(key)
        }
        writer.begin(ttl == nil ? 3 : 5)
        writer.argument("SET")
        writer.argument(key)
        writer.argument(value)
        guard let ttl else { return }
        writer.argument("PX")
        writer.argument(ttl)
    }
}

/// How a write ended that Redis was asked to confirm.
enum PrimaryOutcome: Sendable {
    case confirmed
    /// It was done, and fewer replicas have it than were asked for.
    case done(Acknowledgement)
    /// It was done, and the replicas could not be counted.
    case uncounted(RedisError)
    case failed(RedisError)
}

final class PrimaryNode: Sendable {
    private struct Pending {
        var write: PrimaryWrite
        var continuation: CheckedContinuation<PrimaryOutcome, Never>
    }

    let address: String
    private let plain: RedisClient
    private let confirming: RedisClient
    private let timeout: Duration
    /// What is written behind removals; see `send`.
    private let mark: [UInt8]
    private let turns = Mutex(WriteTurns<Pending, Durability.Confirmation>())

    /// Connects. `mark`: a key that may be written at any time.
    init(_ address: String, _ options: PrimaryCacheOptions, mark: [UInt8], on client: RingfenceClient)
        throws(RedisError)
    {
        var configuration = try RedisConfiguration(
            member: address, timeout: options.timeout, username: options.username, password: options.password,
            tls: options.tls)
        self.address = address
        self.mark = mark
        timeout = options.timeout
        plain = RedisClient(configuration, eventLoop: client.eventLoop, logger: client.logger)
        // A WAIT keeps a probe waiting too; that is no dead connection.
        configuration.probeInterval += .milliseconds(PrimaryCacheOptions.longestConfirmation)
        confirming = RedisClient(configuration, eventLoop: client.eventLoop, logger: client.logger)
        plain.connect()
    }

    func get(_ key: [UInt8]) async throws(RedisError) -> [UInt8]? {
        let reply = try await plain.send { writer in
            writer.begin(2)
            writer.argument("GET")
            writer.argument(key)
        }
        switch reply {
        case .null: return nil
        case .string(let bytes): return bytes
        default: throw RedisError.shape(reply)
        }
    }

    func write(_ write: PrimaryWrite) async throws(RedisError) {
        _ = try await plain.send { write.encode(&$0) }
    }

    // MARK: Confirmed writes

    /// Ends within twice the timeout and `within`: in a turn, and in the one before it.
    func write(_ write: PrimaryWrite, _ confirmation: Durability.Confirmation) async -> PrimaryOutcome {
        await withCheckedContinuation { continuation in
            let pending = Pending(write: write, continuation: continuation)
            let isKept = turns.withLock {
                $0.add(
                    pending, confirmation, bytes: write.bytes,
                    latest: Moment.now + Nanos(saturating: limit(confirmation)))
            }
            guard isKept else {
                let error = RedisError(.overloaded, effect: .none, "too many writes wait to be confirmed")
                return continuation.resume(returning: .failed(error))
            }
            next()
        }
    }

    private func limit(_ confirmation: Durability.Confirmation) -> Duration {
        timeout + .milliseconds(confirmation.milliseconds)
    }

    private func next() {
        let (turn, late) = turns.withLock { $0.next(now: Moment.now) }
        let error = RedisError(.notConnected, effect: .none, "the writes before it took too long")
        for pending in late { pending.continuation.resume(returning: .failed(error)) }
        if let turn { send(turn.writes, turn.ask) }
    }

    private func send(_ turn: [Pending], _ confirmation: Durability.Confirmation) {
        // WAIT asks how many replicas have what this connection wrote last; from Redis 7.2 on a command that changed
        // nothing is no write. So behind a removal that found nothing it would tell nothing, and replicas may still
        // have what somebody else has just removed: then the value would be back after a failover. A write that is one
        // brings it about.
        let removes = turn.contains { $0.write.value == nil }
        let mark = PrimaryWrite(key: mark, value: [], ttl: 1000)
        _ = confirming.pipeline(
            count: turn.count + (removes ? 1 : 0), replicas: confirmation.replicas,
            within: .milliseconds(confirmation.milliseconds), deadline: limit(confirmation)
        ) { writer in
            for pending in turn { pending.write.encode(&writer) }
            if removes { mark.encode(&writer) }
        } completion: { [self] result in
            for (place, pending) in turn.enumerated() {
                let outcome = result.map { answers in
                    let mark = removes ? answers.replies[turn.count] : .null
                    return Self.outcome(answers.replies[place], mark, answers.acknowledgement)
                }
                switch outcome {
                case .success(let outcome): pending.continuation.resume(returning: outcome)
                case .failure(let error): pending.continuation.resume(returning: .failed(error))
                }
            }
            turns.withLock { $0.ended() }
            next()
        }
    }

    private static func outcome(
        _ reply: RedisReply, _ mark: RedisReply, _ acknowledgement: Result<Acknowledgement, RedisError>
    ) -> PrimaryOutcome {
        if let error = reply.error { return .failed(RedisError(error)) }
        if reply == .integer(0), let error = mark.error { return .uncounted(RedisError(error)) }
        switch acknowledgement {
        case .failure(let error): return .uncounted(error)
        case .success(let acknowledgement): return acknowledgement.isEnough ? .confirmed : .done(acknowledgement)
        }
    }

    func close() async {
        await plain.close()
        await confirming.close()
    }
}
