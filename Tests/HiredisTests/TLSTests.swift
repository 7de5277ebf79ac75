// SPDX-License-Identifier: Apache-2.0
import TestSupport
import Testing

@testable import Hiredis

/// Against a redis-server that speaks TLS itself, with certificates made for the test.
@Suite struct TLSTests {
    private func attempt(
        _ url: String, _ tls: RedisConfiguration.TLS, _ body: (RedisClient) async throws -> Void
    ) async throws {
        var configuration = try RedisConfiguration(url: url, tls: tls)
        configuration.commandTimeout = .seconds(30)
        configuration.connectTimeout = .seconds(10)
        try await withClient(configuration) { client async throws in try await body(client) }
    }

    /// Commands never leave, and the message names the reason.
    private func expectRefusal(
        _ url: String, _ tls: RedisConfiguration.TLS, mentions: String, _ location: SourceLocation = #_sourceLocation
    ) async throws {
        try await attempt(url, tls) { client async throws in
            let error = await redisError { try await client.call("SET", "k", "v", deadline: .seconds(2)) }
            #expect(error?.code == .notConnected, sourceLocation: location)
            #expect(error?.effect == RedisError.Effect.none, sourceLocation: location)
            #expect(error?.message.contains(mentions) == true, "\(error?.message ?? "")", sourceLocation: location)
        }
    }

    @Test func `an own authority is trusted, by name and by address, and nothing else is`() async throws {
        let certificates = try await TestCertificates.make()
        try await withRedis(tls: .init(certificates: certificates)) { server async throws in
            let trusted = RedisConfiguration.TLS(authorityFile: certificates.authority)
            for host in ["localhost", "127.0.0.1"] {
                try await attempt("rediss://\(host):\(server.tlsPort)", trusted) { client async throws in
                    try await client.call("SET", "k", host)
                    #expect(try await server.cli("GET", "k") == host)
                    // Larger than a TLS record, both ways.
                    let large = String(repeating: "x", count: 1_000_000)
                    try await client.call("SET", "large", large)
                    #expect(try await client.call("GET", "large").text == large)
                }
            }
            try await server.cli("DEL", "k")
            let stranger = RedisConfiguration.TLS(authorityFile: certificates.strangerAuthority)
            try await expectRefusal(server.tlsURL, stranger, mentions: "no authority that is trusted here")
            try await expectRefusal(server.tlsURL, .init(), mentions: "no authority that is trusted here")
            #expect(try await server.cli("EXISTS", "k") == "0")
        }
    }

    @Test func `a certificate for another name is refused, unless that name is the one expected`() async throws {
        let certificates = try await TestCertificates.make(serverNames: "DNS:redis.internal")
        try await withRedis(tls: .init(certificates: certificates)) { server async throws in
            var tls = RedisConfiguration.TLS(authorityFile: certificates.authority)
            try await expectRefusal(server.tlsURL, tls, mentions: "ertificate")
            try await expectRefusal("rediss://127.0.0.1:\(server.tlsPort)", tls, mentions: "ertificate")
            #expect(try await server.cli("EXISTS", "k") == "0")
            tls.serverName = "redis.internal"
            try await attempt(server.tlsURL, tls) { client async throws in
                #expect(try await client.call("PING") == .status("PONG"))
            }
        }
    }

    /// What `openssl` thinks of the same server and the same expectation.
    private func opensslAccepts(_ port: Int, _ authority: String, _ expectation: String) async throws -> Bool {
        let command = "openssl s_client -connect 127.0.0.1:\(port) -CAfile '\(authority)' \(expectation)"
        let said = try await output(of: "sh", ["-c", command + " -verify_return_error -brief </dev/null 2>&1; true"])
        #expect(said.contains("Verification: OK") != said.contains("mismatch"), "\(said)")
        return said.contains("Verification: OK")
    }

