// SPDX-License-Identifier: Apache-2.0
//
// Nodes of a Cluster that lie, are late, answer half, want a password, or send a client back to where it came from.
import Synchronization
import TestSupport
import Testing

@testable import Hiredis

@Suite struct ScriptedNodeTests {
    /// A primary that says that the node at `owner` has all slots, and answers everything else by `other`.
    private static func node(
        naming owner: String, _ other: @escaping ScriptedServer.Script = { $0[0] == "GET" ? "+here\r\n" : nil }
    ) -> ScriptedServer.Script {
        let parts = owner.split(separator: ":")
        let slots = RESP.array([
            RESP.array([
                ":0\r\n", ":16383\r\n", RESP.array([RESP.bulk(String(parts[0])), ":\(parts[1])\r\n"]),
            ])
        ])
        return { words in
            switch words[0] {
            case "INFO":
                RESP.bulk("run_id:\(owner)\r\nredis_mode:cluster\r\nrole:master\r\nredis_version:7.0.15\r\n")
            case "CLUSTER": other(words) ?? slots
            default: other(words)
            }
        }
    }

    private final class Count: Sendable {
        private let count = Atomic(0)
        func increment() { count.add(1, ordering: .relaxed) }
        var value: Int { count.load(ordering: .relaxed) }
    }

    private func withServers(_ count: Int, _ body: ([ScriptedServer], String) async throws -> Void) async throws {
        var servers: [ScriptedServer] = []
        for _ in 0..<count { servers.append(try await ScriptedServer.start { _ in nil }) }
        let url = "redis+cluster://\(servers.map(\.address).joined(separator: ","))"
        do { try await body(servers, url) } catch {
            for server in servers { await server.close() }
            throw error
        }
        for server in servers { await server.close() }
    }

    @Test func `one that answers half, one that is mute and one that wants a password keep nobody waiting`()
        async throws
    {
        let bad = ["*1\r\n*3\r\n:0\r\n", "", "-NOAUTH Authentication required.\r\n"]
        for answer in bad {
            try await withServers(2) { servers, url in
                let good = servers[1].address
                servers[0].say(Self.node(naming: good) { $0[0] == "CLUSTER" ? answer : nil })
                servers[1].say(Self.node(naming: good))
                try await withLocatedClient(url) { client, locator in
                    let said = try await client.call("GET", "k")
                    #expect(said == .status("here"))
                    #expect(locator.status.address.map { "\($0)" } == good)
                }
            }
        }
    }

    @Test func `one that names an owner where nobody listens is not believed for ever`() async throws {
        try await withServers(3) { servers, url in
            let good = servers[2].address
            let nobody = try await ScriptedServer.start { _ in nil }
            servers[0].say(Self.node(naming: nobody.address))
            await nobody.close()
            for server in servers.dropFirst() { server.say(Self.node(naming: good)) }
            try await withLocatedClient(url) { client, _ in
                let said = try await client.call("GET", "k")
                #expect(said == .status("here"))
            }
        }
    }

    @Test func `two that send a client back to one another are dialled once for each refusal, and it says why`()
        async throws
    {
        try await withServers(2) { servers, url in
            let (greetings, refusals) = (Count(), Count())
            for (server, other) in [(servers[0], servers[1]), (servers[1], servers[0])] {
                let address = other.address
                server.say(
                    Self.node(naming: address) { words in
                        if words[0] == "CLIENT" { greetings.increment() }
                        guard words[0] == "GET" else { return nil }
                        refusals.increment()
                        return "-MOVED 0 \(address)\r\n"
                    })
            }
            try await withLocatedClient(url, { $0.commandTimeout = .seconds(2) }) { client, _ in
                let result = await client.patiently { left in
                    do throws(RedisError) {
                        return .success(
                            try await client.send(deadline: left) { $0.command(["GET", "k"]) })
                    } catch { return .failure(error) }
                }
                guard case .failure(let error) = result else { throw TestSupportError("it is answered") }
                #expect(error.effect == .none || error.code == .timedOut, "\(error)")
            }
            let (dialled, refused) = (greetings.value, refusals.value)
            // A handshake has two commands CLIENT; a look greets nobody.
            #expect(refused > 1 && dialled <= 2 * (refused + 2), "\(dialled) greetings after \(refused) refusals")
        }
    }
}
