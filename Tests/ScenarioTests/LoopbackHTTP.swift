// SPDX-License-Identifier: Apache-2.0
//
// As much of an HTTP client as a caller needs that is measured: one GET over a new connection, with a deadline. Asked
// again each millisecond, like PostgresWire: a blocked thread would be one of few. That millisecond is the same for all
// that are compared.
import RingfencePlatform
import TestSupport

enum LoopbackHTTP {
    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    /// Gets a path from `127.0.0.1:PORT`. Whatever is not a 200 within the time is a failure.
    static func get(_ path: String, from address: String, within limit: Duration) async throws {
        guard let port = address.split(separator: ":").last.flatMap({ UInt16($0) }) else {
            throw TestSupportError("no port in \(address)")
        }
        let end = ContinuousClock.now + limit
        let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        let descriptor = socket(AF_INET, type, 0)
        guard descriptor >= 0 else { throw TestSupportError("socket: \(String(cString: strerror(errno)))") }
        defer { close(descriptor) }
        var target = sockaddr_in()
        target.sin_family = sa_family_t(AF_INET)
        target.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        target.sin_port = port.bigEndian
        let status = withUnsafePointer(to: &target) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                RingfencePlatform.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard status == 0 || errno == EINPROGRESS else { throw Failure(description: String(cString: strerror(errno))) }

        /// After a call that could not go on: waits a little, unless it never will, or not in time.
        func again() async throws {
            guard errno == EAGAIN || errno == EINTR || errno == ENOTCONN else {
                throw Failure(description: String(cString: strerror(errno)))
            }
            guard ContinuousClock.now < end else { throw Failure(description: "no answer within \(limit)") }
            try await Task.sleep(for: .milliseconds(1))
        }

        let request = Array("GET \(path) HTTP/1.1\r\nHost: \(address)\r\nConnection: close\r\n\r\n".utf8)
        while send(descriptor, request, request.count, Int32(MSG_NOSIGNAL)) < 0 { try await again() }
        var answer: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = recv(descriptor, &chunk, chunk.count, 0)
            if count > 0 { answer += chunk[..<count] } else if count == 0 { break } else { try await again() }
        }
        let line = String(decoding: answer.prefix { $0 != UInt8(ascii: "\r") }, as: UTF8.self)
        guard line.hasPrefix("HTTP/1.1 200") else { throw Failure(description: line.isEmpty ? "closed" : line) }
    }
}
