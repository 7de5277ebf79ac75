// SPDX-License-Identifier: Apache-2.0
//
// What a client does by what Sentinels say: the locator's machine under `redis+sentinel://`, with planted answers.
import Testing

@testable import Hiredis

@Suite struct SentinelSearchTests {
    private static let second: Int64 = 1_000_000_000
    private static func sentinel(_ host: String) -> RedisConfiguration.Address { .tcp(host: host, port: 26_379) }
    private static func redis(_ host: String) -> RedisConfiguration.Address { .tcp(host: host, port: 6379) }

    /// A machine, its clock, and what it wants.
    private struct Stage {
        var machine: LocatorMachine
        var now: Int64 = 0
        var look = 0
        var asked: [Question] = []
        var actions: [LocatorMachine.Action] = []

        init(_ hosts: [String], majority: RedisConfiguration.SentinelMajority = .preferred) {
            var configuration = RedisConfiguration(address: SentinelSearchTests.redis("unused"))
            configuration.place = .sentinels(hosts.map(SentinelSearchTests.sentinel), name: "main")
            configuration.sentinelMajority = majority
            configuration.watchInterval = .seconds(1)
            machine = LocatorMachine(configuration, search: Locator.search(configuration))
            send(.wanted)
        }

        mutating func send(_ event: LocatorMachine.Event) {
            let new = machine.handle(event, now: now, dice: 0.5)
            for case .ask(let look, let questions) in new {
                if look != self.look { asked = [] }
                self.look = look
                asked += questions
            }
            actions += new
        }

        /// The Sentinel answers what it was asked, in a look.
        mutating func say(_ host: String, _ primary: String, _ epoch: Int, others: Int = 2, look: Int? = nil) {
            let replies = PlantedSentinel.replies(primary, epoch: epoch, others: others, id: host)
            answer(host, .success(.replies(replies)), look)
        }

        /// And who the others are.
        mutating func say(_ host: String, _ primary: String, _ epoch: Int, knowing others: [String]) {
            let replies =
                PlantedSentinel.replies(primary, epoch: epoch, others: others.count)
                + PlantedSentinel.list(others.map { (id: $0, host: $0) }, id: host)
            answer(host, .success(.replies(replies)), nil)
        }

        mutating func answer(_ host: String, _ result: Result<Answer, RedisError>, _ look: Int? = nil) {
            let source = SentinelSearchTests.sentinel(host)
            send(.answered(look: look ?? self.look, .sentinel(source, withList: false), result))
        }

        mutating func greet(_ process: String) {
            var info = ConnectionInfo()
            info.runID = process
            send(.greeted(generation: machine.place?.generation ?? 0, info))
        }

        /// Time goes on, and what is due is done.
        mutating func pass(_ nanoseconds: Int64) {
            let end = now + nanoseconds
            while machine.wakeAt <= end {
                now = max(now, machine.wakeAt)
                send(.tick)
            }
            now = end
        }

        var sources: [String] {
            asked.compactMap { if case .sentinel(.tcp(let host, _), _) = $0 { host } else { nil } }.sorted()
        }
        var address: RedisConfiguration.Address? { machine.place?.route.address }
        var standing: SentinelStanding? { machine.search.standing }
        var hasLeft: Bool { actions.contains { if case .leave = $0 { true } else { false } } }
    }

    private func settled(majority: RedisConfiguration.SentinelMajority = .preferred) -> Stage {
        var stage = Stage(["s1", "s2", "s3"], majority: majority)
        for (host, others) in [("s1", ["s2", "s3"]), ("s2", ["s1", "s3"]), ("s3", ["s1", "s2"])] {
            stage.say(host, "a", 7, knowing: others)
        }
        stage.greet("process a")
        stage.actions = []
        return stage
    }

    @Test func `all are asked, and more than half are believed before the last has answered`() {
        var stage = Stage(["s1", "s2", "s3"])
        #expect(stage.sources == ["s1", "s2", "s3"])
        stage.say("s1", "a", 7)
        #expect(stage.address == nil)
        stage.say("s3", "a", 7)
        #expect(stage.address == Self.redis("a"))
        #expect(stage.machine.place?.epoch == 7)
    }

    @Test func `one alone is believed only when the others were given time`() {
        var stage = Stage(["s1", "s2", "s3"])
        stage.say("s1", "a", 7)
        stage.pass(499_000_000)
        #expect(stage.address == nil)
        stage.pass(1_000_000)
        #expect(stage.address == Self.redis("a"))
    }

    @Test func `those that are found are asked in the same look`() {
        var stage = Stage(["s1"])
        #expect(stage.sources == ["s1"])
        stage.say("s1", "old", 7, knowing: ["s2", "s3"])
        #expect(stage.sources == ["s1", "s2", "s3"])
        #expect(stage.address == nil)
        stage.say("s2", "new", 8)
        stage.say("s3", "new", 8)
        #expect(stage.address == Self.redis("new"))
    }

