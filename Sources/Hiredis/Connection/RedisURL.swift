// SPDX-License-Identifier: Apache-2.0

/// The parts of a Redis URL. Own parser, because Foundation's would cost every user of the library ten megabytes, and
/// because an error must say which part is wrong without repeating the password.
struct RedisURL {
    var address: RedisConfiguration.Address
    var isSecure: Bool
    var username: String?
    var password: String?
    var database = 0

    init(_ url: String, mayLackPassword: Bool = false) throws(RedisError) {
        guard let separator = url.firstRange(of: "://") else {
            throw Self.wrong("it has no scheme; expected redis://, rediss:// or unix://")
        }
        let scheme = url[..<separator.lowerBound]
        var rest = url[separator.upperBound...]
        var credentials: Substring?
        // In a path it would be part of a name.
        if scheme != "unix", !rest.hasPrefix("/"), rest.drop(while: { $0 != "/" && $0 != "?" }).contains("@") {
            throw Self.wrong("before its \"@\" is a raw \"/\" or \"?\": in a user or password write %2F and %3F")
        }
        let authority = rest.prefix { $0 != "/" && $0 != "?" }
        if let at = authority.lastIndex(of: "@") {
            credentials = rest[..<at]
            rest = rest[rest.index(after: at)...]
        }
        switch scheme {
        case "redis", "rediss":
            isSecure = scheme == "rediss"
            (address, database) = try Self.network(rest)
        case "unix":
            isSecure = false
            (address, database) = try Self.local(rest)
        default: throw Self.wrong("its scheme is \"\(scheme)\"; expected redis, rediss or unix")
        }
        if let credentials {
            let halves = credentials.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            username = halves[0].isEmpty ? nil : try Self.decode(halves[0], "user")
            if halves.count == 1, mayLackPassword { return }
            guard halves.count == 2 else {
                throw Self.wrong("before \"@\" it needs user:password or :password, or a password file besides")
            }
            password = try Self.decode(halves[1], "password")
            guard password != "" else { throw Self.wrong("its password is empty") }
        }
    }

    private static func network(_ text: Substring) throws(RedisError) -> (RedisConfiguration.Address, Int) {
        guard !text.contains("?") else { throw wrong("options after \"?\" are for unix:// only") }
        let halves = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        var place = halves[0]
        let host: Substring
        if place.first == "[" {
            guard let end = place.firstIndex(of: "]") else { throw wrong("its host lacks the closing \"]\"") }
            host = place[place.index(after: place.startIndex)..<end]
            place = place[place.index(after: end)...]
        } else {
            host = place.prefix { $0 != ":" }
            place = place[host.endIndex...]
        }
        guard !host.isEmpty else { throw wrong("it has no host") }
        guard host.utf8.count <= 253 else { throw wrong("its host is longer than 253 bytes") }
        var port = 6379
        if !place.isEmpty {
            guard place.first == ":", let number = Int(place.dropFirst()), (1...65_535).contains(number) else {
                throw wrong("its port must be a number from 1 to 65535")
            }
            port = number
        }
        return (.tcp(host: String(host), port: port), halves.count == 2 ? try database(halves[1]) : 0)
    }

    private static func local(_ text: Substring) throws(RedisError) -> (RedisConfiguration.Address, Int) {
        let halves = text.split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
        let path = try decode(halves[0], "path")
        guard path.first == "/" else { throw wrong("unix:// needs an absolute path") }
        guard path.utf8.count <= 107 else { throw wrong("its path is longer than the 107 bytes of a socket's name") }
        var number = 0
        if halves.count == 2 {
            guard halves[1].hasPrefix("db=") else { throw wrong("the one option after \"?\" is db=<database>") }
            number = try database(halves[1].dropFirst(3))
        }
        return (.unix(path: path), number)
    }

    private static func database(_ text: Substring) throws(RedisError) -> Int {
        if text.isEmpty { return 0 }
        guard let number = Int(text), (0...16_383).contains(number) else {
            throw wrong("its database must be a number from 0 to 16383")
        }
        return number
    }

    private static func decode(_ text: Substring, _ part: String) throws(RedisError) -> String {
        var bytes: [UInt8] = []
        var rest = text.utf8[...]
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "%") else {
                bytes.append(byte)
                continue
            }
            guard let code = String(rest.prefix(2)), code.utf8.count == 2, let value = UInt8(code, radix: 16) else {
                throw wrong("its \(part) has a \"%\" without two hexadecimal digits")
            }
            bytes.append(value)
            rest = rest.dropFirst(2)
        }
        guard let decoded = String(validating: bytes, as: UTF8.self), !decoded.utf8.contains(0) else {
            throw wrong("its \(part) is not UTF-8 text")
        }
        return decoded
    }

    private static func wrong(_ reason: String) -> RedisError {
        RedisError(.invalidConfiguration, effect: .none, "the Redis URL is wrong: \(reason)")
    }
}
