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
    /// The first four are one of each. Half are kills, and every tenth is an order.
    private static func fault(_ number: Int) -> FailoverHosts.Fault {
        number % 10 == 3 ? .planned : [.kill, .freeze, .partition, .kill][number % 4]
    }

    @Test func `after each of many failovers all goes on, and nothing is lost in silence`() async throws {
        let hosts = try await FailoverHosts()
        let history = Shared(FailoverHistory())
        do { try await run(hosts, history) } catch {
            await hosts.stop()
            try? keep(history.value.sorted())
            throw error
        }
        await hosts.stop()
        let all = history.value.sorted()
        let found = all.violations
        report(all)
        if !found.isEmpty { try keep(all) }
        #expect(found == [])
    }

    private func report(_ all: FailoverHistory) {
        let grants = all.count { if case .begins = $0 { true } else { false } }
        let events = all.count { if case .heard = $0 { true } else { false } }
        let resets = all.count { if case .reset = $0 { true } else { false } }
        for (kind, pauses) in Dictionary(grouping: all.pauses, by: \.fault).sorted(by: { $0.key < $1.key }) {
            let sorted = pauses.map(\.microseconds).sorted().map { Duration.microseconds($0) }
            print(
                "failovers: \(kind): \(sorted.count), without a grant: half \(sorted[sorted.count / 2]) at most, "
                    + "all \(sorted.last!)")
        }
        print(
            "failovers: \(all.pauses.count), grants \(grants), events heard \(events), resets \(resets), changes "
                + "that had to be heard \(all.owed.count), two holders at once \(all.overlaps), standing lines out of "
                + "order \(all.standingOutOfOrder), violations \(all.violations.count)")
    }

    /// For whoever looks into it.
    private func keep(_ history: FailoverHistory) throws {
        let path = "/tmp/ringfence-failovers-\(getpid()).txt"
        try writeFile(path, history.facts.map { "\($0)" }.joined(separator: "\n"))
        print("failovers: the history is in \(path)")
    }

    private func run(_ hosts: FailoverHosts, _ history: Shared<FailoverHistory>) async throws {
        try await hosts.areComplete()
        let callers = try FailoverCallers(hosts, history)
        try await callers.goOn()
        try await withClients(FailoverHosts.url, FailoverHistory.line + 1) { clients in
            var term = try await calm(hosts, history)
            for number in 0..<(failovers ?? 0) {
                let standing = try await FailoverLine("standing \(number)", clients)
                try await replicate(hosts, since: term, history)
                let fault = Self.fault(number)
                history.change { $0.add(.fault("\(fault)")) }
                let took = try await hosts.fail(fault)
                try await callers.goOn()
                let stood = await standing.serve()
                history.change { $0.add(.stood(stood)) }
                term = try await calm(hosts, history)
                let order = try await FailoverLine("coming \(number)", clients).serve()
                let isCalm = try await hosts.term() == term
                history.change { $0.add(isCalm ? .served(order) : .stood(order)) }
                print("failovers: \(number + 1), \(fault), another primary after \(took)")
            }
        }
        let term = try await calm(hosts, history)
        try await callers.goOn()
        try await callers.fallQuiet()
        try await replicate(hosts, since: term, history)
        // What was published is on its way.
        let end = ContinuousClock.now + .seconds(60)
        while ContinuousClock.now < end, !history.value.sorted().unheard.isEmpty {
            try await Task.sleep(for: .milliseconds(200))
            try callers.listen()
        }
        let isWell = try await callers.end()
        #expect(isWell, "a caller has ended badly")
        let left = try await Self.left(hosts)
        history.change { $0.add(.left(left)) }
    }

    /// Waits until all are there again; returns the primary's term.
    private func calm(_ hosts: FailoverHosts, _ history: Shared<FailoverHistory>) async throws -> String {
        try await hosts.areComplete()
        let term = try await hosts.term()
        history.change { $0.add(.complete) }
        return term
    }

    /// Waits until the replicas have what was told, and notes it; unless a failover came of itself since `term`.
    private func replicate(
        _ hosts: FailoverHosts, since term: String, _ history: Shared<FailoverHistory>
    ) async throws {
        let told = monotonicMicroseconds()
        try await hosts.replicate()
        guard try await hosts.term() == term else { return }
        history.change { $0.add(.init(at: told, by: 0, what: .kept)) }
    }

    /// Locks, places in line and members. What was given to those that had gone ends with its time.
    private static func left(_ hosts: FailoverHosts) async throws -> [String] {
        let primary = try await hosts.primary(of: 0)
        let server = try #require(primary).server
        var left: [String] = []
        for _ in 0..<300 {
            left = []
            for kind in ["lock", "queue", "place", "leases"] {
                left += try await server.cli("--scan", "--pattern", "ringfence:{default}:\(kind):*")
                    .split(separator: "\n").map { String($0) }
            }
            if left.isEmpty { break }
            try await Task.sleep(for: .milliseconds(100))
        }
        return left
    }
}

/// Callers that stand in line for a lock which the first client holds, one after the other, each a client of its own:
/// those of one client stand in one place.
private struct FailoverLine: Sendable {
    private let held: Lease
    private let order = Shared<[Int]>([])
    private let waiters: [Task<Void, any Error>]

    init(_ name: String, _ clients: [RingfenceClient]) async throws {
        held = try await clients[0].acquire(name, ttl: .seconds(60))
        var waiters: [Task<Void, any Error>] = []
        for (waiter, client) in clients.dropFirst().enumerated() {
            waiters.append(
                Task { [order] in
                    try await client.withLock(name, wait: .seconds(180)) { _ in order.change { $0.append(waiter) } }
                })
            try await eventually("it stands in line", within: .seconds(60)) { [order] in
                try await clients[0].inspect(name).queueLength + order.value.count > waiter
            }
        }
        self.waiters = waiters
    }

    /// Lets go; returns the order in which they had the lock.
    func serve() async -> [Int] {
        // A failover may have taken it away.
        try? await held.release()
        for waiter in waiters { _ = await waiter.result }
        return order.value
    }
}
