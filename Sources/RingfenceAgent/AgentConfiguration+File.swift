// SPDX-License-Identifier: Apache-2.0
//
// The configuration file of `ringfence agent`: its fields, their limits, and its errors.
//
// Every mistake is named with its place (`checks[1].interval`) and the limit, all at the start: an agent that ran on a
// misread setting would be found out in the worst hour. Commands can be set in this file alone, and it is refused when
// somebody else could have written it (TrustedFile.swift).
import Hiredis
import Ringfence
import RingfenceAgentCore
import RingfenceCore
import RingfenceOperations

extension AgentConfiguration {
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
        suspendBudget =
            try fields.duration("suspendBudget", .milliseconds(1)...(.seconds(3_600)))
            ?? min(.seconds(1), lease / 3)
        guard suspendBudget * 2 <= lease else {
            throw fields.wrong(
                "suspendBudget", "must be at most half of lease (\(lease.shortText)), not \(suspendBudget.shortText)")
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
        "zone", "priority", "weight", "metadata", "lease", "candidate", "suspendBudget", "listen", "advertise",
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
                case .onSuspend: suspendBudget
                case .onDemote: .seconds(300)
                case .onHandover: .seconds(10)
                default: .seconds(30)
                }
            let timeout = try one.duration("timeout", .milliseconds(1)...(.seconds(86_400))) ?? standard
            let hook = Hook(command: try one.command("command"), timeout: timeout)
            if let kind { hooks[kind] = hook } else { onEvent = hook }
        }
    }
}

extension AgentConfiguration.Check {
    private static let common = ["type", "name", "interval", "timeout", "fall", "rise", "fastInterval"]
    private static let range: ClosedRange<Duration> = .milliseconds(10)...(.seconds(3_600))

    fileprivate init(_ fields: FileFields, _ index: Int) throws {
        let types = ["tcp", "http", "https", "command", "redis", "postgres"]
        guard let type = try fields.choice("type", types) else { throw fields.wrong("type", "is missing") }
        name = try fields.text("name") ?? type
        var policy = CheckPolicy()
        if let interval = try fields.duration("interval", Self.range) { policy.interval = Nanos(saturating: interval) }
        if let timeout = try fields.duration("timeout", Self.range) { policy.timeout = Nanos(saturating: timeout) }
        policy.fastInterval = min(policy.fastInterval, policy.interval)
        if let fast = try fields.duration("fastInterval", Self.range) { policy.fastInterval = Nanos(saturating: fast) }
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
            do { try RedisConfiguration(url: url).checkOneServer() } catch { throw fields.wrong("url", error.message) }
            probe = .redis(url: url, passwordFile: try fields.path("passwordFile"))
        default:
            probe = .postgres(try Self.postgres(fields))
        }
    }

    private static func postgres(_ fields: FileFields) throws -> AgentConfiguration.PostgresPlan {
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
        if let timeout = try fields.duration("writeTimeout", Self.range) { plan.writeTimeout = timeout }
        return plan
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
