// SPDX-License-Identifier: Apache-2.0
//
// One Sentinel's answer about one primary.
//
// The address and the epoch of a Sentinel's belief come from two commands. SENTINEL MASTER shows both, but during a
// failover its address is the old one under the new epoch, for seconds, at the Sentinel that leads; only
// GET-MASTER-ADDR-BY-NAME is right there at once, and that knows no epoch. Two commands are not one look, so the
// address is asked on both sides of the row: if it is the same, the epoch between is the epoch of that address.
//
// Nothing in these replies tells who gives them, and behind one address may be another Sentinel today: the connection
// to a service died, and the next one, made between two questions, led elsewhere. So the id is part of every answer. A
// connection ends at one process, which keeps its id, so it is asked once on each.

/// What a Sentinel believes.
struct SentinelAnswer: Sendable, Equatable {
    /// As announced: before the address map.
    var address: RedisConfiguration.Address
    var epoch: Int64
    /// It believes that the primary is down.
    var isDown = false
    /// How many further Sentinels it knows.
    var others = 0
    /// These Sentinels by their ids, if they were asked for.
    var list: [String: RedisConfiguration.Address]?
    /// Its own id. A Sentinel that refuses to tell it has not answered: it could not be told from another.
    var id: String?

    /// Where the id is among the replies.
    static let idIndex = 3

    /// What is written at once to one Sentinel. `withList`: also who the other Sentinels are. `withID`: also who it is,
    /// where that is not known; else it is put among the replies.
    static func question(about name: String, withList: Bool, withID: Bool) -> [[String]] {
        let address = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name]
        let core = [address, ["SENTINEL", "MASTER", name], address] + (withID ? [["SENTINEL", "MYID"]] : [])
        return withList ? core + [["SENTINEL", "SENTINELS", name]] : core
    }

    /// Reads the replies to that question.
    /// - Throws: why they are no answer, in a sentence that names `source`.
    init(
        _ replies: [RedisReply], about name: String, from source: RedisConfiguration.Address
    ) throws(RedisError) {
        if let error = replies.prefix(4).lazy.compactMap(\.error).first {
            throw SentinelWords(source: source, name: name).failure(RedisError(error))
        }
        guard replies.count >= 3 else { throw SentinelWords(source: source, name: name).unreadable() }
        if replies[0] == .null || replies[2] == .null { throw SentinelWords(source: source, name: name).unknownName() }
        guard let before = Self.address(replies[0]), let after = Self.address(replies[2]),
            let row = replies[1].fields, let epoch = row["config-epoch"].flatMap({ Int64($0) })
        else { throw SentinelWords(source: source, name: name).unreadable() }
        guard before == after else { throw SentinelWords(source: source, name: name).changing(before, after) }
        address = before
        self.epoch = epoch
        let flags = row["flags"]?.split(separator: ",") ?? []
        isDown = flags.contains("s_down") || flags.contains("o_down")
        others = row["num-other-sentinels"].flatMap { Int($0) } ?? 0
        if replies.count > Self.idIndex { id = replies[Self.idIndex].text }
        if replies.count > Self.idIndex + 1, let rows = replies[Self.idIndex + 1].array {
            var list: [String: RedisConfiguration.Address] = [:]
            for row in rows.compactMap(\.fields) {
                guard let id = row["runid"], !id.isEmpty, let address = Self.address(row["ip"], row["port"]) else {
                    continue
                }
                list[id] = address
            }
            self.list = list
        }
    }

    init(address: RedisConfiguration.Address, epoch: Int64) {
        self.address = address
        self.epoch = epoch
    }

    private static func address(_ reply: RedisReply) -> RedisConfiguration.Address? {
        guard let parts = reply.array, parts.count == 2 else { return nil }
        return address(parts[0].text, parts[1].text)
    }

    private static func address(_ host: String?, _ port: String?) -> RedisConfiguration.Address? {
        guard let host, !host.isEmpty, let port = port.flatMap({ Int($0) }), (1...65_535).contains(port) else {
            return nil
        }
        return .tcp(host: host, port: port)
    }
}

/// Why a Sentinel gives no answer, in words for the one who configured it.
struct SentinelWords {
    let source: RedisConfiguration.Address
    /// What the primary is called.
    let name: String

    /// - Parameter error: of the connection, or the reply to a command.
    func failure(_ error: RedisError) -> RedisError {
        guard let reply = error.server else { return error }
        let message = reply.message
        switch reply.prefix {
        case .noAuthentication:
            return fault(
                .password, "the Sentinel \(source) asks for a password: set RINGFENCE_SENTINEL_PASSWORD", reply)
        case .wrongPassword:
            return fault(
                .password,
                "the Sentinel \(source) refuses our user or password (--sentinel-user, RINGFENCE_SENTINEL_PASSWORD)",
                reply)
        case .noPermission:
            return fault(
                .broken,
                """
                the Sentinel \(source) does not let this user ask: it needs +sentinel|get-master-addr-by-name \
                +sentinel|master +sentinel|sentinels +sentinel|myid +subscribe +ping +info +client &*
                """, reply)
        case RedisServerError.Prefix(rawValue: "IDONTKNOW"):
            return fault(.noPrimary, "the Sentinel \(source) does not know where \"\(name)\" is", reply)
        case .err where message.contains("No such master"): return unknownName()
        case .err where message.hasPrefix("ERR unknown command"):
            return fault(
                .notSentinel, "\(source) is no Sentinel: give the port of one (usually 26379), or redis://", reply)
        case .err where message.contains("without any password"):
            return fault(
                .password, "the Sentinel \(source) knows no password: unset RINGFENCE_SENTINEL_PASSWORD", reply)
        default:
            return fault(error.fault ?? .broken, "the Sentinel \(source) says: \(message)", reply)
        }
    }

    func unknownName() -> RedisError {
        fault(.unknownPrimary, "the Sentinel \(source) watches no primary that is called \"\(name)\"")
    }

    func unreadable() -> RedisError { fault(.broken, "the Sentinel \(source) gave an answer that cannot be read") }

    /// The next answer will tell.
    func changing(_ before: RedisConfiguration.Address, _ after: RedisConfiguration.Address) -> RedisError {
        fault(.sentinelChanges, "the Sentinel \(source) is just moving \"\(name)\" from \(before) to \(after)")
    }

    private func fault(
        _ fault: ConnectionFault, _ message: String, _ reply: RedisServerError? = nil
    ) -> RedisError {
        RedisError(.connectFailed, effect: .none, message, server: reply, fault: fault)
    }
}
