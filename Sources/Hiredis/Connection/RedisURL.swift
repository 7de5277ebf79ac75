// SPDX-License-Identifier: Apache-2.0

/// The parts of a Redis URL. Own parser, because Foundation's would cost every user of the library ten megabytes, and
/// because an error must say which part is wrong without repeating the password.
struct RedisURL {
    var place: RedisPlace
    var isSecure: Bool
    var username: String?
    var password: String?
    var database = 0

    /// What a scheme says of the place, without what it says of TLS.
    private enum Kind: String {
        case server = ""
        case sentinel = "+sentinel"
        case cluster = "+cluster"
        case replicated = "+replicated"
    }

    /// How many hosts a URL may name.
    private static let hostLimit = 32

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
        let plus = scheme.firstIndex(of: "+") ?? scheme.endIndex
        switch (String(scheme[..<plus]), Kind(rawValue: String(scheme[plus...]))) {
        case ("unix", .server?):
            isSecure = false
            (place, database) = try Self.local(rest)
        case ("redis", let kind?), ("rediss", let kind?):
            isSecure = scheme[..<plus] == "rediss"
            (place, database) = try Self.network(kind, rest)
        case ("valkey", .server?), ("valkeys", .server?):
            isSecure = scheme == "valkeys"
            (place, database) = try Self.network(.server, rest)
        default: throw Self.unknown(scheme)
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

    /// The right form beside the scheme that somebody thought of.
    private static func unknown(_ scheme: Substring) -> RedisError {
        let secure = scheme.hasPrefix("rediss") || scheme.hasPrefix("valkeys") ? "s" : ""
        let form: String? =
            if scheme.contains("sentinel") {
                "redis\(secure)+sentinel://HOST:26379/NAME"
            } else if scheme.contains("cluster") {
                "redis\(secure)+cluster://HOST:6379"
            } else if scheme.contains("replicat") {
                "redis\(secure)+replicated://HOST:6379,HOST:6379"
            } else if scheme.contains("unix") || scheme.contains("socket") {
                "unix:///PATH"
            } else {
                nil
            }
        if let form { return wrong("its scheme is \"\(scheme)\"; write \(form)") }
        return wrong(
            """
            its scheme is "\(scheme)"; expected redis, rediss or unix, or redis+sentinel, redis+cluster or \
            redis+replicated (with TLS rediss+…)
            """)
    }

    private static func network(_ kind: Kind, _ text: Substring) throws(RedisError) -> (RedisPlace, Int) {
        guard !text.contains("?") else { throw wrong("options after \"?\" are for unix:// only") }
        let parts = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        let hosts = try Self.hosts(parts[0], port: kind == .sentinel ? 26_379 : 6379)
        let path = parts.count == 2 ? parts[1] : ""
        switch kind {
        case .server:
            guard hosts.count == 1 else {
                throw wrong("several servers need redis+sentinel://, redis+cluster:// or redis+replicated://")
            }
            return (.server(hosts[0]), try database(path))
        case .sentinel:
            let names = path.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
            let name = try decode(names.first ?? "", "name of the primary")
            guard !name.isEmpty else {
                throw wrong(
                    "it lacks the name of the primary: write redis+sentinel://HOST:26379/NAME, as the Sentinels call it"
                )
            }
            guard name.utf8.count <= 255, !name.unicodeScalars.contains(where: { $0.value <= 0x20 }) else {
                throw wrong("its name of the primary must be 1 to 255 bytes without spaces")
            }
            return (.sentinels(hosts, name: name), names.count == 2 ? try database(names[1]) : 0)
        case .cluster:
            guard try database(path) == 0 else { throw wrong("a Cluster has database 0 only: leave the database out") }
            return (.cluster(hosts), 0)
        case .replicated: return (.replicated(hosts), try database(path))
        }
    }

    private static func hosts(
        _ text: Substring, port: Int
    ) throws(RedisError) -> [RedisConfiguration.Address] {
        let texts = text.split(separator: ",", omittingEmptySubsequences: false)
        guard texts.count <= hostLimit else {
            throw wrong("it names \(texts.count) hosts, and may name \(hostLimit)")
        }
        var hosts: [RedisConfiguration.Address] = []
        for text in texts {
            if text.isEmpty, texts.count > 1 { throw wrong("it has a comma without a host beside it") }
            let parts: HostText
            do { parts = try HostText(text) } catch { throw wrong(error.reason) }
            let host = RedisConfiguration.Address.tcp(host: parts.host, port: parts.port ?? port)
            guard !hosts.contains(host) else { throw wrong("it names the host \(host) twice") }
            hosts.append(host)
        }
        return hosts
    }

    private static func local(_ text: Substring) throws(RedisError) -> (RedisPlace, Int) {
        let halves = text.split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
        let path = try decode(halves[0], "path")
        guard path.first == "/" else { throw wrong("unix:// needs an absolute path") }
        guard path.utf8.count <= 107 else { throw wrong("its path is longer than the 107 bytes of a socket's name") }
        var number = 0
        if halves.count == 2 {
            guard halves[1].hasPrefix("db=") else { throw wrong("the one option after \"?\" is db=<database>") }
            number = try database(halves[1].dropFirst(3))
        }
        return (.server(.unix(path: path)), number)
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
