// SPDX-License-Identifier: Apache-2.0
//
// docker/examples/database, run for real: PostgreSQL killed, frozen, cut off from its group, and handed over, under
// writers that remember what they were told is committed.
import Ringfence
import RingfenceOperations
import RingfencePlatform
import TestSupport
import Testing

extension Scenarios {
    @Suite("A PostgreSQL pair", .serialized) struct DatabaseTests {
        /// What is done to the primary's machine.
        private enum Fault: CaseIterable {
            case database, agent, both, frozen
        }

        @Test("loses not one acknowledged commit in twenty kills of its primary, and rebuilds the old one each time")
        func twentyKills() async throws {
            try await PostgresPair.with(lease: "1s") { pair in
                let writers = Writers()
                try await PostgresWire.connect(port: pair.port).run(Writers.table)
                try await pair.stage.takeBrakeOff(PostgresPair.group)
                for writer in 1...3 { writers.start(writer, port: pair.port) }
                // Two more go past the proxy: whoever takes their commits at whatever time must not lose them.
                for (index, member) in pair.members.enumerated() { writers.start(11 + index, port: member.port) }
                let pgbench = try await pair.startPgbench()
                var losses: [Duration] = []
                do {
                    for round in 1...20 {
                        let fault = Fault.allCases[round % Fault.allCases.count]
                        let (primary, standby) = try await pair.inSync("before kill \(round), \(fault)")
                        try await writers.progress("before kill \(round)", writers: 1...3)
                        let database = primary.database
                        let agent = primary.agent
                        let start = ContinuousClock.now
                        switch fault {
                        case .database: database.signal(SIGKILL)
                        case .agent: agent.signal(SIGKILL)
                        case .both: (agent + database).signal(SIGKILL)
                        case .frozen: (agent + database).signal(SIGSTOP)
                        }
                        if round % 5 == 0 { try await pair.stage.redis.restart() }
                        let first = try await writers.progress("after kill \(round), \(fault)", writers: 1...3)
                        if fault == .both, round % 5 != 0 { losses.append(first - start) }
                        // Where Redis restarts too nobody is elected for a while, and the database that was killed is
                        // up again: then either may lead.
                        if !(fault == .database && round % 5 == 0) {
                            #expect(try await pair.primary() === standby, "kill \(round), \(fault)")
                        }
                        if fault == .frozen { (agent + database).signal(SIGCONT) }
                        if fault == .agent || fault == .both { try await pair.restartAgent(primary) }
                        let leader = try await pair.primary()
                        #expect(try await writers.lost(on: leader.port) == [], "kill \(round), \(fault)")
                    }
                    try await pair.inSync("at the end")
                } catch {
                    await writers.stop()
                    throw TestSupportError("\(error)\nthe writers' last failure: \(writers.lastComplaint)")
                }
                await writers.stop()
                #expect(try await writers.lost(on: pair.port) == [])
                #expect(writers.count > 1_000)
                report("postgres.loss.1000", losses, bar: .milliseconds(2_500))
                pgbench.signal(SIGTERM)
                _ = await pgbench.wait()
            }
        }

        @Test(
            "accepts writes within a lease and a promotion when a machine is lost, and sooner after a switchover"
        )
        func figures() async throws {
            try await PostgresPair.with(lease: "3s") { pair in
                let writers = Writers()
                try await PostgresWire.connect(port: pair.port).run(Writers.table)
                for writer in 1...3 { writers.start(writer, port: pair.port) }
                var gaps: [Duration] = []
                for round in 1...3 {
                    let (_, standby) = try await pair.inSync("before switchover \(round)")
                    try await writers.progress("before switchover \(round)")
                    let start = ContinuousClock.now
                    try await pair.stage.switchover(PostgresPair.group, to: standby.name)
                    try await writers.progress("after switchover \(round)")
                    #expect(try await pair.primary() === standby)
                    gaps.append(writers.longestGap(since: start))
                    #expect(try await writers.lost(on: standby.port) == [])
                }
                report("postgres.switchover", gaps, bar: .seconds(1))
                var losses: [Duration] = []
                for round in 1...3 {
                    let (primary, standby) = try await pair.inSync("before loss \(round)")
                    try await writers.progress("before loss \(round)")
                    let start = ContinuousClock.now
                    (primary.agent + primary.database).signal(SIGKILL)
                    let first = try await writers.progress("after loss \(round)")
                    losses.append(first - start)
                    #expect(try await pair.primary() === standby)
                    try await pair.restartAgent(primary)
                }
                report("postgres.loss.3000", losses, bar: .seconds(5))
                await writers.stop()
                #expect(try await writers.lost(on: pair.port) == [])
            }
        }

        @Test("lets commits wait for a lost standby, goes on alone only in a new reign, and lets no stale copy lead")
        func stale() async throws {
            try await PostgresPair.with(lease: "1s") { pair in
                let (primary, standby) = try await pair.inSync("at first")
                try await PostgresWire.connect(port: pair.port).run(Writers.table)
                // The standby's machine is lost: the primary waits for it, and acknowledges nothing alone.
                (standby.agent + standby.database).signal(SIGKILL)
                let writers = Writers()
                writers.start(1, port: pair.port)
                try await Task.sleep(for: .seconds(3))
                #expect(writers.count == 0)
                #expect(try await pair.primary() === primary)
                // A new reign, begun by a restart of the server, goes on without it.
                primary.database.signal(SIGKILL)
                try await writers.progress("alone")
                // The primary's machine is lost too, and the stale one comes back first: it must not lead.
                (primary.agent + primary.database).signal(SIGKILL)
                try await pair.restartAgent(standby)
                try await eventually("the stale copy was elected and refused", within: .seconds(60)) {
                    try await pair.stage.redis.cli("--raw", "XRANGE", "ringfence:{default}:events", "-", "+")
                        .contains("may lack commits")
                }
                #expect(await standby.status("/primary") == 503)
                let count = writers.count
                try await Task.sleep(for: .seconds(2))
                #expect(writers.count == count)
                // The one that has everything comes back.
                try await pair.restartAgent(primary)
                try await writers.progress("when it came back")
                let (new, _) = try await pair.inSync("when both are back")
                #expect(new === primary)
                await writers.stop()
                #expect(try await writers.lost(on: pair.port) == [])
            }
        }

        @Test("loses commits, as it must, when nobody asks whether a copy is stale: the control")
        func control() async throws {
            try await PostgresPair.with(lease: "1s", isChecked: false) { pair in
                let (primary, standby) = try await pair.inSync("at first")
                try await PostgresWire.connect(port: pair.port).run(Writers.table)
                (standby.agent + standby.database).signal(SIGKILL)
                let writers = Writers()
                writers.start(1, port: pair.port)
                primary.database.signal(SIGKILL)
                try await writers.progress("alone")
                (primary.agent + primary.database).signal(SIGKILL)
                try await pair.restartAgent(standby)
                try await writers.progress("on the stale copy")
                await writers.stop()
                #expect(try await !writers.lost(on: pair.port).isEmpty)
            }
        }
    }
}

extension PostgresPair {
    /// pgbench through the proxy, again and again: it gives up when its connection breaks.
    func startPgbench() async throws -> ChildProcess {
        let connect = "-h 127.0.0.1 -p \(port) -U postgres"
        try await shell("pgbench \(connect) -i -q -s 1 postgres")
        return try await stage.start(
            [
                "sh", "-c",
                "trap 'exit 0' TERM; while :; do pgbench \(connect) -n -c 2 -R 40 -T 3 postgres; sleep 0.2; done",
            ],
            log: "pgbench")
    }
}
