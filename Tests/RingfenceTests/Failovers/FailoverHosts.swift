// SPDX-License-Identifier: Apache-2.0
//
// Three hosts, each a network namespace with a Redis and a Sentinel, on a bridge where the clients are. Only there is a
// partition what it is in life: nothing comes through, and nobody is told. It needs a network of its own, which
// `.ci/failovers` makes.
import RingfencePlatform
import TestSupport

struct FailoverHosts: Sendable {
    enum Fault: String, CaseIterable, Sendable {
        /// The primary's process dies, and is started again as it was.
        case kill
        /// It stands still until another one is primary.
        case freeze
        /// Its host, with one of three Sentinels, is cut off from the others and from all clients: none is on its side.
        case partition
        /// An operator's order.
        case planned
    }

    struct Host: Sendable {
        var number: Int
        /// Of the process that keeps the namespace.
        var keeper: Int32
        var server: RedisServer
        var sentinel: RedisServer
        /// Arguments that run a program there.
        var enter: [String] { ["nsenter", "-t", "\(keeper)", "-n"] }
    }

    private static let network = "10.99.0"
    private static let name = "main"
    let hosts: [Host]
    private let directory: TemporaryDirectory

    static var url: String {
        "redis+sentinel://" + (1...3).map { "\(network).1\($0):26379" }.joined(separator: ",") + "/" + name
    }

    init() async throws {
        directory = try TemporaryDirectory()
        try await sh("ip link add ringfence type bridge && ip address add \(Self.network).1/24 dev ringfence")
        try await sh("ip link set ringfence up")
        var hosts: [Host] = []
        for number in 1...3 {
            let keeper = try Subprocess.spawn("unshare", ["--net", "sleep", "100000"])
            Watchdog.add(keeper)
            try await eventually("host \(number) has a network of its own") {
                let (own, its) = try await (sh("readlink /proc/self/ns/net"), sh("readlink /proc/\(keeper)/ns/net"))
                return own != its
            }
            try await sh("ip link add host\(number) type veth peer name eth0 netns \(keeper)")
            try await sh("ip link set host\(number) master ringfence up")
            let address = "\(Self.network).1\(number)"
            let enter = ["nsenter", "-t", "\(keeper)", "-n"]
            try await sh(
                enter.joined(separator: " ")
                    + " sh -c 'ip address add \(address)/24 dev eth0 && ip link set eth0 up && ip link set lo up'")
            let server = try await RedisServer.start(
                ["--port", "6379", "--bind", address, "--protected-mode", "no", "--repl-timeout", "5"]
                    + (number > 1 ? ["--replicaof", "\(Self.network).11", "6379"] : []), under: enter)
            let file = "\(directory.path)/\(number).conf"
            try writeFile(
                file,
                """
                sentinel monitor \(Self.name) \(Self.network).11 6379 2
                sentinel down-after-milliseconds \(Self.name) 1000
                sentinel failover-timeout \(Self.name) 6000

                """)
            let sentinel = try await RedisServer.start(
                ["--port", "26379", "--bind", address, "--protected-mode", "no"],
                under: enter + ["sh", "-c", #"shift; exec redis-server "$0" --sentinel "$@""#, file])
            hosts.append(Host(number: number, keeper: keeper, server: server, sentinel: sentinel))
        }
        self.hosts = hosts
    }

    func stop() async {
        for host in hosts {
            await host.server.stop()
            await host.sentinel.stop()
            kill(host.keeper, SIGKILL)
            Watchdog.remove(host.keeper)
        }
        _ = try? await sh("ip link delete ringfence")
    }

    /// The host of the primary, by the word of the Sentinel at `host`.
    func primary(of host: Int) async throws -> Host? {
        let said = try await hosts[host].sentinel.cli("SENTINEL", "GET-MASTER-ADDR-BY-NAME", Self.name)
        return hosts.first { said.hasPrefix("\(Self.network).1\($0.number)\n") }
    }

    /// All Sentinels agree, and two replicas are in step.
    func areComplete() async throws {
        try await eventually("all are there again", within: .seconds(120), every: .milliseconds(50)) {
            guard let primary = try await primary(of: 0) else { return false }
            for host in hosts {
                guard try await self.primary(of: host.number - 1)?.number == primary.number,
                    try await host.sentinel.cli("SENTINEL", "CKQUORUM", Self.name).hasPrefix("OK 3 usable")
                else { return false }
            }
            let said = try await primary.server.cli("INFO", "replication")
            return said.contains("role:master") && said.ranges(of: "state=online").count == 2
        }
    }

    /// The term of the primary by the Sentinels: another one after each failover.
    func term() async throws -> String {
        let said = try await hosts[0].sentinel.cli("SENTINEL", "MASTER", Self.name).split(separator: "\n")
        guard let index = said.firstIndex(of: "config-epoch") else { throw TestSupportError("no epoch: \(said)") }
        return String(said[index + 1])
    }

    /// Waits until both replicas have all that the primary has now.
    func replicate() async throws {
        guard let primary = try await primary(of: 0) else { throw TestSupportError("the Sentinels name no primary") }
        try await eventually("both replicas have it", within: .seconds(60), every: .milliseconds(20)) {
            // A connection waits for its own writes.
            try await sh(
                "printf 'SET kept 1\\nWAIT 2 1000\\n' | redis-cli -s '\(primary.server.socketPath)'"
            ).hasSuffix("\n2\n")
        }
    }

    /// Lets `fault` befall the primary, and mends it when another one leads. Returns how long that took.
    func fail(_ fault: Fault) async throws -> Duration {
        guard let old = try await primary(of: 0) else { throw TestSupportError("the Sentinels name no primary") }
        let begin = ContinuousClock.now
        switch fault {
        case .kill: await old.server.kill(SIGKILL)
        case .freeze: await old.server.kill(SIGSTOP)
        case .partition: try await sh("ip link set host\(old.number) down")
        case .planned:
            // Refused while the Sentinel still sees to the replicas of the failover before.
            try await eventually("the order is taken", within: .seconds(120), every: .milliseconds(100)) {
                try await old.sentinel.cli("SENTINEL", "FAILOVER", Self.name) == "OK"
            }
        }
        let other = old.number % 3
        try await eventually("another primary", within: .seconds(120), every: .milliseconds(20)) {
            guard let new = try await primary(of: other) else { return false }
            return new.number != old.number
        }
        let took = ContinuousClock.now - begin
        switch fault {
        case .kill: try await old.server.restart()
        case .freeze: await old.server.kill(SIGCONT)
        case .partition: try await sh("ip link set host\(old.number) up")
        case .planned: break
        }
        return took
    }
}

@discardableResult
private func sh(_ line: String) async throws -> String { try await output(of: "sh", ["-c", line]) }
