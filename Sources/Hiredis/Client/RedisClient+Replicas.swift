// SPDX-License-Identifier: Apache-2.0
//
// Commands, and how many replicas have what they wrote.
//
// `WAIT` counts for its own connection only: how many replicas acknowledged all that this connection wrote so far. So
// it never goes without its commands, and never over another connection.
//
// For a number, commands and `WAIT` are one write. For all replicas the number must be known first, and it changes
// while replicas come and go: what the handshake said, or the call before, may be old by hours. So `INFO replication`
// goes in the same write behind the commands. It says who was connected when they had run, and `WAIT` then asks for
// exactly so many. That costs one round trip more to the primary, which is nearer than its replicas, and nothing is
// remembered that could be wrong: a replica that came a moment before is counted, and one that left a moment before is
// not waited for. Only those in state `online` are counted. One that still gets its first copy cannot acknowledge
// anything; `WAIT` does not count it either.

/// How many replicas must acknowledge.
package enum ReplicaCount: Sendable, Hashable {
    case atLeast(Int)
    /// All that are connected when the commands have run; at least one.
    case all
}

/// What was said of the replicas.
package struct Acknowledgement: Sendable, Equatable {
    /// Those that acknowledged all writes of this connection so far.
    package var replicas: Int
    /// How many were asked for; of all, 0: none is connected.
    package var asked: Int

    package var isEnough: Bool { replicas >= max(1, asked) }
}

extension RedisClient {
    /// The answers to commands.
    package struct ConfirmedReplies: Sendable {
        package var replies: [RedisReply]
        /// A failure: the commands ran, and the replicas could not be counted.
        package var acknowledgement: Result<Acknowledgement, RedisError>
    }

    /// Sends `count` commands and asks how many replicas have what they wrote. The callback comes on the event loop,
    /// exactly once, unless all of it was taken back. All commands of the client behind them wait too.
    ///
    /// - Parameter deadline: for each of two sends where the replicas must be counted first. Give it more than
    ///   `within`.
    /// - Returns: by what `withdraw` finds it.
    package func pipeline(
        count: Int, replicas: ReplicaCount, within: Duration, deadline: Duration,
        _ encode: (inout CommandWriter) -> Void,
        completion: @escaping @Sendable (Result<ConfirmedReplies, RedisError>) -> Void
    ) -> Submission {
        let waiter = Waiter.callback { [core] result in
            var replies: [RedisReply]
            switch result {
            case .failure(let error): return completion(.failure(error))
            case .success(.array(let all)) where all.count == count + 1: replies = all
            case .success:
                return completion(
                    .failure(RedisError(.protocolViolation, effect: .unknown, "a group was not answered as one")))
            }
            let last = replies.removeLast()
            let complete: @Sendable (Result<Acknowledgement, RedisError>) -> Void = { [replies] acknowledgement in
                completion(.success(ConfirmedReplies(replies: replies, acknowledgement: acknowledgement)))
            }
            switch replicas {
            case .atLeast(let number): complete(last.acknowledgement(asked: number))
            case .all: core.waitForAll(connected: last, within: within, deadline: deadline, complete)
            }
        }
        let number = core.submit(waiter, replies: count + 1, isSingle: false, deadline: deadline) { writer in
            encode(&writer)
            switch replicas {
            case .atLeast(let number): writer.wait(replicas: number, within: within)
            case .all:
                writer.begin(2)
                writer.argument("INFO")
                writer.argument("replication")
            }
        }
        return Submission(number: number)
    }

    /// What a script, followed by WAIT, gave.
    package struct Confirmed: Sendable, Equatable {
        package var reply: RedisReply
        /// nil: nobody was asked.
        package var acknowledgement: Acknowledgement?

        package init(reply: RedisReply, acknowledgement: Acknowledgement?) {
            self.reply = reply
            self.acknowledgement = acknowledgement
        }
    }

