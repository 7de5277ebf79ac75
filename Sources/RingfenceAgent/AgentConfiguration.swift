// SPDX-License-Identifier: Apache-2.0
//
// What an agent's file says, checked. AgentConfiguration+File.swift reads it.
package import Ringfence
package import RingfenceAgentCore
import RingfenceCore

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
    package var suspendBudget: Duration = .seconds(1)
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

    /// The machine's part of it.
    package var policy: AgentPolicy {
        AgentPolicy(
            member: member, hooks: hooks.mapValues { Nanos(saturating: $0.timeout) },
            suspendBudget: Nanos(saturating: suspendBudget), releasesWhenUnhealthy: releasesWhenUnhealthy,
            checks: checks.map { ($0.name, $0.policy) }, agreement: Nanos(saturating: agreement),
            vacancy: Nanos(saturating: lease))
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
