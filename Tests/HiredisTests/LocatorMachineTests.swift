// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Hiredis

@Suite struct LocatorMachineTests {
    private typealias Address = RedisConfiguration.Address
    private static let second: Int64 = 1_000_000_000

    /// A machine, the time, and what it said.
    private struct Story {
        var machine: LocatorMachine
        var now: Int64 = 0

        init(_ url: String) throws {
            let configuration = try RedisConfiguration(url: url)
            machine = LocatorMachine(configuration, search: Locator.search(configuration))
        }

        mutating func tell(_ event: LocatorMachine.Event) -> [LocatorMachine.Action] {
            machine.handle(event, now: now, dice: 0.5)
        }

        /// Goes to where something is due.
        mutating func passTime() -> [LocatorMachine.Action] {
            now = max(now, machine.wakeAt)
            return tell(.tick)
        }

        var generation: Int { machine.place?.generation ?? 0 }

        /// A connection arrives at the place.
        mutating func greet(_ process: String?, role: String = "master") -> [LocatorMachine.Action] {
            tell(.greeted(generation: generation, greeting(process)))
        }
    }

    private static func address(_ host: String, _ port: Int = 6379) -> Address { .tcp(host: host, port: port) }

    private func offered(_ actions: [LocatorMachine.Action]) -> Address? {
        for case .offer(let place) in actions { return place.route.address }
        return nil
    }

    private func look(_ actions: [LocatorMachine.Action]) -> (number: Int, questions: [Question]) {
        for action in actions {
            if case .ask(let look, let questions) = action { return (look, questions) }
            if case .resolve(let look, _, _) = action { return (look, []) }
        }
        return (0, [])
    }

    private func hasLeft(_ actions: [LocatorMachine.Action]) -> Bool {
        actions.contains { if case .leave = $0 { true } else { false } }
    }

    @Test func `an address is offered at once, settled by the first greeting, and never looked at again`() throws {
        var story = try Story("redis://10.0.0.1:7000")
        #expect(offered(story.tell(.wanted)) == Self.address("10.0.0.1", 7000))
        let actions = story.greet("a")
        #expect(actions.contains(.admit(generation: 1)))
        #expect(actions.contains { if case .settle = $0 { true } else { false } })
        #expect(story.greet("a") == [.admit(generation: 1)])
        #expect(story.machine.wakeAt == .max)
    }

    @Test func `a place is left when its last connection is lost, and offered again after a pause`() throws {
        var story = try Story("redis://10.0.0.1")
        let lost = RedisError(.connectionLost, effect: .unknown, "it is gone")
        _ = story.tell(.wanted)
        _ = story.greet("a")
        _ = story.greet("a")
        #expect(story.tell(.lost(generation: 1, lost, wasReady: true)) == [])
        #expect(story.machine.place != nil)
        // Those that dial there at this moment leave too.
        #expect(story.tell(.lost(generation: 1, lost, wasReady: true)) == [.leave(lost), .plight(lost)])
        #expect(story.machine.place == nil)
        #expect(story.machine.departure == .lost)
        #expect(story.tell(.wanted) == [], "it pauses")
        #expect(offered(story.passTime()) == Self.address("10.0.0.1"))
        #expect(story.generation == 2)
        // Nothing of the old place counts any more.
        #expect(story.tell(.lost(generation: 1, lost, wasReady: true)) == [])
        #expect(story.tell(.greeted(generation: 1, greeting("a"))) == [.reject(generation: 1)])
    }

    @Test func `a name is looked up often for some seconds, for nobody tells when it leads elsewhere`() {
        let name = ServerSearch(.tcp(host: "redis.example", port: 6379), watchInterval: .seconds(5))
        #expect(name.longestPause(afterFailures: 10) == .milliseconds(250))
        #expect(name.longestPause(afterFailures: 100) == nil)
        let address = ServerSearch(.tcp(host: "10.0.0.1", port: 6379), watchInterval: .seconds(5))
        #expect(address.longestPause(afterFailures: 10) == nil)
    }

