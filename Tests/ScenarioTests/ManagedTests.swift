// SPDX-License-Identifier: Apache-2.0
//
// The recipe for a Redis behind one address, run with its own HAProxy file; and a name that is swapped, in a mount
// namespace with a file of hosts of its own. The figures of the recipe's README are printed here.
import Ringfence
import RingfenceOperations
import RingfencePlatform
import Synchronization
import TestSupport
import Testing

extension Scenarios {
    @Suite("A Redis behind one address") struct ManagedTests {
        private func withStage(_ body: (Stage) async throws -> Void) async throws {
            let stage = try await Stage("managed")
            do { try await body(stage) } catch {
                await stage.end()
                throw error
            }
            await stage.end()
        }

        /// A primary and its replica, in step.
        private static func withPair(
            _ body: @Sendable (RedisServer, RedisServer) async throws -> Void
        ) async throws {
            try await withRedis(["--appendonly", "yes"]) { one in
                try await withRedis(["--appendonly", "yes", "--replicaof", "127.0.0.1", "\(one.port)"]) { two in
                    try await eventually("in step", within: .seconds(60)) {
                        try await one.cli("WAIT", "1", "10") == "1"
                    }
                    try await body(one, two)
                }
            }
        }

        /// A caller that acquires and releases all the time, and what became of it.
        private final class Caller: Sendable {
            private struct State {
                var grants = 0
                var last = ContinuousClock.now
                var errors: [String] = []
                var fences: [Int64] = []
            }
            private let state = Mutex(State())

            func run(_ client: RingfenceClient) async {
                while !Task.isCancelled {
                    do {
                        let grant = try await client.acquireGrant(["job"], ttl: .seconds(2), wait: .seconds(20))
                        state.withLock { state in
                            state.grants += 1
                            state.last = ContinuousClock.now
                            state.fences.append(grant.fence)
                        }
                        try? await client.release(["job"], token: grant.token)
                    } catch {
                        state.withLock { $0.errors.append("\(error)") }
                    }
                    try? await Task.sleep(for: .milliseconds(2))
                }
            }

            /// How long until the first grant after `moment`.
            func grant(after moment: ContinuousClock.Instant) async throws -> Duration {
                try await eventually("a grant after it", within: .seconds(60), every: .milliseconds(2)) {
                    state.withLock { $0.last > moment }
                }
                return ContinuousClock.now - moment
            }

            var grants: Int { state.withLock { $0.grants } }
            var errors: [String] { state.withLock { $0.errors } }
            var isRising: Bool { state.withLock { zip($0.fences, $0.fences.dropFirst()).allSatisfy { $0 < $1 } } }
        }

        private static func withCaller(
            _ url: String, _ body: @Sendable (Caller, RingfenceClient) async throws -> Void
        ) async throws {
            let client = try RingfenceClient(.init(url: url, owner: "scenario"))
            let caller = Caller()
            let task = Task { await caller.run(client) }
            do {
                try await eventually("it has grants", within: .seconds(60)) { caller.grants > 10 }
                try await body(caller, client)
                task.cancel()
                await task.value
                await client.shutdown()
            } catch {
                task.cancel()
                await client.shutdown()
                throw error
            }
        }

        @Test("HAProxy by role: a planned swap and a killed primary, and a grant soon after each")
        func proxy() async throws {
            try await withStage { stage in try await proxy(on: stage) }
        }

        private func proxy(on stage: Stage) async throws {
            try await Self.withPair { one, two in
                let front = try freePort()
                try await stage.startProxy([
                    "REDIS_LISTEN=127.0.0.1:\(front)", "REDIS_1=127.0.0.1:\(one.port)",
                    "REDIS_2=127.0.0.1:\(two.port)",
                ])
                try await Self.withCaller("redis://127.0.0.1:\(front)") { caller, client in
                    // Planned: the old one follows the new.
                    try await one.cli("REPLICAOF", "127.0.0.1", "\(two.port)")
                    let swapped = ContinuousClock.now
                    try await two.cli("REPLICAOF", "NO", "ONE")
                    let planned = try await caller.grant(after: swapped)
                    #expect(try await two.cli("EXISTS", "ringfence:{default}:fence:job") == "1")

                    try await eventually("in step again", within: .seconds(60)) {
                        try await two.cli("WAIT", "1", "10") == "1"
                    }
                    await two.kill(SIGKILL)
                    let promoted = ContinuousClock.now
                    try await one.cli("REPLICAOF", "NO", "ONE")
                    let killed = try await caller.grant(after: promoted)
                    print("managed: planned swap \(planned), killed \(killed), errors \(caller.errors)")
                    #expect(caller.isRising)
                    #expect(client.isConnected)
                }
            }
        }

        /// In namespaces of its own, whose file of hosts is one of ours.
        @Test("A name that is swapped is followed, with the old server alive and with the old one dead")
        func name() async throws {
            try await withStage { stage in try await name(on: stage) }
        }

        private func name(on stage: Stage) async throws {
            let hosts = stage.directory.path + "/hosts"
            func lead(to address: String) async throws {
                try await shell("\(stage.files)/swap.sh redis-primary \(address) \(hosts)")
            }
            try write("127.0.0.1 localhost\n", to: hosts)
            try await lead(to: "127.0.0.1")
            try await withRedis { one in
                // On the same port of another address of this machine.
                let socket = stage.directory.path + "/two"
                let other = try await stage.start(
                    [
                        "redis-server", "--bind", "127.0.0.2", "--port", "\(one.port)", "--unixsocket", socket,
                        "--save", "",
                        "--dir", stage.directory.path,
                    ], log: "redis")
                try await eventually("it answers", within: .seconds(60)) {
                    (try? await redisCLI(["-s", socket, "PING"])) == "PONG"
                }
                let port = try freePort()
                _ = try await stage.start(
                    [
                        "unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
                        "mount --bind \(hosts) /etc/hosts && exec \"$@\"", "sh", try builtExecutable("ringfence"),
                        "serve",
                        "--redis", "redis://redis-primary:\(one.port)", "--port", "\(port)", "--state-dir",
                        stage.directory.path,
                    ], log: "serve")
                func isAt(_ address: String) async -> Bool {
                    let ready = try? await shell("curl -sf --noproxy '*' http://127.0.0.1:\(port)/readyz")
                    return ready?.contains("\"primary\":\"\(address):\(one.port)\"") == true
                }
                func acquire() async throws {
                    try await shell(
                        """
                        curl -sf --noproxy '*' -H 'Content-Type: application/json' -d '{"ttlMs":200,"waitMs":20000}' \
                        http://127.0.0.1:\(port)/v1/locks/job/acquire
                        """)
                }
                try await eventually("it is at the first", within: .seconds(60)) { await isAt("127.0.0.1") }
                try await acquire()

                try await lead(to: "127.0.0.2")
                let swapped = ContinuousClock.now
                try await eventually("it is at the second", within: .seconds(60), every: .milliseconds(20)) {
                    await isAt("127.0.0.2")
                }
                let alive = ContinuousClock.now - swapped
                try await acquire()
                #expect(try await redisCLI(["-s", socket, "EXISTS", "ringfence:{default}:fence:job"]) == "1")

                try await lead(to: "127.0.0.1")
                other.signal(SIGKILL)
                let killed = ContinuousClock.now
                try await acquire()
                let dead = ContinuousClock.now - killed
                #expect(await isAt("127.0.0.1"))
                print("managed: name swapped, the old server alive \(alive), dead \(dead)")
            }
        }
    }
}
