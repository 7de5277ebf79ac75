// SPDX-License-Identifier: Apache-2.0
//
// The file of `ringfence agent`: what stands in it, what is allowed, and what is wrong with it.
//
// Every mistake is named with its place (`checks[1].interval`) and the limit, all at the start: an agent that ran on a
// misread setting would be found out in the worst hour. Commands stand in this file alone, and it is refused when
// somebody else could have written it (TrustedFile.swift).
import Hiredis
package import Ringfence
package import RingfenceAgentCore
import RingfenceCore
import RingfenceOperations

/// All of an agent's file, checked.
package struct AgentConfiguration: Sendable {
    /// What a check looks at.
    package enum Probe: Sendable, Hashable {
        case tcp(Endpoint)
        case http(HTTPRequestPlan)
        case command([String])
        case redis(url: String, passwordFile: String?)
        case postgres(PostgresPlan)
    }

    package struct Endpoint: Sendable, Hashable {
        package var host: String
        package var port: Int
    }

    package struct HeaderMatch: Sendable, Hashable {
        package var name: String
        package var value: String
    }

    package struct HTTPRequestPlan: Sendable, Hashable {
        package var isSecure: Bool
        package var endpoint: Endpoint
        /// Path and query.
        package var target: String
        /// What goes into `Host`.
        package var authority: String
        package var method: String
        package var status: ClosedRange<Int>
        /// A header of the answer, and what its value must contain.
        package var header: HeaderMatch?
        /// What the body must contain, in its first 64 KiB.
        package var body: String?
        /// PEM file of the authorities to trust instead of the system's.
        package var authorityFile: String?
    }

    package struct PostgresPlan: Sendable, Hashable {
        /// A host, or the absolute path of the directory of the socket.
        package var host: String
        package var port: Int
        package var user: String
        package var database: String
        /// libpq's own password file.
        package var passwordFile: String?
        /// How often a look also connects anew and writes, and how long that may take.
        package var writeInterval: Duration = .seconds(5)
        package var writeTimeout: Duration = .seconds(2)
    }

    package struct Check: Sendable {
        package var name: String
        package var probe: Probe
        package var policy: CheckPolicy
    }

    package struct Hook: Sendable, Hashable {
        package var command: [String]
        package var timeout: Duration
    }

    package var redis: String?
    package var redisPasswordFile: String?
    package var tls = RingfenceConfiguration.TLS()
    package var namespace = "default"
    package var group = ""
    package var member = ""
    package var address = ""
    package var zone = ""
    package var priority = 0
    package var weight = 1
    package var metadata: [String: String] = [:]
    package var lease: Duration = .seconds(3)
    package var isCandidate = true
    package var fenceBudget: Duration = .seconds(1)
    /// nil: no health endpoints.
    package var listen: Endpoint?
    /// Where other agents reach `listen`; nil: at its host, if that is one.
    package var advertise: Endpoint?
    package var releasesWhenUnhealthy = true
    package var agreement: Duration = .seconds(10)
    package var checks: [Check] = []
    package var hooks: [HookKind: Hook] = [:]
    package var onEvent: Hook?

    /// The defaults alone.
    package init() {}

    /// Reads a file, and refuses it if others could write it or a program it names.
    /// - Throws: ``Settings/Failure``.
    package init(file path: String) throws {
        let path = try Settings.absolute(path, "--config")
        if let objection = TrustedFile.objection(to: path, isProgram: false) {
            throw Settings.Failure(description: "\(path) is not trusted: \(objection)")
        }
        do { try self.init(json: try readFile(path, limit: 262_144)) } catch let error as Settings.Failure {
            throw Settings.Failure(description: "\(path): \(error.description)")
        }
        for (place, command) in commands {
            if let objection = TrustedFile.objection(to: command[0], isProgram: true) {
                throw Settings.Failure(
                    description: "\(path): \(place): \(command[0]) is not trusted: \(objection)")
            }
        }
    }

    /// All programs the agent may start by this file.
    private var commands: [(place: String, command: [String])] {
        var commands: [(String, [String])] = []
        for kind in HookKind.allCases {
            if let hook = hooks[kind] { commands.append(("hooks.\(kind.rawValue).command", hook.command)) }
        }
        if let onEvent { commands.append(("hooks.onEvent.command", onEvent.command)) }
        for (index, check) in checks.enumerated() {
            if case .command(let command) = check.probe { commands.append(("checks[\(index)].command", command)) }
        }
        return commands
    }

    /// Reads the JSON of such a file.
    /// - Throws: ``Settings/Failure``.
    package init(json bytes: [UInt8]) throws {
        let object: JSONObject
        do { object = try JSONObject(bytes, allowed: Self.names, depth: 3) } catch let error {
            let line = bytes.prefix(error.offset).count { $0 == 0x0A } + 1
            throw Settings.Failure(description: "line \(line): \(error.message)")
        }
        let fields = FileFields(object, "")
        redis = try fields.text("redis")
        redisPasswordFile = try fields.path("redisPasswordFile")
        tls.authorityFile = try fields.path("redisCA")
        tls.certificateFile = try fields.path("redisCertificate")
        tls.privateKeyFile = try fields.path("redisKey")
        tls.serverName = try fields.text("redisServerName")
        namespace = try fields.text("namespace") ?? namespace
        group = try fields.needed("group")
        member = try fields.needed("member")
        address = try fields.text("address", mayBeEmpty: true) ?? ""
        zone = try fields.text("zone", mayBeEmpty: true) ?? ""
        priority = try fields.integer("priority", Limits.priority) ?? 0
        weight = try fields.integer("weight", Limits.weight) ?? 1
        if let pairs = try fields.object("metadata") {
            for field in pairs.object.fields { metadata[field.name] = try pairs.needed(field.name) }
        }
        lease = try fields.duration("lease", .milliseconds(200)...(.seconds(3_600))) ?? lease
        isCandidate = try fields.bool("candidate") ?? true
        fenceBudget =
            try fields.duration("fenceBudget", .milliseconds(1)...(.seconds(3_600)))
            ?? min(.seconds(1), lease / 3)
        guard fenceBudget * 2 <= lease else {
            throw fields.wrong(
                "fenceBudget", "must be at most half of lease (\(lease.shortText)), not \(fenceBudget.shortText)")
        }
        listen = try fields.endpoint("listen", lowestPort: 0)
        advertise = try fields.endpoint("advertise")
        if advertise != nil, listen == nil {
            throw fields.wrong("advertise", "needs listen: it is where other agents reach that")
        }
        if metadata[AgentFailsafe.key] != nil {
            throw fields.wrong("metadata", "\(AgentFailsafe.key) is the agent's own: set advertise")
        }
        releasesWhenUnhealthy = try fields.choice("onUnhealthy", ["release", "ignore"]) ?? "release" == "release"
        agreement = try fields.duration("agreement", .milliseconds(100)...(.seconds(600))) ?? agreement
        do {
            try Limits.check(namespace: namespace)
            try Limits.check(group: group)
            try Limits.check(
                MemberRecord(
                    id: member, session: "-", leaseMilliseconds: lease.wholeMilliseconds, address: address, zone: zone,
                    weight: weight, priority: priority, capabilities: [], metadata: metadata))
        } catch { throw Settings.Failure(description: error.description) }
        let list = try fields.objects("checks")
        guard list.count <= 8 else { throw fields.wrong("checks", "must be at most 8, not \(list.count)") }
        for (index, check) in list.enumerated() { checks.append(try Check(check, index)) }
        if let hooks = try fields.object("hooks") { try read(hooks) }
    }

    private static let names = [
        "redis", "redisPasswordFile", "redisCA", "redisCertificate", "redisKey", "redisServerName", "namespace",
        "group", "member",
        "address",
        "zone", "priority", "weight", "metadata", "lease", "candidate", "fenceBudget", "listen", "advertise",
        "onUnhealthy",
        "agreement", "checks", "hooks",
    ]

    private mutating func read(_ fields: FileFields) throws {
        let names = HookKind.allCases.map(\.rawValue) + ["onEvent"]
        try fields.allow(names)
        for name in names {
            guard let one = try fields.object(name) else { continue }
            try one.allow(["command", "timeout"])
            let kind = HookKind(rawValue: name)
            let standard: Duration =
                switch kind {
                case .onSuspend: fenceBudget
                case .onDemote: .seconds(300)
                case .onHandover: .seconds(10)
                default: .seconds(30)
                }
            let timeout = try one.duration("timeout", .milliseconds(1)...(.seconds(86_400))) ?? standard
            let hook = Hook(command: try one.command("command"), timeout: timeout)
            if let kind { hooks[kind] = hook } else { onEvent = hook }
        }
    }

    /// The machine's part of it.
    package var policy: AgentPolicy {
        AgentPolicy(
            member: member, hooks: hooks.mapValues { Nanos(saturating: $0.timeout) },
            fenceBudget: Nanos(saturating: fenceBudget), releasesWhenUnhealthy: releasesWhenUnhealthy,
            checks: checks.map { ($0.name, $0.policy) }, agreement: Nanos(saturating: agreement),
            vacancy: Nanos(saturating: lease))
    }
}

