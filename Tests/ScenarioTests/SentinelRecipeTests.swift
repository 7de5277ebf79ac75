// SPDX-License-Identifier: Apache-2.0
//
// The recipe for Sentinels, run with its own files: three servers and three Sentinels that know one another by names,
// in mount namespaces with a file of hosts of their own. The client has no such file: it has the address map, as behind
// NAT. The figures of the recipe's README are printed here.
import Ringfence
import RingfenceOperations
import RingfencePlatform
import Synchronization
import TestSupport
import Testing

extension Scenarios {
    @Suite("A primary, two replicas and three Sentinels") struct SentinelRecipeTests {
        /// A caller that acquires and releases all the time, and the longest time that it was without a grant.
        private final class Caller: Sendable {
            private struct State {
                var last = ContinuousClock.now
                var longest: Duration = .zero
                var fences: [Int64] = []
            }
            private let state = Mutex(State())

            func run(_ client: RingfenceClient) async {
                while !Task.isCancelled {
                    if let grant = try? await client.acquireGrant(["job"], ttl: .seconds(1), wait: .seconds(60)) {
                        state.withLock { state in
                            let now = ContinuousClock.now
                            state.longest = max(state.longest, now - state.last)
                            state.last = now
                            state.fences.append(grant.fence)
                        }
                        try? await client.release(["job"], token: grant.token)
                    }
                    try? await Task.sleep(for: .milliseconds(2))
                }
            }

            func begin() { state.withLock { ($0.longest, $0.last) = (.zero, .now) } }
            var longest: Duration { state.withLock { $0.longest } }
            var grants: Int { state.withLock { $0.fences.count } }
            var isRising: Bool { state.withLock { zip($0.fences, $0.fences.dropFirst()).allSatisfy { $0 < $1 } } }
        }

        /// The processes of the recipe.
        struct Trio {
            let stage: Stage
            let port: Int
            let sentinelPort: Int
            var servers: [ChildProcess] = []

            init(_ stage: Stage) async throws {
                self.stage = stage
                (port, sentinelPort) = (try freePort(), try freePort())
                let names = (1...3).map { "127.0.0.1\($0) redis-\($0)\n127.0.0.2\($0) sentinel-\($0)\n" }
                try write("127.0.0.1 localhost\n" + names.joined(), to: stage.directory.path + "/hosts")
                for index in 1...3 { servers.append(try await startServer(index, isReplica: index > 1)) }
                for index in 1...3 {
                    let path = "\(stage.directory.path)/sentinel-\(index).conf"
                    let text = try contents(ofFile: stage.files + "/sentinel.conf")
                    try write(text.replacing("redis-1 6379", with: "redis-1 \(port)"), to: path)
                    _ = try await start(
                        [
                            "redis-server", path, "--sentinel", "--port", "\(sentinelPort)", "--bind",
                            "127.0.0.2\(index)", "--sentinel", "announce-ip", "sentinel-\(index)",
                        ], "sentinel-\(index)")
                }
            }

            /// Where the names are known.
            private func start(_ command: [String], _ log: String) async throws -> ChildProcess {
                let hosts = stage.directory.path + "/hosts"
                return try await stage.start(
                    [
                        "unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
                        "mount --bind \(hosts) /etc/hosts && exec \"$@\"", "sh",
                    ] + command, log: log)
            }

            func startServer(_ index: Int, isReplica: Bool) async throws -> ChildProcess {
                let directory = "\(stage.directory.path)/redis-\(index)"
                try await shell("mkdir -p '\(directory)'")
                return try await start(
                    [
                        "redis-server", stage.files + "/redis.conf", "--port", "\(port)", "--bind",
                        "127.0.0.1\(index)", "--dir", directory, "--replica-announce-ip", "redis-\(index)",
                    ] + (isReplica ? ["--replicaof", "redis-1", "\(port)"] : []), "redis-\(index)")
            }

            var url: String {
                "redis+sentinel://127.0.0.21:\(sentinelPort),127.0.0.22:\(sentinelPort)/ringfence"
            }
            var addressMap: String {
                (1...3).map { "redis-\($0)=127.0.0.1\($0),sentinel-\($0)=127.0.0.2\($0)" }.joined(separator: ",")
            }

            func ask(_ words: String) async throws -> String {
                try await shell("redis-cli -h 127.0.0.21 -p \(sentinelPort) SENTINEL \(words)")
            }

            /// The number of the server that the first Sentinel names.
            func primary() async throws -> Int {
                let name = try await ask("GET-MASTER-ADDR-BY-NAME ringfence").split(separator: "\n").first ?? ""
                guard let number = name.split(separator: "-").last.flatMap({ Int($0) }) else {
                    throw TestSupportError("the Sentinel names \(name)")
                }
                return number
            }

            /// Two replicas follow, and all Sentinels know it.
            func complete() async throws {
                try await eventually("all are there", within: .seconds(90), every: .milliseconds(50)) {
                    guard let text = try? await ask("CKQUORUM ringfence"), text.contains("OK 3 usable"),
                        let rows = try? await ask("REPLICAS ringfence"),
                        rows.components(of: "master-link-status\nok") == 2, !rows.contains("s_down")
                    else { return false }
                    return !rows.contains("disconnected")
                }
            }
        }

        @Test("A planned failover, a killed and a frozen primary: grants go on, and fences rise")
        func failovers() async throws {
            let stage = try await Stage("sentinel")
            do { try await failovers(on: stage) } catch {
                await stage.end()
                throw error
            }
            await stage.end()
        }

        private func failovers(on stage: Stage) async throws {
            var trio = try await Trio(stage)
            try await trio.complete()
            var configuration = RingfenceConfiguration(url: trio.url, owner: "scenario")
            configuration.addressMap = trio.addressMap
            let client = try RingfenceClient(configuration)
            let caller = Caller()
            let task = Task { await caller.run(client) }
            for (name, fail) in Self.failures {
                try await eventually("it has grants", within: .seconds(60)) { [grants = caller.grants] in
                    caller.grants > grants + 10
                }
                let old = try await trio.primary()
                caller.begin()
                try await fail(trio, trio.servers[old - 1])
                try await eventually("another primary", within: .seconds(60), every: .milliseconds(20)) {
                    try await trio.primary() != old
                }
                let before = caller.grants
                try await eventually("grants go on", within: .seconds(60)) { caller.grants > before + 10 }
                print("sentinel: \(name): without a grant for \(caller.longest)")
                // What was down comes back, as a replica of the new one.
                if name == "killed" { trio.servers[old - 1] = try await trio.startServer(old, isReplica: old > 1) }
                trio.servers[old - 1].signal(SIGCONT)
                try await trio.complete()
            }
            #expect(caller.isRising)
            task.cancel()
            await task.value
            await client.shutdown()
        }

        private static let failures: [(String, @Sendable (Trio, ChildProcess) async throws -> Void)] = [
            ("planned", { trio, _ in _ = try await trio.ask("FAILOVER ringfence") }),
            ("killed", { _, server in server.signal(SIGKILL) }),
            ("frozen", { _, server in server.signal(SIGSTOP) }),
        ]
    }
}

extension String {
    /// How often `part` stands in it.
    fileprivate func components(of part: String) -> Int { ranges(of: part).count }
}
