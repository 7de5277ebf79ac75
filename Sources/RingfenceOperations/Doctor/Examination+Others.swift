// SPDX-License-Identifier: Apache-2.0
//
// Servers beside the one that is examined: its replicas, and what else is behind its name. Each is asked on a
// connection of its own, under our own name.
import Hiredis

extension Examination {
    /// What a server beside says of itself.
    private struct Look: Sendable {
        var info: [String: String]?
        var clock: ClockOffset?
    }

    /// A server's clock less this machine's monotonic one, and by how much that may be wrong; in nanoseconds.
    private struct ClockOffset: Sendable {
        var offset: Int64
        var error: Int64
    }

    /// Asks each replica itself for what its primary does not know.
    func replicas(_ list: [ListedReplica]) async -> [RedisReadings.Replica] {
        let start = ContinuousClock.now
        let own = await offset(client, since: start)
        return await withTaskGroup(of: (Int, RedisReadings.Replica).self) { group in
            for (place, entry) in list.enumerated() {
                group.addTask {
                    let address = RedisConfiguration.Address.tcp(host: entry.host, port: entry.port)
                    let look = await look(at: address, since: start)
                    var replica = RedisReadings.Replica(
                        address: "\(address)", isOnline: entry.isOnline,
                        priority: look.info?["slave_priority"].flatMap { Int($0) })
                    replica.lag = entry.lag
                    replica.hasAppendOnlyFile = look.info?["aof_enabled"].map { $0 == "1" }
                    if let own, let clock = look.clock {
                        replica.clockAhead = .nanoseconds(clock.offset - own.offset)
                        replica.clockError = .nanoseconds(clock.error + own.error)
                    }
                    return (place, replica)
                }
            }
            var replicas: [(Int, RedisReadings.Replica)] = []
            for await replica in group { replicas.append(replica) }
            return replicas.sorted { $0.0 < $1.0 }.map(\.1)
        }
    }

    /// Each server behind the URL's name.
    func named() async -> [RedisReadings.Named] {
        guard case .server(let address) = configuration.place,
            let addresses = try? await address.addresses(on: client.eventLoop), addresses.count > 1
        else { return [] }
        var named: [RedisReadings.Named] = []
        for address in addresses.prefix(16) {
            let info = await look(at: address, since: nil).info
            named.append(
                .init(
                    address: "\(address)", isPrimary: info?["role"].map { $0 == "master" }, process: info?["run_id"]))
        }
        return named
    }

    /// `since`: the moment from which its clock is told; nil: it is not asked.
    private func look(at address: RedisConfiguration.Address, since start: ContinuousClock.Instant?) async -> Look {
        var redis = configuration
        redis.place = .server(address)
        redis.address = address
        (redis.locator, redis.requiresPrimary) = (nil, false)
        redis.connectTimeout = .seconds(1)
        redis.commandTimeout = .seconds(1)
        let other = RedisClient(redis, logger: logger)
        var look = Look()
        look.info = try? await info(other)
        if let start { look.clock = await offset(other, since: start) }
        await other.close()
        return look
    }

    /// By the fastest of three questions.
    private func offset(_ client: RedisClient, since start: ContinuousClock.Instant) async -> ClockOffset? {
        var best: ClockOffset?
        for _ in 0..<3 {
            let sentAt = Int64((ContinuousClock.now - start) / .nanoseconds(1))
            guard let server = try? await serverTime(client, within: .seconds(1)) else { break }
            let error = (Int64((ContinuousClock.now - start) / .nanoseconds(1)) - sentAt) / 2
            if best.map({ error < $0.error }) ?? true {
                best = ClockOffset(offset: server - sentAt - error, error: error)
            }
        }
        return best
    }
}
