// SPDX-License-Identifier: Apache-2.0
//
// Five processes that use all of Ringfence: one on the host of each server, which is cut off together with it, and two
// where the test is. What each says goes to a file, which is read as it grows.
import RingfencePlatform
import TestSupport

final class FailoverCallers: Sendable {
    private struct Caller {
        var number: Int
        var pid: Int32
        /// The end of what it is told.
        var input: Int32
        var file: String
    }

    private let callers: [Caller]
    private let directory: TemporaryDirectory
    private let history: Shared<FailoverHistory>
    /// How much of each file was read.
    private let read = Shared<[Int: Int]>([:])
    /// What each of them did last: "<process> <what it wants>", and when.
    private let progress = Shared<[String: Int64]>([:])

    init(_ hosts: FailoverHosts, _ history: Shared<FailoverHistory>) throws {
        self.history = history
        directory = try TemporaryDirectory()
        var callers: [Caller] = []
        for number in 1...5 {
            let host = hosts.hosts.first { $0.number == number }
            let command =
                (host?.enter ?? []) + [
                    try builtExecutable("TestCaller"), FailoverHosts.url, "\(number)",
                    // Who is cut off hears no majority.
                    number.isMultiple(of: 2) ? "required" : "preferred",
                ]
            let file = "\(directory.path)/\(number)"
            let output = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o644)
            let orders = try Subprocess.pipe()
            defer { for descriptor in [output, orders.reading] { close(descriptor) } }
            let pid = try Subprocess.spawn(
                command[0], Array(command.dropFirst()), input: orders.reading, output: output)
            Watchdog.add(pid)
            callers.append(Caller(number: number, pid: pid, input: orders.writing, file: file))
        }
        self.callers = callers
    }

    /// Reads what was said since.
    func listen() throws {
        for caller in callers {
            guard let file = fopen(caller.file, "r") else { throw TestSupportError("cannot read \(caller.file)") }
            defer { fclose(file) }
            let begin = read.value[caller.number] ?? 0
            fseek(file, begin, SEEK_SET)
            var bytes: [UInt8] = []
            var chunk = [UInt8](repeating: 0, count: 65_536)
            while case let count = fread(&chunk, 1, chunk.count, file), count > 0 { bytes += chunk[..<count] }
            guard let end = bytes.lastIndex(of: UInt8(ascii: "\n")) else { continue }
            read.change { $0[caller.number] = begin + end + 1 }
            for line in String(decoding: bytes[..<end], as: UTF8.self).split(separator: "\n") {
                guard let fact = FailoverHistory.Fact(line, by: caller.number) else {
                    throw TestSupportError("caller \(caller.number) says: \(line)")
                }
                note(fact)
                history.change { $0.add(fact) }
            }
        }
    }

    private func note(_ fact: FailoverHistory.Fact) {
        let want: String? =
            switch fact.what {
            case .begins(let name, _): "lock \(name)"
            case .told: "change"
            case .heard, .reset: "events"
            default: nil
            }
        if let want { progress.change { $0["\(fact.by) \(want)"] = fact.at } }
    }

    /// Waits until all have had each lock, made a change and heard of one since now; who has not in a minute is a
    /// violation.
    func goOn() async throws {
        let start = monotonicMicroseconds()
        let wants = callers.flatMap { caller in
            ["lock a", "lock b", "lock c", "change", "events"].map { "\(caller.number) \($0)" }
        }
        var without = wants
        while !without.isEmpty, monotonicMicroseconds() - start < 60_000_000 {
            try await Task.sleep(for: .milliseconds(20))
            try listen()
            let progress = progress.value
            without = wants.filter { progress[$0, default: 0] <= start }
        }
        history.change { $0.add(.goesOn(without: without)) }
    }

    /// They let go of all they have, and leave.
    func fallQuiet() async throws {
        for caller in callers { write(caller.input, "\n", 1) }
        try await eventually("all are quiet", within: .seconds(120)) {
            try self.listen()
            return self.history.value.count { $0 == .quiet } == self.callers.count
        }
    }

    /// Ends them in order; false if one did not end well.
    func end() async throws -> Bool {
        for caller in callers { close(caller.input) }
        var isWell = true
        for caller in callers {
            try await eventually("caller \(caller.number) has ended", within: .seconds(60)) {
                var status: Int32 = 0
                guard waitpid(caller.pid, &status, WNOHANG) == caller.pid else { return false }
                if status != 0 { isWell = false }
                return true
            }
            Watchdog.remove(caller.pid)
        }
        try listen()
        return isWell
    }
}

func monotonicMicroseconds() -> Int64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Int64(time.tv_sec) * 1_000_000 + Int64(time.tv_nsec) / 1_000
}
