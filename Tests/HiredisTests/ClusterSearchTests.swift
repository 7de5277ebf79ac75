// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Hiredis

/// Three primaries, 1 to 3, each with a replica, 4 to 6; the slot that is looked for is the first's.
@Suite struct ClusterSearchTests {
    private static func node(_ number: Int) -> RedisConfiguration.Address { .tcp(host: "10.0.0.\(number)", port: 6379) }

    private static func search(_ seeds: [Int] = [1, 2, 3]) -> ClusterSearch {
        ClusterSearch(seeds.map(node), view: ClusterView(namespace: "default"), watchInterval: .seconds(15))
    }

    /// What a node says that takes `owner` for the owner of the slot (0: nobody is).
    private static func slots(_ owner: Int) -> Result<Answer, RedisError> {
        let slot = Int64(ClusterView.slot(ofTag: "default"))
        func range(_ first: Int64, _ last: Int64, _ nodes: Int...) -> RedisReply {
            .array(
                [.integer(first), .integer(last)]
                    + nodes.map { .array([.string(Array("10.0.0.\($0)".utf8)), .integer(6379)]) })
        }
        let others = [range(0, slot - 1, 2, 5), range(slot + 1, 16_383, 3, 6)]
        return .success(.replies([.array(others + (owner == 0 ? [] : [range(slot, slot, owner)]))]))
    }

    private static let refused = Result<Answer, RedisError>.failure(
        RedisError(.connectFailed, effect: .none, "connection refused", fault: .refused))

    private func asked(_ step: SearchStep) -> Set<RedisConfiguration.Address> {
        guard case .ask(let questions) = step else { return [] }
        return Set(
            questions.compactMap { if case .slots(let node) = $0 { node } else { nil } })
    }

    /// Who is greeted.
    private func dialled(_ step: SearchStep) -> RedisConfiguration.Address? {
        guard case .ask(let questions) = step, questions.count == 1, case .greet(let route) = questions[0] else {
            return nil
        }
        return route.address
    }

    private static func greet(_ number: Int) -> Question { .greet(Route(node(number))) }

    private static func greeting(_ process: String?) -> Result<Answer, RedisError> {
        var info = ConnectionInfo()
        info.runID = process
        return .success(.greeting(info))
    }

    private func found(_ step: SearchStep) -> RedisConfiguration.Address? {
        if case .found(let sighting) = step { sighting.route.address } else { nil }
    }

    private func plight(_ step: SearchStep) -> String? {
        if case .nothing(let error) = step { error.message } else { nil }
    }

    /// A search that has found the first node.
    private func settled(_ seeds: [Int] = [1, 2, 3]) -> ClusterSearch {
        var search = Self.search(seeds)
        _ = search.begin(current: nil)
        #expect(found(search.answered(.slots(Self.node(seeds[0])), Self.slots(1))) == Self.node(1))
        return search
    }

    @Test func `at first three nodes are asked, and any answer is followed`() {
        var search = Self.search([1, 2, 3, 4])
        let first = asked(search.begin(current: nil))
        #expect(first.count == 3)
        #expect(found(search.answered(.slots(first.first!), Self.slots(1))) == Self.node(1))
        // One that was not asked in this look has no say.
        #expect(search.answered(.slots(Self.node(9)), Self.slots(9)) == .wait)
    }

    @Test func `while nobody answers all nodes are asked, the seeds too`() {
        var search = Self.search([7, 8, 9])
        var step = search.begin(current: nil)
        #expect(found(search.answered(.slots(asked(step).first!), Self.slots(1))) == Self.node(1))
        step = search.begin(current: nil)
        var all: Set<RedisConfiguration.Address> = []
        while true {
            let nodes = asked(step)
            if nodes.isEmpty { break }
            #expect(all.isDisjoint(with: nodes))
            all.formUnion(nodes)
            for node in nodes { step = search.answered(.slots(node), Self.refused) }
        }
        #expect(all == Set([1, 2, 3, 5, 6, 7, 8, 9].map(Self.node)))
        #expect(plight(step) == "connection refused")
    }

