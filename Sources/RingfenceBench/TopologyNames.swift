// SPDX-License-Identifier: Apache-2.0
//
// How soon a client follows a name that leads to another server.
//
// A name is looked up by the system, and what the system says comes from /etc/hosts, which is not ours to change. So
// this program is started again in a mount namespace of its own (`unshare`), where another file stands there; what it
// measures it prints. Where that is not allowed, nothing is measured, and it is said.

import ArgumentParser
import Hiredis
import Logging
import Ringfence
import RingfenceConsole
import RingfenceOperations
import RingfencePlatform
import TestServers

extension Topologies {
    func nameMoves() async throws {
        progress.show("names that lead to another server")
        let directory = try TemporaryDirectory()
        let hosts = directory.path + "/hosts"
        try writeFile(hosts, "", mode: 0o644)
        let (status, output) = try await Subprocess.run(
            "unshare",
            [
                "--mount", "--map-root-user", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\"", hosts,
                try OwnExecutable.sibling("ringfence-bench"), "bench-names", "--hosts", hosts, "--rounds", "\(rounds)",
            ])
        guard status == 0 else {
            progress.end()
            say("not measured: topology.name.dead, topology.name.alive, which need unshare: \(output)")
            return
        }
        func milliseconds(_ name: String) -> [Double] {
            output.split(whereSeparator: \.isNewline).compactMap { line in
                let words = line.split(separator: " ")
                return words.count == 2 && words[0] == name ? Double(words[1]) : nil
            }
        }
        tell(Figure(name: "topology.name.dead", late: milliseconds("dead"), bar: 300))
        let watch = RedisPlace.server(.tcp(host: "", port: 0)).watchInterval
        let alive = Figure(name: "topology.name.alive", late: milliseconds("alive"), bar: watch.milliseconds + 1000)
        tell(alive)
    }
}

/// `ringfence-bench bench-names`, which only `ringfence-bench topology` starts, where /etc/hosts is the file `hosts`.
struct BenchNamesCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench-names", abstract: "Clients of a name that moves.", shouldDisplay: false)

    @Option var hosts: String
    @Option var rounds: Int

    private static let name = "redis.bench"
    private static let clients = 4

    func run() async throws {
        for _ in 0..<rounds { try await withTwo { old, url in try await dead(old, url) } }
        // Clients look by clocks of their own, so a few of them at once are as many trials.
        for _ in 0..<2 { try await withTwo { old, url in try await alive(old, url) } }
    }

    private func lead(to address: String) throws { try writeFile(hosts, "\(address) \(Self.name)\n", mode: 0o644) }

    /// Runs `body` with a server to which the name leads; another has the same port at 127.0.0.2.
    private func withTwo(_ body: (_ old: RedisServer, _ url: String) async throws -> Void) async throws {
        try await withRedis { old in
            try await withRedis { new in
                try await new.cli("CONFIG", "SET", "bind", "127.0.0.2")
                try await new.cli("CONFIG", "SET", "port", "\(old.port)")
                try lead(to: "127.0.0.1")
                try await body(old, "redis://\(Self.name):\(old.port)")
            }
        }
    }

    /// The server dies, and a while later the name leads to another.
    private func dead(_ old: RedisServer, _ url: String) async throws {
        try await measure("dead", url) {
            await old.kill(SIGKILL)
            try await Task.sleep(for: .milliseconds(Int.random(in: 100...1000)))
        }
    }

    /// The server goes on as a primary.
    private func alive(_ old: RedisServer, _ url: String) async throws {
        try await measure("alive", url) { try await Task.sleep(for: .milliseconds(Int.random(in: 0...5000))) }
    }

    private func measure(_ what: String, _ url: String, _ happens: () async throws -> Void) async throws {
        let logger = Logger.command("ringfence.bench", level: .critical)
        let topologies = Topologies(
            seconds: 0, rounds: rounds, tasks: 0, logger: logger, progress: Progress(isShown: false)
        ) { _ in }
        let configurations = Array(repeating: Topologies.configuration(url), count: Self.clients)
        let late = try await topologies.withClients(configurations) { clients in
            let all = clients.map { Grants($0) }
            defer { for grants in all { grants.stop() } }
            let generations = clients.map { $0.locator.status.generation }
            try await happens()
            let start = ContinuousClock.now
            try lead(to: "127.0.0.2")
            var late: [Double] = []
            for (grants, generation) in zip(all, generations) {
                late.append((try await grants.first { $0.generation > generation } - start).milliseconds)
            }
            return late
        }
        for one in late { try put("\(what) \(one)") }
    }
}
