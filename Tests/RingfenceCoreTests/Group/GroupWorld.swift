// SPDX-License-Identifier: Apache-2.0
//
// A world in one thread: processes that run the real machines of a group, a Redis that is the reference model, wires
// that break, events that are lost, late, doubled and out of order. Everything is on one agenda in true time, every die
// is thrown by one seeded generator, so a seed is a whole story and can be told again:
//
//     RINGFENCE_SIMULATION_SEED=42 swift test --filter GroupSimulationTests
//
// A run has a storm, in which faults of the kinds this seed drew strike at random, and then a calm, at the end of which
// all must be well: who lives is a member, who is dead is out, and every view is the same and of now.
import RingfenceCore
import TestSupport

final class GroupWorld: SimulatedWorld {
    enum Fault: CaseIterable {
        case cutWire, pause, kill, loseData, stepBack, restart, pauseRedis, stepClock, slowWires, lostAnswers,
            lostEvents
        case remove
        /// Another process comes up under the same name.
        case twin
        /// Only where there are candidates: orders, members that leave in good order, members that are ill for a while.
        case operate, leave, ail
        /// Some are cut off from Redis together, but not from each other.
        case partition
    }

    /// What is made wrong in the members, for a control.
    struct Flaws {
        /// A first join is repeated as it was.
        var repeatsJoins = false
        /// The role goes on after its deadline.
        var neverFences = false
        /// A role that ended by the own clock begins again when a beat gets through.
        var resumes = false
        /// What was promised to a primary that is held is not kept.
        var forgetsPromises = false
    }

    static let stormLength: Nanos = 8 * .second
    static let calmLength: Nanos = 12 * .second
    static let group = "g"

    let faults: [Fault]
    let flaws: Flaws
    /// Members stand for election.
    let hasCandidates: Bool
    /// All members have this lease. Where Redis may lose data, a lease that nobody else knows of is no protection.
    let commonLease: Int64?
    /// Members have data that lags behind; and how far any primary's came.
    let hasPositions: Bool
    /// A primary that cannot reach Redis goes on by the word of the others.
    let holds: Bool
    /// How often a role went on beyond its lease.
    var heldRoles = 0
    var furthest: Int64 = 0
    private(set) var isCalm = false

    var nodes: [GroupNode] = []
    private(set) var model: GroupServerModel
    private var clockOffset: Int64 = 1_790_000_000_000
    private var runs = 1
    private var copies: [GroupServerModel] = []
    private(set) var isUp = true
    private var isPaused = false
    private var unread: [() -> Void] = []
    private var generations = 0
    private var orders = 0
    let checker = GroupChecker()
    let roles = RoleChecker()

    init(
        seed: UInt64, hasCandidates: Bool = false, holds: Bool? = nil, faults: [Fault]? = nil,
        serverFlaws: GroupServerModel.Flaws = .init(),
        flaws: Flaws = .init(), isTracing: Bool = false
    ) {
        self.hasCandidates = hasCandidates
        self.flaws = flaws
        var random = SplitMix64(seed: seed)
        let drawn = Fault.allCases.filter { _ in random.chance(35) }
        self.faults = faults ?? drawn
        let mayLose = self.faults.contains(.loseData) || self.faults.contains(.stepBack)
        commonLease = hasCandidates && mayLose ? random.pick([200, 400, 400, 1000]) : nil
        hasPositions = random.chance(75)
        // With its data Redis would lose that setting.
        self.holds = holds ?? (hasCandidates && !self.faults.contains(.loseData) && seed % 2 == 0)
        model = GroupServerModel(clock: 0, flaws: serverFlaws)
        super.init(seed: seed, random: random, isTracing: isTracing)
        checker.world = self
        roles.world = self
    }

    func run() throws {
        defer {
            end()
            nodes = []
        }
        for number in 0..<Int(random.pick(2...5)) { start("n\(number)", isMember: true) }
        for number in 0..<Int(random.pick(0...3)) { start("w\(number)", isMember: false) }
        if faults.contains(.slowWires) { latency = 60 * .millisecond }
        if holds {
            // Before anybody is elected, and in every copy.
            after(200 * .millisecond) {
                self.order(
                    .settings([
                        ("onCoordinatorLoss", "failsafe"),
                        ("failsafeLimitMs", "\(self.random.pick([300, 1500, 1500, 30_000]))"),
                    ]))
            }
        }
        after(holds ? 300 * .millisecond : 0) {
            self.copyAgain()
            self.strikeAgain()
        }
        if hasCandidates, faults.contains(.operate) { operateAgain() }
        after(Self.stormLength) { self.becomeCalm() }
        after(Self.stormLength + Self.calmLength) {
            self.checker.checkTheEnd()
            if self.hasCandidates { self.roles.checkTheEnd() }
        }
        try play(while: { now <= Self.stormLength + Self.calmLength })
    }

