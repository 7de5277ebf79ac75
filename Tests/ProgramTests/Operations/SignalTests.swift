// SPDX-License-Identifier: Apache-2.0
import RingfenceOperations
import RingfencePlatform
import TestSupport
import Testing

@Suite struct SignalTests {
    /// Whether the command has written `word`.
    private static func wrote(_ word: String, _ file: String) -> Bool { contents(of: file).contains(word) }

    /// A command that writes down the number of each signal it gets and goes on.
    private static func noting(_ file: String) -> [String] {
        let script = """
            import os, signal, sys, time
            def note(number, frame):
                with open('\(file)', 'a') as log: log.write('<%d>' % number)
            for number in range(1, signal.NSIG):
                try: signal.signal(number, note)
                except (OSError, ValueError): pass
            note(0, None)
            while True: time.sleep(1)
            """
        return ["python3", "-c", script]
    }

    @Test func `every signal that could be left to its default is in the table`() {
        for role in SignalRole.allCases {
            for number in Signals.held {
                let meaning = Signals.meaning(of: number, for: role)
                #expect(meaning != .passOn || role == .supervisor, "\(role) \(number)")
                if [SIGINT, SIGTERM, SIGQUIT].contains(number) { #expect(meaning != .ignore, "\(role) \(number)") }
            }
        }
        #expect(Signals.meaning(of: SIGHUP, for: .service) == .reload)
        #expect(Signals.meaning(of: SIGHUP, for: .lasting, ignoresHangup: true) == .ignore)
        #expect(Signals.meaning(of: SIGHUP, for: .supervisor, ignoresHangup: true) == .ignore)
        #expect(Signals.held.contains(SIGUSR1) && Signals.held.contains(64) && !Signals.held.contains(SIGKILL))
    }

    @Test(arguments: ["lock", "exec"])
    func `each signal reaches the command, and ends nothing by itself`(kind: String) async throws {
        try await withRedis { redis in
            let directory = try TemporaryDirectory()
            let file = directory.path + "/log"
            let own =
                kind == "lock"
                ? ["lock", "job", "--redis", redis.unixURL]
                : ["agent", "exec", "--group", "g", "--member", "m", "--redis", redis.unixURL]
            let program = try await Program.start(own + ["--"] + Self.noting(file))
            try await eventually("the command runs") { Self.wrote("<0>", file) }
            for number in Signals.held where number != SIGCHLD && number != SIGURG {
                program.process.signal(number)
                try await eventually("signal \(number) has come") { Self.wrote("<\(number)>", file) }
            }
            #expect(program.process.isRunning)
            program.process.signal(SIGKILL)
            _ = await program.process.wait()
        }
    }

    @Test func `a service goes on through signals that ask nothing of it, and drains at QUIT`() async throws {
        try await withRedis { redis in
            let service = try await Service.start(["--redis", redis.unixURL])
            for number in Signals.held where ![SIGINT, SIGTERM, SIGQUIT, SIGABRT].contains(number) {
                service.program.process.signal(number)
            }
            try await eventually("it has seen SIGHUP") { service.program.error.contains("SIGHUP") }
            #expect(try await service.request("GET", "/livez").status == 200)
            service.program.process.signal(SIGQUIT)
            #expect(await service.program.process.wait() == .code(0))
        }
    }

    @Test func `an agent keeps its role through a hangup and all that asks nothing of it, and gives it up at QUIT`()
        async throws
    {
        try await withRedis { redis in
            let directory = try TemporaryDirectory()
            try writeFile(
                directory.path + "/agent.json",
                #"{"redis":"\#(redis.unixURL)","group":"g","member":"m","lease":"1s"}"#)
            let agent = try await Program.start(["agent", "--config", directory.path + "/agent.json"])
            try await eventually("it is primary") {
                try await redis.cli("HGET", "ringfence:{default}:state:g", "phase") == "ready"
            }
            for number in Signals.held where ![SIGINT, SIGTERM, SIGQUIT, SIGABRT].contains(number) {
                agent.process.signal(number)
            }
            try await eventually("it has seen SIGHUP") { agent.error.contains("SIGHUP") }
            #expect(try await redis.cli("HGET", "ringfence:{default}:state:g", "epoch") == "1")
            agent.process.signal(SIGQUIT)
            #expect(await agent.process.wait() == .code(0))
            let events = try await groupEvents(redis)
            #expect(events.contains { $0.contains("member.left") && $0.contains(#""reason":"left""#) }, "\(events)")
        }
    }

    @Test func `what a command leaves behind in sessions and groups of its own is ended before its lock is released`()
        async throws
    {
        try await withRedis { redis in
            let directory = try TemporaryDirectory()
            let file = directory.path + "/pids"
            // A session of its own, a group of its own that does not heed SIGTERM, and a daemon whose parent has ended.
            let script = """
                setsid sh -c 'echo $$ >> \(file); exec sleep 600' &
                timeout 600 sh -c "trap '' TERM; echo \\$\\$ >> \(file); while :; do sleep 0.05; done" &
                ( setsid sh -c 'echo $$ >> \(file); exec sleep 600' & )
                while [ $(wc -l < \(file)) -lt 3 ]; do sleep 0.01; done
                exit 4
                """
            let code = try await Program.run(
                ["lock", "job", "--ttl", "1h", "--redis", redis.unixURL, "--", "sh", "-c", ": > \(file);" + script])
            #expect(code.code == 4, "\(code)")
            let pids = contents(of: file).split(separator: "\n").compactMap { Int32($0) }
            #expect(pids.count == 3)
            for pid in pids { #expect(kill(pid, 0) != 0, "process \(pid) lives") }
            #expect(try await redis.cli("EXISTS", "ringfence:{default}:lock:job") == "0")
        }
    }

    @Test func `when the lock is lost, what left the command's group is dead before another can have it`() async throws
    {
        try await withRedis { redis in
            let directory = try TemporaryDirectory()
            let file = directory.path + "/pid"
            let script = "setsid sh -c \"trap '' TERM; echo \\$\\$ > \(file); while :; do sleep 0.02; done\" & wait"
            let program = try await Program.start(
                ["lock", "job", "--ttl", "2s", "--redis", redis.unixURL, "--", "sh", "-c", script])
            try await eventually("the work runs") { Int32(contents(of: file).dropLast()) != nil }
            let pid = try #require(Int32(contents(of: file).dropLast()))
            await redis.kill(SIGSTOP)
            let code = await program.process.wait()
            #expect(kill(pid, 0) != 0, "process \(pid) lives")
            await redis.kill(SIGCONT)
            #expect(code == .code(79), "\(program.error)")
        }
    }

    @Test(.enabled("this machine lets nobody make namespaces of processes") { try await canMakeNamespaces() })
    func `as the first process of a container an agent reaps what its checks leave behind`() async throws {
        try await withRedis { redis in
            let directory = try TemporaryDirectory()
            let count = directory.path + "/count"
            try writeFile(
                directory.path + "/check.sh", "#!/bin/sh\n( ( sleep 0.01 ) & )\necho >> \(count)\n", mode: 0o700)
            try writeFile(
                directory.path + "/agent.json",
                #"{"redis":"\#(redis.unixURL)","group":"g","member":"m","checks":[{"type":"command","#
                    + #""command":["\#(directory.path)/check.sh"],"interval":"100ms","fastInterval":"100ms"}]}"#)
            let agent = try await Program.start(
                program: "/usr/bin/unshare",
                ["--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
                    + [try programPath(), "agent", "--config", directory.path + "/agent.json"])
            let children = "/proc/\(agent.process.pid)/task/\(agent.process.pid)/children"
            try await eventually("it has looked 30 times", within: .seconds(60)) { contents(of: count).count >= 30 }
            let first = try #require(Int32(contents(of: children).split(separator: " ").first ?? ""))
            // Each leaves one; two looks may be under way.
            try await eventually("its children are reaped") { try zombies(of: first) < 3 }
            agent.process.signal(SIGKILL)
            _ = await agent.process.wait()
        }
    }

    private static func canMakeNamespaces() async throws -> Bool {
        let trial = try await Program.start(
            program: "/usr/bin/unshare", ["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "true"])
        return await trial.process.wait() == .code(0)
    }

    private func zombies(of parent: Int32) throws -> Int {
        guard let directory = opendir("/proc") else { throw TestSupportError("no /proc") }
        defer { closedir(directory) }
        var count = 0
        while let entry = readdir(directory) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            guard Int32(name) != nil else { continue }
            let fields = contents(of: "/proc/\(name)/stat").split(separator: ")").last?.split(separator: " ")
            if let fields, fields.count > 1, fields[0] == "Z", Int32(fields[1]) == parent { count += 1 }
        }
        return count
    }

    @Test func `what ran before a script became ringfence lock is not ended with the command, all else is`()
        async throws
    {
        try await withRedis { redis in
            let directory = try TemporaryDirectory()
            let program = try await Program.start(
                program: "/bin/bash",
                [
                    "-c",
                    "cd $D; sleep 600 & echo $! > before; exec $RF lock k --redis $U -- "
                        + "sh -c 'setsid sleep 600 & echo $! > behind; exit 3'",
                ],
                environment: ["RF=\(try programPath())", "U=\(redis.unixURL)", "D=\(directory.path)"])
            #expect(await program.process.wait() == .code(3))
            func pid(_ name: String) throws -> Int32 {
                try #require(Int32(contents(of: directory.path + "/" + name).prefix { $0.isNumber }))
            }
            let (before, behind) = (try pid("before"), try pid("behind"))
            defer { kill(before, SIGKILL) }
            #expect(kill(before, 0) == 0)
            #expect(kill(behind, 0) != 0)
        }
    }
}
