// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Hiredis

@Suite struct ConnectionMachineTests {
    private static let second: Int64 = 1_000_000_000

    private func configuration(_ url: String = "redis://h") throws -> RedisConfiguration {
        try RedisConfiguration(url: url)
    }

    private func info(_ runID: String) -> RedisReply { .string(Array("# Server\r\nrun_id:\(runID)\r\n".utf8)) }
    private func error(_ message: String) -> RedisReply { .error(RedisServerError(message: message)) }

    /// The owner takes what the handshake has let through.
    private func admitted(
        _ machine: inout ConnectionMachine, _ action: ConnectionMachine.Action, now: Int64 = 0
    ) -> ConnectionMachine.Action {
        if case .admit = action { machine.admitted(now: now) } else { action }
    }

    /// Takes a fresh or backing-off machine through its handshake; returns the last action.
    private func shake(
        _ machine: inout ConnectionMachine, id: Int64, runID: String, now: Int64 = 0
    ) -> ConnectionMachine.Action {
        if machine.state == .idle { #expect(machine.start() == .connect) } else { _ = machine.backoffElapsed() }
        guard case .write = machine.opened() else { return .none }
        #expect(machine.received(.integer(id), now: now) == .none)
        #expect(machine.received(info(runID), now: now) == .none)
        return admitted(&machine, machine.received(.status("PONG"), now: now), now: now)
    }

    @Test func `the handshake is one write with what the configuration asks for`() throws {
        var full = try configuration("redis://u:p@h/3")
        full.clientName = "n"
        var machine = ConnectionMachine(full)
        _ = machine.start()
        #expect(
            machine.opened()
                == .write([
                    ["AUTH", "u", "p"], ["SELECT", "3"], ["CLIENT", "SETNAME", "n"], ["CLIENT", "ID"],
                    ["INFO"], ["PING"],
                ]))
        var plain = ConnectionMachine(try configuration())
        #expect(plain.opened() == .none)
        _ = plain.start()
        #expect(plain.start() == .none)
        #expect(plain.opened() == .write([["CLIENT", "ID"], ["INFO"], ["PING"]]))
    }

    @Test func `a server without room is waited for, whatever was asked first, and one that denies us is final`() throws
    {
        for url in ["redis://h", "redis://:pw@h", "redis://h/3"] {
            for (said, isFinal) in [
                ("ERR max number of clients reached", false),
                ("ERR max number of clients + cluster connections reached", false),
                ("DENIED Redis is running in protected mode", true), ("LOADING Redis is loading", false),
            ] {
                var machine = ConnectionMachine(try configuration(url))
                _ = machine.start()
                _ = machine.opened()
                guard case .drop(let failure, let isRefusal) = machine.received(error(said), now: 0) else {
                    Issue.record("\(said) was taken for an answer")
                    continue
                }
                #expect(isRefusal == isFinal, "\(url): \(said)")
                #expect(failure.server?.message == said && failure.effect == .none)
                #expect(machine.complaint?.message == said)
            }
        }
    }

    @Test func `what a server is like is known with its handshake`() throws {
        var machine = ConnectionMachine(try configuration())
        _ = machine.start()
        _ = machine.opened()
        _ = machine.received(.integer(1), now: 0)
        let text = "redis_mode:standalone\r\nrole:slave\r\nmaxmemory:3145728\r\nmaxmemory_policy:allkeys-lru\r\n"
        _ = machine.received(.string(Array(text.utf8)), now: 0)
        guard case .ready(let info, _) = admitted(&machine, machine.received(.status("PONG"), now: 0)) else {
            Issue.record("it is not ready")
            return
        }
        #expect(info.server?.role == "slave" && info.server?.mode == "standalone")
        #expect(info.server?.evictionPolicy == "allkeys-lru" && info.server?.memoryLimit == 3_145_728)
    }

