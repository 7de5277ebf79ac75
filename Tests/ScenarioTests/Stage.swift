// SPDX-License-Identifier: Apache-2.0
//
// What all scenarios stand on: a directory with a copy of one example of docker/examples, a Redis for the coordination,
// the agents and HAProxy, all as a user would start them. The example's files are run as they are; only the addresses
// in the agents' files are others, since all machines are this one.
//
// The agents die with the test. A database does not: the hooks start it, and it is meant to outlive an agent. So a
// shell holds the other end of a pipe, and when this process is gone, however it went, it ends what is named in the
// directory.
import CSpawn
import Ringfence
import RingfenceOperations
import RingfencePlatform
import Synchronization
import TestSupport
import Testing

/// One after the other: they measure, and all machines are this one.
@Suite("Scenarios", .serialized) enum Scenarios {}

/// A place for one scenario.
final class Stage: Sendable {
    /// Holds the example's files, the agents' configurations and all logs.
    let directory: TemporaryDirectory
    let redis: RedisServer
    /// The copy of the example.
    var files: String { directory.path + "/files" }

    private let processes = Mutex<[ChildProcess]>([])

    /// - Parameter example: a directory of docker/examples.
    init(_ example: String) async throws {
        directory = try TemporaryDirectory()
        // The hooks run as another user if this is root.
        chmod(directory.path, 0o755)
        redis = try await RedisServer.start(["--appendonly", "yes"])
        let source = #filePath.split(separator: "/").dropLast(3).reduce("") { "\($0)/\($1)" }
        try await shell("cp -R '\(source)/docker/examples/\(example)' '\(files)' && chmod -R go-w,a+rX '\(files)'")
    }

    /// Ends all it started, newest first.
    func end() async {
        for process in processes.withLock({ $0 }).reversed() {
            process.signal(SIGCONT)
            process.signal(SIGKILL)
            _ = await process.wait()
        }
        await redis.stop()
    }

    /// Starts a program; what it says goes to the file `log`.
    func start(_ command: [String], environment: [String] = [], log: String) async throws -> ChildProcess {
        var launch = ChildProcess.Launch(command)
        let values = Environment.values
        launch.environment =
            environment
            + ["PATH=\(values["PATH"] ?? "/usr/bin:/bin"):/usr/sbin:/sbin", "HOME=\(directory.path)", "LC_ALL=C"]
        launch.input = open("/dev/null", O_RDONLY | O_CLOEXEC)
        launch.output = open(path(ofLog: log), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o644)
        launch.error = launch.output
        defer { for descriptor in [launch.input, launch.output] { close(descriptor) } }
        let process = try await ChildProcess.start(launch)
        processes.withLock { $0.append(process) }
        return process
    }

    /// Starts HAProxy with the example's file.
    func startProxy(_ environment: [String]) async throws {
        _ = try await start(["haproxy", "-db", "-f", files + "/haproxy.cfg"], environment: environment, log: "haproxy")
    }

    /// Starts an agent.
    func startAgent(_ member: String, environment: [String]) async throws -> ChildProcess {
        try await start(
            [try builtExecutable("ringfence"), "agent", "--config", "\(directory.path)/\(member).json"],
            environment: environment, log: "agent-\(member)")
    }

    /// Writes an agent's file: the example's `name`, with some texts replaced.
    func configure(_ member: String, from name: String, _ replacements: KeyValuePairs<String, String>) throws {
        var text = try contents(ofFile: "\(files)/\(name)")
        for (old, new) in replacements {
            guard text.contains(old) else { throw TestSupportError("\(name) does not hold \(old)") }
            text.replace(old, with: new)
        }
        try write(text, to: "\(directory.path)/\(member).json")
    }

    /// Hands over as planned. Until the member that shall lead has been looked at since it follows, the order is
    /// refused.
    func switchover(_ group: String, to member: String) async throws {
        let client = try RingfenceClient(.init(url: redis.url, owner: "scenario"))
        try await eventually("\(member) can take over", within: .seconds(60), every: .milliseconds(50)) {
            do {
                try await client.operations(on: group).switchover(to: member)
                return true
            } catch let error as RingfenceError where error.code == .orderRefused { return false }
        }
    }

    /// Takes the brake off, which would hold a group that is killed more often than anybody's should be.
    func takeBrakeOff(_ group: String) async throws {
        let client = try RingfenceClient(.init(url: redis.url, owner: "scenario"))
        try await client.operations(on: group).update(.init(brakeCount: 0))
        await client.shutdown()
    }

    /// For a failure: the ends of all logs, and the group's events.
    func story(_ group: String) async -> String {
        let events = try? await redis.cli("--raw", "XREVRANGE", "ringfence:{default}:events", "+", "-", "COUNT", "40")
        let logs = try? await output(of: "sh", ["-c", "tail -n 25 '\(directory.path)'/*.log"])
        return "\(logs ?? "")\nnewest events first:\n\(events ?? "")"
    }

    private func path(ofLog log: String) -> String { "\(directory.path)/\(log).log" }
}

/// Runs a line of shell and returns what it printed.
@discardableResult
func shell(_ line: String) async throws -> String { try await output(of: "sh", ["-c", line]) }

func contents(ofFile path: String) throws -> String {
    guard let file = fopen(path, "r") else { throw TestSupportError("cannot open \(path)") }
    defer { fclose(file) }
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 65_536)
    while case let count = fread(&chunk, 1, chunk.count, file), count > 0 { bytes += chunk[..<count] }
    return String(decoding: bytes, as: UTF8.self)
}

func write(_ text: String, to path: String) throws {
    let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
    guard descriptor >= 0 else { throw TestSupportError("cannot write \(path)") }
    defer { close(descriptor) }
    _ = text.withCString { RingfencePlatform.write(descriptor, $0, strlen($0)) }
}

/// A process and all that descend from it, as far as they have not been left behind.
func family(of pid: Int32) -> [Int32] {
    var parents: [Int32: Int32] = [:]
    guard let proc = opendir("/proc") else { return [pid] }
    defer { closedir(proc) }
    while let entry = readdir(proc) {
        let name = withUnsafeBytes(of: &entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        guard let child = Int32(name), let stat = try? contents(ofFile: "/proc/\(name)/stat") else { continue }
        // "<id> (<name>) <state> <parent> …", where the name may hold anything.
        let fields = stat.split(separator: ")").last?.split(separator: " ") ?? []
        if fields.count > 1, let parent = Int32(fields[1]) { parents[child] = parent }
    }
    var found = [pid]
    var next = 0
    while next < found.count {
        found += parents.filter { $0.value == found[next] }.map(\.key)
        next += 1
    }
    return found
}

/// What `ringfence-bench` prints, for a figure measured here.
func report(_ figure: String, _ values: [Duration], bar: Duration) {
    let seconds = values.map { $0 / .seconds(1) }.sorted()
    guard let worst = seconds.last else { return }
    func number(_ value: Double) -> String {
        let thousandths = String(Int((value * 1_000).rounded()))
        let digits = String(repeating: "0", count: max(0, 4 - thousandths.count)) + thousandths
        return digits.dropLast(3) + "." + digits.suffix(3)
    }
    let median = seconds[(seconds.count - 1) / 2]
    let fields = [
        #""figure":"\#(figure)""#, #""unit":"s""#, #""value":\#(number(median))"#, #""trials":\#(seconds.count)"#,
        #""p50":\#(number(median))"#, #""p99":\#(number(worst))"#, #""bar":\#(number(bar / .seconds(1)))"#,
    ]
    print("{" + fields.joined(separator: ",") + "}")
}
