// SPDX-License-Identifier: Apache-2.0
//
// The way to one node of a cache. A call to a node that is not connected fails at once: the others answer, and to wait
// for it would only hold memory. Each call says which server process it is meant for, so that a node that restarted
// between two calls is not taken for the one that acknowledged the first.
//
// A write carries a moment of the node's own clock after which it must not be done any more: had this process been
// stopped for an hour just before it was sent, the write would bring back a value whose removal all nodes have
// forgotten. Each answer gives an upper bound of the node's clock; that of an old answer is too low, for clocks drift.
//
// What is sent may wait until the connection is back, and then meet a server that restarted meanwhile with a run id on
// its disk that is not its own any more, but is the one that was sent. So an answer counts only while the connection is
// of the run it was asked for.

import Hiredis
import Logging
import NIOCore
import Ringfence
import RingfenceCacheCore
import RingfenceCore
import Synchronization

final class CacheNode: Sendable {
    let id: String
    let address: String
    private let redis: RedisClient
    private let scripts: CacheScripts
    private let logger: Logger
    private let warnings = Mutex<Set<String>>([])
    private let heard = Mutex(Heard())
    private let slow = Atomic<Bool>(false)

    /// What its last answers told.
    private struct Heard {
        var clock: Clock?
        var word: CacheWord?
    }

    private struct Clock {
        var milliseconds: Int64
        /// When the call was sent whose answer told it.
        var at: Nanos
    }

    /// How long it is believed to run as fast as ours.
    private static let clockLife = 60 * Nanos.second
    /// How far it may be stepped in that time, or the two may differ, without harm, in ms.
    private static let clockSlack: Int64 = 1_000

    init(
        id: String, address: String, options: CacheOptions, scripts: CacheScripts, eventLoop: any EventLoop,
        logger: Logger
    ) throws {
        let configuration = try RedisConfiguration(
            member: address, timeout: options.timeout, username: options.username, password: options.password,
            tls: options.tls)
        self.id = id
        self.address = address
        self.scripts = scripts
        var logger = logger
        logger[metadataKey: LoggingKeys.member] = "\(id)"
        self.logger = logger
        redis = RedisClient(configuration, eventLoop: eventLoop, logger: logger)
        redis.connect()
    }

    var isConnected: Bool { redis.isConnected }

    /// Names the server process that it is connected to; nil if it is not, or nobody may know.
    var run: String? { redis.connection?.runID }

    /// It did not answer within the moment in which it should have; until it answers again.
    var isSlow: Bool {
        get { slow.load(ordering: .relaxed) }
        set { slow.store(newValue, ordering: .relaxed) }
    }

    /// Stores what is newer there, if it comes there before `deadline` or soon after.
    func put(
        _ items: [CacheItem], stamp: CacheStamp, deadline: Nanos,
        completion: @escaping @Sendable (Result<CacheAnswer, CacheFailure>) -> Void
    ) {
        let left = deadline - Moment.now
        guard left > 0 else { return completion(.failure(.notSent)) }
        guard let clock = heard.withLock({ $0.clock }), deadline - clock.at < Self.clockLife else {
            return call(.hello(hintedTargets: []), stamp: stamp, deadline: .nanoseconds(left)) { [self] result in
                switch result {
                case .success: put(items, stamp: stamp, deadline: deadline, completion: completion)
                case .failure(let failure): completion(.failure(failure == .unknown ? .notSent : failure))
                }
            }
        }
        let notAfter = clock.milliseconds + (deadline - clock.at) / .millisecond + Self.clockSlack
        call(
            .put(items, notAfter: notAfter), stamp: stamp, deadline: .nanoseconds(left), completion: completion)
    }

    /// `completion` comes exactly once: at once if the node is not connected, else on the event loop.
    func call(
        _ call: CacheCall, stamp: CacheStamp, deadline: Duration? = nil,
        completion: @escaping @Sendable (Result<CacheAnswer, CacheFailure>) -> Void
    ) {
        guard let connection = redis.connection else { return completion(.failure(.notSent)) }
        guard let run = connection.runID else {
            warn("INFO is forbidden here: without it nobody can tell when the node restarted and lost data")
            return completion(.failure(.refused))
        }
        self.call(call, stamp: stamp, run: run, deadline: deadline, completion: completion)
    }

    /// The same, of this run of the server: nothing else counts.
    func call(
        _ call: CacheCall, stamp: CacheStamp, run: String, deadline: Duration? = nil,
        completion: @escaping @Sendable (Result<CacheAnswer, CacheFailure>) -> Void
    ) {
        let word = heard.withLock { $0.word }.flatMap { $0.isOf(stamp, run: run) ? $0 : nil }
        let script = scripts.call(call, stamp: stamp, run: run, word: word)
        let asked = Moment.now
        redis.run(script, deadline: deadline) { [self] result in
            switch result {
            case .success(let reply):
                guard self.run == run else { return completion(.failure(.unknown)) }
                guard let (answer, told) = scripts.answer(to: call, word: word, reply) else {
                    warn("an answer cannot be read")
                    return completion(.failure(.unknown))
                }
                heard.withLock {
                    $0.clock = Clock(milliseconds: answer.now, at: asked)
                    if let told { $0.word = told }
                }
                isSlow = false
                completion(.success(answer))
            case .failure(let error):
                if error.code == .server { warn(error.message) }
                completion(.failure(error.effect == .none ? (error.code == .server ? .refused : .notSent) : .unknown))
            }
        }
    }

    /// The same for a task.
    func answer(to call: CacheCall, stamp: CacheStamp) async -> Result<CacheAnswer, CacheFailure> {
        await withCheckedContinuation { continuation in
            self.call(call, stamp: stamp) { continuation.resume(returning: $0) }
        }
    }

    /// Why a node refuses is told once, not with each call.
    private func warn(_ message: String) {
        guard warnings.withLock({ $0.count < 16 && $0.insert(message).inserted }) else { return }
        logger.warning("a node of a cache refuses: \(message)")
    }

    /// Looks whether the node forgets by itself what it acknowledged.
    func checkEviction() async {
        let reply = try? await redis.send { writer in
            writer.begin(2)
            writer.argument("INFO")
            writer.argument("memory")
        }
        guard let text = reply?.text else { return }
        for line in text.split(whereSeparator: \.isNewline) where line.hasPrefix("maxmemory_policy:") {
            let policy = line.dropFirst("maxmemory_policy:".count)
            if policy != "noeviction" {
                warn(
                    "maxmemory-policy is \(policy): it may drop what others were told is stored, and reads may then be "
                        + "older than the latest write. Set noeviction")
            }
        }
    }

    func close() async { await redis.close() }
}

extension RedisConfiguration {
    /// The connection settings of a server that keeps a cache's data: a member's address, `host:port` or a URL, and our
    /// user there.
    init(
        member address: String, timeout: Duration, username: String?, password: String?, tls: RingfenceConfiguration.TLS
    ) throws(RedisError) {
        try self.init(
            url: address.contains("://") ? address : "redis://\(address)",
            tls: .init(
                authorityFile: tls.authorityFile, certificateFile: tls.certificateFile,
                privateKeyFile: tls.privateKeyFile, serverName: tls.serverName))
        self.username = self.username ?? username
        self.password = self.password ?? password
        clientName = "ringfence-cache"
        commandTimeout = timeout
        probeInterval = max(.milliseconds(500), timeout)
    }
}
