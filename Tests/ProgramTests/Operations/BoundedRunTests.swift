// SPDX-License-Identifier: Apache-2.0
import RingfenceOperations
import RingfencePlatform
import TestSupport
import Testing

struct BoundedRunTests {
    private static func plan(_ script: String, limit: Duration = .seconds(30)) -> BoundedRun.Plan {
        BoundedRun.Plan(["/bin/sh", "-c", script], environment: ["PATH=/usr/bin:/bin", "A=b c"], limit: limit)
    }

    @Test func `a program gets its input and environment and tells its output and code`() async throws {
        var plan = Self.plan("cat; echo \" $A\"; echo oops >&2; exit 7")
        plan.input = Array("{}".utf8)
        let result = await BoundedRun(plan).run()
        #expect(result.end == .exited(.code(7)))
        #expect(result.output == "{} b c\noops\n")
    }

    @Test func `a program that does not read its input is no trouble`() async throws {
        var plan = Self.plan("exit 0")
        plan.input = [UInt8](repeating: 0x20, count: 61_440)
        #expect(await BoundedRun(plan).run().end == .exited(.code(0)))
    }

    @Test func `only the last of much output is kept`() async throws {
        let result = await BoundedRun(Self.plan("seq 1 100000; echo last")).run()
        #expect(result.end == .exited(.code(0)))
        #expect(result.output.utf8.count <= BoundedRun.outputBytes)
        #expect(result.output.hasSuffix("100000\nlast\n"))
    }

    @Test func `at the limit the whole group is gone, whether it heeds SIGTERM or not`() async throws {
        let directory = try TemporaryDirectory()
        let file = directory.path + "/pids"
        let result = await BoundedRun(
            Self.plan(
                "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ >> \(file); while :; do sleep 0.05; done' & "
                    + "echo $$ >> \(file); while :; do sleep 0.05; done", limit: .milliseconds(600))
        ).run()
        #expect(result.end == .timedOut)
        #expect(result.took >= .milliseconds(600))
        let pids = contents(of: file).split(separator: "\n").compactMap { Int32($0) }
        #expect(pids.count == 2)
        for pid in pids { try await eventually("\(pid) is gone") { isGone(pid) } }
    }

    @Test func `a program that heeds SIGTERM may say good-bye before the limit`() async throws {
        let result = await BoundedRun(
            Self.plan("trap 'echo bye; exit 3' TERM; while :; do sleep 0.02; done", limit: .seconds(2))
        ).run()
        #expect(result.end == .timedOut)
        #expect(result.output.hasSuffix("bye\n"))
    }

    @Test func `it is over when the process is, though a daemon holds its output open, and the daemon lives on`()
        async throws
    {
        let directory = try TemporaryDirectory()
        let file = directory.path + "/pid"
        let result = await BoundedRun(
            Self.plan(
                "setsid sh -c 'echo $$ > \(file).new; mv \(file).new \(file); exec sleep 60' & "
                    + "while [ ! -e \(file) ]; do sleep 0.01; done; echo started")
        ).run()
        #expect(result.end == .exited(.code(0)))
        #expect(result.output == "started\n")
        #expect(result.took < .seconds(60))
        let pid = try #require(Int32(contents(of: file).split(separator: "\n").first ?? ""))
        #expect(kill(pid, 0) == 0)
        kill(pid, SIGKILL)
    }

    @Test func `what stays in the group of a program that ended well lives on too`() async throws {
        let result = await BoundedRun(Self.plan("sleep 60 > /dev/null 2>&1 & echo $!")).run()
        #expect(result.end == .exited(.code(0)))
        let pid = try #require(Int32(result.output.split(separator: "\n").first ?? ""))
        #expect(kill(pid, 0) == 0)
        kill(pid, SIGKILL)
    }

    @Test func `killed, it is over at once`() async throws {
        let run = BoundedRun(Self.plan("sleep 60"))
        let task = Task { await run.run() }
        run.kill()
        let result = await task.value
        #expect(result.end == .killed)
        #expect(result.took < .seconds(60))
    }

    @Test func `what cannot be started says why`() async throws {
        let result = await BoundedRun(.init(["/nonexistent"], environment: [], limit: .seconds(1))).run()
        guard case .notStarted(let why) = result.end else {
            Issue.record("\(result)")
            return
        }
        #expect(why.contains("/nonexistent"))
    }

    private func isGone(_ pid: Int32) -> Bool {
        guard kill(pid, 0) == 0 else { return true }
        // An orphan waits for whoever reaps it.
        return contents(of: "/proc/\(pid)/stat").split(separator: ")").last?.split(separator: " ").first == "Z"
    }
}
