// SPDX-License-Identifier: Apache-2.0
//
// The program under test, started as users start it: the real binary beside the test runner, with an environment of its
// own, its output in files. And a client on a raw connection, because half of the tests send what no HTTP client would.
import NIOCore
import NIOPosix
import RingfenceOperations
import RingfencePlatform
import TestSupport

/// The path of the built program.
func programPath() throws -> String {
    var bytes = [CChar](repeating: 0, count: 4_096)
    let length = readlink("/proc/self/exe", &bytes, bytes.count - 1)
    guard length > 0 else { throw TestSupportError("readlink failed") }
    let runner = String(decoding: bytes[..<length].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    return runner[..<(runner.lastIndex(of: "/") ?? runner.startIndex)] + "/ringfence"
}

/// One run of `ringfence`.
struct Program: Sendable {
    let process: ChildProcess
    let directory: TemporaryDirectory

    static func start(
        program: String? = nil, _ arguments: [String], environment: [String] = [],
        in directory: TemporaryDirectory? = nil
    ) async throws -> Program {
        let directory = try directory ?? TemporaryDirectory()
        var launch = ChildProcess.Launch([try program ?? programPath()] + arguments)
        let path = Environment.values["PATH"] ?? "/usr/bin:/bin"
        // The first of a name counts.
        launch.environment = environment + ["PATH=\(path)", "HOME=\(directory.path)"]
        launch.input = open("/dev/null", O_RDONLY | O_CLOEXEC)
        launch.output = open(directory.path + "/out", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        launch.error = open(directory.path + "/err", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        defer { for descriptor in [launch.input, launch.output, launch.error] { close(descriptor) } }
        return Program(process: try await ChildProcess.start(launch), directory: directory)
    }

    /// Runs to the end: the exit code as a shell shows it, and all output.
    static func run(
        _ arguments: [String], environment: [String] = []
    ) async throws -> (code: Int32, output: String, error: String) {
        let program = try await start(arguments, environment: environment)
        let code = await program.process.wait().shellCode
        return (code, program.output, program.error)
    }

    var output: String { contents(of: directory.path + "/out") }
    var error: String { contents(of: directory.path + "/err") }
}

func contents(of path: String) -> String {
    guard let file = fopen(path, "r") else { return "" }
    defer { fclose(file) }
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 65_536)
    while case let count = fread(&chunk, 1, chunk.count, file), count > 0 { bytes += chunk[..<count] }
    return String(decoding: bytes, as: UTF8.self)
}

/// A running `ringfence serve`.
struct Service: Sendable {
    let program: Program
    let port: Int

    /// Starts it on a free port and waits until it says that it serves.
    static func start(
        _ arguments: [String], environment: [String] = [], in directory: TemporaryDirectory? = nil
    ) async throws -> Service {
        let program = try await Program.start(
            ["serve", "--port", "0"] + arguments, environment: environment, in: directory)
        try await eventually("the service serves") {
            if !program.process.isRunning { throw TestSupportError("the service ended:\n" + program.error) }
            return program.output.contains("try: curl")
        }
        let digits = program.output.split(separator: "serves http://127.0.0.1:").last?.prefix { $0.isNumber }
        guard let port = digits.flatMap({ Int($0) }) else { throw TestSupportError(program.output) }
        return Service(program: program, port: port)
    }

    func stop() async -> ChildProcess.Exit {
        program.process.signal(SIGTERM)
        return await program.process.wait()
    }

    func connect() async throws -> RawConnection { try await RawConnection.open(port: port) }

    /// One request on a connection of its own.
    func request(
        _ method: String, _ path: String, _ body: String? = nil, headers: [String] = []
    ) async throws -> Answer {
        let connection = try await connect()
        try await connection.send(method, path, body, headers: headers)
        guard let answer = try await connection.answer() else {
            throw TestSupportError("closed without an answer to \(method) \(path)")
        }
        connection.close()
        return answer
    }
}

/// Runs `body` with a service on a Redis of its own, and ends both.
func withService<Result: Sendable>(
    redis arguments: [String] = [], _ more: [String] = [],
    _ body: @Sendable (Service, RedisServer) async throws -> Result
) async throws -> Result {
    let redis = try await RedisServer.start(arguments)
    do {
        let service = try await Service.start(["--redis", redis.unixURL] + more)
        let result: Result
        do { result = try await body(service, redis) } catch {
            _ = await service.stop()
            throw TestSupportError("\(error)\nthe service said: \(service.program.error)")
        }
        _ = await service.stop()
        await redis.stop()
        return result
    } catch {
        await redis.stop()
        throw error
    }
}

/// An HTTP answer, with the flat JSON of its body.
struct Answer: Sendable {
    var status: Int
    var headers: [String: String]
    var body: String

    /// A string, or a number or literal as text, of the body's object; the first that has this name.
    subscript(_ name: String) -> String? {
        guard let found = body.firstRange(of: "\"\(name)\":") else { return nil }
        let rest = body[found.upperBound...]
        if rest.first == "\"" { return String(rest.dropFirst().prefix { $0 != "\"" }) }
        return String(rest.prefix { !",}]".contains($0) })
    }
}

/// A client connection that sends what it is told, byte for byte.
final class RawConnection: Sendable {
    private let channel: any Channel
    private let received: Received

    private init(_ channel: any Channel, _ received: Received) {
        self.channel = channel
        self.received = received
    }

    static func open(port: Int) async throws -> RawConnection {
        let received = Received()
        let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .channelOption(.allowRemoteHalfClosure, value: true)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(Collector(received: received))
                }
            }
            .connect(host: "127.0.0.1", port: port).get()
        return RawConnection(channel, received)
    }

    func send(_ text: String) async throws {
        try await channel.writeAndFlush(ByteBuffer(string: text))
    }

    func send(_ method: String, _ path: String, _ body: String? = nil, headers: [String] = []) async throws {
        var lines = ["\(method) \(path) HTTP/1.1", "Host: localhost"] + headers
        if let body {
            if !headers.contains(where: { $0.lowercased().hasPrefix("content-type") }) {
                lines.append("Content-Type: application/json")
            }
            lines.append("Content-Length: \(body.utf8.count)")
        }
        try await send(lines.joined(separator: "\r\n") + "\r\n\r\n" + (body ?? ""))
    }

    /// The next answer; nil when the connection ended before one began.
    func answer(isHead: Bool = false) async throws -> Answer? {
        var found: Answer?
        try await eventually("an answer comes", within: .seconds(30)) {
            found = received.take(isHead: isHead)
            return found != nil || received.isClosed
        }
        return found ?? received.take(isHead: isHead)
    }

    /// Whether the server has closed its side.
    var isClosed: Bool { received.isClosed }
    func close() { channel.close(promise: nil) }
    func closeNow() async throws { try await channel.close() }
    /// Ends the connection with a reset: whatever the server writes after it fails.
    func reset() async throws {
        try await channel.eventLoop.submit { [channel] in
            guard let options = channel as? any SocketOptionProvider else { throw ChannelError.operationUnsupported }
            return options.setSoLinger(linger(l_onoff: 1, l_linger: 0))
        }.flatMap { $0 }.get()
        try await channel.close()
    }
    func closeOutput() { channel.close(mode: .output, promise: nil) }
}
