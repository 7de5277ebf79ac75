// SPDX-License-Identifier: Apache-2.0
//
// One process: the machines of the library, unchanged, over simulated wires and by a clock of its own. What is decided
// is decided in them; here are calls, answers, pauses and deaths.
import Synchronization
import TestSupport

@testable import RingfenceCore

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
    /// From the other nodes as well.
    private var isAloneUntil: Nanos = 0
    private var waiting: [(number: Int, lost: () -> Void)] = []
    private var lastNumber = 0
    private var nextWake = Nanos.never
    /// The last moment of a fault of this process itself, in true time.
    private(set) var faultAt: Nanos = -1000 * .second

    private var local = LocalGroup()
    var view: GroupMachine { local.group }
    var member: MemberMachine? { local.member(Self.key) }
    /// A process has one member here.
    private static let key = 1
    /// As it joins.
    private var newcomer: MemberRecord
    var record: MemberRecord { member?.record ?? newcomer }
    let rejoins: Bool
    private var isJoining = false
    private let sessions: Sessions
    private var wantsRole = false
    private var isLeaving = false
    private(set) var candidate: GroupCandidate?

    init(_ world: GroupWorld, name: String, isMember: Bool) {
        self.world = world
        self.name = name
        self.isMember = isMember
        driftPPM = world.dice(-9_900...9_900)
        clockOffset = world.dice(0...1_000_000 * .second)
        sessions = Sessions(name, world.dice(0...1 << 40))
        rejoins = world.random.chance(50)
        newcomer = MemberRecord(
            id: name, session: "",
            leaseMilliseconds: world.commonLease
                ?? world.random.pick(world.hasCandidates ? [200, 400, 400, 1000, 3000] : [200, 400, 1000, 1000, 3000]))
        if world.hasCandidates, isMember {
            newcomer.priority = Int(world.dice(0...2))
            wantsRole = world.random.chance(85)
        }
        newcomer.session = sessions.next()
    }

    var clock: Nanos { clockOffset + world.now + world.now * driftPPM / 1_000_000 }

    private func trueTime(of local: Nanos) -> Nanos {
        guard local < 1 << 62 else { return .never }
        return (local - clockOffset) * 1_000_000 / (1_000_000 + driftPPM) + 1
    }

    /// Whether it would act as a member at this true moment, if it looked.
    var believes: Bool { isAlive && member?.membership.isMember(at: clock) == true }

    func react(_ action: @escaping () -> Void) {
        guard isAlive else { return }
        if isPaused { heardWhilePaused.append(action) } else { action() }
    }

    func begin() {
        handle(.missed)
        if isMember { join(.first, over: nil, until: clock + 20 * .second) }
    }

    // MARK: Wires

    private func call(
        _ verb: GroupServerModel.Verb, _ known: GroupKnowledge, timeout: Nanos,
        _ over: @escaping (GroupAnswer?) -> Void
    ) {
        lastNumber += 1
        let number = lastNumber
        let finish = { [weak self] (answer: GroupAnswer?) in
            guard let self, let index = self.waiting.firstIndex(where: { $0.number == number }) else { return }
            self.waiting.remove(at: index)
            over(answer)
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

    func cut(for length: Nanos, fromAll: Bool = false) {
        guard isAlive else { return }
        world.note("\(name) is cut for \(length / .millisecond) ms")
        if length > 0 { faultAt = max(faultAt, world.now + length) }
        isCutUntil = max(isCutUntil, world.now + length)
        if fromAll { isAloneUntil = isCutUntil }
        wire += 1
        let lost = waiting
        for one in lost { world.after(world.dice(0...5 * .millisecond)) { [weak self] in self?.react { one.lost() } } }
    }

    func pause(for length: Nanos) {
        guard isAlive, !isPaused else { return }
        world.note("\(name) is paused for \(length / .millisecond) ms")
        isPaused = true
        candidate?.sleeps()
        faultAt = world.now + length
        world.after(length) { [weak self] in self?.wake() }
    }

    func wake() {
        guard isAlive else { return }
        if world.isCalm { isCutUntil = 0 }
        guard isPaused else { return }
        isPaused = false
        // What cuts it off goes on.
        faultAt = min(faultAt, max(world.now, isCutUntil))
        candidate?.woke()
        if member?.membership.isMember(at: clock) == false, member?.membership.state == .member { handle(.tick) }
        let all = heardWhilePaused
        heardWhilePaused = []
        for action in all { action() }
        handle(.tick)
    }

    func kill() {
        world.note("\(name) is killed")
        isAlive = false
        world.checker.died(self)
    }

    /// In good order: what it does as primary is over before it says so.
    func leave() {
        guard isAlive, !isPaused, !isLeaving, member?.membership.state == .member else { return }
        isLeaving = true
        world.note("\(name) is to leave")
        let done = { [self] in
            with { $0.leave(reason: "", now: clock) }
            handle(.tick)
        }
        if let candidate { candidate.stop(saying: "left", done) } else { done() }
    }

    // MARK: The group

    /// Asks another node something, directly.
    func ask(_ peer: GroupNode, _ question: @escaping () -> Bool, _ promised: @escaping () -> Void) {
        func isLost() -> Bool {
            isAloneUntil > world.now || peer.isAloneUntil > world.now || (!world.isCalm && world.random.chance(4))
        }
        world.after(world.travelTime()) { [world] in
            guard !isLost() else { return }
            peer.react {
                guard question() else { return }
                world.after(world.travelTime()) { if !isLost() { self.react(promised) } }
            }
        }
    }

    func heard(_ event: GroupEvent?) {
        if let event { handle(.happened(event)) }
    }

    /// What happens to the machine, and what it asks for.
    private func handle(_ event: LocalGroup.Event) {
        guard isAlive else { return }
        let before = view.shown
        let dice = world.dice(0...3 * .millisecond)
        let actions = local.handle(event, now: clock, .init(newSession: sessions.next, dice: { dice }))
        world.checker.shows(self, before: before)
        perform(actions)
        planWake()
    }

    private func perform(_ actions: [LocalGroup.Action]) {
        for action in actions {
            switch action {
            case .send(let request): send(request)
            case .tell(_, let tell): hear(tell)
            case .stepped, .show, .role, .grace: break
            }
        }
    }

    private func join(_ mode: JoinMode, over before: String?, until end: Nanos) {
        let record = record
        let sentAt = clock
        let verb = GroupServerModel.Verb.join(record, mode, RingPolicy(seed: 1, pointsPerWeight: 2), status: nil)
        call(verb, local.knowledge(now: sentAt), timeout: 2 * .second) { answer in
            self.handle(.heard(answer, sentAt: sentAt))
            guard let answer else {
                // Its answer is lost, and it is repeated as it was.
                let mode = self.world.flaws.repeatsJoins ? JoinMode.first : before.map { .over($0) } ?? .again
                self.world.after(20 * .millisecond) { self.react { self.join(mode, over: before, until: end) } }
                return
            }
            if let holder = answer.holder {
                let pause = holder.milliseconds * .millisecond
                self.world.after(pause) { self.react { self.join(mode, over: before, until: end) } }
            }
            guard answer.status == .member else { return }
            self.world.checker.wasTold(record.session)
            var member = MemberMachine(
                record: record, joined: answer.mark, pace: answer.paceMilliseconds * .millisecond, sentAt: sentAt,
                rejoins: self.rejoins)
            member.neverFences = self.world.flaws.neverFences
            self.local.add(member, Self.key)
            self.local.begin(Self.key)
            if self.wantsRole { self.campaign() }
            self.planWake()
        }
    }

    // MARK: What its candidate asks for

    private func campaign() {
        candidate = candidate ?? GroupCandidate(self, world)
        with { (_ = $0.campaign(margin: candidate!.margin), tells: []) }
        change { $0.isCandidate = true }
    }

    func change(_ edit: (inout MemberRecord) -> Void) {
        guard var record = member?.record, [.member, .suspended].contains(member?.membership.state) else { return }
        edit(&record)
        with { (_ = try? $0.update(record, now: clock), tells: []) }
    }

    /// Asks something of its machine, and hears what comes of it.
    @discardableResult
    func with<Result>(_ body: (inout MemberMachine) -> (Result, tells: [MemberMachine.Tell])) -> Result? {
        guard member != nil else { return nil }
        let (result, actions) = local.with(Self.key, body)
        perform(actions)
        planWake()
        return result
    }

    /// A flaw: what is over may begin again.
    func forgetRole(margin: Nanos) { with { ($0.role = RoleMachine(margin: margin), tells: []) } }

    func planWake() {
        guard isAlive, !isPaused else { return }
        let due = trueTime(of: local.wakeAt)
        guard due != .never else { return }
        let when = max(due, world.now) + world.dice(0...Nanos.millisecond)
        guard when < nextWake || nextWake <= world.now else { return }
        nextWake = when
        world.at(when) { [weak self] in
            guard let self, self.nextWake == when else { return }
            self.nextWake = .never
            if !self.isPaused { self.handle(.tick) }
        }
    }

    private func hear(_ tell: MemberMachine.Tell) {
        switch tell {
        case .state(let state, _):
            world.note("\(name) is told \(state)")
            world.checker.told(self, state)
        case .role(let tell):
            world.note("\(name) \(tell)")
            candidate?.hear(tell)
        }
    }

    private func send(_ request: LocalGroup.Request) {
        let verb: GroupServerModel.Verb
        var (timeout, session) = (Nanos.second, "")
        switch request.kind {
        case .look: verb = .watch(leases: false)
        case .member(_, let call, let status):
            let record = call.record
            (timeout, session) = (MembershipMachine.patience(record.lease), record.session)
            verb =
                switch call.kind {
                case .beat:
                    .beat(
                        id: name, session: record.session, leaseMilliseconds: record.leaseMilliseconds,
                        joined: call.joined, status: status)
                case .write: .join(record, call.mode, RingPolicy(seed: 1, pointsPerWeight: 2), status: status)
                case .leave: .leave(id: name, session: record.session, reason: "", actor: "")
                }
        case .beats: return world.fail("beats of one member are written together")
        }
        call(verb, request.knowledge, timeout: timeout) { answer in
            if answer?.status == .member { self.world.checker.wasTold(session) }
            self.handle(.answered(request, answer.map { .answer($0) } ?? .none))
        }
    }
}

private final class Sessions: Sendable {
    private let node: String
    private let last = Mutex(0)

    init(_ name: String, _ life: Int64) { node = "\(name)-\(life)" }

    @Sendable func next() -> String {
        last.withLock { last in
            last += 1
            return "\(node)-\(last)"
        }
    }
}
