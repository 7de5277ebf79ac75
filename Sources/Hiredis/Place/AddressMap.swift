// SPDX-License-Identifier: Apache-2.0
//
// Servers behind NAT announce the addresses they have for one another. Sentinels and nodes of a Cluster pass these on,
// and a client on the other side cannot reach them: docker and port forwarding are the usual cause. The map says what
// such an address is called here.

/// Rules FROM=TO for addresses that Sentinels and nodes of a Cluster announce.
package struct AddressMap: Sendable, Hashable {
    /// How many rules there may be.
    package static let limit = 256

    private struct Target: Sendable, Hashable {
        var host: String
        /// nil: the port stays.
        var port: Int?
    }

    /// Rules for one port of a host.
    private var servers: [RedisConfiguration.Address: Target] = [:]
    /// Rules for a host whatever the port.
    private var hosts: [String: Target] = [:]

    package init() {}

    package var isEmpty: Bool { servers.isEmpty && hosts.isEmpty }

    /// Reads `FROM=TO,…`, where each side is `host` or `host:port`, an IPv6 address in brackets. A TO without a port
    /// keeps the port.
    /// - Throws: `invalidConfiguration`, naming the rule and what is wrong with it.
    package init(_ text: String) throws(RedisError) {
        let rules = text.split(separator: ",", omittingEmptySubsequences: false)
        guard rules.count <= Self.limit else {
            throw Self.wrong("it has \(rules.count) rules, and may have \(Self.limit)")
        }
        for rule in rules {
            let sides = rule.split(separator: "=", omittingEmptySubsequences: false)
            guard sides.count == 2 else { throw Self.wrong("\"\(rule)\" is not FROM=TO") }
            let from = try Self.side(sides[0], of: rule)
            let to = try Self.side(sides[1], of: rule)
            let target = Target(host: to.host, port: to.port)
            let host = from.host.lowercased()
            let former =
                if let port = from.port {
                    servers.updateValue(target, forKey: .tcp(host: host, port: port))
                } else {
                    hosts.updateValue(target, forKey: host)
                }
            guard former == nil else { throw Self.wrong("\(sides[0]) stands in it twice") }
        }
    }

    /// The address to dial for the one announced: that of the rule with its port, else of the rule for its host, else
    /// itself. What a rule gave is not looked up again.
    package func callAsFunction(_ address: RedisConfiguration.Address) -> RedisConfiguration.Address {
        guard case .tcp(let host, let port) = address, !isEmpty else { return address }
        let name = host.lowercased()
        guard let target = servers[.tcp(host: name, port: port)] ?? hosts[name] else { return address }
        return .tcp(host: target.host, port: target.port ?? port)
    }

    private static func side(_ text: Substring, of rule: Substring) throws(RedisError) -> HostText {
        do { return try HostText(text) } catch { throw wrong("in \"\(rule)\", \(error.reason)") }
    }

    private static func wrong(_ reason: String) -> RedisError {
        RedisError(.invalidConfiguration, effect: .none, "the address map is wrong: \(reason)")
    }
}
