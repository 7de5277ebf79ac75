// SPDX-License-Identifier: Apache-2.0
//
// `ringfence demo` on each kind of Redis that fails over: the primary is killed in the middle of a run, and at the end
// every cent is where it belongs. What the replica had not heard of is done again, and applied once.
import RingfenceOperations
import RingfencePlatform
import TestSupport
import Testing

extension Scenarios {
    @Suite("The demo on a Redis that fails over under it") struct DemoRecipeTests {
        /// A run of the program.
        private struct Demo {
            private static let transfers = 8_000
            private let process: ChildProcess
            private let log: String

            init(_ stage: Stage, redis url: String, _ environment: [String] = []) async throws {
                let program = try builtExecutable("ringfence")
                let (all, file) = (stage.directory.path + "/all", stage.directory.path + "/transfers")
                try await shell(
                    "'\(program)' demo --generate '\(all)' && head -n \(Self.transfers) '\(all)' > '\(file)'")
                log = stage.directory.path + "/demo.log"
                process = try await stage.start(
                    [program, "demo", "--json", "--workers", "4", "--file", file, "--redis", url],
                    environment: environment, log: "demo")
            }

            /// Waits until that much of it is done; returns its namespace. `server`: the arguments by which redis-cli
            /// reaches the primary.
            @discardableResult
            func isUnderWay(at server: String, percent: Int = 10) async throws -> String {
                let cli = "redis-cli \(server)"
                var key: Substring = ""
                try await eventually("it is under way", within: .seconds(90), every: .milliseconds(20)) {
                    guard process.isRunning else {
                        throw TestSupportError("the demo has ended: \(try contents(ofFile: log))")
                    }
                    key = try await shell("\(cli) --scan --pattern 'ringfence-demo:*:journal'").trimmed
                    guard !key.isEmpty else { return false }
                    let done = Int(try await shell("\(cli) LLEN '\(key)'").trimmed) ?? 0
                    return done > Self.transfers * percent / 100
                }
                return String(key.drop { $0 != "{" }.dropFirst().prefix { $0 != "}" })
            }

            /// The books at its end.
            func balances() async throws {
                #expect(process.isRunning, "its primary was killed under it")
                let exit = await process.wait()
                let said = try contents(ofFile: log)
                #expect(exit == .code(0), "\(said)")
                #expect(said.contains(#""balanced":true"#), "\(said)")
                #expect(said.contains(#""appliedOnce":\#(Self.transfers)"#), "\(said)")
            }
        }

        private func withStage(_ example: String, _ body: (Stage) async throws -> Void) async throws {
            let stage = try await Stage(example)
            do { try await body(stage) } catch {
                await stage.end()
                throw error
            }
            await stage.end()
        }

        @Test("With Sentinels") func sentinels() async throws {
            try await withStage("sentinel") { stage in
                let trio = try await SentinelRecipeTests.Trio(stage)
                try await trio.complete()
                let demo = try await Demo(stage, redis: trio.url, ["RINGFENCE_REDIS_ADDRESS_MAP=\(trio.addressMap)"])
                let primary = try await trio.primary()
                try await demo.isUnderWay(at: "-h 127.0.0.1\(primary) -p \(trio.port)")
                trio.servers[primary - 1].signal(SIGKILL)
                try await demo.balances()
                #expect(try await trio.primary() != primary)
            }
        }

        @Test("In a Cluster") func cluster() async throws {
            try await withStage("cluster") { stage in
                try await withRedisCluster { cluster in
                    let demo = try await Demo(stage, redis: cluster.url())
                    var owner: RedisServer?
                    try await eventually("it has begun", within: .seconds(60), every: .milliseconds(20)) {
                        for node in cluster.nodes where owner == nil {
                            let isThere = try await !node.cli("--scan", "--pattern", "ringfence-demo:*").isEmpty
                            let isPrimary = try await node.cli("INFO", "replication").contains("role:master")
                            if isThere, isPrimary { owner = node }
                        }
                        return owner != nil
                    }
                    let first = try #require(owner)
                    let namespace = try await demo.isUnderWay(at: "-p \(first.port)")
                    try await shell("sh '\(stage.files)/reshard.sh' 127.0.0.1:\(first.port) '\(namespace)'")
                    let second = try await cluster.owner(ofNamespace: namespace)
                    #expect(second !== first)
                    // Its replica hears by and by that it has the slot.
                    try await demo.isUnderWay(at: "-p \(second.port)", percent: 25)
                    await second.kill(SIGKILL)
                    try await demo.balances()
                }
            }
        }

        @Test("Behind HAProxy") func managed() async throws {
            try await withStage("managed") { stage in
                try await withRedis { one in
                    try await withRedis(["--replicaof", "127.0.0.1", "\(one.port)"]) { two in
                        try await eventually("in step", within: .seconds(60)) {
                            try await one.cli("WAIT", "1", "10") == "1"
                        }
                        let front = try freePort()
                        try await stage.startProxy([
                            "REDIS_LISTEN=127.0.0.1:\(front)", "REDIS_1=127.0.0.1:\(one.port)",
                            "REDIS_2=127.0.0.1:\(two.port)",
                        ])
                        let demo = try await Demo(stage, redis: "redis://127.0.0.1:\(front)")
                        try await demo.isUnderWay(at: "-p \(one.port)")
                        await one.kill(SIGKILL)
                        try await two.cli("REPLICAOF", "NO", "ONE")
                        try await demo.balances()
                    }
                }
            }
        }
    }
}

extension String {
    fileprivate var trimmed: Substring { prefix { !$0.isNewline } }
}