    private func start(_ name: String, isMember: Bool) {
        let node = GroupNode(self, name: name, isMember: isMember)
        nodes.append(node)
        node.begin()
    }

    // MARK: Redis

    /// Executes a command that has arrived; nil if nobody is there to execute it.
    func arrive(
        _ verb: GroupServerModel.Verb, _ known: GroupKnowledge, from node: GroupNode?,
        _ done: @escaping (GroupAnswer) -> Void
    ) {
        guard isUp else { return }
        if isPaused {
            unread.append { self.arrive(verb, known, from: node, done) }
            return
        }
        model.clock = now / .millisecond + clockOffset
        generations += 1
        let (before, sequence) = (model.groups[Self.group], model.log?.sequence ?? 0)
        model.forgetEvents()
        let answer = model.call(verb, Self.group, fresh: "generation\(generations)", known: known)
        note(
            "  redis \(node?.name ?? "operator") \(verb) knowing \(known.version) -> \(answer.status) \(answer.version)"
        )
        checker.executed(before: before, sequence: sequence, after: model)
        if hasCandidates { roles.executed(verb, known, from: node, before: before, after: model) }
        publish(model.events)
        done(answer)
    }

    private func publish(_ events: [GroupServerModel.Event]) {
        for event in events {
            note("    \(event.text)")
            let told = Self.told(event)
            for node in nodes where node.isAlive {
                let losses: UInt64 = faults.contains(.lostEvents) && !isCalm ? 20 : 0
                for _ in 0..<(random.chance(losses) ? 0 : random.chance(losses) ? 2 : 1) {
                    after(travelTime()) { node.react { node.heard(told) } }
                }
            }
        }
    }

    private static func told(_ event: GroupServerModel.Event) -> GroupEvent? {
        guard let version = event.version else { return nil }
        let kind: GroupEvent.Kind =
            switch event.type {
            case "member.joined": .joined(event.record!)
            case "member.updated": .updated(event.record!)
            case "member.left": .left(event.member!)
            case "member.expired": .expired(event.member!)
            default: .other
            }
        return GroupEvent(
            generation: event.generation, sequence: event.sequence, version: version, of: event.of, kind: kind)
    }

    private func copyAgain() {
        if isUp, !isCalm {
            copies.append(model)
            if copies.count > 8 { copies.removeFirst() }
        }
        after(dice(20 * .millisecond...400 * .millisecond)) { if !self.isCalm { self.copyAgain() } }
    }

    // MARK: Faults

    private func strikeAgain() {
        guard !isCalm else { return }
        after(dice(50 * .millisecond...900 * .millisecond)) {
            guard !self.isCalm else { return }
            if !self.faults.isEmpty { self.strike(self.random.pick(self.faults)) }
            self.strikeAgain()
        }
    }

