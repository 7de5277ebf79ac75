// SPDX-License-Identifier: Apache-2.0
//
// Groups at the command line.
import Ringfence
import TestSupport
import Testing

extension GroupTests {
    @Test func `the command line shows all groups and the members of one, as text and as JSON`() async throws {
        try await withRedis { redis in
            @Sendable func run(_ arguments: String...) async throws -> (code: Int32, output: String, error: String) {
                try await Program.run(arguments + ["--redis", redis.unixURL] + Self.patient)
            }
            #expect(try await run("groups").output == "there are no groups\n")
            let unknown = try await run("group", "ledger")
            #expect(unknown.code == 1 && unknown.output.isEmpty && unknown.error.contains("no group ledger"))
            try await withClient(redis) { client in
                let ledger = try await client.group("ledger")
                let one = try await ledger.join(
                    "node-1", address: "10.0.0.1:7000", zone: "a", weight: 2, priority: -3, lease: .seconds(3600))
                _ = try await ledger.join("node-2", weight: 0, lease: .seconds(3600))
                let left = try await client.group("empty").join("m", lease: .seconds(3600))
                try await left.leave()

                let groups = try await run("groups")
                #expect(groups.code == 0)
                #expect(
                    groups.output
                        == "GROUP   MEMBERS  VERSION  PRIMARY  EPOCH  PHASE\nempty   0        2\nledger  2        2\n")
                let lines = try await run("groups", "--json").output
                #expect(
                    lines == #"{"group":"empty","version":2,"members":0,"redis":"\#(redis.unixURL)"}"# + "\n"
                        + #"{"group":"ledger","version":2,"members":2,"redis":"\#(redis.unixURL)"}"# + "\n")

                let shown = try await run("group", "ledger")
                #expect(shown.code == 0 && shown.output.hasPrefix("ledger: 2 members, version 2\n"), "\(shown)")
                let rows = shown.output.split(separator: "\n").map { $0.split(separator: " ").map { String($0) } }
                try #require(rows.count == 4)
                #expect(rows[1].prefix(3) == ["MEMBER", "ADDRESS", "ZONE"])
                #expect(rows[2].prefix(5) == ["node-1", "10.0.0.1:7000", "a", "2", "-3"])
                #expect(rows[2].last == one.session)
                #expect(rows[3].prefix(3) == ["node-2", "0", "0"])
                let json = try await run("group", "ledger", "--json").output
                #expect(
                    json.hasPrefix(#"{"group":"ledger","version":2,"generation":""#) && json.contains(#""stale":false"#)
                )
                #expect(json.contains("\"session\":\"\(one.session)\"") && json.contains(#""remainingMs":"#))
                #expect(try await run("group", "empty").output == "empty: no members, version 2\n")
            }
        }
    }

    @Test func `what the command line cannot do it says, with the right exit code`() async throws {
        let away = "redis://127.0.0.1:1"
        for arguments in [["groups"], ["group", "g"]] {
            let run = try await Program.run(arguments + ["--redis", away])
            #expect(run.code == 69 && run.error.hasPrefix("ringfence: connection refused"), "\(run)")
        }
        let long = try await Program.run(["group", Self.long(513), "--redis", away])
        #expect(long.code == 64 && long.error.contains("1 to 512"), "\(long)")
        let none = try await Program.run(["group", "--redis", away])
        #expect(none.code == 64, "\(none)")
        for command in ["group", "groups"] {
            let help = try await Program.run([command, "--help"])
            #expect(help.code == 0 && help.output.contains("EXAMPLES") && help.output.contains("jq"), "\(help)")
        }
    }
}
