// SPDX-License-Identifier: Apache-2.0
//
// What callers are told of what never left this process, and that an outage leaves nothing to be done after it.

import CoreMetrics
import Hiredis
import Logging
import MetricsTestKit
import NIOCore
import RingfenceCore
import RingfencePlatform
import TestSupport
import Testing

@testable import Ringfence

@Suite struct OutageTests {
    @Test func `a hundred thousand acquires that never left leave nothing behind`() async throws {
        try await withObservedRedis { server, observer in
            let url = "redis://127.0.0.1:\(server.port)"
            try await withClient(url, { ($0.commandTimeout, $0.connectTimeout) = (.seconds(1), .seconds(1)) }) {
                client in
                try await client.withLock("before", ttl: .seconds(60)) { _ in }
                await server.kill(SIGKILL)
                try await eventually("the connection is lost") { !client.runner.main.isConnected }
                let known = Shared<Set<String>>([])
                await withTaskGroup(of: Void.self) { group in
                    for lane in 0..<500 {
                        group.addTask {
                            for number in 0..<200 {
                                let error = await failure {
                                    try await client.acquire(
                                        "lock \(lane) \(number)", ttl: .seconds(86_400), wait: .milliseconds(1))
                                }
                                known.change {
                                    _ = $0.insert("\(error?.code.description ?? "") \(error?.effect.rawValue ?? "")")
                                }
                            }
                        }
                    }
                }
                #expect(known.value == ["coordinator.unavailable none"])
                // Nothing waits in any table or queue, and nothing is repeated.
                try await eventually("all is forgotten") { client.table.isEmpty && client.cleanUp.isSettled }
                try await server.restart()
                try await client.withLock("after", ttl: .seconds(60)) { _ in }
                let calls = try await server.cli("INFO", "commandstats").split(whereSeparator: \.isNewline)
                    .filter { $0.hasPrefix("cmdstat_eval") }
                    .compactMap { line in
                        line.split(separator: "=").dropFirst().first.flatMap { Int($0.prefix { $0.isNumber }) }
                    }
                #expect(calls.reduce(0, +) <= 4, "an acquire and a release, each perhaps twice to load its script")
            }
        }
    }

    private static let confirmed = LockOptions(durability: .confirmed(replicas: 1, within: .seconds(1)))

    @Test(arguments: [LockOptions(), confirmed])
    func `a wait on a Redis that is not there says why, and that nothing was done`(options: LockOptions) async throws {
        let port = try freePort()
        try await withClient("redis://127.0.0.1:\(port)", { $0.commandTimeout = .seconds(2) }) { client in
            for wait in [Duration.zero, .milliseconds(300), .seconds(3)] {
                let error = await failure { try await client.acquire("k", wait: wait, options: options) }
                #expect(error?.code == .coordinatorUnavailable && error?.isRetriable == true)
                #expect(error?.effect == RingfenceError.Effect.none)
                #expect(error?.message.contains("refused") == true, "\(error?.message ?? "")")
            }
            #expect(client.cleanUp.isSettled)
        }
    }

    @Test(arguments: [LockOptions(), confirmed])
    func `of 500 waits at once in an outage none is unknown, and their end leaves nothing to be done`(
        options: LockOptions
    ) async throws {
        try await withObservedRedis { server, observer in
            let url = "redis://127.0.0.1:\(server.port)"
            try await withClient(url, { $0.commandTimeout = .milliseconds(500) }) { client in
                _ = await failure { try await client.withLock("before", ttl: .seconds(60), options: options) { _ in } }
                await server.kill(SIGKILL)
                try await eventually("the connection is lost") { !client.runner.main.isConnected }
                // That of its own which confirmed locks have takes no bytes any more once nothing is unknown.
                try await eventually("that of confirmed locks is lost too", within: .seconds(60)) {
                    let error = await failure {
                        try await client.acquire("first", ttl: .seconds(60), wait: .seconds(2), options: options)
                    }
                    return error?.effect == RingfenceError.Effect.none
                }
                try await eventually("nothing is left of it") { client.table.isEmpty }
                let known = Shared<Set<String>>([])
                await withTaskGroup(of: Void.self) { group in
                    for number in 0..<500 {
                        group.addTask {
                            let error = await failure {
                                try await client.acquire(
                                    "lock \(number)", ttl: .seconds(86_400), wait: .milliseconds(1 + number * 3),
                                    options: options)
                            }
                            known.change {
                                _ = $0.insert("\(error?.code.description ?? "") \(error?.effect.rawValue ?? "")")
                            }
                        }
                    }
                }
                #expect(known.value == ["coordinator.unavailable none"])
                try await server.restart()
                try await eventually("all is forgotten", within: .seconds(90)) {
                    client.table.isEmpty && client.cleanUp.isSettled
                }
                #expect(try await server.remains() == [])
            }
        }
    }

