// SPDX-License-Identifier: Apache-2.0
//
// As much of PostgreSQL's protocol as a writer needs that wants to know to the millisecond when its commit was
// acknowledged: start without a password, one simple query after the other. psql would do, but thirty milliseconds a
// reconnect, and a process each, is what the tests measure.
import RingfencePlatform
import TestSupport

/// One session with a server on a loopback port.
final class PostgresWire: Sendable {
    struct Refusal: Error, CustomStringConvertible {
        let description: String
    }

    private let descriptor: Int32

    private init(_ descriptor: Int32) { self.descriptor = descriptor }

    deinit { close(descriptor) }

    static func connect(port: Int) async throws -> PostgresWire {
        let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        let session = PostgresWire(socket(AF_INET, type, 0))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        address.sin_port = UInt16(port).bigEndian
        let status = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                RingfencePlatform.connect(session.descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard status == 0 || errno == EINPROGRESS else { throw Refusal(description: String(cString: strerror(errno))) }
        var start: [UInt8] = [0, 3, 0, 0]
        for word in ["user", "postgres", "database", "postgres", "application_name", "scenario"] {
            start += Array(word.utf8) + [0]
        }
        try await session.send(length(of: start) + start + [0])
        _ = try await session.rows()
        return session
    }

    /// Runs statements and returns the rows of the last, columns separated by `|`. That it returns is the
    /// acknowledgement.
    @discardableResult
    func run(_ sql: String) async throws -> [String] {
        let text = Array(sql.utf8)
        try await send([UInt8(ascii: "Q")] + Self.length(of: text) + text + [0])
        return try await rows()
    }

    /// The length field of a message that ends with one more zero.
    private static func length(of body: [UInt8]) -> [UInt8] {
        withUnsafeBytes(of: UInt32(body.count + 5).bigEndian) { Array($0) }
    }

    private func send(_ bytes: [UInt8]) async throws {
        var sent = 0
        while sent < bytes.count {
            let count = bytes[sent...].withUnsafeBytes {
                RingfencePlatform.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            if count >= 0 { sent += count } else { try await again() }
        }
    }

    private func rows() async throws -> [String] {
        var rows: [String] = []
        var failure: String?
        while true {
            let head = try await read(5)
            let size = head[1...].reduce(0) { $0 << 8 | Int($1) } - 4
            let body = try await read(size)
            switch head[0] {
            case UInt8(ascii: "D"): rows.append(Self.row(body))
            case UInt8(ascii: "T"): rows = []
            case UInt8(ascii: "E"): failure = Self.message(body)
            case UInt8(ascii: "Z"):
                if let failure { throw Refusal(description: failure) }
                return rows
            default: break
            }
        }
    }

    private static func row(_ body: [UInt8]) -> String {
        var columns: [String] = []
        var rest = body[2...]
        while rest.count >= 4 {
            let size = Int32(bitPattern: rest.prefix(4).reduce(UInt32(0)) { $0 << 8 | UInt32($1) })
            rest = rest.dropFirst(4)
            columns.append(String(decoding: rest.prefix(max(0, Int(size))), as: UTF8.self))
            rest = rest.dropFirst(max(0, Int(size)))
        }
        return columns.joined(separator: "|")
    }

    private static func message(_ body: [UInt8]) -> String {
        let fields = body.split(separator: 0).map { String(decoding: $0, as: UTF8.self) }
        return fields.filter { $0.first == "C" || $0.first == "M" }.map { String($0.dropFirst()) }
            .joined(separator: " ")
    }

    private func read(_ count: Int) async throws -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < count {
            var chunk = [UInt8](repeating: 0, count: count - bytes.count)
            let received = recv(descriptor, &chunk, chunk.count, 0)
            if received > 0 {
                bytes += chunk[..<received]
            } else if received == 0 {
                throw Refusal(description: "closed")
            } else {
                try await again()
            }
        }
        return bytes
    }

    /// Asked again and again, as in PostgresSession: a blocked thread would be one of few.
    private func again() async throws {
        guard errno == EAGAIN || errno == EINTR || errno == ENOTCONN else {
            throw Refusal(description: String(cString: strerror(errno)))
        }
        try await Task.sleep(for: .milliseconds(1))
    }
}
