// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Hiredis

@Suite struct ClusterViewTests {
    private static let asked = RedisConfiguration.Address.tcp(host: "asked", port: 7000)
    private static func tcp(_ host: String, _ port: Int) -> RedisConfiguration.Address { .tcp(host: host, port: port) }
    private static func bulk(_ text: String) -> RedisReply { .string(Array(text.utf8)) }

    /// A node as 7.0 shows it.
    private static func node(_ host: RedisReply, _ port: Int64, _ details: String...) -> RedisReply {
        .array([host, .integer(port), bulk("0123456789abcdef"), .array(details.map(bulk))])
    }

    private static func range(_ first: Int64, _ last: Int64, _ nodes: RedisReply...) -> RedisReply {
        .array([.integer(first), .integer(last)] + nodes)
    }

    @Test func `slots are those of the specification`() {
        #expect(ClusterView.checksum("123456789".utf8) == 0x31C3)
        #expect(ClusterView.slot(ofTag: "foo") == 12_182)
        #expect(ClusterView(namespace: "default").slot == ClusterView.slot(ofTag: "default"))
        #expect((0..<100).allSatisfy { (0..<16_384).contains(ClusterView.slot(ofTag: "n\($0)")) })
    }

    @Test func `the owner of the slot is found, and all nodes are known`() throws {
        let view = ClusterView(namespace: "foo")
        let reply = RedisReply.array([
            Self.range(0, 8191, Self.node(Self.bulk("10.0.0.1"), 6379), Self.node(Self.bulk("10.0.0.4"), 6379)),
            // As before 7.0, without details.
            Self.range(
                8192, 16_383, .array([Self.bulk("10.0.0.2"), .integer(6379), Self.bulk("id")]),
                Self.node(Self.bulk("10.0.0.1"), 6379)),
        ])
        let sighting = try view.read(reply, from: Self.asked)
        #expect(sighting.owner == Self.tcp("10.0.0.2", 6379))
        #expect(
            sighting.nodes == [
                Self.tcp("10.0.0.1", 6379), Self.tcp("10.0.0.4", 6379), Self.tcp("10.0.0.2", 6379),
            ])
    }

    @Test(
        arguments: [
            (RedisReply.null, [], "asked"), (bulk(""), [], "asked"), (bulk("?"), [], "asked"),
            (bulk("?"), ["ip", "10.0.0.7"], "10.0.0.7"), (bulk("0.0.0.0"), [], "asked"), (bulk("::1"), [], "::1"),
            (RedisReply.null, ["ip", "10.0.0.7", "hostname", "h"], "asked"),
            (bulk("node-1.example"), ["ip", "10.0.0.7"], "node-1.example"), (bulk("10.0.0.9"), [], "mapped"),
        ] as [(RedisReply, [String], String)])
    func `a node without a host is the one that was asked`(
        host: RedisReply, details: [String], expected: String
    ) throws {
        let view = ClusterView(namespace: "foo", map: try AddressMap("10.0.0.9=mapped,asked=wrong"))
        let node = RedisReply.array([
            host, .integer(7001), Self.bulk("id"), .array(details.map(Self.bulk)),
        ])
        let sighting = try view.read(.array([Self.range(0, 16_383, node)]), from: Self.asked)
        #expect(sighting.owner == Self.tcp(expected, 7001))
    }

    @Test func `a node without a port, and a slot without an owner, are none`() throws {
        let view = ClusterView(namespace: "foo")
        let reply = RedisReply.array([
            Self.range(0, 12_181, Self.node(Self.bulk("a"), 1)),
            Self.range(12_183, 16_383, Self.node(Self.bulk("b"), 2)),
        ])
        #expect(try view.read(reply, from: Self.asked).owner == nil)
        let portless = RedisReply.array([
            Self.range(0, 16_383, Self.node(Self.bulk("a"), 0), Self.node(Self.bulk("b"), 2))
        ])
        #expect(try view.read(portless, from: Self.asked) == .init(owner: nil, nodes: [Self.tcp("b", 2)]))
        #expect(try view.read(.array([]), from: Self.asked) == .init())
        let junk: RedisReply = .array([.null, .array([.integer(5), .integer(1), .null]), .array([.integer(1)])])
        #expect(try view.read(junk, from: Self.asked) == .init())
    }

    @Test(arguments: [
        ("ERR This instance has cluster support disabled", "use redis://asked:7000"),
        ("NOPERM this user has no permissions to run the 'cluster|slots' command", "+cluster|slots"),
        ("NOAUTH Authentication required.", "NOAUTH"),
    ])
    func `a node that does not say it is told of, with what to do`(reply: String, part: String) {
        let error = #expect(throws: RedisError.self) {
            try ClusterView(namespace: "n").read(.error(RedisServerError(message: reply)), from: Self.asked)
        }
        #expect(error?.message.contains("asked:7000") == true)
        #expect(error?.message.contains(part) == true, "\(error?.message ?? "")")
    }

    @Test(
        arguments: [
            ("MOVED 12182 10.0.0.1:6380", 12_182, tcp("10.0.0.1", 6380), false),
            ("ASK 3 node-1.example:7", 3, tcp("node-1.example", 7), true),
            ("MOVED 3 :7002", 3, tcp("asked", 7002), false), ("MOVED 3 ?:7002", 3, tcp("asked", 7002), false),
            ("MOVED 3 fe80::1:7002", 3, tcp("fe80::1", 7002), false), ("ASK 3 10.0.0.9:1", 3, tcp("mapped", 1), true),
        ] as [(String, Int, RedisConfiguration.Address, Bool)])
    func `a redirection is read`(
        text: String, slot: Int, address: RedisConfiguration.Address, isAsk: Bool
    ) throws {
        let view = ClusterView(namespace: "foo", map: try AddressMap("10.0.0.9=mapped"))
        let redirection = view.redirection(by: RedisServerError(message: text), from: Self.asked)
        #expect(redirection == .init(slot: slot, address: address, isAsk: isAsk))
    }

    @Test(arguments: ["MOVED", "MOVED 3", "MOVED x a:1", "MOVED 3 a", "MOVED 3 a:0", "MOVED 3 a:b", "READONLY 3 a:1"])
    func `what names no node is no redirection`(text: String) {
        let view = ClusterView(namespace: "foo")
        #expect(view.redirection(by: RedisServerError(message: text), from: Self.asked) == nil)
    }
}