    @Test func `the answer of the one that knows of a later failover is followed, though it comes after the look`() {
        var stage = Stage(["s1", "s2", "s3"])
        stage.say("s1", "old", 7)
        stage.say("s2", "old", 7)
        let look = stage.look
        stage.greet("process old")
        #expect(stage.address == Self.redis("old"))
        stage.say("s3", "new", 8, look: look)
        // It is a reason to look again, not yet one to move.
        #expect(stage.look == look + 1)
        stage.say("s3", "new", 8)
        #expect(stage.hasLeft)
        #expect(stage.address == Self.redis("new"))
    }

    @Test func `news of one Sentinel is followed at once, against those that have not heard of it`() {
        var stage = settled()
        stage.send(.announced(by: Self.sentinel("s2")))
        #expect(stage.sources == ["s1", "s2", "s3"])
        stage.say("s1", "a", 7)
        #expect(!stage.hasLeft)
        stage.say("s2", "b", 8)
        #expect(stage.hasLeft)
        #expect(stage.address == Self.redis("b"))
        stage.greet("process b")
        stage.actions = []
        // The others say the same a moment later, and one of them still the old: nothing happens.
        stage.pass(Self.second)
        stage.say("s1", "b", 8)
        stage.say("s3", "a", 7)
        stage.say("s2", "b", 8)
        #expect(!stage.hasLeft)
        #expect(stage.address == Self.redis("b"))
    }

    @Test func `one that is just changing its mind is asked again`() {
        var stage = Stage(["s1"])
        stage.answer("s1", .success(.replies(PlantedSentinel.replies("a", epoch: 8, after: "b", others: 0))))
        #expect(stage.sources == ["s1", "s1"])
        stage.say("s1", "b", 8, others: 0)
        #expect(stage.address == Self.redis("b"))
    }

    @Test func `without any Sentinel a place that works is kept`() {
        var stage = settled()
        let refused = RedisError(.connectFailed, effect: .none, "connection refused", fault: .refused)
        for _ in 0..<60 {
            let look = stage.look
            stage.pass(Self.second)
            #expect(stage.look > look)
            for host in ["s1", "s2", "s3"] { stage.answer(host, .failure(refused)) }
        }
        #expect(!stage.hasLeft)
        #expect(stage.standing == SentinelStanding(answering: 0, known: 3))
    }

    @Test func `a place that was lost is not found where nobody answers, and why is told`() {
        var stage = Stage(["s1", "s2"])
        stage.answer("s1", .success(.replies([.null, .null, .null])))
        stage.pass(500_000_000)
        #expect(stage.address == nil)
        #expect(stage.machine.plight?.message.contains("watches no primary that is called \"main\"") == true)
        #expect(stage.machine.plight?.message.contains("no answer from s2:26379") == true)
    }

    @Test func `a settled client, which knows who answers, asks each Sentinel three things a second`() {
        var stage = settled()
        var commands = 0
        for _ in 0..<600 {
            let look = stage.look
            stage.pass(100_000_000)
            if stage.look == look { continue }
            for case .sentinel(_, let withList) in stage.asked {
                commands +=
                    SentinelAnswer.question(
                        about: "main", withList: withList, withID: false
                    ).count
            }
            for host in ["s1", "s2", "s3"] { stage.say(host, "a", 7) }
        }
        // A minute, three Sentinels, and dice in the middle.
        #expect(commands <= 60 * 3 * 3)
        #expect(commands > 50 * 3 * 3)
    }

    @Test(arguments: [RedisConfiguration.SentinelMajority.preferred, .required])
    func `a Sentinel that was set up anew and answers first leads nowhere`(
        majority: RedisConfiguration.SentinelMajority
    ) {
        var stage = Stage(["s1", "s2", "s3"], majority: majority)
        stage.say("s1", "a", 0, others: 0)
        #expect(stage.address == nil)
        stage.say("s2", "b", 7)
        stage.say("s3", "b", 7)
        #expect(stage.address == Self.redis("b"))
    }

    @Test func `one that suddenly knows nobody is no majority in the look in which it says so`() {
        var stage = Stage(["s1"])
        stage.say("s1", "a", 0, knowing: ["s2", "s3"])
        stage.say("s2", "a", 0, knowing: ["s1", "s3"])
        stage.greet("process a")
        stage.actions = []
        stage.pass(Self.second)
        stage.say("s1", "b", 0, others: 0)
        #expect(!stage.hasLeft)
        #expect(stage.address == Self.redis("a"))
    }

    @Test func `a primary that was made anew is found by one Sentinel alone, when it has said so for ten seconds`() {
        // The others announce addresses that cannot be reached from here.
        var stage = Stage(["s1"])
        stage.say("s1", "a", 4, others: 2)
        stage.greet("one")
        let generation = stage.machine.place?.generation ?? 0
        let lost = RedisError(.connectionLost, effect: .unknown, "gone")
        stage.send(.lost(generation: generation, lost, wasReady: true))
        // The same epoch, another address: no failover that was voted on.
        for _ in 0..<12 {
            #expect(stage.machine.place == nil, "after \(stage.now / Self.second) s")
            while stage.look == 0 || !stage.machine.isRunning(look: stage.look) {
                stage.pass(stage.machine.wakeAt - stage.now)
            }
            stage.say("s1", "b", 4, others: 2)
            stage.pass(Self.second)
            if stage.machine.place != nil { break }
        }
        #expect(stage.now >= 10 * Self.second)
        #expect(stage.machine.place?.route.address == Self.redis("b"))
    }

