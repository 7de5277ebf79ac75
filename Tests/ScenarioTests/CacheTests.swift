// SPDX-License-Identifier: Apache-2.0
//
// docker/examples/cache, run for real: a Redis pair for data, beside the Redis of the coordination.
import Ringfence
import RingfenceOperations
import RingfencePlatform
import TestSupport
import Testing

extension Scenarios {
    @Suite("A Redis pair") struct CacheTests {
        private static let group = "cache"

        /// The cache recipe on one machine.
        private struct Pair {
            let stage: Stage
            let servers: [RedisServer]
            let agentPorts: [Int]
            let port: Int

            static func name(_ index: Int) -> String { "cache-\(index + 1)" }

            func startAgent(_ index: Int) async throws -> ChildProcess {
                try await stage.startAgent(Self.name(index), environment: [])
            }

            /// A command through the proxy; nil while nobody takes it.
            func run(_ arguments: String...) async -> String? {
                guard let answer = try? await redisCLI(["-p", "\(port)", "-e"] + arguments) else { return nil }
                return answer
            }

            /// Waits until a write through the proxy is taken.
            func write(_ key: String, _ value: String) async throws {
                try await eventually("\(key) is taken", within: .seconds(60), every: .milliseconds(20)) {
                    await run("SET", key, value) == "OK"
                }
            }

            /// Waits until one follows the other.
            func following(_ index: Int) async throws {
                try await eventually("\(Self.name(index)) follows", within: .seconds(60), every: .milliseconds(50)) {
                    let said = (try? await servers[index].cli("INFO", "replication")) ?? ""
                    let other = (try? await servers[1 - index].cli("CONFIG", "GET", "min-replicas-to-write")) ?? ""
                    return said.contains("master_port:\(servers[1 - index].port)")
                        && said.contains("master_link_status:up") && other.hasSuffix("1")
                }
            }
        }

        private func withPair(_ body: (Pair) async throws -> Void) async throws {
            let stage = try await Stage("cache")
            var servers: [RedisServer] = []
            do {
                for _ in 0..<2 {
                    servers.append(try await RedisServer.start(["--include", stage.files + "/redis.conf"]))
                }
                let pair = Pair(
                    stage: stage, servers: servers, agentPorts: [try freePort(), try freePort()], port: try freePort())
                for (index, file) in ["a.json", "b.json"].enumerated() {
                    try stage.configure(
                        Pair.name(index), from: file,
                        [
                            "redis://127.0.0.1:6379": stage.redis.url, "/etc/ringfence/cache": stage.files,
                            "10.0.0.\(index + 1):6380": "127.0.0.1:\(servers[index].port)",
                            "10.0.0.\(index + 1):8009": "127.0.0.1:\(pair.agentPorts[index])",
                            #""lease": "3s""#: #""lease": "2s""#,
                        ])
                }
                try await stage.startProxy([
                    "CACHE_LISTEN=127.0.0.1:\(pair.port)",
                    "CACHE_1=127.0.0.1:\(servers[0].port)", "CACHE_1_AGENT=\(pair.agentPorts[0])",
                    "CACHE_2=127.0.0.1:\(servers[1].port)", "CACHE_2_AGENT=\(pair.agentPorts[1])",
                ])
                try await body(pair)
            } catch {
                let story = await stage.story(Self.group)
                await stage.end()
                for server in servers { await server.stop() }
                throw TestSupportError("\(error)\n\(story)")
            }
            await stage.end()
            for server in servers { await server.stop() }
        }

        @Test("hands over without a loss, takes over from a dead and from a frozen primary, and never starts writable")
        func failover() async throws {
            try await withPair { pair in
                let agents = [try await pair.startAgent(0), try await pair.startAgent(1)]
                _ = agents
                try await pair.write("first", "1")
                // Whoever won: call it the old one.
                let start = try await pair.servers[0].cli("INFO", "replication").contains("role:master") ? 0 : 1
                try await pair.following(1 - start)

                // Planned: nothing is lost.
                try await pair.write("planned", "1")
                try await pair.stage.switchover(Self.group, to: Pair.name(1 - start))
                try await pair.write("after", "1")
                #expect(try await pair.servers[1 - start].cli("GET", "planned") == "1")
                try await pair.following(start)

                // Killed, and started again at once, empty, by its supervisor: its replica does not empty itself.
                try await pair.write("kept", "1")
                try await eventually("the replica has it") { try await pair.servers[start].cli("GET", "kept") == "1" }
                await pair.servers[1 - start].kill(SIGKILL)
                try await pair.servers[1 - start].restart()
                try await pair.write("unplanned", "1")
                #expect(try await pair.servers[start].cli("GET", "kept") == "1")
                try await pair.following(1 - start)
                #expect(try await pair.servers[1 - start].cli("GET", "kept") == "1")

                // Frozen with its agent, and thawed when the other is primary: it takes no write.
                let old = pair.servers[start]
                kill(old.pid, SIGSTOP)
                agents[start].signal(SIGSTOP)
                try await pair.write("frozen", "1")
                kill(old.pid, SIGCONT)
                // Its agent still sleeps: it is Redis alone that refuses.
                try await eventually("the thawed primary refuses") {
                    try await old.cli("SET", "late", "1").contains("NOREPLICAS")
                }
                agents[start].signal(SIGCONT)
                try await pair.following(start)
                #expect(try await old.cli("GET", "frozen") == "1")
            }
        }
    }
}
