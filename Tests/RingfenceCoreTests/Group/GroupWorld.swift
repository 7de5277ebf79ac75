// SPDX-License-Identifier: Apache-2.0
//
// A world in one thread: processes that run the real machines of a group, a Redis that is the reference model, wires that
// break, events that are lost, late, doubled and out of order. Everything is on one agenda in true time, every die is thrown by
// one seeded generator, so a seed is a whole story and can be told again:
//
//     RINGFENCE_SIMULATION_SEED=42 swift test --filter GroupSimulationTests
//
// A run has a storm, in which faults of the kinds this seed drew strike at random, and then a calm, at the end of which all
// must be well: who lives is a member, who is dead is out, and every view is the same and of now.
import RingfenceCore
import TestSupport

final class GroupWorld {
    enum Fault: CaseIterable {
        case cutWire, pause, kill, loseData, stepBack, restart, pauseRedis, stepClock, slowWires, lostAnswers,
            lostEvents
        case remove
        /// Another process comes up under the same name.
        case twin
    }

    static let stormLength: Nanos = 8 * .second
    static let calmLength: Nanos = 12 * .second
    static let group = "g"

    let seed: UInt64
    let faults: [Fault]
    let isTracing: Bool
    /// A first join is repeated as it was. For a control.
    let flawedRetries: Bool
    var random: SplitMix64
    private(set) var now: Nanos = 0
    private var agenda = Agenda()
    private(set) var isCalm = false
    private(set) var violation: Violation?
    private(set) var trace: [String] = []
    private(set) var steps = 0

    var nodes: [GroupNode] = []
    private(set) var model: GroupServerModel
    private var clockOffset: Int64 = 1_790_000_000_000
    private var runs = 1
    private var copies: [GroupServerModel] = []
    private(set) var isUp = true
    private var isPaused = false
    private var unread: [() -> Void] = []
    private var generations = 0
    let checker = GroupChecker()
    var latency: Nanos = 2 * .millisecond

    init(
        seed: UInt64, faults: [Fault]? = nil, flaws: GroupServerModel.Flaws = .init(), isTracing: Bool = false
    ) {
        self.seed = seed
        self.isTracing = isTracing
        flawedRetries = flaws.forgetsTheReplaced
        var random = SplitMix64(seed: seed)
        let drawn = Fault.allCases.filter { _ in random.chance(35) }
        self.faults = faults ?? drawn
        self.random = random
        model = GroupServerModel(clock: 0, flaws: flaws)
        checker.world = self
    }

    func run() throws {
        defer {
            agenda.removeAll()
            nodes = []
        }
        for number in 0..<Int(random.pick(2...5)) { start("n\(number)", isMember: true) }
        for number in 0..<Int(random.pick(0...3)) { start("w\(number)", isMember: false) }
        if faults.contains(.slowWires) { latency = 60 * .millisecond }
        copyAgain()
        strikeAgain()
        after(Self.stormLength) { self.becomeCalm() }
        after(Self.stormLength + Self.calmLength) { self.checker.checkTheEnd() }
        while violation == nil, now <= Self.stormLength + Self.calmLength, let (time, action) = agenda.popFirst() {
            now = time
            steps += 1
            action()
        }
        if let violation { throw violation }
    }

    func after(_ delay: Nanos, _ action: @escaping () -> Void) { agenda.add(at: now + max(delay, 0), action) }
    func at(_ time: Nanos, _ action: @escaping () -> Void) { agenda.add(at: max(time, now), action) }
    func dice(_ range: ClosedRange<Nanos>) -> Nanos { random.pick(range) }
    func travelTime() -> Nanos { random.pick(Nanos.millisecond / 20...latency) }

    func note(_ text: @autoclosure () -> String) {
        if isTracing { trace.append("\(Double(now) / 1e9) \(text())") }
    }

    func fail(_ text: String) {
        note("VIOLATION " + text)
        if violation == nil { violation = Violation(description: "seed \(seed) at \(Double(now) / 1e9) s: \(text)") }
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
        let before = model
        let answer = model.call(verb, Self.group, fresh: "gen\(generations)", known: known)
        note(
            "  redis \(node?.name ?? "operator") \(verb) knowing \(known.version) -> \(answer.status) \(answer.version)"
        )
        checker.executed(before: before, after: model)
        publish(Array(model.events[before.events.count...]))
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
        return GroupEvent(gen: event.gen, seq: event.seq, version: version, of: event.of, kind: kind)
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
        case .cutWire: node.cut(for: dice(0...2 * .second))
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
            if fault != .restart { checker.dataWasLost(now: model) }
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
    }
}

