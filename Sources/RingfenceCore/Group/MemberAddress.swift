// SPDX-License-Identifier: Apache-2.0
//
// The grammar of a member's address. A member says its own address, and others paste it where it is not only read: into
// the server list of a proxy, a connection string, a command line. So an address is made of characters that mean
// nothing in any such place: no quotes, blanks, semicolons, braces, dollars, and nothing that begins with a minus.
//
// It is checked when a member joins and not when a record is read: a member that an older version let in must stay on
// everybody's ring, or two processes would have two rings. A script that pastes an address checks it once more
// (docker/examples).

package enum MemberAddress {
    static let form =
        "must be HOST:PORT, [IPv6]:PORT or HOST, an absolute path (of a Unix socket), or a URL with :// in it; "
        + "letters, digits and . _ - in a host, in the others also / : ~ @ + , = % & ? [ ]"

    /// Refuses what is none of the forms. Empty: the member has no address.
    package static func check(_ text: String, field: String = "address") throws(InvalidArgument) {
        guard text.isEmpty || isPath(text) || isURL(text) || isHost(text) || isEndpoint(text) else {
            throw InvalidArgument(field, "\(form), not \(quoted(text))")
        }
    }

    /// Whether it is `HOST:PORT` or `[IPv6]:PORT`, with a port of 1 to 65535.
    package static func isEndpoint(_ text: String) -> Bool {
        guard let colon = text.utf8.lastIndex(of: UInt8(ascii: ":")) else { return false }
        let host = text[..<colon]
        let port = text[text.index(after: colon)...]
        guard port.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }),
            let number = UInt16(port), number > 0
        else { return false }
        if host.hasPrefix("[") {
            return host.hasSuffix("]") && isIPv6(host.dropFirst().dropLast())
        }
        return isHost(host)
    }

    /// A name or an IPv4 address.
    private static func isHost(_ text: some StringProtocol) -> Bool {
        guard (1...253).contains(text.utf8.count) else { return false }
        let labels = text.utf8.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        return labels.allSatisfy { label in
            (1...63).contains(label.count) && label.first != UInt8(ascii: "-")
                && label.allSatisfy { isPlain($0) && $0 != UInt8(ascii: ".") }
        }
    }

    /// As far as characters go, with a zone behind it: `fe80::1%eth0`.
    private static func isIPv6(_ text: some StringProtocol) -> Bool {
        let parts = text.utf8.split(
            separator: UInt8(ascii: "%"), maxSplits: 1, omittingEmptySubsequences: false)
        let digits = parts[0].allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "f"),
                UInt8(ascii: "A")...UInt8(ascii: "F"), UInt8(ascii: ":"), UInt8(ascii: "."):
                true
            default: false
            }
        }
        guard digits, (2...45).contains(parts[0].count), parts[0].count(where: { $0 == UInt8(ascii: ":") }) >= 2 else {
            return false
        }
        return parts.count == 1 || (!parts[1].isEmpty && parts[1].allSatisfy(isPlain))
    }

    private static func isPath(_ text: String) -> Bool {
        text.hasPrefix("/") && text.utf8.allSatisfy { isPlain($0) || "/:~@+,=%".utf8.contains($0) }
    }

    /// `redis://`, `rediss://`, `unix://`, `https://` and any other scheme.
    private static func isURL(_ text: String) -> Bool {
        guard let end = text.firstRange(of: "://") else { return false }
        let scheme = text[..<end.lowerBound].utf8
        guard let first = scheme.first, (1...16).contains(scheme.count),
            (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(first),
            scheme.allSatisfy({ isPlain($0) || $0 == UInt8(ascii: "+") })
        else { return false }
        let rest = text[end.upperBound...].utf8
        return !rest.isEmpty && rest.allSatisfy { isPlain($0) || "/:~@+,=%&?[]".utf8.contains($0) }
    }

    /// Letters, digits and `. _ -`.
    private static func isPlain(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"):
            true
        default: false
        }
    }
}
