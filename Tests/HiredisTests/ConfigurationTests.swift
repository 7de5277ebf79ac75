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
        ] as [(String, String, Int, String?, String?, Int, Bool)])
    func `a URL of TCP is read`(
        url: String, host: String, port: Int, user: String?, password: String?, database: Int, tls: Bool
    ) throws {
        let configuration = try RedisConfiguration(url: url)
        #expect(configuration.address == .tcp(host: host, port: port))
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

    @Test(arguments: [
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