    @Test func `only an unanswered command at the same server process makes the old connection be killed`() throws {
        for (unanswered, runID, kills) in [(true, "r1", true), (false, "r1", false), (true, "r2", false)] {
            var machine = ConnectionMachine(try configuration())
            guard case .ready = shake(&machine, id: 7, runID: "r1") else { return #expect(Bool(false)) }
            #expect(machine.lost(hadUnanswered: unanswered, now: 0, dice: 0) != nil)
            let action = shake(&machine, id: 8, runID: runID)
            if kills {
                #expect(action == .write([["CLIENT", "KILL", "ID", "7"]]))
                #expect(!machine.isReady)
                guard case .ready = admitted(&machine, machine.received(.integer(0), now: 0)) else {
                    return #expect(Bool(false))
                }
            }
            #expect(machine.isReady)
            #expect(machine.suspect == nil)
        }
    }

    @Test func `the suspect is remembered until a handshake has dealt with it`() throws {
        var machine = ConnectionMachine(try configuration())
        _ = shake(&machine, id: 7, runID: "r1")
        _ = machine.lost(hadUnanswered: true, now: 0, dice: 0)
        // Three attempts that end at different points.
        _ = machine.backoffElapsed()
        _ = machine.lost(hadUnanswered: false, now: 0, dice: 0)
        _ = machine.backoffElapsed()
        _ = machine.opened()
        _ = machine.lost(hadUnanswered: false, now: 0, dice: 0)
        #expect(shake(&machine, id: 8, runID: "r1") == .write([["CLIENT", "KILL", "ID", "7"]]))
        _ = machine.lost(hadUnanswered: false, now: 0, dice: 0)
        #expect(shake(&machine, id: 9, runID: "r1") == .write([["CLIENT", "KILL", "ID", "7"]]))
        guard case .ready(_, let warnings) = admitted(&machine, machine.received(error("NOPERM no"), now: 0)) else {
            return #expect(Bool(false))
        }
        #expect(warnings.count == 1)
    }

    @Test(arguments: [
        ("NOAUTH Authentication required.", true), ("LOADING Redis is loading", false), ("BUSY script", false),
        ("MASTERDOWN Link down", false),
    ])
    func `a refusal at PING is told at once only when waiting would not help`(reply: String, isRefusal: Bool) throws {
        var machine = ConnectionMachine(try configuration())
        _ = machine.start()
        _ = machine.opened()
        _ = machine.received(.integer(1), now: 0)
        _ = machine.received(info("r"), now: 0)
        guard case .drop(let failure, let refused) = machine.received(error(reply), now: 0) else {
            return #expect(Bool(false))
        }
        #expect(refused == isRefusal)
        #expect(failure.server?.message == reply)
        #expect(failure.effect == .none)
    }

    @Test func `what does not answer PONG is not Redis, and a reply too many is a violation`() throws {
        var machine = ConnectionMachine(try configuration())
        _ = machine.start()
        _ = machine.opened()
        let echo = RedisReply.array([.string(Array("PING".utf8))])
        #expect(machine.received(echo, now: 0) == .none)
        #expect(machine.received(echo, now: 0) == .none)
        guard case .drop(let failure, _) = machine.received(echo, now: 0) else { return #expect(Bool(false)) }
        #expect(failure.code == .protocolViolation)
        guard case .drop = machine.received(.ok, now: 0) else { return #expect(Bool(false)) }
    }

    @Test func `waits grow with quick losses and start anew after a connection that held`() throws {
        var machine = ConnectionMachine(try configuration())
        var waits: [Duration?] = []
        for _ in 0..<4 {
            _ = shake(&machine, id: 1, runID: "r")
            waits.append(machine.lost(hadUnanswered: false, now: 0, dice: 1))
        }
        #expect(waits == [.milliseconds(10), .milliseconds(20), .milliseconds(40), .milliseconds(80)])
        _ = shake(&machine, id: 1, runID: "r", now: Self.second)
        #expect(machine.lost(hadUnanswered: false, now: 3 * Self.second, dice: 1) == .milliseconds(10))
        machine.close()
        #expect(machine.lost(hadUnanswered: true, now: 0, dice: 0) == nil)
        #expect(machine.backoffElapsed() == .none)
        #expect(machine.start() == .none)
    }
}