    /// A script of a group.
    package struct ScriptPart: Sendable {
        package var call: ScriptCall
        /// It is sent by its text: the server does not know it.
        package var isWhole = false

        package init(_ call: ScriptCall) { self.call = call }
    }

    /// What a group of scripts gave.
    package struct ConfirmedParts: Sendable {
        fileprivate var all: ConfirmedReplies

        /// Of one of the scripts. An unknown script is an error: it did not run, and is for the caller to send again,
        /// whole.
        package func part(_ index: Int) -> Result<Confirmed, RedisError> {
            if let error = all.replies[index].error { return .failure(RedisError(error)) }
            return all.acknowledgement.map { Confirmed(reply: all.replies[index], acknowledgement: $0) }
        }
    }

    /// Runs scripts, and asks how many replicas have what all of them wrote: as `pipeline(count:replicas:…)`. An error
    /// of a script has its own effect; one of `WAIT` has effect `unknown`, since the scripts ran.
    package func runAndWait(
        _ parts: [ScriptPart], replicas: ReplicaCount, within: Duration, deadline: Duration? = nil,
        completion: @escaping @Sendable (Result<ConfirmedParts, RedisError>) -> Void
    ) -> Submission {
        pipeline(count: parts.count, replicas: replicas, within: within, deadline: deadline ?? commandTimeout) {
            writer in
            for part in parts {
                let call = part.call
                call.script.begin(&writer, keys: call.keys, arguments: call.arguments, whole: part.isWhole)
                call.encode(&writer)
            }
        } completion: {
            completion($0.map { ConfirmedParts(all: $0) })
        }
    }
}

extension CommandCore {
    /// Asks for as many as `connected` names, the answer to `INFO replication`. On the event loop, where that answer
    /// has just come.
    fileprivate func waitForAll(
        connected: RedisReply, within: Duration, deadline: Duration,
        _ completion: @escaping @Sendable (Result<Acknowledgement, RedisError>) -> Void
    ) {
        guard case .string(let bytes) = connected else {
            let reason = connected.error.map { "\($0)" } ?? "no text"
            let error = RedisError(
                .server, effect: .unknown, "INFO, which says how many replicas there are, failed: \(reason)",
                server: connected.error)
            return completion(.failure(error))
        }
        let count = ServerState.onlineReplicas(info: String(decoding: bytes, as: UTF8.self))
        guard count > 0 else { return completion(.success(Acknowledgement(replicas: 0, asked: 0))) }
        let generation = connection?.generation
        let waiter = Waiter.callback { [self] result in
            // Connections only go forward. On another one WAIT knows nothing of what was written, and all replicas
            // have that.
            guard case .success(let reply) = result, connection?.generation == generation else {
                let reason = if case .failure(let error) = result { error.message } else { "the connection broke" }
                return completion(.failure(RedisError(.connectionLost, effect: .unknown, reason)))
            }
            completion(reply.acknowledgement(asked: count))
        }
        submit(waiter, replies: 1, isSingle: true, deadline: deadline) { $0.wait(replicas: count, within: within) }
    }
}

extension RedisReply {
    /// What `WAIT` answered.
    fileprivate func acknowledgement(asked: Int) -> Result<Acknowledgement, RedisError> {
        if let error {
            return .failure(RedisError(.server, effect: .unknown, "WAIT failed: \(error)", server: error))
        }
        guard let int else {
            return .failure(RedisError(.protocolViolation, effect: .unknown, "WAIT did not answer a number"))
        }
        return .success(Acknowledgement(replicas: Int(int), asked: asked))
    }
}

extension ServerState {
    /// How many replicas get the stream of writes, by the answer to `INFO replication`. It has a line for each:
    /// `slave0:ip=…,port=…,state=online,…`.
    static func onlineReplicas(info text: String) -> Int {
        var count = 0
        eachField(of: text) { name, value in
            guard name.hasPrefix("slave"), name.dropFirst(5).allSatisfy(\.isNumber), name.count > 5 else { return }
            if ListedReplica(value).isOnline { count += 1 }
        }
        return count
    }
}