    @Test func `the owner that was lost is gone back to only when it answers`() {
        var search = settled()
        var nodes = asked(search.begin(current: nil))
        #expect(nodes.contains(Self.node(1)))
        for node in nodes where node != Self.node(1) {
            #expect(search.answered(.slots(node), Self.slots(1)) == .wait)
        }
        let step = search.answered(.slots(Self.node(1)), Self.refused)
        #expect(plight(step)?.contains("10.0.0.1:6379, which has slot \(ClusterView.slot(ofTag: "default"))") == true)
        // A silent one: the look ends with the same.
        nodes = asked(search.begin(current: nil))
        #expect(search.answered(.slots(nodes.first { $0 != Self.node(1) }!), Self.slots(1)) == .wait)
        #expect(plight(search.timedOut())?.contains("does not answer") == true)
        // It restarted, and has its slot.
        _ = search.begin(current: nil)
        #expect(found(search.answered(.slots(Self.node(1)), Self.slots(1))) == Self.node(1))
    }

    @Test func `who came after it is followed at once`() {
        var search = settled()
        let nodes = asked(search.begin(current: nil)).filter { $0 != Self.node(1) }.sorted { "\($0)" < "\($1)" }
        #expect(search.answered(.slots(nodes[0]), Self.slots(1)) == .wait)
        #expect(found(search.answered(.slots(nodes[1]), Self.slots(4))) == Self.node(4))
    }

    /// A check that asks the first node, the place in use, and the second and the sixth.
    private func checking() -> ClusterSearch {
        var search = settled()
        let nodes = asked(search.begin(current: Route(Self.node(1))))
        #expect(nodes == Set([1, 2, 6].map(Self.node)))
        return search
    }