extension AgentConfiguration.Check {
    private static let common = ["type", "name", "interval", "timeout", "fall", "rise", "fastInterval"]

    fileprivate init(_ fields: FileFields, _ index: Int) throws {
        let types = ["tcp", "http", "https", "command", "redis", "postgres"]
        guard let type = try fields.choice("type", types) else { throw fields.wrong("type", "is missing") }
        name = try fields.text("name") ?? type
        var policy = CheckPolicy()
        let range: ClosedRange<Duration> = .milliseconds(10)...(.seconds(3_600))
        if let interval = try fields.duration("interval", range) { policy.interval = Nanos(saturating: interval) }
        if let timeout = try fields.duration("timeout", range) { policy.timeout = Nanos(saturating: timeout) }
        policy.fastInterval = min(policy.fastInterval, policy.interval)
        if let fast = try fields.duration("fastInterval", range) { policy.fastInterval = Nanos(saturating: fast) }
        guard policy.fastInterval <= policy.interval else {
            throw fields.wrong("fastInterval", "must not be longer than interval")
        }
        policy.fall = try fields.integer("fall", 1...100) ?? policy.fall
        policy.rise = try fields.integer("rise", 1...100) ?? policy.rise
        self.policy = policy
        switch type {
        case "tcp":
            try fields.allow(Self.common + ["address"])
            probe = .tcp(try fields.neededEndpoint("address"))
        case "http", "https":
            try fields.allow(
                Self.common + ["url", "method", "status", "header", "headerValue", "body", "ca"])
            probe = .http(try Self.http(fields, isSecure: type == "https"))
        case "command":
            try fields.allow(Self.common + ["command"])
            probe = .command(try fields.command("command"))
        case "redis":
            try fields.allow(Self.common + ["address", "url", "passwordFile"])
            let url: String
            if let given = try fields.text("url") {
                url = given
            } else {
                let address = try fields.needed("address")
                url = address.hasPrefix("/") ? "unix://\(address)" : "redis://\(address)"
            }
            do { _ = try RedisConfiguration(url: url) } catch { throw fields.wrong("url", error.message) }
            probe = .redis(url: url, passwordFile: try fields.path("passwordFile"))
        default:
            try fields.allow(
                Self.common + [
                    "address", "user", "database", "passwordFile", "writeInterval", "writeTimeout",
                ])
            let address = try fields.needed("address")
            var plan = AgentConfiguration.PostgresPlan(
                host: address, port: 5432, user: try fields.text("user") ?? "postgres",
                database: try fields.text("database") ?? "postgres", passwordFile: try fields.path("passwordFile"))
            // The directory of a socket, with :PORT behind it where that is not the usual one.
            if address.hasPrefix("/") {
                if let colon = address.lastIndex(of: ":"), let port = Int(address[address.index(after: colon)...]) {
                    (plan.host, plan.port) = (String(address[..<colon]), port)
                }
            } else {
                let endpoint = try fields.neededEndpoint("address")
                (plan.host, plan.port) = (endpoint.host, endpoint.port)
            }
            if let interval = try fields.duration("writeInterval", .milliseconds(10)...(.seconds(86_400))) {
                plan.writeInterval = interval
            }
            if let timeout = try fields.duration("writeTimeout", range) { plan.writeTimeout = timeout }
            probe = .postgres(plan)
        }
    }

