// SPDX-License-Identifier: Apache-2.0
//
// The database recipe on one machine: two PostgreSQL with an agent each, HAProxy in front, and the coordination's
// Redis.
import Ringfence
import RingfenceOperations
import RingfencePlatform
import Synchronization
import TestSupport

/// PostgreSQL's primary and standby, failed over by agents.
final class PostgresPair: Sendable {
    static let group = "ledger-db"

    /// One machine.
    final class Member: Sendable {
        let name: String
        let port: Int
        let agentPort: Int
        let data: String
        private let sockets: String
        private let running = Mutex<ChildProcess?>(nil)

        fileprivate init(_ name: String, in directory: String) throws {
            self.name = name
            port = try freePort()
            agentPort = try freePort()
            sockets = "\(directory)/\(name)"
            data = "\(directory)/\(name)/data"
        }

        fileprivate var environment: [String] { ["PGDATA=\(data)", "PG_SOCKET=\(sockets)", "PG_CLIENTS=127.0.0.1/32"] }

        fileprivate func startAgent(on stage: Stage) async throws {
            let agent = try await stage.startAgent(name, environment: environment)
            running.withLock { $0 = agent }
        }

        /// All processes of its database, the first one first; none: it is down.
        var database: [Int32] {
            guard let text = try? contents(ofFile: "\(data)/postmaster.pid"),
                let pid = text.split(separator: "\n").first.flatMap({ Int32($0) }),
                let name = try? contents(ofFile: "/proc/\(pid)/comm"), name.hasPrefix("postgres")
            else { return [] }
            return family(of: pid)
        }
        /// All processes of its agent, with the hooks that run.
        var agent: [Int32] {
            running.withLock { agent in agent.flatMap { $0.isRunning ? family(of: $0.pid) : nil } } ?? []
        }
        /// Of which reigns it holds everything, as its hooks noted it.
        var holds: [String] {
            ((try? contents(ofFile: "\(data).ringfence/holds")) ?? "").split { $0.isWhitespace }.map(String.init)
        }

        /// What its agent answers to `GET path`.
        func status(_ path: String) async -> Int {
            guard
                let text = try? await output(
                    of: "curl",
                    [
                        "-s", "-o", "/dev/null", "-w", "%{http_code}", "--noproxy", "*", "--max-time", "2",
                        "http://127.0.0.1:\(agentPort)\(path)",
                    ])
            else { return 0 }
            return Int(text) ?? 0
        }
    }

    let stage: Stage
    let members: [Member]
    /// Where clients connect.
    let port: Int
    private let data: TemporaryDirectory
    /// When its other end closes, the servers are ended.
    private let lifeline: Int32

    private init(lease: String) async throws {
        stage = try await Stage("database")
        data = try TemporaryDirectory()
        port = try freePort()
        let directory = data.path
        members = [try Member("db-1", in: directory), try Member("db-2", in: directory)]
        var ends: [Int32] = [0, 0]
        socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &ends)
        lifeline = ends[1]
        var launch = ChildProcess.Launch([
            "sh", "-c",
            "cat; for f in '\(directory)'/*/data/postmaster.pid; do kill -QUIT $(head -n 1 \"$f\"); done 2>/dev/null",
        ])
        launch.parentDeathSignal = 0
        launch.input = ends[0]
        _ = try await ChildProcess.start(launch)
        close(ends[0])
        try await shell("mkdir '\(directory)'/db-1 '\(directory)'/db-2")
        if geteuid() == 0 { try await shell("chown -R postgres '\(directory)'") }
        for (member, (file, host)) in zip(members, [("a.json", "10.0.0.1"), ("b.json", "10.0.0.2")]) {
            try stage.configure(
                member.name, from: file,
                [
                    "redis://127.0.0.1:6379": stage.redis.url, "/etc/ringfence/database": stage.files,
                    "\(host):5432": "127.0.0.1:\(member.port)", "\(host):8008": "127.0.0.1:\(member.agentPort)",
                    #""lease": "3s""#: #""lease": "\#(lease)""#,
                    #""suspendBudget": "1s""#: #""suspendBudget": "\#(lease == "1s" ? "400ms" : "1s")""#,
                ])
        }
    }

    /// Runs `body` with a pair whose first member is primary and whose second is its synchronous standby.
    ///
    /// - Parameter isChecked: whether `pre-promote.sh` has a say; only a control goes without.
    static func with(lease: String, isChecked: Bool = true, _ body: (PostgresPair) async throws -> Void) async throws {
        let pair = try await PostgresPair(lease: lease)
        do {
            if !isChecked { try write("#!/bin/sh\n", to: pair.stage.files + "/pre-promote.sh") }
            try await pair.start()
            try await body(pair)
        } catch {
            let story = await pair.stage.story(group)
            await pair.end()
            throw TestSupportError("\(error)\n\(story)")
        }
        await pair.end()
    }

    private func start() async throws {
        let first = members[0]
        let settings =
            (first.environment + ["RINGFENCE_MEMBER=\(first.name)", "RINGFENCE_ADDRESS=127.0.0.1:\(first.port)"])
            .map { "'\($0)'" }.joined(separator: " ")
        try await shell("env \(settings) '\(stage.files)/init.sh'")
        try await stage.startProxy([
            "DB_LISTEN=127.0.0.1:\(port)",
            "DB_1=127.0.0.1:\(members[0].port)", "DB_1_AGENT=\(members[0].agentPort)",
            "DB_2=127.0.0.1:\(members[1].port)", "DB_2_AGENT=\(members[1].agentPort)",
        ])
        for member in members { try await member.startAgent(on: stage) }
        try await inSync("at first")
    }

    private func end() async {
        for member in members {
            for pid in member.agent + member.database { kill(pid, SIGCONT) }
            for pid in member.agent.dropFirst() { kill(pid, SIGKILL) }
        }
        await stage.end()
        for member in members { for pid in member.database.prefix(1) { kill(pid, SIGQUIT) } }
        close(lifeline)
        for member in members {
            try? await eventually("\(member.name) has ended", every: .milliseconds(20)) { member.database.isEmpty }
        }
    }

    /// Starts the agent of a member again, as its init system would.
    func restartAgent(_ member: Member) async throws { try await member.startAgent(on: stage) }

    /// Who may be written to, by what the agents tell the load balancer; waits until it is one.
    func primary() async throws -> Member {
        var found: [Member] = []
        try await eventually("one is primary", within: .seconds(120), every: .milliseconds(20)) {
            found = []
            for member in members where await member.status("/primary") == 200 { found.append(member) }
            return found.count == 1
        }
        return found[0]
    }

    func other(_ member: Member) -> Member { members[0] === member ? members[1] : members[0] }

    /// Waits until the standby holds all the primary's reign has acknowledged, and returns both.
    @discardableResult
    func inSync(_ what: String) async throws -> (primary: Member, standby: Member) {
        var found: (Member, Member)?
        try await eventually("the standby is in sync \(what)", within: .seconds(180), every: .milliseconds(50)) {
            let primary = try await primary()
            let standby = other(primary)
            // The last of the primary's is its own reign.
            guard let reign = primary.holds.last, standby.holds.contains(reign) else { return false }
            guard await standby.status("/standby") == 200 else { return false }
            found = (primary, standby)
            return true
        }
        guard let found else { throw TestSupportError("not in sync") }
        return found
    }
}

extension Sequence<Int32> {
    func signal(_ number: Int32) { for pid in self { kill(pid, number) } }
}
