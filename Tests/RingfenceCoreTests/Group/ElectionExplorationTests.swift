// SPDX-License-Identifier: Apache-2.0
import RingfenceCore
import RingfencePlatform
import TestSupport
import Testing

/// Every story of three members and one operator up to some length, with up to so many disturbances.
struct Exploration {
    private struct Story {
        var world: ExploredWorld
        var left: Int
        var told: [String]
    }

    /// All orders in which three members act.
    private static let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]

    var states = 0
    var transitions = 0
    var calls = 0
    var elections = 0
    var heldRoles = 0
    var complaint: String?

    private static func disturbances(_ world: ExploredWorld) -> [ExploredWorld.Disturbance] {
        var all: [ExploredWorld.Disturbance] = []
        for index in world.members.indices {
            for way in ExploredWorld.Way.allCases where way != world.members[index].way { all.append(.way(index, way)) }
        }
        all += [
            .order(.switchover(to: nil, timeoutMilliseconds: 500)), .order(.failover(to: "b")),
            .order(.failover(to: "c")),
            .remove(0), .loss(1), .loss(3),
        ]
        // With its data Redis would lose the setting.
        return all + [world.holds ? .outage : .loss(nil)]
    }

    /// - Parameters:
    ///   - quiet: steps before the first disturbance may come: until there is a primary.
    ///   - window: disturbances come within so many steps after that, and no more later.
    ///   - part: of the first disturbances, so that parts can be explored side by side.
    mutating func explore(
        _ first: ExploredWorld, quiet: Int, window: Int, steps: Int, disturbances: Int, part: Int = 0, of parts: Int = 1
    ) {
        var world = first
        for _ in 0..<quiet { Self.step(&world, [0, 1, 2], nil, 0) }
        var stories = [Story(world: world, left: disturbances, told: [])]
        for step in 0..<steps {
            var next: [Story] = []
            var seen: Set<Int> = []
            for var story in stories {
                if step >= window { story.left = 0 }
                tell(story, part, parts, step, &next, &seen)
                if complaint != nil { return }
            }
            stories = next
        }
        for (index, story) in stories.enumerated() where index % 16 == 0 {
            var world = story.world
            world.calmDown()
            calls += world.calls - story.world.calls
            if let text = world.complaint { return complaint = "\(text), after \(story.told)" }
        }
    }

    private mutating func tell(
        _ story: Story, _ part: Int, _ parts: Int, _ step: Int, _ next: inout [Story], _ seen: inout Set<Int>
    ) {
        go(story, nil, step, &next, &seen)
        guard story.left > 0 else { return }
        let isFirst = story.told.isEmpty
        for (number, disturbance) in Self.disturbances(story.world).enumerated() {
            if isFirst, (number + step) % parts != part { continue }
            go(story, disturbance, step, &next, &seen)
            if complaint != nil { return }
        }
    }

    /// Where nothing but time passes, all orders come to the same.
    private mutating func go(
        _ story: Story, _ disturbance: ExploredWorld.Disturbance?, _ step: Int, _ next: inout [Story],
        _ seen: inout Set<Int>
    ) {
        for (number, order) in Self.orders.enumerated() {
            let places = disturbance?.comesToRedis == true ? 0...3 : 0...0
            var isQuiet = true
            for place in places {
                var world = story.world
                let sequence = world.model.log?.sequence
                Self.step(&world, order, disturbance, place)
                transitions += 1
                calls += world.calls - story.world.calls
                elections += world.elections - story.world.elections
                heldRoles += world.heldRoles - story.world.heldRoles
                isQuiet = isQuiet && disturbance == nil && world.model.log?.sequence == sequence
                var told = story.told
                if let disturbance { told.append("\(step): \(disturbance) \(place) in \(order)") }
                if let text = world.complaint { return complaint = "\(text), after \(told)" }
                let left = story.left - (disturbance == nil ? 0 : 1)
                if seen.insert(world.fingerprint() &+ left).inserted {
                    states += 1
                    next.append(Story(world: world, left: left, told: told))
                }
            }
            if isQuiet, number == 0 { return }
        }
    }

    private static func step(
        _ world: inout ExploredWorld, _ order: [Int], _ disturbance: ExploredWorld.Disturbance?, _ place: Int
    ) {
        world.pass()
        for (index, member) in order.enumerated() {
            if index == place, let disturbance { world.happen(disturbance) }
            world.act(member)
        }
        if place == 3, let disturbance { world.happen(disturbance) }
    }
}

