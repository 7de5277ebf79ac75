// SPDX-License-Identifier: Apache-2.0
//
// The Swift face of CBenchReference: texts in, pairs a second out, and a C problem becomes an error. The C loops block,
// so they run on a thread of their own and not on the cooperative pool.

import CBenchReference
import Hiredis
import NIOPosix
import RingfenceConsole
import RingfencePlatform

/// Runs the C yardstick against one Redis.
struct CReference: Sendable {
    let configuration: RedisConfiguration

    /// A command of a pair; see CBenchReference.h for the placeholders.
    struct Command: Sendable {
        var arguments: [String]
        /// nil: a fence.
        var expected: String?
    }

    struct Pair: Sendable {
        var acquire: Command
        var release: Command
    }

    enum Loop: Sendable {
        case async(clients: Int)
        case blocking
    }

    /// Refuses what the C side cannot do.
    init(_ configuration: RedisConfiguration) throws {
        guard configuration.tls == nil else {
            throw CommandFailure("bench compares with plain hiredis, which has no TLS: use redis:// or unix://")
        }
        self.configuration = configuration
    }

    /// What a run did.
    struct Outcome: Sendable {
        var pairs: UInt64
        var seconds: Double
        var cpuSeconds: Double

        var perSecond: Double { seconds > 0 ? Double(pairs) / seconds : 0 }
        /// User and system time for one of the two commands of a pair.
        var microsecondsPerCommand: Double { cpuSeconds * 1e6 / Double(max(1, pairs * 2)) }

        fileprivate init(_ result: reference_result) {
            pairs = result.pairs
            seconds = result.seconds
            cpuSeconds = result.cpu_seconds
        }
    }

    /// Runs pairs for about `seconds`.
    func run(_ pair: Pair, _ loop: Loop, seconds: Double) async throws -> Outcome {
        try await Self.onThread {
            try withAddress { address in
                try pair.withC { pair in
                    var address = address
                    var pair = pair
                    var result = reference_result()
                    let failed =
                        switch loop {
                        case .async(let clients):
                            reference_run_async(&address, &pair, Int32(clients), seconds, &result)
                        case .blocking: reference_run_blocking(&address, &pair, seconds, &result)
                        }
                    try Self.check(failed, result.problem)
                    return Outcome(result)
                }
            }
        }
    }

    /// Loads a script at the server and returns its SHA-1.
    func load(_ script: String) async throws -> String {
        try await Self.onThread {
            try withAddress { address in
                var address = address
                var sha = [CChar](repeating: 0, count: 41)
                var problem = [CChar](repeating: 0, count: 256)
                guard reference_load_script(&address, script, &sha, &problem) == 0 else {
                    throw CommandFailure("the C reference failed: \(Self.text(problem))")
                }
                return Self.text(sha)
            }
        }
    }

    /// Pairs a second of HTTP requests against a service.
    static func httpPairsPerSecond(port: Int, connections: Int, seconds: Double) async throws -> Double {
        try await onThread {
            var result = reference_result()
            let failed = reference_run_http("127.0.0.1", Int32(port), nil, Int32(connections), seconds, &result)
            try check(failed, result.problem)
            return Outcome(result).perSecond
        }
    }

    /// One HTTP request with a JSON body; its status, 0 without an answer.
    static func httpStatus(port: Int, _ method: String, _ path: String, body: String) -> Int {
        Int(reference_http_request("127.0.0.1", Int32(port), nil, method, path, body))
    }

    private static func onThread<Result: Sendable>(
        _ body: @Sendable @escaping () throws -> Result
    ) async throws -> Result {
        let pool = NIOThreadPool(numberOfThreads: 1)
        pool.start()
        do {
            let result = try await pool.runIfActive(body)
            try await pool.shutdownGracefully()
            return result
        } catch {
            try? await pool.shutdownGracefully()
            throw error
        }
    }

    private static func text(_ characters: [CChar]) -> String {
        String(decoding: characters.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    private static func check<Characters>(_ failed: Int32, _ problem: Characters) throws {
        guard failed == 0 else {
            let characters = withUnsafeBytes(of: problem) { bytes in bytes.map { CChar(bitPattern: $0) } }
            throw CommandFailure("the C reference failed: \(text(characters))")
        }
    }

    /// The address as C has it, for the time of `body`.
    private func withAddress<Result>(_ body: (reference_address) throws -> Result) rethrows -> Result {
        var texts: [UnsafeMutablePointer<CChar>?] = []
        defer { for text in texts { free(text) } }
        func copy(_ text: String?) -> UnsafePointer<CChar>? {
            guard let text else { return nil }
            texts.append(strdup(text))
            return texts.last?.map { UnsafePointer($0) }
        }
        var address = reference_address()
        switch configuration.address {
        case .unix(let path): address.unix_path = copy(path)
        case .tcp(let host, let port):
            address.host = copy(host)
            address.port = Int32(port)
        }
        address.username = copy(configuration.username)
        address.password = copy(configuration.password)
        address.database = Int32(configuration.database)
        return try body(address)
    }
}

extension CReference.Pair {
    /// The pair as C has it, for the time of `body`.
    fileprivate func withC<Result>(_ body: (reference_pair) throws -> Result) rethrows -> Result {
        try acquire.withC { acquire in
            try release.withC { release in try body(reference_pair(acquire: acquire, release: release)) }
        }
    }
}

extension CReference.Command {
    fileprivate func withC<Result>(_ body: (reference_command) throws -> Result) rethrows -> Result {
        let texts: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
        let expected = expected.map { strdup($0) } ?? nil
        defer {
            for text in texts { free(text) }
            free(expected)
        }
        let constants = texts.map { $0.map { UnsafePointer<CChar>($0) } }
        return try constants.withUnsafeBufferPointer { constants in
            try body(reference_command(arguments: constants.baseAddress, expected: expected.map { UnsafePointer($0) }))
        }
    }
}