/// One process: the shell around the machines, as the library writes it, over simulated wires.
final class GroupNode {
    let name: String
    let isMember: Bool
    private unowned let world: GroupWorld
    private let driftPPM: Int64
    private let clockOffset: Nanos
    private(set) var isAlive = true
    private(set) var isPaused = false
    private var heardWhilePaused: [() -> Void] = []
    private var wire = 0
    private var newestArrived = 0
    private var lastArrival: Nanos = 0
    private var isCutUntil: Nanos = 0
    private var waiting: [(number: Int, lost: () -> Void)] = []
    private var lastNumber = 0
    private var nextWake = Nanos.never
    /// The last moment of a fault of this process itself, in true time.
    private(set) var faultAt: Nanos = -1000 * .second

    var view = GroupMachine()
    private(set) var membership: MembershipMachine?
    private(set) var record: MemberRecord
    private var joined = ""
    private var isOut = false
    private let rejoins: Bool
    private var isJoining = false
    private var isLooking = false
    private var sessions = 0
    private let life: Int64

    init(_ world: GroupWorld, name: String, isMember: Bool) {
        self.world = world
        self.name = name
        self.isMember = isMember
        driftPPM = world.dice(-9_900...9_900)
        clockOffset = world.dice(0...1_000_000 * .second)
        life = world.dice(0...1 << 40)
        rejoins = world.random.chance(50)
        record = MemberRecord(
            id: name, session: "", leaseMilliseconds: world.random.pick([200, 400, 1000, 1000, 3000]))
        record.session = newSession()
    }

    private func newSession() -> String {
        sessions += 1
        return "\(name)-\(life)-\(sessions)"
    }

    var clock: Nanos { clockOffset + world.now + world.now * driftPPM / 1_000_000 }

    private func trueTime(of local: Nanos) -> Nanos {
        guard local != .never else { return .never }
        return (local - clockOffset) * 1_000_000 / (1_000_000 + driftPPM) + 1
    }

    /// Whether it would act as a member at this true moment, if it looked.
    var believes: Bool { isAlive && membership?.isMember(at: clock) == true }

    func react(_ action: @escaping () -> Void) {
        guard isAlive else { return }
        if isPaused { heardWhilePaused.append(action) } else { action() }
    }

    func begin() {
        look()
        if isMember { join(.first, over: nil, until: clock + 20 * .second) }
    }

    // MARK: Wires

    private func call(
        _ verb: GroupServerModel.Verb, timeout: Nanos, _ over: @escaping (GroupAnswer?, _ sentAt: Nanos) -> Void
    ) {
        let sentAt = clock
        view.asks(now: sentAt)
        let known = view.knowledge
        lastNumber += 1
        let number = lastNumber
        let finish = { [weak self] (answer: GroupAnswer?) in
            guard let self, let index = self.waiting.firstIndex(where: { $0.number == number }) else { return }
            self.waiting.remove(at: index)
            over(answer, sentAt)
        }
        waiting.append((number, { finish(nil) }))
        world.after(timeout) { [weak self] in self?.react { finish(nil) } }
        // No connection: refused at once.
        guard world.now >= isCutUntil, world.isUp else {
            world.after(20 * .millisecond) { [weak self] in self?.react { finish(nil) } }
            return
        }
        let wire = wire
        lastArrival = max(lastArrival, world.now + world.travelTime())
        world.at(lastArrival) { [weak self, world] in
            // The first command on a new connection is the one that ends the one before it.
            guard let self, wire >= self.newestArrived else { return }
            self.newestArrived = wire
            world.arrive(verb, known, from: self) { answer in
                let isLost = world.faults.contains(.lostAnswers) && !world.isCalm && world.random.chance(10)
                guard !isLost, wire == self.wire else { return }
                world.after(world.travelTime()) { self.react { finish(answer) } }
            }
        }
    }

    func cut(for length: Nanos) {
        guard isAlive else { return }
        world.note("\(name) is cut for \(length / .millisecond) ms")
        if length > 0 { faultAt = world.now + length }
        isCutUntil = max(isCutUntil, world.now + length)
        wire += 1
        let lost = waiting
        for one in lost { world.after(world.dice(0...5 * .millisecond)) { [weak self] in self?.react { one.lost() } } }
    }

    func pause(for length: Nanos) {
        guard isAlive, !isPaused else { return }
        world.note("\(name) is paused for \(length / .millisecond) ms")
        isPaused = true
        faultAt = world.now + length
        world.after(length) { [weak self] in self?.wake() }
    }