    private static func http(
        _ fields: FileFields, isSecure: Bool
    ) throws -> AgentConfiguration.HTTPRequestPlan {
        let url = try fields.needed("url")
        let scheme = isSecure ? "https://" : "http://"
        guard url.hasPrefix(scheme) else { throw fields.wrong("url", "must begin with \(scheme)") }
        let rest = url.dropFirst(scheme.count)
        let authority = rest.prefix { $0 != "/" && $0 != "?" }
        var target = String(rest[authority.endIndex...])
        if !target.hasPrefix("/") { target = "/" + target }
        guard target.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else {
            throw fields.wrong("url", "must be ASCII without spaces: percent-encode the rest")
        }
        let defaultPort = isSecure ? 443 : 80
        guard let endpoint = AgentConfiguration.Endpoint(String(authority), defaultPort: defaultPort) else {
            throw fields.wrong("url", "must be \(scheme)HOST[:PORT][/PATH]")
        }
        let name = try fields.text("header")
        let value = try fields.text("headerValue", mayBeEmpty: true)
        guard name != nil || value == nil else { throw fields.wrong("headerValue", "needs header, the name") }
        return AgentConfiguration.HTTPRequestPlan(
            isSecure: isSecure, endpoint: endpoint, target: target, authority: String(authority),
            method: try fields.choice("method", ["GET", "HEAD", "OPTIONS"]) ?? "GET",
            status: try fields.status("status") ?? 200...299, header: name.map { .init(name: $0, value: value ?? "") },
            body: try fields.text("body"), authorityFile: try fields.path("ca"))
    }
}