    @Test func `pauses grow while nothing answers, and are short again after a place that held`() throws {
        var story = try Story("redis://10.0.0.1")
        let refused = RedisError(.connectFailed, effect: .none, "refused", fault: .refused)
        _ = story.tell(.wanted)
        var pauses: [Int64] = []
        for _ in 0..<12 {
            _ = story.tell(.lost(generation: story.generation, refused, wasReady: false))
            #expect(story.machine.plight == refused)
            let before = story.now
            #expect(offered(story.passTime()) != nil)
            pauses.append(story.now - before)
        }
        #expect(pauses.first == 5_000_000 && pauses.last == 500_000_000 && pauses == pauses.sorted())
        _ = story.greet("a")
        story.now += 2 * Self.second
        let before = story.now
        _ = story.tell(.lost(generation: story.generation, refused, wasReady: true))
        _ = story.passTime()
        #expect(story.now - before == 5_000_000)
    }

    @Test func `another server at the same address makes all connections leave`() throws {
        var story = try Story("redis://10.0.0.1")
        _ = story.tell(.wanted)
        _ = story.greet("a")
        let actions = story.greet("b")
        #expect(hasLeft(actions) && !actions.contains(.admit(generation: 1)))
        #expect(story.machine.departure == .replaced)
        #expect(offered(story.passTime()) != nil)
        #expect(story.greet("b").contains(.admit(generation: 2)))
    }

    @Test func `where a server does not say which it is, the loss of one connection makes all leave`() throws {
        var story = try Story("redis://10.0.0.1")
        _ = story.tell(.wanted)
        _ = story.greet(nil)
        _ = story.greet(nil)
        let lost = RedisError(.connectionLost, effect: .unknown, "it is gone")
        #expect(hasLeft(story.tell(.lost(generation: 1, lost, wasReady: true))))
    }

    @Test func `a refusal that means elsewhere makes all leave, and counts once`() throws {
        var story = try Story("redis://10.0.0.1")
        _ = story.tell(.wanted)
        _ = story.greet("a")
        let readOnly = RedisServerError(message: "READONLY You can't write against a read only replica.")
        #expect(hasLeft(story.tell(.refused(generation: 1, readOnly))))
        #expect(story.machine.departure == .redirected)
        #expect(story.tell(.refused(generation: 1, readOnly)) == [])
    }

    // MARK: names

    @Test func `of several addresses of a name the primary is taken, whichever answers first`() throws {
        var story = try Story("redis://redis.example")
        let (number, _) = look(story.tell(.wanted))
        let addresses = [Self.address("10.0.0.1"), Self.address("10.0.0.2")]
        let (asked, questions) = look(story.tell(.resolved(look: number, .success(addresses))))
        #expect(asked == number && questions.count == 2)
        let replica = RedisError(.connectFailed, effect: .none, "a replica", fault: .replica)
        #expect(story.tell(.answered(look: number, questions[0], .failure(replica))) == [])
        let found = story.tell(.answered(look: number, questions[1], .success(.greeting(greeting("b")))))
        #expect(offered(found) == Self.address("10.0.0.2"))
        #expect(story.machine.place?.route.name == "redis.example")
    }

    @Test func `a name with one address is dialled without a question`() throws {
        var story = try Story("redis://redis.example")
        let (number, _) = look(story.tell(.wanted))
        let actions = story.tell(.resolved(look: number, .success([Self.address("10.0.0.1")])))
        #expect(offered(actions) == Self.address("10.0.0.1"))
    }