    func wake() {
        guard isAlive else { return }
        if world.isCalm { isCutUntil = 0 }
        guard isPaused else { return }
        isPaused = false
        faultAt = min(faultAt, world.now)
        if membership?.isMember(at: clock) == false, membership?.state == .member { tick() }
        let all = heardWhilePaused
        heardWhilePaused = []
        for action in all { action() }
        tick()
    }

    func kill() {
        world.note("\(name) is killed")
        isAlive = false
        world.checker.died(self)
    }

    // MARK: The group

    private func look() {
        guard !isLooking else { return }
        isLooking = true
        call(.watch(leases: false), timeout: .second) { answer, sentAt in
            self.isLooking = false
            self.took(answer, sentAt: sentAt)
            self.planWake()
        }
    }

    private func took(_ answer: GroupAnswer?, sentAt: Nanos) {
        let before = view.shown
        if let answer {
            if view.answered(answer, sentAt: sentAt, now: clock) == .look { look() }
        } else {
            view.failed(now: clock)
        }
        world.checker.shows(self, before: before)
    }

    func heard(_ event: GroupEvent?) {
        guard let event else { return }
        let before = view.shown
        if view.happened(event, now: clock) == .look { look() }
        world.checker.shows(self, before: before)
        planWake()
    }

    private func join(_ mode: JoinMode, over before: String?, until end: Nanos) {
        let record = record
        call(.join(record, mode, RingPolicy(seed: 1, unit: 2), status: nil), timeout: 2 * .second) { answer, sentAt in
            self.took(answer, sentAt: sentAt)
            guard let answer else {
                // Its answer is lost, and it is repeated as it was.
                let mode = self.world.flawedRetries ? JoinMode.first : before.map { .over($0) } ?? .again
                self.world.after(20 * .millisecond) { self.react { self.join(mode, over: before, until: end) } }
                return
            }
            guard answer.status == .member else { return }
            self.joined = answer.mark
            self.world.checker.wasTold(record.session)
            self.membership = MembershipMachine(
                lease: record.lease, pace: answer.paceMilliseconds * .millisecond, sentAt: sentAt,
                rejoins: self.rejoins)
            self.planWake()
        }
    }

    private func planWake() {
        guard isAlive, !isPaused else { return }
        let look = isLooking ? Nanos.never : view.wakeAt(dice: world.dice(0...3 * .millisecond))
        let due = trueTime(of: min(look, membership?.wakeAt ?? .never))
        guard due != .never else { return }
        let when = max(due, world.now) + world.dice(0...Nanos.millisecond)
        guard when < nextWake || nextWake <= world.now else { return }
        nextWake = when
        world.at(when) { [weak self] in
            guard let self, self.nextWake == when else { return }
            self.nextWake = .never
            if !self.isPaused { self.tick() }
        }
    }

    private func tick() {
        guard isAlive else { return }
        let before = view.shown
        _ = view.tick(now: clock)
        world.checker.shows(self, before: before)
        if var machine = membership {
            let output = machine.tick(now: clock)
            membership = machine
            perform(output)
        }
        if !isLooking, view.wakeAt(dice: 0) <= clock { look() }
        planWake()
    }

    private func perform(_ output: MembershipMachine.Output) {
        if let state = output.tell {
            world.note("\(name) is told \(state)")
            world.checker.told(self, state)
            if state == .expired, rejoins { record.session = newSession() }
        }
        guard let call = output.call else { return }
        let verb: GroupServerModel.Verb =
            switch call {
            case .beat:
                .beat(
                    id: name, session: record.session, leaseMilliseconds: record.leaseMilliseconds, joined: joined,
                    status: nil)
            case .write: .join(record, isOut ? .again : .stay(since: joined), RingPolicy(seed: 1, unit: 2), status: nil)
            case .leave: .leave(id: name, session: record.session, reason: "", actor: "")
            }
        let session = record.session
        self.call(verb, timeout: MembershipMachine.patience(record.lease)) { answer, sentAt in
            self.took(answer, sentAt: sentAt)
            guard var machine = self.membership else { return }
            let output: MembershipMachine.Output
            if let answer {
                machine.set(pace: answer.paceMilliseconds * .millisecond)
                if answer.status == .member { self.world.checker.wasTold(session) }
                switch answer.status {
                case .unknown, .expired: self.isOut = true
                case .member where call == .write && self.isOut:
                    self.isOut = false
                    self.joined = answer.mark
                default: break
                }
                output = machine.answered(answer.status, now: self.clock)
            } else {
                output = machine.failed(now: self.clock)
            }
            self.membership = machine
            self.perform(output)
            self.planWake()
        }
    }
}
