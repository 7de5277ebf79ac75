// SPDX-License-Identifier: Apache-2.0
//
// The record: so many failovers in a row under load, of a primary whose last writes its replicas may lack. Run by
// `.ci/failovers`, which gives it a network of its own; it takes a quarter of a minute for each.
import Hiredis
import Ringfence
import RingfencePlatform
import TestSupport
import Testing

private let failovers = getenv("RINGFENCE_FAILOVERS").flatMap { Int(String(cString: $0)) }

@Suite(.enabled(if: failovers != nil, "run .ci/failovers")) struct FailoverRecordTests {
    /// Half of them kills, a quarter each of the others that hurt; every tenth is an order.
    private static func fault(_ number: Int) -> FailoverHosts.Fault {
        number % 10 == 9 ? .planned : [.kill, .freeze, .kill, .partition][number % 4]
    }

    @Test func `after each of many failovers all goes on, and nothing is lost in silence`() async throws {
        let hosts = try await FailoverHosts()
        let history = Shared(FailoverHistory())
        do { try await run(hosts, history) } catch {
            await hosts.stop()
            try? keep(history.value)
            throw error
        }
        await hosts.stop()
        let (found, all) = (history.value.violations, history.value)
        print(
            "failovers: \(all.faults), grants \(all.grants), events \(all.events), resets \(all.resets), "
                + "two holders at once \(all.overlaps), violations \(found.count)")
        if !found.isEmpty { try keep(all) }
        #expect(found == [])
    }

    /// For whoever looks into it.
    private func keep(_ history: FailoverHistory) throws {
        let path = "/tmp/ringfence-failovers-\(getpid()).txt"
        try writeFile(path, history.facts.map { "\($0)" }.joined(separator: "\n"))
        print("failovers: the history is in \(path)")
    }

    private func run(_ hosts: FailoverHosts, _ history: Shared<FailoverHistory>) async throws {
        try await hosts.areComplete()
        let times = Shared<[FailoverHosts.Fault: [Duration]]>([:])
        try await withClients(FailoverHosts.url, 9) { clients in
            let load = FailoverLoad(clients, history)
            try await load.run {
                for number in 0..<(failovers ?? 0) {
                    let fault = Self.fault(number)
                    history.change { $0.add(.fault("\(number) \(fault)")) }
                    async let late: Void = load.joins("late \(number)")
                    let took = try await hosts.fail(fault)
                    times.change { $0[fault, default: []].append(took) }
                    await load.goesOn()
                    try await late
                    try await hosts.areComplete()
                    try await load.servesInOrder(number)
                    print("failovers: \(number + 1), \(fault), another primary after \(took)")
                }
            }
            try await load.leave()
            let primary = try await hosts.primary(of: 0)
            let server = try #require(primary).server
            // What was given to those that had gone ends with its time.
            var left: [String] = []
            for _ in 0..<300 {
                left = try await Self.left(server)
                if left.isEmpty { break }
                try await Task.sleep(for: .milliseconds(100))
            }
            history.change { $0.add(.left(left)) }
        }
        for (fault, took) in times.value.sorted(by: { $0.key.rawValue < $1.key.rawValue }) {
            let sorted = took.sorted()
            print(
                "failovers: \(fault): \(took.count), half within \(sorted[took.count / 2]), all within \(sorted.last!)")
        }
    }

    /// Locks, places in line and members.
    private static func left(_ server: RedisServer) async throws -> [String] {
        var left: [String] = []
        for kind in ["lock", "queue", "place", "leases"] {
            left += try await server.cli("--scan", "--pattern", "ringfence:{default}:\(kind):*")
                .split(separator: "\n").map { String($0) }
        }
        return left
    }
}

/// Locks that change hands, members that come to stay, and somebody who follows the events.
private final class FailoverLoad: Sendable {
    private let clients: [RingfenceClient]
    private let history: Shared<FailoverHistory>
    private let isOver = Shared(false)
    private let grants = Shared<[Int: Int]>([:])
    private let members = Shared<[Membership]>([])

    init(_ clients: [RingfenceClient], _ history: Shared<FailoverHistory>) {
        (self.clients, self.history) = (clients, history)
    }

    func run(_ body: @Sendable () async throws -> Void) async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            for (number, client) in clients.enumerated() {
                for name in ["a", "b", "c"] { group.addTask { await self.hold(name, number, client) } }
            }
            let follower = Task { await self.follow() }
            do { try await body() } catch {
                isOver.change { $0 = true }
                follower.cancel()
                throw error
            }
            isOver.change { $0 = true }
            for try await _ in group {}
            // What was published is on its way.
            try await Task.sleep(for: .seconds(2))
            follower.cancel()
        }
    }

    private func hold(_ name: String, _ number: Int, _ client: RingfenceClient) async {
        while !isOver.value {
            try? await client.withLock(name, ttl: .seconds(10), wait: .seconds(30)) { [history, grants] lease in
                history.change { $0.add(.begins(name: name, client: number, fence: lease.fence)) }
                grants.change { $0[number, default: 0] += 1 }
                try? await Task.sleep(for: .milliseconds(20))
                history.change { $0.add(.ends(name: name, client: number)) }
            }
        }
    }

    private func follow() async {
        let events = clients[clients.count - 1].events()
        do {
            for try await item in events {
                switch item {
                case .state: break
                case .reset: history.change { $0.add(.reset) }
                case .event(let event):
                    history.change {
                        $0.add(
                            .heard(
                                generation: event.generation, sequence: event.sequence,
                                type: event.type.description, member: event.member ?? ""))
                    }
                }
            }
        } catch {}
    }

    /// A member that stays until the end.
    func joins(_ id: String) async throws {
        let group = try await clients[0].group("g")
        while true {
            do {
                let member = try await group.join(id, lease: .seconds(60))
                members.change { $0.append(member) }
                history.change { $0.add(.joined(member: id)) }
                return
            } catch let error as RingfenceError where error.isRetriable || error.effect != .none {
                try await Task.sleep(for: .milliseconds(50))
            }
        }
    }

    func leave() async throws {
        for member in members.value { try await member.leave() }
    }

    /// Waits until each client has had a lock.
    func goesOn() async {
        let before = grants.value
        let all = clients.indices
        var without: [Int] = []
        for _ in 0..<3_000 {
            let now = grants.value
            without = all.filter { now[$0, default: 0] <= before[$0, default: 0] }
            if without.isEmpty { break }
            try? await Task.sleep(for: .milliseconds(20))
        }
        history.change { $0.add(.goesOn(without: without)) }
    }

    /// Eight wait, one after the other, and are served.
    func servesInOrder(_ number: Int) async throws {
        let (name, client) = ("order \(number)", clients[0])
        let held = try await client.acquire(name, ttl: .seconds(60))
        let order = Shared<[Int]>([])
        try await withThrowingTaskGroup(of: Void.self) { group in
            for waiter in 0..<clients.count - 1 {
                // Those of one client stand in one place.
                let other = clients[1 + waiter]
                group.addTask {
                    try await other.withLock(name, wait: .seconds(120)) { _ in order.change { $0.append(waiter) } }
                }
                try await eventually("it stands in line", within: .seconds(60)) {
                    try await client.inspect(name).queueLength + order.value.count > waiter
                }
            }
            try await held.release()
            for try await _ in group {}
        }
        history.change { $0.add(.served(order.value)) }
    }
}
