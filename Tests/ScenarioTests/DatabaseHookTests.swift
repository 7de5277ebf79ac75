// SPDX-License-Identifier: Apache-2.0
//
// Single hooks of docker/examples/database, run as an agent runs them, where the whole pair would show nothing more:
// whom they follow, and what they do with a server that hangs, or with what a loss of power left behind.
import RingfenceOperations
import RingfencePlatform
import TestSupport
import Testing

extension Scenarios {
    @Suite("The hooks of a PostgreSQL") struct DatabaseHookTests {
        /// One machine with its server, which runs in recovery.
        private struct Machine {
            let stage: Stage
            let home: TemporaryDirectory
            let port: Int
            var data: String { home.path + "/data" }

            static func with(hasServer: Bool = true, _ body: (Machine) async throws -> Void) async throws {
                let machine = Machine(
                    stage: try await Stage("database"), home: try TemporaryDirectory(), port: try freePort())
                if geteuid() == 0 { try await shell("chown postgres '\(machine.home.path)'") }
                do {
                    if hasServer { try await machine.run("init.sh", ["PG_CLIENTS=127.0.0.1/32"], expect: 0) }
                    try await body(machine)
                    try await machine.run("on-suspend.sh", expect: 0)
                } catch {
                    _ = try? await machine.run("on-suspend.sh")
                    await machine.stage.end()
                    throw error
                }
                await machine.stage.end()
            }

            /// Runs a hook; returns what it said.
            @discardableResult
            func run(_ hook: String, _ environment: [String] = [], expect status: Int32? = nil) async throws -> String {
                let settings =
                    [
                        "PGDATA=\(data)", "PG_SOCKET=\(home.path)", "RINGFENCE_MEMBER=db-1",
                        "RINGFENCE_ADDRESS=127.0.0.1:\(port)", "RINGFENCE_EPOCH=1",
                    ] + environment
                let words = (settings + ["\(stage.files)/\(hook)"])
                    .map { "'" + $0.replacing("'", with: "'\\''") + "'" }.joined(separator: " ")
                let said = try await shell("env \(words) 2>&1; echo \"ended with $?\"")
                if let status { #expect(said.hasSuffix("ended with \(status)\n"), "\(hook): \(said)") }
                return said
            }

            /// The process ids of its server.
            func server() async throws -> [Int32] {
                try await shell(
                    "for p in /proc/[0-9]*; do [ \"$p/cwd\" -ef '\(data)' ] && echo ${p#/proc/}; done; true"
                )
                .split { $0.isWhitespace }.compactMap { Int32($0) }
            }

            var postmaster: Int32? {
                (try? contents(ofFile: data + "/postmaster.pid"))?.split(separator: "\n").first.flatMap { Int32($0) }
            }
        }

        @Test("follow only members they were told of, and take an address for nothing but one")
        func follow() async throws {
            try await Machine.with(hasServer: false) { machine in
                for address in [
                    "127.0.0.1:5432 user=mallory", "h' application_name='x:1", "h;ALTER:1", "h:1\u{22}", "-h:1", "h",
                    "h:0",
                ] {
                    let said = try await machine.run(
                        "on-demote.sh", ["RINGFENCE_PRIMARY=db-2", "RINGFENCE_PRIMARY_ADDRESS=\(address)"], expect: 1)
                    #expect(said.contains("this is no HOST:PORT"), "\(said)")
                }
                let others: [(String, [String])] = [
                    ("db-3", []), ("", []), ("db-*", []), ("db-2", ["PG_MEMBERS=db-1 db-2=127.0.0.1:2"]),
                    ("db-2=127.0.0.1:1", ["PG_MEMBERS=db-1 db-2=127.0.0.1:2"]),
                ]
                for (member, settings) in others {
                    let said = try await machine.run(
                        "on-demote.sh",
                        ["RINGFENCE_PRIMARY=\(member)", "RINGFENCE_PRIMARY_ADDRESS=127.0.0.1:1"] + settings, expect: 1)
                    #expect(said.contains("is none of those to follow"), "\(said)")
                }
                // One it was told of is asked.
                let said = try await machine.run(
                    "on-demote.sh",
                    [
                        "RINGFENCE_PRIMARY=db-2", "RINGFENCE_PRIMARY_ADDRESS=127.0.0.1:1",
                        "PG_MEMBERS=db-1=127.0.0.1:2 db-2=127.0.0.1:1",
                    ])
                #expect(said.contains("Connection refused"), "\(said)")
            }
        }

        @Test("end a server whose first process hangs, with all its processes")
        func hangs() async throws {
            try await Machine.with { machine in
                let postmaster = try #require(machine.postmaster)
                #expect(try await machine.server().count > 1)
                kill(postmaster, SIGSTOP)
                try await machine.run("on-suspend.sh", expect: 0)
                #expect(try await machine.server() == [])
                // And it comes back, in recovery.
                try await machine.run("on-demote.sh", expect: 0)
                #expect(try await machine.server().count > 1)
            }
        }

        @Test("start a server whose lock files name a process that is another's since a loss of power")
        func stalePid() async throws {
            try await Machine.with { machine in
                let lines = try contents(ofFile: machine.data + "/postmaster.pid").split(
                    separator: "\n", omittingEmptySubsequences: false)
                try await machine.server().signal(SIGKILL)
                try await eventually("it has ended") { try await machine.server() == [] }
                // Somebody else's, of the same user: PostgreSQL sees no more than that it lives.
                var command = ["sleep", "1000"]
                if geteuid() == 0 {
                    command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"] + command
                }
                let other = try await machine.stage.start(command, log: "other")
                try write(
                    (["\(other.pid)"] + lines.dropFirst().map(String.init)).joined(separator: "\n"),
                    to: machine.data + "/postmaster.pid")
                try write(
                    "\(other.pid)\n\(machine.data)\n", to: machine.home.path + "/.s.PGSQL.\(machine.port).lock")
                let said = try await machine.run("on-demote.sh", expect: 0)
                #expect(said.contains("process \(other.pid) is no PostgreSQL of"), "\(said)")
                #expect(try await machine.server().count > 1)
                #expect(kill(other.pid, 0) == 0, "it is left alone")
                #expect(
                    try await shell(
                        "psql -XAtq -h '\(machine.home.path)' -p \(machine.port) -U postgres -c 'SHOW "
                            + "idle_in_transaction_session_timeout'"
                    ) == "10s\n", "who is stopped inside a transaction does not hold its locks for ever")
                // The lock of a server that runs is left alone too.
                let postmaster = machine.postmaster
                try await machine.run("on-demote.sh", expect: 0)
                #expect(machine.postmaster == postmaster)
            }
        }
    }
}
