// SPDX-License-Identifier: Apache-2.0
//
// What the nodes of a Cluster say about one slot.
//
// All keys of a namespace have the hash tag `{namespace}`, so they have one slot, and that has one owner: a client
// needs no map of 16,384 slots, only to know who has this one. Nodes say it in CLUSTER SLOTS and in redirections. Both
// may leave the host out, in several ways; it then is the host that was asked.

struct ClusterView: Sendable, Equatable {
    static let slots = 16_384

    /// What one node says.
    struct Sighting: Sendable, Equatable {
        /// The primary that has the slot; nil: nobody has.
        var owner: RedisConfiguration.Address?
        /// All nodes that have slots, and their replicas, in the order of the answer.
        var nodes: [RedisConfiguration.Address] = []
    }

    /// A refusal that names another node.
    struct Redirection: Sendable, Equatable {
        var slot: Int
        var address: RedisConfiguration.Address
        /// For one command only, while the slot is being moved there.
        var isAsk: Bool
    }

    let namespace: String
    /// Of every key of the namespace.
    let slot: Int
    private let map: AddressMap

    init(namespace: String, map: AddressMap = AddressMap()) {
        self.namespace = namespace
        slot = Self.slot(ofTag: namespace)
        self.map = map
    }

    /// The slot of all keys with the hash tag `{tag}`.
    static func slot(ofTag tag: String) -> Int { Int(checksum(tag.utf8)) % slots }

    /// CRC16 as XMODEM has it: polynomial 0x1021, beginning with 0.
    static func checksum(_ bytes: some Sequence<UInt8>) -> UInt16 {
        bytes.reduce(0) { sum, byte in
            (0..<8).reduce(sum ^ UInt16(byte) << 8) { sum, _ in
                sum & 0x8000 == 0 ? sum << 1 : sum << 1 ^ 0x1021
            }
        }
    }

    // MARK: CLUSTER SLOTS

    static let question = ["CLUSTER", "SLOTS"]

    /// Reads the reply of the node at `asked` to CLUSTER SLOTS.
    /// - Throws: why it is no answer, in a sentence that names the node.
    func read(_ reply: RedisReply, from asked: RedisConfiguration.Address) throws(RedisError) -> Sighting {
        if let error = reply.error { throw Self.refusal(error, from: asked) }
        guard let ranges = reply.array else {
            throw RedisError(
                .connectFailed, effect: .none, "\(asked) gave an answer to CLUSTER SLOTS that cannot be read")
        }
        var sighting = Sighting()
        for range in ranges {
            guard let parts = range.array, parts.count >= 3, let first = parts[0].int, let last = parts[1].int else {
                continue
            }
            let nodes = parts.dropFirst(2).map { node($0, asked) }
            if first <= last, (first...last).contains(Int64(slot)) { sighting.owner = nodes[0] }
            for case let node? in nodes where !sighting.nodes.contains(node) { sighting.nodes.append(node) }
        }
        return sighting
    }

    /// `[host, port, id, [name, value, …]]`; the last since 7.0. nil for a node that cannot be reached so: without a
    /// port for TLS, say.
    private func node(_ reply: RedisReply, _ asked: RedisConfiguration.Address) -> RedisConfiguration.Address? {
        guard let parts = reply.array, parts.count >= 2, let port = parts[1].int else { return nil }
        var host = parts[0].text
        // A node without the name that the Cluster prefers. It may tell its address besides.
        if host == "?", parts.count >= 4, let address = parts[3].fields?["ip"] { host = address }
        return address(host, Int(port), asked)
    }

    private func address(
        _ host: String?, _ port: Int, _ asked: RedisConfiguration.Address
    ) -> RedisConfiguration.Address? {
        guard (1...65_535).contains(port) else { return nil }
        switch host {
        case nil, "", "?", "0.0.0.0", "::":
            // Reached by the address that was asked, which is one of ours and not mapped.
            guard case .tcp(let host, _) = asked else { return nil }
            return .tcp(host: host, port: port)
        case let host?: return map(.tcp(host: host, port: port))
        }
    }

    private static func refusal(_ error: RedisServerError, from asked: RedisConfiguration.Address) -> RedisError {
        if error.message.contains("cluster support disabled") {
            return RedisError(
                .wrongServer, effect: .none,
                "\(asked) is no node of a Cluster: use redis://\(asked), or redis+replicated:// for a list",
                server: error, fault: .notCluster)
        }
        if error.prefix == .noPermission {
            return RedisError(
                .connectFailed, effect: .none,
                "\(asked) does not let this user ask where its keys are: it needs +cluster|slots", server: error)
        }
        return RedisError(
            .connectFailed, effect: .none, "\(asked) does not say where the slots are: \(error.message)", server: error,
            fault: error.prefix == .noAuthentication ? .password : nil)
    }

    // MARK: MOVED and ASK

    /// Reads `MOVED slot host:port` or `ASK slot host:port`, as the node at `asked` said it. nil: it is none.
    func redirection(
        by error: RedisServerError, from asked: RedisConfiguration.Address
    ) -> Redirection? {
        guard error.prefix == .moved || error.prefix == .ask else { return nil }
        let words = error.message.split(separator: " ")
        // An IPv6 address has no brackets here, so the port is behind the last colon.
        guard words.count >= 3, let slot = Int(words[1]), let colon = words[2].lastIndex(of: ":"),
            let port = Int(words[2][words[2].index(after: colon)...]),
            let address = address(String(words[2][..<colon]), port, asked)
        else { return nil }
        return Redirection(slot: slot, address: address, isAsk: error.prefix == .ask)
    }
}
