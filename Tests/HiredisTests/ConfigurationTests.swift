// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Hiredis

@Suite struct ConfigurationTests {
    @Test(
        arguments: [
            ("redis://localhost", "localhost", 6379, nil, nil, 0, false),
            ("redis://h:1/2", "h", 1, nil, nil, 2, false),
            ("rediss://u:p@h:65535/", "h", 65_535, "u", "p", 0, true),
            ("redis://:p%40%3a%2F@[::1]:7", "::1", 7, nil, "p@:/", 0, false),
            ("redis://u:a:b@c@h", "h", 6379, "u", "a:b@c", 0, false),
            ("valkey://h/3", "h", 6379, nil, nil, 3, false),
            ("valkeys://u:p@h:7", "h", 7, "u", "p", 0, true),
        ] as [(String, String, Int, String?, String?, Int, Bool)])
    func `a URL of TCP is read`(
        url: String, host: String, port: Int, user: String?, password: String?, database: Int, tls: Bool
    ) throws {
        let configuration = try RedisConfiguration(url: url)
        #expect(configuration.address == .tcp(host: host, port: port))
        #expect(configuration.place == .server(configuration.address))
        #expect(configuration.username == user)
        #expect(configuration.password == password)
        #expect(configuration.database == database)
        #expect((configuration.tls != nil) == tls)
    }

    @Test func `a URL of a unix socket is read`() throws {
        let plain = try RedisConfiguration(url: "unix:///tmp/a@b%20c.sock")
        #expect(plain.address == .unix(path: "/tmp/a@b c.sock"))
        let full = try RedisConfiguration(url: "unix://u:p@/s?db=4")
        #expect(full.address == .unix(path: "/s"))
        #expect((full.username, full.password, full.database) == ("u", "p", 4))
    }

    private static let three: [RedisConfiguration.Address] = [
        .tcp(host: "a", port: 26_379), .tcp(host: "::1", port: 7), .tcp(host: "c", port: 26_379),
    ]

    @Test(
        arguments: [
            ("redis+sentinel://a,[::1]:7,c/main", .sentinels(Self.three, name: "main"), 0, false),
            ("rediss+sentinel://u:p,q@a,[::1]:7,c/main/4", .sentinels(Self.three, name: "main"), 4, true),
            ("redis+sentinel://a,[::1]:7,c/ma%2Fin/", .sentinels(Self.three, name: "ma/in"), 0, false),
            ("redis+sentinel://h/1", .sentinels([.tcp(host: "h", port: 26_379)], name: "1"), 0, false),
            ("redis+cluster://h", .cluster([.tcp(host: "h", port: 6379)]), 0, false),
            ("rediss+cluster://h:1,i:2/0", .cluster([.tcp(host: "h", port: 1), .tcp(host: "i", port: 2)]), 0, true),
            (
                "redis+replicated://h,i/2", .replicated([.tcp(host: "h", port: 6379), .tcp(host: "i", port: 6379)]), 2,
                false
            ),
            ("rediss+replicated://:p@h", .replicated([.tcp(host: "h", port: 6379)]), 0, true),
        ] as [(String, RedisPlace, Int, Bool)])
    func `a URL of several servers is read`(url: String, place: RedisPlace, database: Int, tls: Bool) throws {
        let configuration = try RedisConfiguration(url: url)
        #expect(configuration.place == place)
        #expect(configuration.address == place.hosts[0])
        #expect(configuration.database == database)
        #expect((configuration.tls != nil) == tls)
    }

    @Test func `a URL names up to 32 hosts`() throws {
        func url(_ count: Int) -> String {
            "redis+cluster://" + (1...count).map { "h\($0)" }.joined(separator: ",")
        }
        #expect(try RedisConfiguration(url: url(32)).place.hosts.count == 32)
        let error = #expect(throws: RedisError.self) { try RedisConfiguration(url: url(33)) }
        #expect(error?.message.contains("33 hosts, and may name 32") == true)
    }

    @Test func `a description names the place and nobody's password`() throws {
        for (url, shown) in [
            ("rediss+sentinel://u:hunter2@a,[::1]:7/main/4", "rediss+sentinel://a:26379,[::1]:7/main/4"),
            ("redis+cluster://:hunter2@a,b:7", "redis+cluster://a:6379,b:7"),
            ("rediss+replicated://u:hunter2@a,b:7/2", "rediss+replicated://a:6379,b:7/2"),
            ("unix://:hunter2@/s?db=4", "unix:///s?db=4"), ("valkeys://:hunter2@h", "rediss://h:6379/0"),
        ] {
            #expect(try RedisConfiguration(url: url).description == shown)
        }
    }

    @Test func `a Sentinel has credentials and TLS of its own, and is verified by its own name`() throws {
        let host = RedisConfiguration.Address.tcp(host: "s", port: 26_379)
        let files = RedisConfiguration.TLS(authorityFile: "/ca", serverName: "redis")
        var secure = try RedisConfiguration(url: "rediss+sentinel://u:p@s/main/3", tls: files)
        #expect(secure.sentinel(at: host).password == nil)
        #expect(secure.sentinel(at: host).username == nil)
        #expect(secure.sentinel(at: host).database == 0)
        #expect(secure.sentinel(at: host).address == host)
        #expect(secure.sentinel(at: host).tls == .init(authorityFile: "/ca"))
        secure.sentinelTLS = .off
        secure.sentinelUsername = "watcher"
        secure.sentinelPassword = "q"
        #expect(secure.sentinel(at: host).tls == nil)
        #expect(secure.sentinel(at: host).username == "watcher")
        #expect(secure.sentinel(at: host).password == "q")
        #expect((secure.username, secure.password, secure.database) == ("u", "p", 3))
        var plain = try RedisConfiguration(url: "redis+sentinel://s/main", tls: files)
        #expect(plain.sentinel(at: host).tls == nil)
        plain.sentinelTLS = .on
        #expect(plain.sentinel(at: host).tls == .init(authorityFile: "/ca"))
        #expect(plain.tls == nil)
    }