extension AgentConfiguration.Endpoint {
    /// `host:port`, `[v6]:port`; without a port if there is a default.
    package init?(_ text: String, defaultPort: Int? = nil, lowestPort: Int = 1) {
        var host = text[...]
        var port = defaultPort
        let end = text.hasPrefix("[") ? text.lastIndex(of: "]") : text.startIndex
        guard let end else { return nil }
        if let colon = text[end...].lastIndex(of: ":") {
            guard let given = UInt16(text[text.index(after: colon)...]) else { return nil }
            port = Int(given)
            host = text[..<colon]
        }
        if host.hasPrefix("["), host.hasSuffix("]") { host = host.dropFirst().dropLast() }
        let isIPv6 = text.hasPrefix("[")
        guard let port, port >= lowestPort, !host.isEmpty, isIPv6 || !host.contains(":"),
            host.utf8.allSatisfy({ $0 > 0x20 && $0 != 0x2F && $0 != 0x40 && $0 != 0x7F })
        else { return nil }
        self.host = String(host)
        self.port = port
    }
}

/// The fields of an object of the file, with their place in it.
private struct FileFields {
    let object: JSONObject
    let place: String

    init(_ object: JSONObject, _ place: String) {
        self.object = object
        self.place = place
    }

    func wrong(_ name: String, _ message: String) -> Settings.Failure {
        Settings.Failure(description: "\(place.isEmpty ? name : "\(place).\(name)") \(message)")
    }

    func allow(_ names: [String]) throws {
        for field in object.fields where !names.contains(field.name) {
            throw wrong(field.name, "is not known here; there are \(names.joined(separator: ", "))")
        }
    }

    func text(_ name: String, mayBeEmpty: Bool = false) throws -> String? {
        guard let value = object[name] else { return nil }
        guard case .string(let text) = value else { throw wrong(name, "must be a string, not \(value.kind)") }
        guard mayBeEmpty || !text.isEmpty else { throw wrong(name, "is empty") }
        guard !text.unicodeScalars.contains(where: \.isUnseen) else {
            throw wrong(name, "must not hold control or format characters")
        }
        return text
    }

    func needed(_ name: String) throws -> String {
        guard let text = try text(name) else { throw wrong(name, "is missing") }
        return text
    }

