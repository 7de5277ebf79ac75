// SPDX-License-Identifier: Apache-2.0
//
// One process: the machines of the library, unchanged, over simulated wires and by a clock of its own. What is decided
// is decided in them; here are calls, answers, pauses and deaths.
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

    var view = GroupMachine()
    private(set) var member: MemberMachine?
    /// As it joins.
    private var newcomer: MemberRecord
    var record: MemberRecord { member?.record ?? newcomer }
    let rejoins: Bool
    private var isJoining = false
    private var isLooking = false
    private var sessions = 0
    private let life: Int64
    private var wantsRole = false
    private var isLeaving = false
    private(set) var candidate: GroupCandidate?

    init(_ world: GroupWorld, name: String, isMember: Bool) {
        self.world = world
        self.name = name
        self.isMember = isMember
        driftPPM = world.dice(-9_900...9_900)
        clockOffset = world.dice(0...1_000_000 * .second)
        life = world.dice(0...1 << 40)
        rejoins = world.random.chance(50)
        newcomer = MemberRecord(
            id: name, session: "",
            leaseMilliseconds: world.commonLease
                ?? world.random.pick(world.hasCandidates ? [200, 400, 400, 1000, 3000] : [200, 400, 1000, 1000, 3000]))
        if world.hasCandidates, isMember {
            newcomer.priority = Int(world.dice(0...2))
            wantsRole = world.random.chance(85)
        }
        newcomer.session = newSession()
    }

    private func newSession() -> String {
        sessions += 1
        return "\(name)-\(life)-\(sessions)"
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
        faultAt = min(faultAt, world.now)
        candidate?.woke()
        if member?.membership.isMember(at: clock) == false, member?.membership.state == .member { tick() }
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

    /// In good order: what it does as primary is over before it says so.
    func leave() {
        guard isAlive, !isPaused, !isLeaving, member?.membership.state == .member else { return }
        isLeaving = true
        world.note("\(name) is to leave")
        let done = { [self] in
            guard let (isBegun, tells) = member?.leave(reason: "", now: clock), isBegun else { return }
            tell(tells)
            tick()
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
            let role = view.known.role
            let action = view.answered(answer, sentAt: sentAt, now: clock)
            if view.known.role != role { saw() }
            if action == .look { look() }
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
        call(.join(record, mode, RingPolicy(seed: 1, pointsPerWeight: 2), status: nil), timeout: 2 * .second) {
            answer, sentAt in
            self.took(answer, sentAt: sentAt)
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
            self.member = MemberMachine(
                record: record, joined: answer.mark, pace: answer.paceMilliseconds * .millisecond, sentAt: sentAt,
                rejoins: self.rejoins)
            self.member?.neverFences = self.world.flaws.neverFences
            if self.wantsRole { self.campaign() }
            self.planWake()
        }
    }

    // MARK: What its candidate asks for

    private func campaign() {
        candidate = candidate ?? GroupCandidate(self, world)
        _ = member?.campaign(margin: candidate!.margin)
        change { $0.isCandidate = true }
    }

    func change(_ edit: (inout MemberRecord) -> Void) {
        guard var record = member?.record, [.member, .suspended].contains(member?.membership.state) else { return }
        edit(&record)
        _ = member?.update(record, now: clock)
        planWake()
    }

    /// Asks something of its machine, and hears what comes of it.
    @discardableResult
    func with<Result>(_ body: (inout MemberMachine) -> (Result, tells: [MemberMachine.Tell])) -> Result? {
        guard member != nil else { return nil }
        let (result, tells) = body(&member!)
        tell(tells)
        planWake()
        return result
    }

    /// A flaw: what is over may begin again.
    func forgetRole(margin: Nanos) { member?.role = RoleMachine(margin: margin) }

    private func saw() { with { ((), $0.saw(view.sight, now: clock)) } }

    func planWake() {
        guard isAlive, !isPaused else { return }
        let look = isLooking ? Nanos.never : view.wakeAt(dice: world.dice(0...3 * .millisecond))
        let due = trueTime(of: min(look, member?.wakeAt ?? .never))
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
        if let output = member?.tick(now: clock, newSession: newSession) { perform(output) }
        if !isLooking, view.wakeAt(dice: 0) <= clock { look() }
        planWake()
    }

    private func perform(_ output: MemberMachine.Output) {
        tell(output.tells)
        if let call = output.call { send(call) }
    }

    func tell(_ tells: [MemberMachine.Tell]) {
        for tell in tells {
            switch tell {
            case .state(let state, _):
                world.note("\(name) is told \(state)")
                world.checker.told(self, state)
            case .role(let tell):
                world.note("\(name) \(tell)")
                candidate?.hear(tell)
            }
        }
    }

    private func send(_ call: MemberMachine.Call) {
        let status = with { $0.write(view.known, now: clock) } ?? nil
        let record = call.record
        let verb: GroupServerModel.Verb =
            switch call.kind {
            case .beat:
                .beat(
                    id: name, session: record.session, leaseMilliseconds: record.leaseMilliseconds,
                    joined: call.joined, status: status)
            case .write: .join(record, call.mode, RingPolicy(seed: 1, pointsPerWeight: 2), status: status)
            case .leave: .leave(id: name, session: record.session, reason: "", actor: "")
            }
        self.call(verb, timeout: MembershipMachine.patience(record.lease)) { answer, sentAt in
            self.took(answer, sentAt: sentAt)
            if answer?.status == .member { self.world.checker.wasTold(record.session) }
            let reply = answer.map { MemberMachine.Reply.answer($0) } ?? .none
            let output = self.member?.answered(
                call.kind, reply, self.view.sight, now: self.clock, newSession: self.newSession)
            if let output { self.perform(output) }
            self.planWake()
        }
    }
}