    @Test(
        arguments: [
            ("10.0.0.1", 6379, "localhost", 7001), ("10.0.0.1", 6380, "nat", 6380), ("10.0.0.2", 5, "::1", 5),
            ("FE80::1", 6, "h", 1), ("10.0.0.3", 6379, "10.0.0.3", 6379), ("localhost", 7001, "localhost", 7001),
        ])
    func `an announced address is mapped by its port first, then by its host, and once`(
        host: String, port: Int, mapped: String, to: Int
    ) throws {
        let map = try AddressMap(
            "10.0.0.1=nat,10.0.0.1:6379=localhost:7001,10.0.0.2=[::1],[fe80::1]:6=h:1,nat=elsewhere")
        #expect(map(.tcp(host: host, port: port)) == .tcp(host: mapped, port: to))
        #expect(AddressMap()(.tcp(host: host, port: port)) == .tcp(host: host, port: port))
        #expect(map(.unix(path: "/s")) == .unix(path: "/s"))
    }

    @Test(arguments: [
        ("", "FROM=TO"), ("a", "FROM=TO"), ("a=b,", "FROM=TO"), ("a=b=c", "FROM=TO"), ("=b", "host"), ("a=", "host"),
        ("a:0=b", "port"), ("a=b:x", "port"), ("a=b,A=c", "twice"), ("a:1=b,a:1=c", "twice"), ("[::1=b", "]"),
        ("::1=b", "brackets"), ((0...256).map { "h\($0)=a" }.joined(separator: ","), "256"),
    ])
    func `a wrong address map is refused, naming the part`(text: String, part: String) {
        let error = #expect(throws: RedisError.self) { try AddressMap(text) }
        #expect(error?.code == .invalidConfiguration)
        #expect(error?.message.contains(part) == true, "\(error?.message ?? "")")
    }

    @Test(arguments: [
        ("redis://a,b", "several servers need redis+sentinel://, redis+cluster:// or redis+replicated://"),
        ("redis-sentinel://h/x", "write redis+sentinel://HOST:26379/NAME"),
        ("sentinel://h/x", "write redis+sentinel://HOST:26379/NAME"),
        ("rediss-sentinel://h/x", "write rediss+sentinel://HOST:26379/NAME"),
        ("valkey+cluster://h", "write redis+cluster://HOST:6379"), ("redis+socket:///s", "write unix:///PATH"),
        ("redis+sentinel://h", "lacks the name"), ("redis+sentinel://h/", "lacks the name"),
        ("redis+sentinel://h//1", "lacks the name"), ("redis+sentinel://h/a%20b", "without spaces"),
        ("redis+sentinel://h/n/x", "database"), ("redis+cluster://h/1", "database 0 only"),
        ("redis+replicated://h/16384", "database"), ("redis+cluster://h,,i", "comma"), ("redis+cluster://h,", "comma"),
        ("redis+cluster://h,h:6379", "h:6379 twice"), ("redis+cluster://h:0,i", "port"),
        ("redis+sentinel://fe80::1/n", "brackets"), ("redis+cluster://", "host"),
        ("unix+cluster:///s", "redis+cluster"),
        ("localhost:6379", "scheme"), ("http://h", "\"http\""), ("redis://", "host"), ("redis://h:0", "port"),
        ("redis://h:65536", "port"), ("redis://h:x", "port"), ("redis://h/x", "database"), ("redis://h/-1", "database"),
        ("redis://secret@h", "user:password"), ("redis://u:@h", "empty"), ("redis://u:%zz@h", "password"),
        ("redis://u:%4@h", "password"), ("redis://u:%ff@h", "password"), ("redis://[::1", "]"),
        ("unix://relative", "absolute"), ("unix:///x?foo=1", "db="), ("redis://h?x", "unix://"),
        ("unix:///" + String(repeating: "x", count: 120), "107"),
    ])
    func `a wrong URL is refused, naming the part`(url: String, part: String) {
        let error = #expect(throws: RedisError.self) { try RedisConfiguration(url: url) }
        #expect(error?.code == .invalidConfiguration)
        #expect(error?.effect == RedisError.Effect.none)
        #expect(error?.message.contains(part) == true, "\(error?.message ?? "")")
    }

    @Test func `no description shows the password`() throws {
        let configuration = try RedisConfiguration(url: "redis://user:hunter2@h/1")
        var dumped = ""
        dump(configuration, to: &dumped)
        for text in ["\(configuration)", String(reflecting: configuration), dumped, "\([configuration])"] {
            #expect(!text.contains("hunter2"), "\(text)")
        }
        #expect("\(configuration)" == "redis://h:6379/1")
    }

    @Test func `waits double up to the cap and are spread evenly below it`() {
        let backoff = RedisConfiguration.Backoff()
        #expect(backoff.delay(attempt: 0, dice: 0.5) == .milliseconds(5))
        #expect(backoff.delay(attempt: 3, dice: 0.5) == .milliseconds(40))
        #expect(backoff.delay(attempt: 1000, dice: 0.5) == .milliseconds(500))
        #expect(backoff.delay(attempt: 1000, dice: 0) == .zero)
    }
}