    func path(_ name: String) throws -> String? {
        guard let text = try text(name) else { return nil }
        guard text.hasPrefix("/") else { throw wrong(name, "must be an absolute path, not \(quoted(text))") }
        return text
    }

    func integer(_ name: String, _ range: ClosedRange<Int>) throws -> Int? {
        guard let value = object[name] else { return nil }
        guard case .integer(let number) = value else { throw wrong(name, "must be an integer, not \(value.kind)") }
        guard let number = Int(exactly: number), range.contains(number) else {
            throw wrong(name, "must be \(range.lowerBound) to \(range.upperBound), not \(number)")
        }
        return number
    }

    func bool(_ name: String) throws -> Bool? {
        guard let value = object[name] else { return nil }
        guard case .bool(let bool) = value else { throw wrong(name, "must be true or false, not \(value.kind)") }
        return bool
    }

    func duration(_ name: String, _ range: ClosedRange<Duration>) throws -> Duration? {
        guard let text = try text(name) else { return nil }
        guard let duration = Duration(text: text) else {
            throw wrong(name, "must be a number with ms, s, m, h or d behind it, not \(quoted(text))")
        }
        guard range.contains(duration) else {
            throw wrong(
                name,
                "must be \(range.lowerBound.shortText) to \(range.upperBound.shortText), not \(duration.shortText)")
        }
        return duration
    }

    func choice(_ name: String, _ choices: [String]) throws -> String? {
        guard let text = try text(name) else { return nil }
        guard choices.contains(text) else {
            throw wrong(name, "must be \(choices.joined(separator: ", ")), not \(quoted(text))")
        }
        return text
    }

    func endpoint(_ name: String, lowestPort: Int = 1) throws -> AgentConfiguration.Endpoint? {
        guard let text = try text(name) else { return nil }
        guard let endpoint = AgentConfiguration.Endpoint(text, lowestPort: lowestPort) else {
            throw wrong(name, "must be HOST:PORT, with the port \(lowestPort) to 65535, not \(quoted(text))")
        }
        return endpoint
    }

    func neededEndpoint(_ name: String) throws -> AgentConfiguration.Endpoint {
        guard let endpoint = try endpoint(name) else { throw wrong(name, "is missing") }
        return endpoint
    }

    /// One status, or a range: 200, "200-399".
    func status(_ name: String) throws -> ClosedRange<Int>? {
        if case .integer = object[name] { return try integer(name, 100...599).map { $0...$0 } }
        guard let text = try text(name) else { return nil }
        let parts = text.split(separator: "-").compactMap { Int($0) }
        guard parts.count == 2, parts[0] <= parts[1], parts[0] >= 100, parts[1] <= 599 else {
            throw wrong(name, "must be a status or a range such as \"200-399\", not \(quoted(text))")
        }
        return parts[0]...parts[1]
    }

    func command(_ name: String) throws -> [String] {
        guard let value = object[name] else { throw wrong(name, "is missing") }
        guard case .strings(let words) = value else {
            throw wrong(name, "must be an array of strings, the program and its arguments, not \(value.kind)")
        }
        guard let program = words.first, words.count <= 256 else { throw wrong(name, "must be 1 to 256 words") }
        guard program.hasPrefix("/") else {
            throw wrong(name, "must begin with the absolute path of a program, not \(quoted(program))")
        }
        guard !words.contains(where: { $0.utf8.contains(0) }) else { throw wrong(name, "must not hold NUL") }
        return words
    }

    func object(_ name: String) throws -> FileFields? {
        guard let value = object[name] else { return nil }
        guard case .object(let inner) = value else { throw wrong(name, "must be an object, not \(value.kind)") }
        return FileFields(inner, place.isEmpty ? name : "\(place).\(name)")
    }

    func objects(_ name: String) throws -> [FileFields] {
        switch object[name] {
        case nil, .strings([]): return []
        case .objects(let list): return list.enumerated().map { FileFields($1, "\(name)[\($0)]") }
        case .some(let value): throw wrong(name, "must be an array of objects, not \(value.kind)")
        }
    }
}
