// SPDX-License-Identifier: Apache-2.0
//
// `beat.*`, `death.*`, `leave.*`: what a membership costs the server, and how soon its end is known.
//
// A beat with nothing new is weighed against PING by the processor time of the server's main thread (INFO cpu), one at
// a time on one connection: the system calls of an exchange are in both. A silent death is a member that joined by the
// bare script and that nobody keeps alive: its lease began when Redis ran the script, so "beyond the lease" is counted
// from before the join was written, and what is reported is a little more than the truth. One client watches, as any
// member or service would; another one, which does not watch, follows the events and notes when it was told.

import Hiredis
import Logging
import Ringfence
import RingfenceConsole

struct GroupLife: Sendable {
    static let namespace = "bench-groups"
    private static let script = RedisScript(GroupScriptText.group)

    let settings: BenchSettings
    let configuration: RedisConfiguration

    func run(report: (Figure) -> Void) async throws {
        report(try await beatCost())
        for lease in [3000, 1000, 200] { report(try await deaths(lease: lease)) }
        report(try await leaves())
    }

    // MARK: The bare script

    private func call(
        _ client: RedisClient, _ verb: String, _ group: String, version: Int64 = 0, mark: String = "", _ rest: [String]
    ) async throws -> RedisReply {
        let prefix = "ringfence:{\(Self.namespace)}:"
        return try await client.run(Self.script, keys: 10, arguments: 10 + rest.count) { writer in
            for kind in ["leases:", "members:", "state:", "policy:"] { writer.argument(prefix + kind, group) }
            for key in ["groups", "events", "log"] { writer.argument(prefix, key) }
            for kind in ["candidates:", "changes:", "gone:"] { writer.argument(prefix + kind, group) }
            writer.argument(verb)
            writer.argument(group)
            writer.argument("bench\(UInt32.random(in: 0 ... .max))")
            writer.argument("10000")
            writer.argument(version)
            writer.argument(mark)
            writer.argument("0")
            writer.argument("")
            writer.argument("")
            writer.argument("0")
            for argument in rest { writer.argument(argument) }
        }
    }

    /// Joins as a member that nobody keeps alive. Gives the group's version and its mark.
    private func join(
        _ client: RedisClient, _ group: String, _ member: String, lease: Int
    ) async throws -> (version: Int64, mark: String) {
        let record = "{\"session\":\"s\",\"leaseMs\":\(lease),\"weight\":1}"
        let reply = try await call(
            client, "join", group, [member, "s", "\(lease)", record, "first", "0", "256", "20000", "10000"])
        guard let answer = reply.array, answer.first?.text == "member", case .integer(let version) = answer[3],
            let mark = answer[4].text
        else { throw CommandFailure("a join was answered with \(reply)") }
        return (version, mark)
    }

    // MARK: What a beat costs

    private func beatCost() async throws -> Figure {
        try await settings.withPlain(configuration) { client in
            let (version, mark) = try await join(client, "cost", "m", lease: 3_600_000)
            let rounds = try await Rounds.alternate(settings.rounds) {
                try await serverMicroseconds(client) {
                    _ = try await client.send { writer in
                        writer.begin(1)
                        writer.argument("PING")
                    }
                }
            } ours: {
                try await serverMicroseconds(client) {
                    let reply = try await call(
                        client, "beat", "cost", version: version, mark: mark, ["m", "s", "3600000", mark])
                    guard reply.array?.count == 9, reply.array?.first?.text == "member" else {
                        throw CommandFailure("a beat was answered with \(reply)")
                    }
                }
            }
            _ = try await call(client, "leave", "cost", ["m", "s", "", ""])
            return Figure(name: "beat.cost", unit: "us", rounds: rounds, bar: .ratioAtMost(3))
        }
    }

    /// Processor time of the server's main thread for one exchange.
    private func serverMicroseconds(_ client: RedisClient, _ exchange: () async throws -> Void) async throws -> Double {
        let before = try await serverSeconds(client)
        let end = ContinuousClock.now + .seconds(settings.seconds)
        var count = 0
        while ContinuousClock.now < end {
            for _ in 0..<100 { try await exchange() }
            count += 100
        }
        return (try await serverSeconds(client) - before) * 1e6 / Double(count)
    }

    private func serverSeconds(_ client: RedisClient) async throws -> Double {
        let reply = try await client.send { writer in
            writer.begin(2)
            writer.argument("INFO")
            writer.argument("cpu")
        }
        let text = reply.text ?? ""
        guard let system = InfoText.number("used_cpu_sys_main_thread", in: text),
            let user = InfoText.number("used_cpu_user_main_thread", in: text)
        else { throw CommandFailure("INFO cpu says nothing of the main thread: needs Redis 6.2 or later") }
        return system + user
    }

    // MARK: How soon an end is known

    /// Deaths at once, each in a group of its own.
    private static let deathsAtOnce = 20

    private func deaths(lease: Int) async throws -> Figure {
        let late = try await EventArrivals.following("member.expired", settings, Self.namespace) { arrivals in
            try await settings.withPlain(configuration) { plain in
                var late: [Double] = []
                for round in 0..<settings.rounds {
                    late += try await withThrowingTaskGroup(of: Double.self) { dying in
                        for number in 0..<Self.deathsAtOnce {
                            dying.addTask {
                                try await death(plain, arrivals, group: "d\(lease)-\(round)-\(number)", lease: lease)
                            }
                        }
                        return try await dying.reduce(into: []) { $0.append($1) }
                    }
                }
                return late
            }
        }
        return Figure(name: "death.overhead.\(lease)", late: late, bar: 10)
    }

    /// Milliseconds beyond the lease until the subscriber was told.
    private func death(_ plain: RedisClient, _ arrivals: EventArrivals, group name: String, lease: Int) async throws
        -> Double
    {
        // So that they do not all die in the same millisecond.
        try await Task.sleep(for: .milliseconds(Int.random(in: 0..<lease)))
        let group = try await arrivals.watcher.group(name)
        let start = ContinuousClock.now
        _ = try await join(plain, name, "m", lease: lease)
        let arrived = await arrivals.arrival(of: name)
        return withExtendedLifetime(group) { (arrived - start).milliseconds - Double(lease) }
    }

    private func leaves() async throws -> Figure {
        let late = try await EventArrivals.following("member.left", settings, Self.namespace) { arrivals in
            let group = try await arrivals.watcher.group("leaves")
            var late: [Double] = []
            for _ in 0..<settings.rounds * 40 {
                let member = try await group.join("m")
                let start = ContinuousClock.now
                try await member.leave()
                late.append((await arrivals.arrival(of: "leaves") - start).milliseconds)
            }
            return late
        }
        return Figure(name: "leave.event", late: late, bar: 5)
    }

    private func figure(_ name: String, _ milliseconds: [Double], bar: Double) -> Figure {
        // What has to pass the bar is the 99th percentile.
        let worst = Statistics.percentile(milliseconds, 0.99) ?? 0
        return Figure(
            name: name, unit: "ms p99", value: worst, trials: milliseconds.count,
            p50: Statistics.percentile(milliseconds, 0.5).map { $0 * 1000 }, p99: worst * 1000, bar: .valueAtMost(bar))
    }
}