    @Test func `under one epoch a minority moves nobody when the others are late, and a majority does`() {
        var stage = settled()
        stage.pass(Self.second)
        stage.say("s2", "b", 7)
        stage.pass(1_100_000_000)
        #expect(!stage.hasLeft)
        #expect(stage.address == Self.redis("a"))
        stage.pass(Self.second)
        stage.say("s2", "b", 7)
        stage.say("s3", "b", 7)
        #expect(stage.hasLeft)
        #expect(stage.address == Self.redis("b"))
    }

    // MARK: Again after a close

    private func reply(_ search: inout SentinelSearch, _ host: String, _ primary: String, _ epoch: Int) -> SearchStep {
        search.answered(
            .sentinel(Self.sentinel(host), withList: false),
            .success(.replies(PlantedSentinel.replies(primary, epoch: epoch, id: host))))
    }

    @Test func `a client that comes back after a close does not go below what it knew`() {
        var configuration = RedisConfiguration(address: Self.redis("unused"))
        configuration.sentinelMajority = .required
        var search = SentinelSearch(configuration, ["s1", "s2", "s3"].map(Self.sentinel), name: "main")
        _ = search.begin(current: nil)
        _ = reply(&search, "s1", "a", 7)
        guard case .found = reply(&search, "s2", "a", 7) else { return #expect(Bool(false), "a was not found") }
        // A majority falls behind, is heard twice, and all is closed for an hour.
        for second in 1...2 {
            search.clock(Int64(second) * Self.second)
            _ = search.begin(current: nil)
            for host in ["s1", "s3"] { _ = reply(&search, host, "old", 6) }
        }
        let again = 3600 * Self.second
        search.clock(again)
        guard case .ask(let questions) = search.begin(current: nil) else {
            return #expect(Bool(false), "nobody is asked")
        }
        #expect(Set(questions) == Set(["s1", "s2", "s3"].map { Question.sentinel(Self.sentinel($0), withList: true) }))
        #expect(search.standing == SentinelStanding(known: 3))
        #expect(search.view.highestEpoch == 7)
        // The first answer does not say yet that the others are silent.
        let first = reply(&search, "s1", "old", 6)
        #expect(first == .wait)
        #expect(search.standing?.refusal == nil)
        let second = reply(&search, "s3", "old", 6)
        #expect(second == .wait)
        search.clock(again + Self.second / 2)
        guard case .nothing = search.timedOut() else { return #expect(Bool(false), "an old place was found") }
        search.clock(again + Self.second)
        _ = search.begin(current: nil)
        #expect(search.view.highestEpoch == 7)
        _ = reply(&search, "s2", "a", 7)
        guard case .found(let sighting) = reply(&search, "s1", "a", 7) else {
            return #expect(Bool(false), "a was not found again")
        }
        #expect(sighting.route.address == Self.redis("a"))
    }

    // MARK: A majority is required

    @Test func `where a majority is required, fewer lead nowhere`() {
        var stage = Stage(["s1", "s2", "s3"], majority: .required)
        stage.say("s1", "a", 7)
        stage.pass(500_000_000)
        #expect(stage.address == nil)
        #expect(stage.machine.plight?.fault == .noMajority)
        #expect(stage.machine.plight?.message.contains("1 of 3 Sentinels") == true)
        // Anything that is due: the next look.
        stage.pass(Self.second)
        stage.say("s1", "a", 7)
        stage.say("s2", "a", 7)
        #expect(stage.address == Self.redis("a"))
        #expect(stage.standing?.refusal == nil)
    }

    @Test func `where a majority is required and is silent, the place is kept, and nothing new is to be had there`() {
        var stage = settled(majority: .required)
        for second in 1...6 {
            stage.pass(Self.second)
            stage.say("s1", "a", 7)
            stage.pass(500_000_000)
            #expect((stage.standing?.refusal != nil) == (second > 1), "in look \(second)")
        }
        #expect(!stage.hasLeft)
        #expect(stage.standing?.answering == 1)
        #expect(stage.standing?.refusal?.message.contains("1 of 3 Sentinels of \"main\" answer") == true)
        // A connection that broke goes back there, for what is held is renewed.
        stage.send(.lost(generation: 1, RedisError(.connectionLost, effect: .unknown, "lost"), wasReady: true))
        stage.pass(Self.second)
        stage.say("s1", "a", 7)
        stage.pass(Self.second)
        #expect(stage.address == Self.redis("a"))
        stage.greet("process a")
        stage.pass(Self.second)
        stage.say("s1", "a", 7)
        stage.say("s3", "a", 7)
        #expect(stage.standing?.refusal == nil)
    }
}