    private func strike(_ fault: Fault) {
        let living = nodes.filter { $0.isAlive }
        guard let node = living.randomElement(using: &random) else { return }
        switch fault {
        case .cutWire: node.cut(for: dice(0...2 * .second), fromAll: holds && random.chance(40))
        case .partition:
            let length = dice(100 * .millisecond...2 * .second)
            for node in living where random.chance(70) { node.cut(for: length + dice(0...300 * .millisecond)) }
        case .pause: node.pause(for: dice(50 * .millisecond...3 * .second))
        case .kill:
            node.kill()
            let (name, isMember) = (node.name, node.isMember)
            after(dice(0...3 * .second)) { self.start(name, isMember: isMember) }
        case .loseData, .stepBack, .restart:
            guard isUp, !isPaused else { return }
            note("redis: \(fault)")
            isUp = false
            runs += 1
            if fault == .loseData { model.forgetEverything() }
            if fault == .stepBack, let copy = copies.randomElement(using: &random) { model.stepBack(to: copy) }
            if fault != .restart {
                checker.dataWasLost(now: model)
                roles.dataWasLost()
            }
            model.run = "run\(runs)"
            unread = []
            for node in nodes { node.cut(for: 0) }
            after(dice(0...1500 * .millisecond)) { self.isUp = true }
        case .pauseRedis:
            guard isUp, !isPaused else { return }
            note("redis pauses")
            isPaused = true
            after(dice(100 * .millisecond...4 * .second)) { self.resume() }
        case .stepClock:
            // A step that is less than a gap cannot be told from time that passed: it may end a lease early, as the
            // script says. Larger ones, and all backward, must do no harm.
            let step = random.pick([-3_600_000, -500, -20, 5_000, 3_600_000] as [Int64])
            note("redis' clock steps by \(step) ms")
            clockOffset += step
        case .remove:
            arrive(
                .leave(id: node.name, session: "", reason: "", actor: "operator"), .none, from: nil, { _ in })
        case .twin:
            if nodes.count < 16 {
                start(node.name, isMember: node.isMember)
                // And one more, at once: their first joins race.
                start(node.name, isMember: node.isMember)
            }
        case .operate: operate()
        case .leave:
            node.leave()
            let (name, isMember) = (node.name, node.isMember)
            after(dice(100 * .millisecond...3 * .second)) { self.start(name, isMember: isMember) }
        case .ail: node.candidate?.ail(for: dice(50 * .millisecond...2 * .second))
        case .slowWires, .lostAnswers, .lostEvents: break
        }
    }

    private func resume() {
        guard isPaused else { return }
        isPaused = false
        let all = unread
        unread = []
        for action in all { action() }
    }

    private func becomeCalm() {
        note("calm")
        isCalm = true
        latency = 2 * .millisecond
        isUp = true
        resume()
        for node in nodes { node.wake() }
        guard hasCandidates else { return }
        for node in nodes { node.candidate?.recover() }
        // Whatever operators left is taken back, and what still happens of their orders is over a while later.
        for delay in [0, 4] as [Nanos] {
            after(delay * .second) {
                self.order(.resume)
                self.order(.acknowledge)
                for name in Set(self.nodes.map(\.name)).sorted() { self.order(.maintenance(name, isOn: false)) }
            }
            // Else nobody might be elected who came while the primary was away. Whoever orders that says that the
            // primary of before has stopped: it has heard by then.
            guard holds else { continue }
            after(delay * .second + 500 * .millisecond) { self.order(.settings([("failsafeLimitMs", "300")])) }
        }
    }

    // MARK: Operators

    private func operateAgain() {
        after(dice(50 * .millisecond...700 * .millisecond)) {
            guard !self.isCalm else { return }
            self.operate()
            self.operateAgain()
        }
    }

    private func operate() {
        let name = nodes.randomElement(using: &random)?.name ?? "n0"
        let order: RoleOrder =
            switch random.pick(0...15) {
            case 0...5:
                .switchover(to: random.chance(60) ? name : nil, timeoutMilliseconds: random.pick([20, 200, 2000]))
            case 6...8: .failover(to: name)
            case 9: .abort
            case 10: .pause(milliseconds: random.pick([100, 1000, 3000]))
            case 11: .resume
            case 12: .maintenance(name, isOn: random.chance(60))
            case 13: .acknowledge
            default:
                .settings([
                    random.pick([
                        ("maxLag", "50"), ("maxLag", "-1"), ("failback", "automatic"), ("failback", "never"),
                        ("minStandbys", "2"), ("minStandbysAction", "refuseSwitchover"), ("rank", "priority"),
                        ("rank", "data"), ("brakeCount", "0"), ("brakeCount", "1"),
                    ]), ("failbackAfterMs", random.pick(["0", "400"])), ("brakeWindowMs", "2000"),
                ])
            }
        self.order(order)
    }

    /// As a client sends it: again under the same id, if no answer comes.
    private func order(_ order: RoleOrder) {
        orders += 1
        let verb = GroupServerModel.Verb.order(order, actor: "operator", reason: "", id: "order\(orders)")
        let again = faults.contains(.lostAnswers) && random.chance(30)
        for _ in 0..<(again ? 2 : 1) {
            after(travelTime() + (again ? dice(0...300 * .millisecond) : 0)) {
                self.arrive(verb, .none, from: nil) { _ in }
            }
        }
    }
}
