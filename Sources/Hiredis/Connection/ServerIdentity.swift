// SPDX-License-Identifier: Apache-2.0
//
// The names that a server's certificate must have.
//
// NIOSSL verifies the chain. Its check of names is weaker than ours: it accepts a certificate for any name at all if
// that also holds the peer's address, and in a cloud that address may be anybody's tomorrow. So each kind of
// expectation is compared with its own kind of entry, as RFC 9525 and `openssl -verify_hostname` or `-verify_ip` do: a
// name with the names, an address with the addresses. Our check comes on top of NIOSSL's own check of a name, so
// nothing is accepted that it refuses. (As an address it knows only the peer's, which behind a tunnel is another one.)
import NIOSSL
import RingfencePlatform

/// What the certificate of a server is held against.
enum ServerIdentity: Sendable, Equatable {
    case name(String)
    /// 4 or 16 bytes.
    case address([UInt8])

    /// An address if it is written as one, else a name.
    init(_ host: String) {
        var bytes = [UInt8](repeating: 0, count: 16)
        if inet_pton(AF_INET, host, &bytes) == 1 {
            self = .address(Array(bytes[..<4]))
        } else if inet_pton(AF_INET6, host, &bytes) == 1 {
            self = .address(bytes)
        } else {
            self = .name(host)
        }
    }

    /// An alternative name of a certificate.
    enum Entry: Equatable {
        case name([UInt8])
        case address([UInt8])
        case other
    }

    /// Whether a certificate with these alternative names is that of the server.
    func isAmong(_ entries: [Entry]) -> Bool {
        switch self {
        case .address(let bytes): return entries.contains(.address(bytes))
        case .name(let name):
            // Without any, NIOSSL has held the common name against the expected one, and only that.
            if entries.isEmpty { return true }
            let wanted = Self.labels(Array(name.utf8))
            return entries.contains { entry in
                guard case .name(let pattern) = entry else { return false }
                return Self.matches(Self.labels(pattern), wanted)
            }
        }
    }

    func isIdentified(by certificate: NIOSSLCertificate) -> Bool {
        isAmong(
            certificate._subjectAlternativeNames().map { name in
                switch name.nameType {
                case .dnsName: .name(Array(name.contents))
                case .ipAddress: .address(Array(name.contents))
                default: .other
                }
            })
    }

    /// A `*` stands for one whole label, the first, of a name of at least three: never for a domain directly below the
    /// root.
    private static func matches(_ pattern: [[UInt8]], _ name: [[UInt8]]) -> Bool {
        guard pattern.count == name.count, name.allSatisfy({ !$0.isEmpty }) else { return false }
        if pattern[0] == [UInt8(ascii: "*")] { return pattern.count > 2 && pattern.dropFirst() == name.dropFirst() }
        return pattern == name
    }

    /// In small letters, without the dot at the end that a full name may have.
    private static func labels(_ name: [UInt8]) -> [[UInt8]] {
        let dot = UInt8(ascii: ".")
        let whole = name.last == dot ? name.dropLast() : name[...]
        return whole.split(separator: dot, omittingEmptySubsequences: false).map { label in
            label.map { (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains($0) ? $0 | 0x20 : $0 }
        }
    }
}

extension ServerIdentity: CustomStringConvertible {
    var description: String {
        switch self {
        case .name(let name): "the name \(name)"
        case .address(let bytes) where bytes.count == 4: "the address \(bytes.map { "\($0)" }.joined(separator: "."))"
        case .address: "its IPv6 address"
        }
    }
}
