// SPDX-License-Identifier: Apache-2.0
//
// docker/examples/service, run for real: three HTTP services that all take requests, of which one runs the job.
import Ringfence
import RingfenceOperations
import RingfencePlatform
import Synchronization
import TestSupport
import Testing

extension Scenarios {
    @Suite("Three services") struct ServiceTests {
        private static let group = "payments"

        /// The service recipe on one machine.
        private final class Trio: Sendable {
            let stage: Stage
            let ports: [Int]
            let agentPorts: [Int]
            let port: Int
            private let services = Mutex<[Int: ChildProcess]>([:])
            private let agents = Mutex<[Int: ChildProcess]>([:])

            var ledger: String { stage.directory.path + "/ledger" }
            static func name(_ index: Int) -> String { "payments-\(index + 1)" }
            private func pidFile(_ index: Int) -> String { "\(stage.directory.path)/\(index).pid" }

            init(_ stage: Stage) async throws {
                self.stage = stage
                ports = [try freePort(), try freePort(), try freePort()]
                agentPorts = [try freePort(), try freePort(), try freePort()]
                port = try freePort()
                for (index, file) in ["a.json", "b.json", "c.json"].enumerated() {
                    try stage.configure(
                        Self.name(index), from: file,
                        [
                            "redis://127.0.0.1:6379": stage.redis.url, "/etc/ringfence/service": stage.files,
                            "10.0.0.\(index + 1):8080": "127.0.0.1:\(ports[index])",
                            "10.0.0.\(index + 1):8010": "127.0.0.1:\(agentPorts[index])",
                        ])
                }
                var environment = ["SERVICE_LISTEN=127.0.0.1:\(port)"]
                for index in 0..<3 {
                    environment += [
                        "SERVICE_\(index + 1)=127.0.0.1:\(ports[index])",
                        "SERVICE_\(index + 1)_AGENT=\(agentPorts[index])",
                    ]
                }
                try await stage.startProxy(environment)
            }

            func startService(_ index: Int) async throws {
                let service = try await stage.start(
                    [stage.files + "/service.py", "127.0.0.1:\(ports[index])", Self.name(index), ledger],
                    log: "service-\(index)")
                services.withLock { $0[index] = service }
                try write("\(service.pid)\n", to: pidFile(index))
            }
            func startAgent(_ index: Int) async throws {
                let agent = try await stage.startAgent(
                    Self.name(index), environment: ["SERVICE_PID=\(pidFile(index))"])
                agents.withLock { $0[index] = agent }
            }
            func service(_ index: Int) -> ChildProcess? { services.withLock { $0[index] } }
            func agent(_ index: Int) -> ChildProcess? { agents.withLock { $0[index] } }

            /// Who answers a request through the proxy; nil: it failed.
            func pay() async -> String? {
                let answer = try? await output(
                    of: "curl", ["-sf", "--noproxy", "*", "--max-time", "10", "http://127.0.0.1:\(port)/pay"])
                return answer.map { String($0.dropLast()) }
            }

            /// Waits until requests are answered by exactly those.
            func answered(by names: Set<String>, _ what: String) async throws {
                try await eventually(
                    "requests go to \(names.sorted()) \(what)", within: .seconds(60), every: .milliseconds(20)
                ) {
                    var seen: Set<String> = []
                    for _ in 0..<12 { if let name = await pay() { seen.insert(name) } }
                    return seen == names
                }
            }

            /// The lines of the job's ledger: epoch, who, count.
            var lines: [(epoch: Int64, name: String)] {
                ((try? contents(ofFile: ledger)) ?? "").split(separator: "\n").map {
                    let words = $0.split(separator: " ")
                    return (Int64(words[0]) ?? 0, String(words[1]))
                }
            }

            /// Waits until somebody not among `others` does the job, and says who.
            func worker(not others: Set<String> = []) async throws -> Int {
                let count = lines.count
                var found = ""
                try await eventually("the job goes on", within: .seconds(60), every: .milliseconds(20)) {
                    found = lines.dropFirst(count).last?.name ?? ""
                    return found != "" && !others.contains(found)
                }
                return (found.last?.wholeNumberValue ?? 1) - 1
            }
        }

        @Test("all take requests while one runs the job; kill, hang, slowness, drain and return cost neither")
        func life() async throws {
            let stage = try await Stage("service")
            do {
                let trio = try await Trio(stage)
                for index in 0..<3 {
                    try await trio.startService(index)
                    try await trio.startAgent(index)
                }
                let all = Set((0..<3).map(Trio.name))
                try await trio.answered(by: all, "at first")

                // Killed: found by its check, the job moves at once, and requests never notice.
                let first = try await trio.worker()
                trio.service(first)?.signal(SIGKILL)
                for _ in 0..<20 { #expect(await trio.pay() != nil) }
                let second = try await trio.worker(not: [Trio.name(first)])
                try await trio.answered(by: all.subtracting([Trio.name(first)]), "after a kill")
                try await trio.startService(first)
                try await trio.answered(by: all, "after its return")

                // Hanging: the job's hook gets no answer, and ends it for good.
                trio.service(second)?.signal(SIGSTOP)
                let third = try await trio.worker(not: [Trio.name(second)])
                try await trio.answered(by: all.subtracting([Trio.name(second)]), "while one hangs")
                if let hanging = trio.service(second) {
                    hanging.signal(SIGCONT)
                    _ = await hanging.wait()
                }
                try await trio.startService(second)
                try await trio.answered(by: all, "after the hanging one was replaced")

                // Slow: out until it is quick again.
                let slow = (third + 1) % 3
                let control = "http://127.0.0.1:\(trio.ports[slow])/slow?ms="
                try await shell("curl -sf --noproxy '*' -X POST '\(control)1500'")
                try await trio.answered(by: all.subtracting([Trio.name(slow)]), "while one is slow")
                try await shell("curl -sf --noproxy '*' -X POST '\(control)0'")
                try await trio.answered(by: all, "when it is quick again")

                // Drained: its agent is told to end, and only then the service. No request fails.
                let leaving = try await trio.worker()
                let requests = Task { () -> Int in
                    var failed = 0
                    while !Task.isCancelled { if await trio.pay() == nil { failed += 1 } }
                    return failed
                }
                trio.agent(leaving)?.signal(SIGTERM)
                _ = await trio.agent(leaving)?.wait()
                _ = try await trio.worker(not: [Trio.name(leaving)])
                try await trio.answered(by: all.subtracting([Trio.name(leaving)]), "when one is drained")
                trio.service(leaving)?.signal(SIGTERM)
                _ = await trio.service(leaving)?.wait()
                requests.cancel()
                #expect(await requests.value == 0)
                try await trio.startService(leaving)
                try await trio.startAgent(leaving)
                try await trio.answered(by: all, "at the end")

                // Never two at a time: in the ledger each epoch is one member's, and epochs only grow.
                let lines = trio.lines
                #expect(zip(lines, lines.dropFirst()).allSatisfy { $0.epoch <= $1.epoch })
                for (_, group) in Dictionary(grouping: lines, by: \.epoch) {
                    #expect(Set(group.map(\.name)).count == 1)
                }
            } catch {
                let story = await stage.story(Self.group)
                await stage.end()
                throw TestSupportError("\(error)\n\(story)")
            }
            await stage.end()
        }
    }
}
