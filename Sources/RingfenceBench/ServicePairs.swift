// SPDX-License-Identifier: Apache-2.0
//
// `service.*`: what HTTP adds, how soon a started service grants its first lock, and what it takes to idle. The service
// is the program `ringfence` beside this one, a process of its own as in production; client and service share the
// machine, so the client is C on bare sockets and takes as little of it as it can.

import Hiredis
import Logging
import RingfenceConsole
import RingfenceOperations
import RingfencePlatform

/// Lock pairs over HTTP, start and memory of `ringfence serve`.
struct ServicePairs: Sendable {
    let settings: BenchSettings
    let configuration: RedisConfiguration

    func run(report: (Figure) -> Void) async throws {
        var starts: [Double] = []
        var memory: [Double] = []
        for trial in 0..<settings.rounds {
            try await withService { service in
                starts.append(try await service.millisecondsToFirstGrant(trial))
                memory.append(try service.residentMebibytes())
            }
        }
        try await pairs(report: report)
        report(
            Figure(
                name: "service.start", unit: "ms", value: Statistics.median(starts), trials: starts.count,
                p50: Statistics.percentile(starts, 0.5), p99: Statistics.percentile(starts, 0.99),
                bar: .valueAtMost(200)))
        report(
            Figure(
                name: "service.memory", unit: "MiB", value: Statistics.median(memory), trials: memory.count,
                bar: .valueAtMost(40)))
    }

    private func pairs(report: (Figure) -> Void) async throws {
        let reference = try CReference(configuration)
        let pair = try await LockPairs.pair(reference)
        try await withService { service in
            _ = try await service.millisecondsToFirstGrant(0)
            let rounds = try await Rounds.alternate(settings.rounds) {
                try await reference.run(pair, .async(clients: settings.tasks), seconds: settings.seconds).perSecond
            } ours: {
                try await CReference.httpPairsPerSecond(
                    port: service.port, connections: settings.tasks, seconds: settings.seconds)
            }
            report(
                Figure(
                    name: "service.lock.pairs.\(settings.tasks)", unit: "pairs/s", rounds: rounds,
                    bar: .ratioAtLeast(0.2)))
        }
    }

    private func withService(_ body: (ServiceProcess) async throws -> Void) async throws {
        let service = try await ServiceProcess.start(redis: settings.redis.url)
        do {
            try await body(service)
            await service.stop()
        } catch {
            await service.stop()
            throw error
        }
    }
}

/// A `ringfence serve` started by this process.
struct ServiceProcess: Sendable {
    static let namespace = "bench-service"

    let port: Int
    private let process: ChildProcess
    private let startedAt: ContinuousClock.Instant

    /// Starts the service on a free port; does not wait for it.
    static func start(redis url: String) async throws -> ServiceProcess {
        let port = try freePort()
        var launch = ChildProcess.Launch([
            try OwnExecutable.sibling("ringfence"), "serve", "--redis", url, "--port", String(port), "--namespace",
            namespace,
            "--log-level", "error",
        ])
        launch.environment = Environment.current.filter { !$0.hasPrefix("RINGFENCE_") }
        let null = open("/dev/null", O_RDWR | O_CLOEXEC)
        defer { close(null) }
        launch.input = null
        launch.output = null
        let startedAt = ContinuousClock.now
        let process = try await ChildProcess.start(launch)
        return ServiceProcess(port: port, process: process, startedAt: startedAt)
    }

    func stop() async {
        process.signal(SIGTERM)
        _ = await process.wait()
    }

    /// Asks for a lock until it is granted; milliseconds since the process was started.
    func millisecondsToFirstGrant(_ trial: Int) async throws -> Double {
        let path = "/v1/locks/bench-start-\(trial)/acquire"
        let body = "{\"owner\":\"bench\",\"ttlMs\":1000,\"waitMs\":0}"
        while true {
            let status = CReference.httpStatus(port: port, "POST", path, body: body)
            if status == 200 { return (ContinuousClock.now - startedAt).milliseconds }
            guard process.isRunning else { throw CommandFailure("ringfence serve ended before it granted a lock") }
            guard ContinuousClock.now - startedAt < .seconds(30) else {
                throw CommandFailure("ringfence serve granted no lock within 30 s (last status \(status))")
            }
            try await Task.sleep(for: .microseconds(500))
        }
    }

    /// Resident memory as the kernel counts it.
    func residentMebibytes() throws -> Double {
        guard let pages = ProcessFile.words("/proc/\(process.pid)/statm").dropFirst().first.flatMap({ Double($0) })
        else { throw CommandFailure("cannot read /proc/\(process.pid)/statm: memory is measured on Linux only") }
        return pages * Double(sysconf(Int32(_SC_PAGESIZE))) / 1_048_576
    }

    static func freePort() throws -> Int {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        guard descriptor >= 0 else { throw CommandFailure("cannot open a socket") }
        defer { close(descriptor) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let bound = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
                bind(descriptor, generic, length) == 0 && getsockname(descriptor, generic, &length) == 0
            }
        }
        guard bound else { throw CommandFailure("cannot find a free port on 127.0.0.1") }
        return Int(UInt16(bigEndian: address.sin_port))
    }
}

/// Small files of the kernel.
enum ProcessFile {
    /// The words of the first 4 KiB; empty if it cannot be read.
    static func words(_ path: String) -> [Substring] {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return [] }
        defer { close(descriptor) }
        var bytes = [UInt8](repeating: 0, count: 4096)
        let count = read(descriptor, &bytes, bytes.count)
        return String(decoding: bytes.prefix(max(0, count)), as: UTF8.self).split(whereSeparator: \.isWhitespace)
    }
}
