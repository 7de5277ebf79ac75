// SPDX-License-Identifier: Apache-2.0
import RingfenceCore
import Testing

@Suite struct MemberAddressTests {
    @Test(arguments: [
        "", "10.0.0.1:7000", "db-1:5432", "db_1.pay.internal:1", "localhost", "7000", "a.b:65535", "[::1]:5432",
        "[fe80::1%eth0]:80", "/run/redis/redis.sock", "/var/run/postgresql:5433", "redis://10.0.0.1:6380",
        "rediss://user:p%40ss@cache.internal:6380/0", "unix:///run/redis.sock?db=1",
        "https://issuer.example/v2?a=b&c=d",
    ])
    func `an address in use is let in`(address: String) throws { try MemberAddress.check(address) }

    @Test(arguments: [
        "h:5432 user=x", "h'; DROP TABLE t; --:5432", "h\";:1", "a;b:1", "a b:1", "$(id):1", "`id`:1", "a{}:80",
        "a\\:1", "a|b:1",
        "-oProxyCommand=x:1", "a.-b:1", "a..b:1", "h:", "h:0", "h:65536", "h:+1", "h:1:2", "::1", "::1:5432", "[::1]",
        "[x]:1",
        "[::1%]:1", "h,i:1", "h#:1", "drüben:1", "/a b", "/a;b", "/a'b", "://x", "x://", "redis://h' x='",
        "redis://h;x",
        "redis://h\n", "Redis://h:1", "redis://h#x", "1redis://h:1", "a\u{202E}b:1",
    ])
    func `an address that would mean something where it is pasted is refused`(address: String) {
        #expect(throws: InvalidArgument.self) { try MemberAddress.check(address) }
    }

    @Test func `the refusal names the field and what is allowed`() {
        do {
            try MemberAddress.check("h' port='1")
            Issue.record("let in")
        } catch {
            #expect(error.field == "address")
            #expect(error.message.hasPrefix("must be HOST:PORT, [IPv6]:PORT"))
            #expect(error.message.hasSuffix(#"not "h' port='1""#))
        }
    }

    @Test func `who is to be connected to has a host and a port`() {
        for good in ["10.0.0.1:1", "db-1:5432", "[::1]:65535"] { #expect(MemberAddress.isEndpoint(good)) }
        for bad in ["", "h", ":1", "h:x", "redis://h:1", "/run/x:1", "h:1 "] {
            #expect(!MemberAddress.isEndpoint(bad), "\(bad)")
        }
    }
}

@Suite struct ShownTextTests {
    private static let unseen = [
        "\u{202E}", "\u{2028}", "\u{2029}", "\u{200B}", "\u{200D}", "\u{2066}", "\u{FEFF}", "\u{AD}", "\u{E0041}",
    ]

    @Test func `names, owners and reasons hold no format character`() {
        for character in Self.unseen {
            let text = "a" + character + "b"
            for check in [
                { try Limits.check(name: text) }, { try Limits.check(owner: text) }, { try Limits.check(reason: text) },
                { try Limits.check(group: text) }, { try Limits.check(member: text) }, { try Limits.check(zone: text) },
                { try Limits.check(unfit: text) },
            ] as [() throws -> Void] {
                #expect { try check() } throws: { error in
                    (error as? InvalidArgument)?.message.contains("format characters such as U+") == true
                }
            }
        }
        for text in ["drüben", "e\u{301}", "支付", "😀", "\u{A0}"] {
            #expect(throws: Never.self) { try Limits.check(name: text) }
        }
    }

    @Test func `a record of an older version is read, whatever its address and its texts`() throws {
        let json = #"{"session":"s","leaseMs":3000,"address":"a b'","zone":"x\u202e"}"#
        let read = try MemberRecord(id: "m\u{202E}", json: json.utf8)
        #expect(read.address == "a b'")
        #expect(throws: InvalidArgument.self) { try Limits.check(read) }
        // Or a ring would fail for all for the sake of one.
        #expect(throws: Never.self) { try RingLimits.check(RingMember(id: read.id, weight: 1, zone: read.zone)) }
    }

    @Test func `what could not be seen is written out`() {
        #expect("pay\u{202E}tuoyap\u{1B}[2J\u{2028}".shown == "pay\\u{202E}tuoyap\\u{1B}[2J\\u{2028}")
        #expect("drüben 支付 😀".shown == "drüben 支付 😀")
        #expect(quoted("a\u{202E}") == #""a\u{202E}""#)
    }
}
