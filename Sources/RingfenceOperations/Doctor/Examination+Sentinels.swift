// SPDX-License-Identifier: Apache-2.0
//
// What each Sentinel says, those of the URL and those that they name. Clients ask them too, but for one thing only;
// whether they could agree on a failover, and what they would tell somebody who cannot reach what they announce, is for
// an operator to know before it matters.
import Hiredis

extension Examination {
    /// A Sentinel as another one names it.
    private struct Other: Sendable {
        var address: RedisConfiguration.Address
        /// That one does not reach it either.
        var isDown: Bool
    }

    /// How many are asked at most.
    private static let mostSentinels = 16

    /// Asks the Sentinels of the URL, and then those that they name.
    func watchers() async -> [RedisReadings.Sentinel] {
        guard case .sentinels(let hosts, let name) = configuration.place else { return [] }
        let (first, found) = await look(at: hosts, name)
        // One that is silent has no id to be known by.
        let ids = Set(first.compactMap(\.id))
        let known = Set(hosts + hosts.map { configuration.addressMap($0) })
        let others = found.filter { !ids.contains($0.key) && !known.contains($0.value.address) }
            .map(\.value).sorted { "\($0.address)" < "\($1.address)" }.prefix(Self.mostSentinels)
        var (second, _) = await look(at: others.map(\.address), name)
        for (index, other) in zip(second.indices, others) {
            (second[index].isNamedByOthers, second[index].isDown) = (true, other.isDown)
        }
        return first + second
    }

    /// What they say, in the order of `hosts`, and the others by their ids.
    private func look(
        at hosts: [RedisConfiguration.Address], _ name: String
    ) async -> ([RedisReadings.Sentinel], [String: Other]) {
        typealias Said = (place: Int, RedisReadings.Sentinel, [String: Other])
        return await withTaskGroup(of: Said.self) { group in
            for (place, host) in hosts.enumerated() {
                group.addTask {
                    let (sentinel, others) = await look(at: host, name)
                    return (place, sentinel, others)
                }
            }
            var all: [Said] = []
            for await said in group { all.append(said) }
            all.sort { $0.place < $1.place }
            let others = all.reduce(into: [:]) { $0.merge($1.2) { known, _ in known } }
            return (all.map(\.1), others)
        }
    }

    private func look(
        at host: RedisConfiguration.Address, _ name: String
    ) async -> (RedisReadings.Sentinel, [String: Other]) {
        var settings = configuration.sentinel(at: host)
        (settings.connectTimeout, settings.commandTimeout, settings.failsFast) = (.seconds(1), .seconds(1), true)
        let client = RedisClient(settings, logger: logger)
        var sentinel = RedisReadings.Sentinel(address: "\(host)")
        var others: [String: Other] = [:]
        do {
            let replies = try await client.pipeline(count: 5) { writer in
                writer.command(["SENTINEL", "MYID"])
                writer.command(["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name])
                writer.command(["SENTINEL", "MASTER", name])
                writer.command(["SENTINEL", "CKQUORUM", name])
                writer.command(["SENTINEL", "SENTINELS", name])
            }
            sentinel.read(replies)
            for fields in (replies[4].array ?? []).compactMap(\.fields) {
                guard let id = fields["runid"], let host = fields["ip"], let port = fields["port"].flatMap({ Int($0) })
                else { continue }
                let flags = fields["flags"]?.split(separator: ",") ?? []
                others[id] = Other(
                    address: configuration.addressMap(.tcp(host: host, port: port)),
                    isDown: flags.contains("s_down") || flags.contains("disconnected"))
            }
        } catch {
            sentinel.failure = error.message
        }
        await client.close()
        return (sentinel, others)
    }
}

extension RedisReadings.Sentinel {
    fileprivate mutating func read(_ replies: [RedisReply]) {
        id = replies[0].text
        if let address = replies[1].array, address.count == 2, let host = address[0].text, let port = address[1].text {
            primary = "\(host):\(port)"
        }
        let row = replies[2].fields ?? [:]
        epoch = row["config-epoch"].flatMap { Int64($0) }
        downAfter = row["down-after-milliseconds"].flatMap { Int64($0) }.map { .milliseconds($0) }
        failoverTimeout = row["failover-timeout"].flatMap { Int64($0) }.map { .milliseconds($0) }
        quorum = row["quorum"].flatMap { Int($0) }
        // Another error says nothing of the quorum: this user may not ask, say.
        quorumFault = replies[3].error.flatMap { $0.message.hasPrefix("NOQUORUM") ? "\($0)" : nil }
        if primary == nil { failure = replies[1].error.map { "\($0)" } ?? "it watches no primary of that name" }
    }
}