@Suite struct ElectionExplorationTests {
    private static func explore(
        window: Int, steps: Int, disturbances: Int, flaws: GroupServerModel.Flaws = .init(), neverFences: Bool = false,
        holds: Bool = false, forgetsPromises: Bool = false, part: Int = 0, of parts: Int = 1
    ) async throws -> Exploration {
        try await onOwnThread {
            var exploration = Exploration()
            exploration.explore(
                ExploredWorld(
                    flaws: flaws, neverFences: neverFences, holds: holds, forgetsPromises: forgetsPromises), quiet: 8,
                window: window, steps: steps,
                disturbances: disturbances, part: part, of: parts)
            return exploration
        }
    }

    private static func number(_ variable: String) -> Int? { getenv(variable).flatMap { Int(String(cString: $0)) } }

    /// Longer with RINGFENCE_EXPLORATION_WINDOW: 3 takes half a minute of one core, 10 four minutes.
    @Test(arguments: 0..<2)
    func `no story of three members and an operator has two primaries, or none in the end`(part: Int) async throws {
        let window = Self.number("RINGFENCE_EXPLORATION_WINDOW") ?? 2
        let result = try await Self.explore(window: window, steps: max(9, window), disturbances: 2, part: part, of: 2)
        print(
            "explored \(result.states) states, \(result.transitions) steps from one to another, \(result.calls) calls, "
                + "\(result.elections) elections")
        if let complaint = result.complaint { Issue.record("\(complaint)") }
        #expect(result.states > 3000 && result.elections > 1000)
    }

    @Test func `no story in which a primary goes on without Redis has two, or none in the end`() async throws {
        let window = Self.number("RINGFENCE_EXPLORATION_WINDOW") ?? 2
        let result = try await Self.explore(window: window, steps: max(14, window), disturbances: 2, holds: true)
        print("explored \(result.states) states, in \(result.heldRoles) steps a role went on beyond its lease")
        if let complaint = result.complaint { Issue.record("\(complaint)") }
        #expect(result.states > 3000 && result.heldRoles > 100)
    }

    private static func expectFound(
        _ complaints: [String], neverFences: Bool = false, holds: Bool = false, forgetsPromises: Bool = false,
        disturbances: Int = 1, _ spoil: (inout GroupServerModel.Flaws) -> Void = { _ in }
    ) async throws {
        var flaws = GroupServerModel.Flaws()
        spoil(&flaws)
        let result = try await explore(
            window: holds ? 6 : 1, steps: holds ? 12 : 9, disturbances: disturbances, flaws: flaws,
            neverFences: neverFences,
            holds: holds, forgetsPromises: forgetsPromises)
        let text = try #require(result.complaint, "\(result.states) states did not show it")
        #expect(complaints.contains { text.contains($0) }, "another rule was broken: \(text)")
    }

    @Test func `exploring finds a primary that does not fence itself`() async throws {
        try await Self.expectFound(["two primaries"], neverFences: true)
    }

    @Test func `exploring finds a promise that is not kept`() async throws {
        try await Self.expectFound(["two primaries"], holds: true, forgetsPromises: true, disturbances: 2)
    }

    @Test func `exploring finds an election that does not wait for the lease of who was put out`() async throws {
        try await Self.expectFound(["two primaries"]) { $0.electsAtOnce = true }
    }

    @Test func `exploring finds an election at once after a loss`() async throws {
        try await Self.expectFound(["two primaries", "is given after"]) { $0.electsAfterLoss = true }
    }

    @Test func `exploring finds an epoch that is not healed`() async throws {
        try await Self.expectFound(["is given after", "was not elected", "begins"]) { $0.forgetsEpochs = true }
    }
}