    @Test func `a name that moved is followed while the old server lives, if a primary answers there`() throws {
        var story = try Story("redis://redis.example")
        _ = story.tell(.wanted)
        _ = story.tell(.resolved(look: 1, .success([Self.address("10.0.0.1")])))
        _ = story.greet("a")
        // The same address: nothing happens.
        var (number, _) = look(story.passTime())
        #expect(story.tell(.resolved(look: number, .success([Self.address("10.0.0.1")]))) == [])
        // Another one where no primary answers: commands go on here.
        (number, _) = look(story.passTime())
        var asked = look(story.tell(.resolved(look: number, .success([Self.address("10.0.0.2")]))))
        let refused = RedisError(.connectFailed, effect: .none, "refused", fault: .refused)
        #expect(story.tell(.answered(look: number, asked.questions[0], .failure(refused))) == [])
        #expect(story.generation == 1)
        // The same server by another address.
        (number, _) = look(story.passTime())
        asked = look(story.tell(.resolved(look: number, .success([Self.address("10.0.0.3")]))))
        #expect(story.tell(.answered(look: number, asked.questions[0], .success(.greeting(greeting("a"))))) == [])
        // Another primary.
        (number, _) = look(story.passTime())
        asked = look(story.tell(.resolved(look: number, .success([Self.address("10.0.0.2")]))))
        let moved = story.tell(.answered(look: number, asked.questions[0], .success(.greeting(greeting("b")))))
        #expect(hasLeft(moved) && offered(moved) == Self.address("10.0.0.2"))
        #expect(story.machine.departure == .found)
    }

    @Test func `a name that cannot be resolved leaves a settled place alone`() throws {
        var story = try Story("redis://redis.example")
        let failure = RedisError(.connectFailed, effect: .none, "not found", fault: .nameNotFound)
        _ = story.tell(.wanted)
        #expect(story.tell(.resolved(look: 1, .failure(failure))) == [.plight(failure)])
        let (number, _) = look(story.passTime())
        _ = story.tell(.resolved(look: number, .success([Self.address("10.0.0.1")])))
        _ = story.greet("a")
        let check = look(story.passTime())
        #expect(story.tell(.resolved(look: check.number, .failure(failure))) == [])
        #expect(story.machine.place != nil)
    }

    @Test func `answers to an older look do not count`() throws {
        var story = try Story("redis://redis.example")
        _ = story.tell(.wanted)
        let late = story.machine.wakeAt
        story.now = late
        _ = story.tell(.tick)
        #expect(story.machine.plight?.fault == .silent)
        _ = story.passTime()
        #expect(story.tell(.resolved(look: 1, .success([Self.address("10.0.0.1")]))) == [])
    }

    // MARK: lists

    @Test func `of a list the one primary is taken, and two are a plight unless only one has replicas`() throws {
        var story = try Story("redis+replicated://10.0.0.1,10.0.0.2,10.0.0.3")
        var (number, questions) = look(story.tell(.wanted))
        #expect(questions.count == 3)
        let replica = RedisError(.connectFailed, effect: .none, "10.0.0.3 is a replica", fault: .replica)
        _ = story.tell(.answered(look: number, questions[0], .success(.greeting(greeting("a")))))
        _ = story.tell(.answered(look: number, questions[1], .success(.greeting(greeting("b")))))
        let torn = story.tell(.answered(look: number, questions[2], .failure(replica)))
        guard case .plight(let error)? = torn.first else { return #expect(Bool(false), "\(torn)") }
        #expect(error.message.contains("10.0.0.1:6379 and 10.0.0.2:6379 are both primaries"))
        (number, questions) = look(story.passTime())
        _ = story.tell(.answered(look: number, questions[0], .success(.greeting(greeting("a")))))
        _ = story.tell(.answered(look: number, questions[1], .success(.greeting(greeting("b", replicas: 1)))))
        let found = story.tell(.answered(look: number, questions[2], .failure(replica)))
        #expect(offered(found) == Self.address("10.0.0.2"))
    }

    @Test func `a host of a list that does not answer does not keep the others waiting`() throws {
        var story = try Story("redis+replicated://10.0.0.1,10.0.0.2")
        let (number, questions) = look(story.tell(.wanted))
        _ = story.tell(.answered(look: number, questions[1], .success(.greeting(greeting("b")))))
        #expect(story.machine.wakeAt == 500_000_000)
        #expect(offered(story.passTime()) == Self.address("10.0.0.2"))
    }
}

private func greeting(_ process: String?, replicas: Int = 0) -> ConnectionInfo {
    var server = ServerState()
    (server.role, server.connectedReplicas) = ("master", replicas)
    var info = ConnectionInfo()
    (info.runID, info.server) = (process, server)
    return info
}