    @Test(arguments: [
        "DNS:redis.internal.example,IP:127.0.0.1", "IP:127.0.0.1", "DNS:redis.internal.example",
        "DNS:*.internal.example,IP:127.0.0.1", "DNS:*.example,IP:10.0.0.1",
    ])
    func `a name is held against names and an address against addresses, as openssl does`(names: String) async throws {
        let certificates = try await TestCertificates.make(serverNames: names)
        try await withRedis(tls: .init(certificates: certificates)) { server async throws in
            for expected in ["redis.internal.example", "not.this.host", nil] {
                let flag = expected.map { "-verify_hostname \($0)" } ?? "-verify_ip 127.0.0.1"
                let isRight = try await opensslAccepts(server.tlsPort, certificates.authority, flag)
                var tls = RedisConfiguration.TLS(authorityFile: certificates.authority)
                // Named, or in the URL.
                tls.serverName = expected
                let url = "rediss://127.0.0.1:\(server.tlsPort)"
                if isRight {
                    try await attempt(url, tls) { client async throws in
                        #expect(try await client.call("PING") == .status("PONG"), "\(names): \(flag)")
                    }
                } else {
                    try await expectRefusal(url, tls, mentions: "ertificate")
                }
            }
            #expect(try await server.cli("DBSIZE") == "0")
        }
    }

    @Test func `an expected address is held against the certificate's, not the peer's`() async throws {
        // As behind a tunnel.
        let certificates = try await TestCertificates.make(serverNames: "IP:10.0.0.9,IP:fd00::9")
        try await withRedis(tls: .init(certificates: certificates)) { server async throws in
            var tls = RedisConfiguration.TLS(authorityFile: certificates.authority)
            for address in ["10.0.0.9", "fd00::9"] {
                tls.serverName = address
                try await attempt(server.tlsURL, tls) { client async throws in
                    #expect(try await client.call("PING") == .status("PONG"))
                }
            }
            tls.serverName = "10.0.0.1"
            try await expectRefusal(server.tlsURL, tls, mentions: "not for the address 10.0.0.1")
        }
    }

    @Test(arguments: [
        ("redis.example.com", ["REDIS.example.COM"], true), ("redis.example.com.", ["redis.example.com"], true),
        ("redis.example.com", ["*.example.com"], true), ("a.redis.example.com", ["*.example.com"], false),
        ("example.com", ["*.example.com"], false), ("redis.internal", ["*.internal"], false), ("redis", ["*"], false),
        ("redis.example.com", ["r*.example.com"], false), ("redis.example.com", ["redis.*.com"], false),
        ("redis.example.com", ["other.example.com", "redis.example.com"], true), ("127.0.0.1", ["127.0.0.1"], false),
        ("a..com", ["*..com"], false), ("", [""], false),
    ])
    func `names match by whole labels`(expected: String, names: [String], matches: Bool) {
        #expect(ServerIdentity(expected).isAmong(names.map { .name(Array($0.utf8)) }) == matches)
        #expect(!ServerIdentity(expected).isAmong([.address([10, 0, 0, 1]), .other]))
    }

    @Test func `TLS and plain mixed up are told apart`() async throws {
        let certificates = try await TestCertificates.make()
        try await withRedis(tls: .init(certificates: certificates)) { server async throws in
            try await expectRefusal(
                "redis://127.0.0.1:\(server.tlsPort)", .init(), mentions: "give rediss://")
        }
    }

    @Test func `a server that asks for a client certificate gets it, and refuses who has none`() async throws {
        let certificates = try await TestCertificates.make()
        let settings = RedisServer.TLS(certificates: certificates, requiresClientCertificate: true)
        try await withRedis(tls: settings) { server async throws in
            var tls = RedisConfiguration.TLS(authorityFile: certificates.authority)
            try await expectRefusal(server.tlsURL, tls, mentions: "asks for a client certificate")
            tls.certificateFile = certificates.clientCertificate
            tls.privateKeyFile = certificates.clientKey
            try await attempt(server.tlsURL, tls) { client async throws in
                #expect(try await client.call("PING") == .status("PONG"))
            }
        }
    }

    @Test func `files that are missing are a configuration error at once, and plain text is no TLS`() async throws {
        try await withRedis { server async throws in
            let url = "rediss://localhost:\(server.port)"
            try await attempt(url, .init(authorityFile: "/nonexistent/ca.crt")) { client async throws in
                let error = await redisError { try await client.call("PING") }
                #expect(error?.code == .invalidConfiguration)
                #expect(error?.effect == RedisError.Effect.none)
                #expect(error?.message.contains("/nonexistent/ca.crt") == true)
            }
            try await expectRefusal(url, .init(), mentions: "last:")
        }
    }
}
