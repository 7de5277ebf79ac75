// SPDX-License-Identifier: Apache-2.0

import Hiredis
import Ringfence
import TestSupport
import Testing

/// Clients as processes have them, with an audit that keeps all.
func withClusterClients<Result: Sendable>(
    _ url: String, _ count: Int, _ made: [RingfenceClient] = [],
    _ body: @Sendable ([RingfenceClient]) async throws -> Result
) async throws -> Result {
    if made.count == count { return try await body(made) }
    return try await withClient(url, owner: "client \(made.count)") { configuration in
        configuration.auditLength = 10_000_000
        // A node that is stopped must be noticed while a test runs.
        configuration.connectTimeout = .seconds(2)
    } _: { client in
        try await withClusterClients(url, count, made + [client], body)
    }
}

/// What a service does all day, on the namespace `default` of a cluster, while the cluster has its troubles: locks that
/// change hands, a group whose members come and go, and somebody who follows the events. Then it is judged.
final class ClusterLoad: Sendable {
    /// What one holder saw.
    struct Hold: Sendable {
        var name: String
        var fence: Int64
    }

    private struct State {
        var holds: [Hold] = []
        var inside: Set<String> = []
        var overlaps: [String] = []
        var failures: [RingfenceError] = []
    }

    private let clients: [RingfenceClient]
    private let state = Shared(State())
    private let isOver = Shared(false)
    let listener: Listener

    /// The last client only listens.
    init(_ clients: [RingfenceClient]) {
        self.clients = clients
        listener = Listener(clients.last!.events(after: .start))
    }

    var count: Int { state.value.holds.count }
    var overlaps: [String] { state.value.overlaps }
    var failures: [RingfenceError] { state.value.failures }

    /// Runs the load while `body` runs.
    func run(names: Int = 4, tasks: Int = 16, _ body: @Sendable () async throws -> Void) async throws {
        try await withThrowingTaskGroup { group in
            for task in 0..<tasks {
                group.addTask { await self.hold("n\(task % names)", self.clients[task % (self.clients.count - 1)]) }
            }
            group.addTask { try await self.comeAndGo() }
            do { try await body() } catch {
                isOver.change { $0 = true }
                throw error
            }
            isOver.change { $0 = true }
            for try await _ in group {}
        }
    }

    private func hold(_ name: String, _ client: RingfenceClient) async {
        while !isOver.value {
            do {
                try await client.withLock(name, ttl: .seconds(30), wait: .seconds(60)) { [state] lease in
                    let hold = Hold(name: name, fence: lease.fence)
                    state.change { state in
                        if !state.inside.insert(name).inserted { state.overlaps.append("\(hold)") }
                        state.holds.append(hold)
                    }
                    await Task.yield()
                    state.change { _ = $0.inside.remove(name) }
                }
            } catch {
                // What a body did stands, whatever becomes of the release.
                state.change { state in state.failures.append(error as? RingfenceError ?? .shutDown) }
            }
        }
    }

    /// A member that stays, and one that joins and leaves.
    private func comeAndGo() async throws {
        let group = try await clients[0].group("g")
        let stays = try await group.join("stays", lease: .seconds(60))
        while !isOver.value {
            do {
                let member = try await group.join("comes", lease: .seconds(60))
                try await member.leave()
            } catch {
                state.change { state in state.failures.append(error as? RingfenceError ?? .shutDown) }
            }
        }
        #expect(stays.state == .member)
    }

    /// Waits until the locks have changed hands so many times more.
    func goesOn(_ more: Int = 50) async throws {
        let before = count
        try await eventually("locks change hands", within: .seconds(90)) { self.count >= before + more }
    }

    // MARK: The judgement

    /// Where nothing may be lost: nobody held what another held, fences rose, the audit tells the same story, and every
    /// event came once.
    func judge(_ owner: RedisServer) async throws {
        #expect(overlaps == [])
        expectRisingFences()
        let observer = try Observer(owner.unixURL)
        let audited = try await Self.audit(observer)
        let granted = Set(audited)
        let unknown = state.value.holds.filter { !granted.contains("\($0.name) \($0.fence)") }.count
        #expect(unknown == 0, "the audit does not know so many grants of \(granted.count)")
        try await eventually("all events came", within: .seconds(90)) {
            try await storedEvents(observer).count == self.listener.events.count
        }
        #expect(listener.resets == [])
        try await expectWhole(listener.events, observer)
        await observer.close()
    }

    func expectRisingFences() {
        for (name, holds) in Dictionary(grouping: state.value.holds, by: \.name) {
            let fences = holds.map(\.fence)
            #expect(zip(fences, fences.dropFirst()).allSatisfy { $0 < $1 }, "the fences of \(name)")
        }
    }

    /// The grants of the audit, each `name fence`. Every one is of a name that was free: a script that had been done by
    /// half would have left a release without its grant, or a grant of what was held.
    private static func audit(_ observer: Observer) async throws -> [String] {
        var held: [String: String] = [:]
        var granted: [String] = []
        for entry in try await observer.send("XRANGE", "ringfence:{default}:audit", "-", "+").array ?? [] {
            let words = entry.array?.last?.array?.compactMap(\.text) ?? []
            var fields: [String: String] = [:]
            for index in stride(from: 0, to: words.count - 1, by: 2) { fields[words[index]] = words[index + 1] }
            let (name, fence) = (fields["names"] ?? "", fields["fence"] ?? "")
            switch fields["action"] {
            case "grant":
                #expect(held[name] == nil, "\(name) was granted as \(fence) while it was held as \(held[name] ?? "")")
                held[name] = fence
                granted.append("\(name) \(fence)")
            case "release", "cancel":
                #expect(held[name] == fence, "\(name) was released as \(fence)")
                held[name] = nil
            default: Issue.record("an unexpected entry of the audit: \(words)")
            }
        }
        return granted
    }
}
