// SPDX-License-Identifier: Apache-2.0
//
// What users have of a failover under Sentinels: locks held across it, waiters served after it, subscribers that get
// their events or are told that some are lost.
import Ringfence
import RingfencePlatform
import TestSupport
import Testing

@Suite struct SentinelTests {
    /// Waits until the replica has what its primary had when this was called.
    private func inStep(_ sentinels: RedisSentinels) async throws {
        func offset(_ server: RedisServer) async throws -> Int {
            let info = try await sentinels.tell(server, "INFO", "replication")
            let line = info.split(whereSeparator: \.isNewline).first { $0.hasPrefix("master_repl_offset:") }
            return Int(line?.dropFirst("master_repl_offset:".count) ?? "") ?? -1
        }
        let goal = try await offset(sentinels.servers[0])
        try await eventually("the replicas are in step", within: .seconds(60)) {
            for server in sentinels.servers.dropFirst() where try await offset(server) < goal { return false }
            return true
        }
    }

    private func whatIsAfterwards(
        _ ttl: Duration, _ options: RedisSentinels.Options = .init(),
        _ fail: @Sendable (RedisSentinels) async throws -> Void
    ) async throws {
        try await withSentinels(options) { sentinels in
            let old = sentinels.servers[0]
            try await withClients(sentinels.url(), 3) { clients in
                let (holder, waiter, subscriber) = (clients[0], clients[1], clients[2])
                let listener = Listener(subscriber.events(after: .start))
                _ = try await holder.group("before").join("a", lease: .seconds(60))
                try await eventually("the event is told", within: .seconds(60)) { listener.events.count >= 1 }
                let lease = try await holder.acquire("x", ttl: ttl, wait: .zero)
                let next = Task { try await waiter.acquire("x", ttl: ttl, wait: .seconds(120)) }
                try await eventually("it waits") { try await holder.inspect("x").queueLength == 1 }
                try await inStep(sentinels)
                try await fail(sentinels)
                try await sentinels.promotion(after: old)
                // Held across: renewed at the new place, and nobody else has it.
                try await lease.renew()
                #expect(lease.isHeld)
                #expect(try await waiter.tryAcquire("x") == nil)
                try await lease.release()
                let granted = try await next.value
                #expect(granted.fence > lease.fence)
                try await granted.release()
                // Events of after it come, or the loss is told.
                _ = try await holder.group("after").join("b", lease: .seconds(60))
                try await eventually("the event after it is told", within: .seconds(60)) {
                    listener.events.contains { $0.group == "after" }
                        || listener.items.contains { if case .state = $0 { true } else { false } }
                            && !listener.resets.isEmpty
                }
            }
        }
    }

    @Test func `an ordered failover costs nobody a lock, a place or an event`() async throws {
        try await whatIsAfterwards(.seconds(30)) { try await $0.failover() }
    }

    @Test func `a killed primary costs nobody a lock, a place or an event`() async throws {
        try await whatIsAfterwards(.seconds(30)) { await $0.servers[0].kill(SIGKILL) }
    }

    @Test func `a frozen primary costs nobody a lock, a place or an event`() async throws {
        try await whatIsAfterwards(.seconds(30)) { await $0.servers[0].kill(SIGSTOP) }
    }

    @Test func `where a majority is required, nothing is acquired without it, and what is held is renewed`()
        async throws
    {
        try await withSentinels { sentinels in
            try await withClient(
                sentinels.url(),
                {
                    $0.sentinel.majority = .required
                    $0.watchInterval = .milliseconds(200)
                }
            ) { client in
                let lease = try await client.acquire("x", ttl: .seconds(30))
                for index in 0...1 { await sentinels.sentinels[index].stop() }
                try await eventually("it is refused", within: .seconds(60)) {
                    let error = await failure { _ = try await client.tryAcquire("y")?.release() }
                    return error?.code == .coordinatorUnavailable && error?.effect == RingfenceError.Effect.none
                        && error?.message.contains("1 of 3 Sentinels") == true
                }
                try await lease.renew()
                #expect(lease.isHeld)
                try await sentinels.sentinels[0].restart()
                try await eventually("it is had again", within: .seconds(60)) {
                    (try? await client.tryAcquire("y")) != nil
                }
                try await lease.release()
            }
        }
    }

    @Test func `where a majority is required, nobody is elected without it, and a primary stays`() async throws {
        try await withSentinels { sentinels in
            func configure(_ configuration: inout RingfenceConfiguration) {
                configuration.sentinel.majority = .required
                configuration.watchInterval = .milliseconds(200)
            }
            try await withClient(sentinels.url(), configure) { client in
                func lead(_ name: String) -> Task<Int64, any Error> {
                    Task {
                        let group = try await client.group(name)
                        return try await group.withPrimary(as: "a", lease: .seconds(2)) { epoch in
                            try await Task.sleep(for: .seconds(3600))
                            return epoch.value
                        }
                    }
                }
                func hasPrimary(_ name: String) async throws -> Bool {
                    try await client.group(name).snapshot.primary?.phase == .ready
                }
                let before = lead("before")
                try await eventually("it is primary", within: .seconds(60)) { try await hasPrimary("before") }
                for index in 0...1 { await sentinels.sentinels[index].stop() }
                try await eventually("it is refused", within: .seconds(60)) {
                    await failure { _ = try await client.tryAcquire("y")?.release() } != nil
                }
                let after = lead("after")
                let group = try await client.group("after")
                try await eventually(group, "it stands") { $0.members.count == 1 }
                // Several times as long as an election takes: the pace of this lease is 400 ms.
                for _ in 0..<20 {
                    #expect(try await !hasPrimary("after"))
                    try await Task.sleep(for: .milliseconds(100))
                }
                #expect(try await hasPrimary("before"))
                try await sentinels.sentinels[0].restart()
                try await eventually("it is elected after all", within: .seconds(60)) {
                    try await hasPrimary("after")
                }
                before.cancel()
                after.cancel()
                _ = await (before.result, after.result)
            }
        }
    }

    @Test(arguments: [
        (RingfenceConfiguration.Sentinels(username: "u"), "RINGFENCE_SENTINEL_PASSWORD"),
        (.init(password: "p", passwordFile: "/f"), "give one"),
    ])
    func `credentials of Sentinels that cannot be right are refused at once`(
        sentinel: RingfenceConfiguration.Sentinels, part: String
    ) async {
        var configuration = RingfenceConfiguration(url: "redis+sentinel://h/main")
        configuration.sentinel = sentinel
        let error = await failure { try RingfenceClient(configuration) }
        #expect(error?.code == .argumentInvalid)
        #expect(error?.message.contains(part) == true, "\(error?.message ?? "")")
    }
}
