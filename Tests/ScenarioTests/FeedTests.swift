// SPDX-License-Identifier: Apache-2.0
//
// The scripts of the article Operating that feed a proxy, taken out of it and run: with real HAProxy and nginx where
// there is one.
import RingfenceOperations
import TestSupport
import Testing

extension Scenarios {
    @Suite("The feeds of a proxy") struct FeedTests {
        /// The block of the article that begins so, up to its end.
        private static func script(_ beginning: String) throws -> String {
            let source = #filePath.split(separator: "/").dropLast(3).reduce("") { "\($0)/\($1)" }
            let article = try contents(ofFile: "\(source)/Sources/Ringfence/Ringfence.docc/Operating.md")
            let start = try #require(article.firstRange(of: beginning))
            let rest = article[start.lowerBound...]
            return String(rest[..<(try #require(rest.firstRange(of: "```"))).lowerBound])
        }

        /// A service with the members `addresses`, whose ids are a, b, c and so on; none: no address. Returns its port.
        private static func serve(on stage: Stage, _ addresses: [String]) async throws -> Int {
            let port = try freePort()
            _ = try await stage.start(
                [
                    try builtExecutable("ringfence"), "serve", "--redis", stage.redis.url, "--port", "\(port)",
                    "--state-dir", stage.directory.path,
                ], log: "serve")
            try await eventually("the service answers", within: .seconds(60), every: .milliseconds(50)) {
                (try? await shell("curl -sf --noproxy '*' http://127.0.0.1:\(port)/readyz")) != nil
            }
            for (index, address) in addresses.enumerated() {
                let id = ["a", "b", "c", "d", "e"][index]
                try await shell(
                    """
                    curl -sf --noproxy '*' -X PUT -H 'Content-Type: application/json' \
                    -d '{"ttlMs":600000\(address.isEmpty ? "" : ",\"address\":\"\(address)\"")}' \
                    'http://127.0.0.1:\(port)/v1/groups/pool/members/\(id)'
                    """)
            }
            return port
        }

        /// As only an older version, or somebody with Redis' password, could have left it.
        private static func forge(_ address: String, of member: String, on stage: Stage) async throws {
            let record = #"{"session":"forged","leaseMs":600000,"address":"\#(address)","weight":1,"priority":0}"#
            _ = try await stage.redis.cli("HSET", "ringfence:{default}:members:pool", member, record)
        }

        @Test("HAProxy gets each member with a host and a port, names too, and what cannot be used is said")
        func haproxy() async throws {
            let stage = try await Stage("service")
            let web = try freePort()
            let front = try freePort()
            let directory = stage.directory.path
            let port = try await Self.serve(
                on: stage, ["127.0.0.1:\(web)", "localhost:\(web)", "", "redis://127.0.0.1:\(web)"])
            try write(
                """
                global
                    stats socket \(directory)/admin.sock mode 660 level admin
                defaults
                    mode http
                    timeout connect 1s
                    timeout client 5s
                    timeout server 5s
                frontend f
                    bind 127.0.0.1:\(front)
                    default_backend pool
                backend pool
                    balance roundrobin
                    server-template s 1-20 127.0.0.1:9 disabled

                """, to: stage.files + "/haproxy.cfg")
            try await stage.startProxy([])
            _ = try await stage.start(
                [stage.files + "/service.py", "127.0.0.1:\(web)", "web", directory + "/ledger"], log: "web")
            try await eventually("both answer", within: .seconds(60), every: .milliseconds(50)) {
                guard (try? await shell("test -S '\(directory)/admin.sock'")) != nil else { return false }
                return (try? await LoopbackHTTP.get("/pay", from: "127.0.0.1:\(web)", within: .seconds(2))) != nil
            }
            let feed = try Self.script("#!/bin/sh\n# Once a second")
                .replacing("http://127.0.0.1:7420", with: "http://127.0.0.1:\(port)")
                .replacing("/run/haproxy/admin.sock", with: "\(directory)/admin.sock")
            try write(feed, to: directory + "/feed.sh")
            let said = try await shell("no_proxy=127.0.0.1 sh '\(directory)/feed.sh' 2>&1; echo \"ended with $?\"")
            #expect(said.contains("pool: c has no address that can be used: -"), "\(said)")
            #expect(said.contains("pool: d has no address that can be used: redis://"), "\(said)")
            #expect(said.contains("ended with 1"), "\(said)")
            for _ in 0..<20 { try await LoopbackHTTP.get("/pay", from: "127.0.0.1:\(front)", within: .seconds(5)) }
            await stage.end()
        }

        @Test("nginx gets no address that is more than one, and a file that it refuses is taken back")
        func nginx() async throws {
            let stage = try await Stage("service")
            let directory = stage.directory.path
            let port = try await Self.serve(on: stage, ["127.0.0.1:8080", "10.0.0.2:8080"])
            try await Self.forge("10.0.0.9:80;} server{listen", of: "b", on: stage)
            try write(
                "error_log stderr; pid \(directory)/pid; events {} http { include \(directory)/pool.conf; }",
                to: directory + "/nginx.conf")
            let feed = try Self.script("#!/bin/sh\nset -eu\nexport LC_ALL=C\nfile=/etc/nginx")
                .replacing("http://127.0.0.1:7420", with: "http://127.0.0.1:\(port)")
                .replacing("/etc/nginx/conf.d", with: directory)
                .replacing("nginx -t", with: "nginx -t -c '\(directory)/nginx.conf'")
                .replacing("nginx -s reload", with: "echo reloads")
            try write(feed, to: directory + "/feed.sh")
            let run = "no_proxy=127.0.0.1 sh '\(directory)/feed.sh' 2>&1; echo \"ended with $?\""
            try await eventually("the forged member is in the list", within: .seconds(30)) {
                try await shell("curl -sf --noproxy '*' 'http://127.0.0.1:\(port)/v1/groups/pool/members?format=text'")
                    .contains("10.0.0.9:80;}")
            }
            let said = try await shell(run)
            #expect(said.contains("pool: b has no address that can be used"), "\(said)")
            #expect(said.contains("reloads\nended with 0"), "\(said)")
            let file = "upstream pool {\n    server 127.0.0.1:8080 weight=1;\n}\n"
            #expect(try contents(ofFile: directory + "/pool.conf") == file)
            // A name that cannot be resolved: nginx would not start with it, and the next reload of anything would
            // fail.
            try await Self.forge("no-such-host.invalid:80", of: "b", on: stage)
            try await eventually("the other name is in the list", within: .seconds(30)) {
                try await shell("curl -sf --noproxy '*' 'http://127.0.0.1:\(port)/v1/groups/pool/members?format=text'")
                    .contains("no-such-host")
            }
            let refused = try await shell(run)
            #expect(refused.contains("host not found in upstream"), "\(refused)")
            #expect(refused.contains("ended with 1"), "\(refused)")
            #expect(try contents(ofFile: directory + "/pool.conf") == file)
            await stage.end()
        }
    }
}
