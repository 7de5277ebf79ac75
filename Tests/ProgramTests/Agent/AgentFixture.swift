// SPDX-License-Identifier: Apache-2.0
//
// An agent as users run it, beside a resource made of files: `role` says what it is, `alive` whether it answers, and
// each hook leaves a line in `log` and does to the files what a real one does to a database.
import RingfenceAgent
import RingfenceOperations
import RingfencePlatform
import TestSupport

/// A running `ringfence agent` with its resource.
final class TestAgent: Sendable {
    let member: String
    let directory: TemporaryDirectory
    let program: Program
    let port: Int

    private init(_ member: String, _ directory: TemporaryDirectory, _ program: Program, _ port: Int) {
        self.member = member
        self.directory = directory
        self.program = program
        self.port = port
    }

    static let hooks = ["prePromote", "onPromote", "onHandover", "onDemote", "onSuspend", "onEvent"]

    /// What a hook does unless a test has put something else into `<hook>.do`.
    private static let script = #"""
        #!/bin/sh
        cd "$(dirname "$0")" || exit 1
        echo "$RINGFENCE_HOOK $RINGFENCE_EPOCH $RINGFENCE_REASON $RINGFENCE_PRIMARY $RINGFENCE_PRIMARY_ADDRESS" >> log
        cat > "$RINGFENCE_HOOK.json"
        if [ -e "$RINGFENCE_HOOK.do" ]; then . "./$RINGFENCE_HOOK.do"; fi
        case $RINGFENCE_HOOK in
            onPromote) echo primary > role; touch alive ;;
            onHandover) echo drained > role ;;
            onDemote) echo standby > role; touch alive ;;
            onSuspend) echo suspended > role ;;
        esac
        """#

    private static let check = #"""
        #!/bin/sh
        cd "$(dirname "$0")" || exit 1
        if [ ! -e alive ]; then echo it is dead; exit 1; fi
        echo "role=$(cat role)"
        echo "position=$(cat position)"
        """#

    /// - Parameter lease: long enough for a machine that is full of tests: one that runs out by itself ends the role
    ///   once more.
    static func start(
        _ member: String, _ redis: RedisServer, _ more: String = "", lease: String = "2s",
        hooks: [String] = hooks, files: [String: String] = [:], in old: TemporaryDirectory? = nil
    ) async throws -> TestAgent {
        let directory = try old ?? TemporaryDirectory()
        let path = directory.path
        if old == nil {
            try writeFile(path + "/role", "standby\n")
            try writeFile(path + "/position", "100\n")
            try writeFile(path + "/alive", "")
            try writeFile(path + "/log", "")
            try writeFile(path + "/hook.sh", script, mode: 0o755)
            try writeFile(path + "/check.sh", check, mode: 0o755)
        }
        for (name, text) in files { try writeFile(path + "/" + name, text) }
        let calls = hooks.map { #""\#($0)":{"command":["\#(path)/hook.sh"],"timeout":"20s"}"# }.joined(separator: ",")
        try writeFile(
            path + "/agent.json",
            #"""
            {"redis": "\#(redis.unixURL)", "group": "g", "member": "\#(member)", "address": "\#(member):1",
             "lease": "\#(lease)", "listen": "127.0.0.1:0", \#(more)
             "checks": [{"type": "command", "command": ["\#(path)/check.sh"], "interval": "100ms", "timeout": "10s",
                         "fastInterval": "50ms"}],
             "hooks": {\#(calls)}}
            """#)
        let program = try await Program.start(["agent", "--config", path + "/agent.json"], in: directory)
        try await eventually("the agent of \(member) has joined", within: .seconds(40)) {
            if !program.process.isRunning { throw TestSupportError("the agent ended:\n" + program.error) }
            return program.output.contains("health endpoints on port")
        }
        let digits = program.output.split(separator: "health endpoints on port ").last?.prefix { $0.isNumber }
        guard let port = digits.flatMap({ Int($0) }) else { throw TestSupportError(program.output) }
        return TestAgent(member, directory, program, port)
    }

    func file(_ name: String) -> String { directory.path + "/" + name }
    var role: String { contents(of: file("role")).split(separator: "\n").first.map(String.init) ?? "" }
    /// The hooks that were called, without `onEvent`.
    var log: [String] {
        contents(of: file("log")).split(separator: "\n").map(String.init).filter { !$0.hasPrefix("onEvent") }
    }
    var calls: [String] { log.map { String($0.prefix { $0 != " " }) } }

    func set(position: Int) throws { try writeFile(file("position"), "\(position)\n") }
    func die() { unlink(file("alive")) }

    /// The status of an endpoint, and its body.
    func get(_ path: String, method: String = "GET", headers: [String] = []) async throws -> Answer {
        let connection = try await RawConnection.open(port: port)
        defer { connection.close() }
        try await connection.send(method, path, headers: headers)
        guard let answer = try await connection.answer(isHead: method == "HEAD") else {
            throw TestSupportError("no answer to \(path)")
        }
        return answer
    }

    func waitUntilPrimary(_ limit: Duration = .seconds(40)) async throws {
        try await eventually("\(member) is primary: \(program.error)", within: limit, every: .milliseconds(20)) {
            if !self.program.process.isRunning { throw TestSupportError("the agent ended:\n" + self.program.error) }
            return try await self.get("/primary").status == 200
        }
    }

    func kill() async {
        program.process.signal(SIGKILL)
        _ = await program.process.wait()
    }

    @discardableResult
    func stop() async -> ChildProcess.Exit {
        program.process.signal(SIGTERM)
        return await program.process.wait()
    }
}

/// The events of the group, oldest first, as `type member reason`.
func groupEvents(_ redis: RedisServer) async throws -> [String] {
    let shown = try await Program.run(["events", "--redis", redis.unixURL, "--json"])
    return shown.output.split(separator: "\n").map(String.init)
}