    @Test func `a place in use is left by its own word, or that of two others`() {
        var search = checking()
        #expect(dialled(search.answered(.slots(Self.node(1)), Self.slots(2))) == Self.node(2))
        #expect(found(search.answered(Self.greet(2), Self.greeting("b"))) == Self.node(2))

        // It says nothing, and alone it could not outvote the two.
        search = checking()
        #expect(search.answered(.slots(Self.node(2)), Self.slots(4)) == .wait)
        #expect(dialled(search.answered(.slots(Self.node(6)), Self.slots(4))) == Self.node(4))
        let step = search.answered(Self.greet(4), Self.greeting("d"))
        #expect(
            step
                == .found(
                    Sighting(
                        route: Route(Self.node(4)), process: "d",
                        why: "it has slot \(ClusterView.slot(ofTag: "default")) of namespace default")))
    }

    @Test func `a node that says itself has the slot is no vote for itself`() {
        var search = checking()
        #expect(search.answered(.slots(Self.node(2)), Self.slots(2)) == .wait)
        #expect(search.answered(.slots(Self.node(6)), Self.slots(2)) == .wait)
        #expect(search.answered(.slots(Self.node(1)), Self.slots(1)) == .unchanged)
        // Even if the owner is silent.
        search = checking()
        #expect(search.answered(.slots(Self.node(6)), Self.slots(2)) == .wait)
        #expect(search.answered(.slots(Self.node(2)), Self.slots(2)) == .wait)
        #expect(search.timedOut() == .unchanged)
    }

    /// A check that asks the place in use and three others: 2, 8 and 9.
    private func checkingFour() -> ClusterSearch {
        var search = Self.search([1, 7, 8, 9])
        _ = search.begin(current: nil)
        _ = search.answered(.slots(Self.node(1)), Self.slots(1))
        // Known by now: 2, 5, 3, 6, 1, and the seeds; so it goes on with 6.
        _ = search.begin(current: Route(Self.node(1)))
        let nodes = asked(search.begin(current: Route(Self.node(1))))
        #expect(nodes == Set([1, 2, 8, 9].map(Self.node)))
        return search
    }

    @Test func `the word of the owner counts against two others, whenever it comes`() {
        // Two against two.
        var search = checkingFour()
        #expect(search.answered(.slots(Self.node(8)), Self.slots(4)) == .wait)
        #expect(dialled(search.answered(.slots(Self.node(9)), Self.slots(4))) == Self.node(4))
        #expect(search.answered(Self.greet(4), Self.greeting("d")) == .wait)
        #expect(search.answered(.slots(Self.node(2)), Self.slots(1)) == .wait)
        #expect(search.answered(.slots(Self.node(1)), Self.slots(1)) == .unchanged)
        // Three against one: the owner is the one that is cut off.
        search = checkingFour()
        #expect(search.answered(.slots(Self.node(1)), Self.slots(1)) == .wait)
        #expect(search.answered(.slots(Self.node(8)), Self.slots(4)) == .wait)
        #expect(dialled(search.answered(.slots(Self.node(9)), Self.slots(4))) == Self.node(4))
        #expect(search.answered(.slots(Self.node(2)), Self.slots(4)) == .wait)
        #expect(found(search.answered(Self.greet(4), Self.greeting("d"))) == Self.node(4))
        // Two, and silence: when the time is up.
        search = checkingFour()
        #expect(search.answered(.slots(Self.node(8)), Self.slots(4)) == .wait)
        #expect(dialled(search.answered(.slots(Self.node(9)), Self.slots(4))) == Self.node(4))
        #expect(search.answered(Self.greet(4), Self.greeting("d")) == .wait)
        #expect(found(search.timedOut()) == Self.node(4))
    }

    @Test func `nobody moves to an owner that does not answer`() {
        var search = checking()
        #expect(search.answered(.slots(Self.node(2)), Self.slots(4)) == .wait)
        #expect(dialled(search.answered(.slots(Self.node(6)), Self.slots(4))) == Self.node(4))
        #expect(search.answered(.slots(Self.node(1)), Self.refused) == .wait)
        #expect(search.answered(Self.greet(4), Self.refused) == .unchanged)
        search = checking()
        #expect(dialled(search.answered(.slots(Self.node(1)), Self.slots(2))) == Self.node(2))
        #expect(search.timedOut() == .unchanged)
    }

    @Test func `the owner under another name is the same place`() throws {
        let configuration = try RedisConfiguration(url: "redis+cluster://10.0.0.1,10.0.0.2,10.0.0.3")
        var machine = LocatorMachine(configuration, search: Self.search())
        func handle(_ event: LocatorMachine.Event, at seconds: Int64) -> [LocatorMachine.Action] {
            machine.handle(event, now: seconds * 1_000_000_000, dice: 0.5)
        }
        _ = handle(.wanted, at: 1)
        _ = handle(.answered(look: 1, .slots(Self.node(1)), Self.slots(1)), at: 1)
        var info = ConnectionInfo()
        info.runID = "a"
        _ = handle(.greeted(generation: 1, info), at: 1)
        guard case .ask(let look, _)? = handle(.tick, at: 30).first else {
            Issue.record("no check")
            return
        }
        // It calls itself so by now.
        let asked = handle(.answered(look: look, .slots(Self.node(1)), Self.slots(11)), at: 30)
        #expect(asked == [.ask(look: look, [Self.greet(11)])])
        #expect(handle(.answered(look: look, Self.greet(11), Self.greeting("a")), at: 30) == [])
        #expect(machine.place?.generation == 1)
        #expect(machine.wakeAt == 45_000_000_000, "the check is over")
    }

    @Test func `a look that ran out of time gives the next one twice as much`() throws {
        var configuration = try RedisConfiguration(url: "redis+cluster://10.0.0.1,10.0.0.2,10.0.0.3")
        configuration.connectTimeout = .seconds(3)
        var search = Self.search()
        for limit in [500, 1000, 2000, 3000, 3000] {
            #expect(search.limit(configuration) == .milliseconds(limit))
            _ = search.begin(current: nil)
            #expect(plight(search.timedOut()) != nil)
        }
        // All have answered, so no time was lacking.
        search = Self.search()
        for node in asked(search.begin(current: nil)) { _ = search.answered(.slots(node), Self.refused) }
        #expect(search.limit(configuration) == .milliseconds(500))
        // Checks are short.
        _ = search.begin(current: nil)
        _ = search.timedOut()
        _ = search.begin(current: nil)
        #expect(found(search.answered(.slots(Self.node(1)), Self.slots(1))) == Self.node(1))
        for _ in 0..<2 {
            #expect(search.limit(configuration) == .milliseconds(500))
            _ = search.begin(current: Route(Self.node(1)))
            #expect(search.timedOut() == .unchanged)
        }
        configuration.connectTimeout = .milliseconds(200)
        #expect(search.limit(configuration) == .milliseconds(200))
    }

    @Test func `one node alone, and a look in which nobody answers, move nobody`() {
        let here = Route(Self.node(1))
        var search = settled()
        let nodes = asked(search.begin(current: here)).filter { $0 != Self.node(1) }.sorted { "\($0)" < "\($1)" }
        #expect(search.answered(.slots(nodes[0]), Self.slots(4)) == .wait)
        #expect(search.answered(.slots(Self.node(1)), Self.slots(1)) == .wait)
        for node in nodes.dropFirst(2) { #expect(search.answered(.slots(node), Self.refused) == .wait) }
        #expect(search.answered(.slots(nodes[1]), Self.slots(1)) == .unchanged)
        _ = search.begin(current: here)
        #expect(search.timedOut() == .unchanged)
    }

    @Test func `a slot that nobody has is told as that`() {
        var search = Self.search()
        var step = SearchStep.wait
        for node in asked(search.begin(current: nil)) { step = search.answered(.slots(node), Self.slots(0)) }
        let slot = ClusterView.slot(ofTag: "default")
        #expect(plight(step) == "no node of the Cluster has slot \(slot) of namespace default")
    }

    @Test func `MOVED is followed for this slot alone, also to the address it came from`() {
        var search = settled()
        let slot = ClusterView.slot(ofTag: "default")
        func moved(_ text: String) -> RedisConfiguration.Address? {
            search.redirected(by: RedisServerError(message: text), from: Route(Self.node(1)))?.route.address
        }
        #expect(moved("MOVED \(slot) 10.0.0.4:6379") == Self.node(4))
        #expect(moved("MOVED \(slot) 10.0.0.1:6379") == Self.node(1))
        #expect(moved("MOVED \(slot) :6379") == Self.node(1))
        #expect(moved("MOVED \(slot + 1) 10.0.0.4:6379") == nil)
        #expect(moved("ASK \(slot) 10.0.0.4:6379") == nil)
        #expect(moved("READONLY You can't write against a read only replica.") == nil)
    }

    @Test func `CLUSTERDOWN at the owner makes the others be asked, and is left when they know another`() throws {
        let configuration = try RedisConfiguration(url: "redis+cluster://10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.5")
        var machine = LocatorMachine(
            configuration,
            search: ClusterSearch(
                configuration.place.hosts, view: ClusterView(namespace: "default"), watchInterval: .seconds(15)))
        func handle(_ event: LocatorMachine.Event, at seconds: Int64) -> [LocatorMachine.Action] {
            machine.handle(event, now: seconds * 1_000_000_000, dice: 0.5)
        }
        _ = handle(.wanted, at: 1)
        _ = handle(.answered(look: 1, .slots(Self.node(1)), Self.slots(1)), at: 1)
        _ = handle(.greeted(generation: 1, ConnectionInfo()), at: 1)
        let down = RedisServerError(message: "CLUSTERDOWN The cluster is down")
        let asked = handle(.refused(generation: 1, down), at: 9)
        guard case .ask(let look, let questions)? = asked.first, asked.count == 1 else {
            Issue.record("\(asked)")
            return
        }
        #expect(handle(.refused(generation: 1, down), at: 9) == [], "one look at a time")
        var actions: [LocatorMachine.Action] = []
        for case .slots(let node) in questions where node != Self.node(1) {
            actions += handle(.answered(look: look, .slots(node), Self.slots(4)), at: 9)
        }
        #expect(actions == [.ask(look: look, [Self.greet(4)])])
        actions = handle(.answered(look: look, Self.greet(4), Self.greeting("d")), at: 9)
        guard case .leave? = actions.first, case .offer(let place)? = actions.last else {
            Issue.record("\(actions)")
            return
        }
        #expect(place.route.address == Self.node(4))
    }

    @Test func `the pauses are short at first`() {
        let search = Self.search()
        #expect(search.longestPause(afterFailures: 10) == .milliseconds(100))
        #expect(search.longestPause(afterFailures: 1000) == nil)
    }
}
