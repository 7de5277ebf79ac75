// SPDX-License-Identifier: Apache-2.0
import Hiredis
import TestSupport
import Testing

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
            try await expectRefusal(server.tlsURL, stranger, mentions: "CERTIFICATE_VERIFY_FAILED")
            try await expectRefusal(server.tlsURL, .init(), mentions: "CERTIFICATE_VERIFY_FAILED")
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

    @Test func `a server that asks for a client certificate gets it, and refuses who has none`() async throws {
        let certificates = try await TestCertificates.make()
        let settings = RedisServer.TLS(certificates: certificates, requiresClientCertificate: true)
        try await withRedis(tls: settings) { server async throws in
            var tls = RedisConfiguration.TLS(authorityFile: certificates.authority)
            try await expectRefusal(server.tlsURL, tls, mentions: "CERTIFICATE_REQUIRED")
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