    @Test func `whom a release in an outage would pass the lock on to is told that nothing was done`() async throws {
        try await withObservedRedis { server, observer in
            let url = "redis://127.0.0.1:\(server.port)"
            try await withClient(url, { $0.commandTimeout = .milliseconds(300) }) { client in
                let lease = try await client.acquire("k", ttl: .seconds(60))
                async let next = failure { try await client.acquire("k", ttl: .seconds(60), wait: .seconds(2)) }
                try await eventually("it waits") { client.waiterCount == 1 }
                await server.kill(SIGKILL)
                try await eventually("the connection is lost") { !client.runner.main.isConnected }
                _ = await failure { try await lease.release() }
                let error = await next
                #expect(
                    error?.code == .coordinatorUnavailable && error?.effect == RingfenceError.Effect.none,
                    "\(error as Any)")
                #expect(error?.message.contains("refused") == true, "\(error?.message ?? "")")
            }
        }
    }

    @Test(arguments: [LockOptions(), confirmed])
    func `a wait whose bytes left is unknown, and is withdrawn`(options: LockOptions) async throws {
        try await withObservedRedis { server, observer in
            let url = "redis://127.0.0.1:\(server.port)"
            try await withClient(url, { $0.commandTimeout = .seconds(30) }) { client in
                _ = await failure { try await client.withLock("before", options: options) { _ in } }
                await server.kill(SIGSTOP)
                let error = await failure {
                    try await client.acquire("k", ttl: .seconds(60), wait: .milliseconds(300), options: options)
                }
                #expect(error?.code == .coordinatorUnavailable && error?.effect == .unknown)
                #expect(!client.cleanUp.isSettled)
                await server.kill(SIGCONT)
                try await eventually("it is withdrawn") { client.cleanUp.isSettled }
                #expect(try await server.remains() == [])
            }
        }
    }

    /// A client of a Redis that is not there.
    private func withoutRedis(patience: Duration, _ body: (RedisClient) async throws -> Void) async throws {
        var configuration = try RedisConfiguration(url: "redis://127.0.0.1:\(try freePort())")
        configuration.commandTimeout = patience
        let client = RedisClient(configuration, logger: Logger(label: "quiet") { _ in SwiftLogNoOpLogHandler() })
        try await body(client)
        await client.close()
    }

    private func submit(
        _ client: RedisClient, _ told: @escaping @Sendable (RedisError?) -> Void = { _ in }
    ) -> RedisClient.Submission {
        let call = ScriptCall(script: LockScripts.renew, keys: 0, arguments: 0) { _ in }
        return client.runAndWait([.init(call)], replicas: .atLeast(1), within: .zero) { result in
            if case .failure(let error) = result { told(error) } else { told(nil) }
        }
    }

    @Test func `what ended unsent and was not told so yet can be taken back`() async throws {
        try await withoutRedis(patience: .milliseconds(1)) { client in
            let second = Shared<RedisClient.Submission?>(nil)
            let isTakenBack = Shared<Bool?>(nil)
            // On the loop, so that one look at the queue finds both late; the first is told first.
            try await client.eventLoop.submit {
                _ = submit(client) { error in
                    #expect(error?.effect == RedisError.Effect.none)
                    guard let submission = second.value else { return }
                    isTakenBack.change { $0 = client.withdraw(submission) && !client.wasWritten(submission) }
                }
                let submission = submit(client)
                second.change { $0 = submission }
            }.get()
            try await eventually("the first was told") { isTakenBack.value != nil }
            #expect(isTakenBack.value == true)
        }
    }

    @Test func `what waits for its confirmation and ended unsent can be taken back before it is told`() async throws {
        let call = ScriptCall(script: LockScripts.renew, keys: 0, arguments: 0, encode: { _ in })
        try await withoutRedis(patience: .seconds(1)) { client in
            // On the loop, so that nobody is told meanwhile.
            try await client.eventLoop.submit {
                let lane = ConfirmingLane(client, commandTimeout: .zero, limit: 10)
                let confirmation = Durability.Confirmation(replicas: .atLeast(1), milliseconds: 1)
                let first = lane.run(call, confirmation) { _ in }
                let second = lane.run(call, confirmation) { _ in }
                let end = Moment.now.adding(2 * .millisecond)
                while Moment.now < end {}
                // The turn is the second's, and it is too late for it.
                #expect(lane.withdraw(first))
                #expect(!lane.wasWritten(second) && lane.withdraw(second))
            }.get()
        }
    }

    @Test func `more clean-ups than may wait at once are dropped, counted, and said once`() async throws {
        try await withObservedRedis { server, observer in
            let metrics = TestMetrics()
            let log = Shared<[String]>([])
            let proxy = try await TCPProxy.start(to: server)
            try await withClient(proxy.url) { client in
                let cleanUp = CleanUp(
                    runner: client.runner, metrics: withMetricsFactory(metrics) { RingfenceMetrics() },
                    logger: Logger(label: "captured") { _ in Capture(lines: log) }, most: 4)
                proxy.update { $0.serverToClient.isStalled = true }
                func perform(_ numbers: Range<Int>) {
                    for number in numbers {
                        let terms = LockTerms(owner: "one", ttl: .second)
                        cleanUp.perform(
                            client.scripts.cancel(["lock \(number)"], nonce: "p-\(number)-s", terms), confirmation: nil,
                            holdMilliseconds: 60_000)
                    }
                }
                func dropped() -> Int64 { metrics.counterTotal(label: "ringfence_lock_clean_ups_dropped_total") }
                perform(0..<10)
                #expect(dropped() == 6)
                #expect(log.value.filter { $0.contains("too many clean-ups") }.count == 1)
                proxy.update { $0.serverToClient.isStalled = false }
                try await eventually("there is room again") { cleanUp.isSettled }
                perform(10..<12)
                try await eventually("they are done") { cleanUp.isSettled }
                #expect(dropped() == 6)
            }
            await proxy.close()
        }
    }
}
