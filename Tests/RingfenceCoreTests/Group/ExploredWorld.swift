// SPDX-License-Identifier: Apache-2.0
//
// A small world of which every story can be told: three members that stand for election, a Redis that is the reference
// model, and steps of a fifth of a lease. In a step each member acts once, in any order, with any operator's order or
// loss of data before, between or after them. It is a value: it is copied where the stories part, and two that came to
// the same are one.
//
// What may happen to a member is a way it is in until that changes: its wire is cut; its calls are executed and their
// answers lost, or come a step late; it sleeps, and does nothing, not even look at its clock. Clocks run alike here,
// and wires take no time: drift, delay and all that is about less than a step is the simulation's part.
import TestSupport

@testable import RingfenceCore

struct ExploredWorld {
    static let lease: Int64 = 1000
    static let step: Int64 = 200
    static let margin: Nanos = 190 * .millisecond
    static let start: Int64 = 1_790_000_000_000
    static let group = "g"

    struct Member: Hashable {
        enum Body: Hashable { case idle, running, stopping(until: Nanos) }

        let id: String
        var local: Local
        var way = Way.well
        var body = Body.idle
        var bodyEpoch: Int64 = 0
        var isExcused = false
        var late: Late?
        var ended: Set<Int64> = []
    }

    /// What shows of a member between two steps, without what only events make of its view.
    struct Local: Hashable {
        static let key = 1
        var group = LocalGroup()
        var machine: MemberMachine { group.member(Self.key)! }

        static func == (one: Local, other: Local) -> Bool {
            let (its, others) = (one.group.group, other.group.group)
            guard its.mark == others.mark, its.known.version == others.known.version, its.epoch == others.epoch else {
                return false
            }
            let (mine, theirs) = (one.machine, other.machine)
            return mine.membership.state == theirs.membership.state
                && mine.membership.deadline == theirs.membership.deadline && mine.record == theirs.record
                && mine.joined == theirs.joined && mine.isOut == theirs.isOut && mine.role == theirs.role
                && mine.failsafe == theirs.failsafe && mine.failsafeVersion == theirs.failsafeVersion
                && mine.comparedVersion == theirs.comparedVersion
                && mine.membership.written == theirs.membership.written
        }
        func hash(into hasher: inout Hasher) {
            hasher.combine(group.group.mark)
            hasher.combine(group.group.epoch)
            let machine = machine
            hasher.combine(machine.membership.state)
            hasher.combine(machine.membership.deadline)
            hasher.combine(machine.record)
            hasher.combine(machine.joined)
            hasher.combine(machine.isOut)
            hasher.combine(machine.role)
            hasher.combine(machine.failsafe)
            hasher.combine(machine.failsafeVersion)
            hasher.combine(machine.comparedVersion)
        }
    }

    struct Late: Hashable {
        var answer: GroupAnswer
        var request: LocalGroup.Request
        static func == (one: Late, other: Late) -> Bool {
            one.answer == other.answer && one.request.sentAt == other.request.sentAt
        }
        func hash(into hasher: inout Hasher) {
            hasher.combine(answer.mark)
            hasher.combine(request.sentAt)
        }
    }

    private(set) var model = GroupServerModel(clock: ExploredWorld.start)
    private(set) var copies: [GroupServerModel] = []
    private(set) var members: [Member] = []
    private(set) var time: Int64 = 0
    private(set) var elected: [Int64: Set<String>] = [:]
    private(set) var highest: Int64 = 0
    private var runs = 1
    private var sessions = 3
    private var orders = 0
    private(set) var hasLost = false
    private(set) var complaint: String?
    /// How many calls to Redis were made, in this story and before.
    private(set) var calls = 0
    private(set) var elections = 0
    /// How often a role went on beyond its lease.
    private(set) var heldRoles = 0
    let flaws: GroupServerModel.Flaws
    let neverFences: Bool
    /// A primary that cannot reach Redis goes on by the word of the others.
    let holds: Bool
    let forgetsPromises: Bool

    init(
        flaws: GroupServerModel.Flaws = .init(), neverFences: Bool = false, holds: Bool = false,
        forgetsPromises: Bool = false
    ) {
        self.flaws = flaws
        self.neverFences = neverFences
        self.holds = holds
        self.forgetsPromises = forgetsPromises
        model = GroupServerModel(clock: Self.start, flaws: flaws)
        for (index, id) in ["a", "b", "c"].enumerated() {
            let record = MemberRecord(id: id, session: "s\(index)", leaseMilliseconds: Self.lease, isCandidate: true)
            let answer = call(.join(record, .first, RingPolicy(seed: 1, pointsPerWeight: 2), status: nil), .none)
            var machine = MemberMachine(
                record: record, joined: answer.mark, pace: record.lease / 5, sentAt: now, rejoins: true)
            _ = machine.campaign(margin: Self.margin)
            machine.neverFences = neverFences
            var local = Local()
            local.group.add(machine, Local.key)
            local.group.begin(Local.key)
            members.append(Member(id: id, local: local))
        }
        if holds { happen(.order(.settings([("onCoordinatorLoss", "failsafe"), ("failsafeLimitMs", "3000")]))) }
    }

    private var now: Nanos { time * .millisecond }

    /// What tells two worlds apart. What is only counted does not.
    func fingerprint() -> Int {
        var hasher = Hasher()
        hasher.combine(model.groups[Self.group])
        hasher.combine(model.log)
        hasher.combine(members)
        hasher.combine(runs)
        for copy in copies { hasher.combine(copy.groups[Self.group]?.mark) }
        return hasher.finalize()
    }

    mutating func fail(_ text: String) { complaint = complaint ?? "at \(time) ms: \(text)" }

    // MARK: A step

    mutating func pass() {
        model.forgetEvents()
        copies.append(model)
        if copies.count > 3 { copies.removeFirst() }
        time += Self.step
        // The clock of the server and of members alike.
        model.clock = Self.start + time
    }

    mutating func happen(_ disturbance: Disturbance) {
        switch disturbance {
        case .way(let index, let way):
            members[index].way = way
            if way == .asleep { members[index].isExcused = members[index].body != .idle }
            if way != .asleep { wake(index) }
        case .outage: for index in members.indices where members[index].way != .asleep { members[index].way = .cut }
        case .order(let order):
            orders += 1
            _ = call(.order(order, actor: "op", reason: "", id: "o\(orders)"), .none)
        case .remove(let index):
            _ = call(.leave(id: members[index].id, session: "", reason: "", actor: "op"), .none)
        case .loss(let steps):
            runs += 1
            hasLost = true
            if let steps, steps <= copies.count {
                model.stepBack(to: copies[copies.count - steps])
            } else {
                model.forgetEverything()
            }
            model.run = "run\(runs)"
            // Answers on their way are lost with the connections.
            for index in members.indices where members[index].late != nil {
                let late = members[index].late!
                members[index].late = nil
                handle(.answered(late.request, .none), index)
            }
        }
    }

    private mutating func wake(_ index: Int) {
        if insideByClock(members[index]) != nil { members[index].isExcused = false }
    }

    mutating func act(_ index: Int) {
        guard members[index].way != .asleep else { return }
        if let late = members[index].late {
            members[index].late = nil
            handle(.answered(late.request, .answer(late.answer)), index)
        }
        let now = now
        with(index) { ((), $0.judge(now: now)) }
        goOn(index)
        if holds { askForPromises(index) }
        handle(.tick, index)
        look()
    }

    /// What its holder does by itself between two calls: it is promoted, has stopped, or drained.
    private mutating func goOn(_ index: Int) {
        let epoch = members[index].bodyEpoch
        if case .stopping(let until) = members[index].body, now >= until {
            members[index].body = .idle
            members[index].isExcused = false
            say(index) { $0.stopped(epoch) }
        }
        switch members[index].local.machine.role?.state {
        case .elected(let epoch): say(index) { $0.ready(epoch) }
        case .handingOver(let epoch):
            members[index].body = .idle
            say(index) { $0.readyToHandOver(epoch, position: nil) }
        default: break
        }
    }

    // MARK: What carries the machines' calls and hears what they tell

    private mutating func handle(_ event: LocalGroup.Event, _ index: Int) {
        // At most one is asked for in a step.
        let session = "s\(sessions + 1)"
        let actions = members[index].local.group.handle(
            event, now: now, LocalGroup.Chance(newSession: { session }, dice: { 0 }))
        if members[index].local.machine.record.session == session { sessions += 1 }
        perform(actions, index)
    }

    @discardableResult
    private mutating func with<Result>(
        _ index: Int, _ body: (inout MemberMachine) -> (Result, tells: [MemberMachine.Tell])
    ) -> Result {
        let (result, actions) = members[index].local.group.with(Local.key, body)
        perform(actions, index)
        return result
    }

    private mutating func perform(_ actions: [LocalGroup.Action], _ index: Int) {
        // A call is answered at once here, and what is told of its answer comes behind what was told before it.
        for case .tell(_, .role(let tell)) in actions { hear(tell, index) }
        for case .send(let request) in actions { send(request, index) }
    }

    private mutating func askForPromises(_ index: Int) {
        let now = now
        guard let view = members[index].local.group.group.viewWhileAway(now: now) else { return }
        let asking = with(index) { machine in
            let (asking, tells) = machine.promisesNeeded(view, now: now)
            return (asking, tells)
        }
        guard let asking else { return }
        var promised: [String] = []
        for peer in asking.peers {
            guard let other = members.firstIndex(where: { $0.local.machine.record.session == peer.session }),
                members[other].way != .asleep, let view = members[other].local.group.group.viewWhileAway(now: now)
            else { continue }
            if forgetsPromises {
                if FailsafeMachine.objection(to: asking.question, view) == nil { promised.append(peer.session) }
                continue
            }
            let refusal = with(other) { machine in
                let (refusal, tells) = machine.promise(asking.question, session: peer.session, view, now: now)
                return (refusal, tells)
            }
            if refusal == nil { promised.append(peer.session) }
        }
        with(index) { ((), $0.promised(asking.question, by: promised, askedAt: now, view, now: now)) }
        let deadline = members[index].local.machine.membership.deadline
        if insideByClock(members[index]) != nil, now >= deadline - Self.margin { heldRoles += 1 }
    }

    private mutating func say(_ index: Int, _ change: (inout RoleMachine) -> RoleMachine.Output?) {
        let now = now
        with(index) { $0.say(now: now, change) }
    }

    private mutating func hear(_ tell: RoleMachine.Tell, _ index: Int) {
        switch tell {
        case .state(.elected(let epoch)):
            let session = members[index].local.machine.record.session
            if elected[epoch]?.contains(session) != true { fail("\(session) begins \(epoch), and was not elected") }
            if members[index].ended.contains(epoch) { fail("\(session) begins \(epoch) again") }
            highest = max(highest, epoch)
            (members[index].body, members[index].bodyEpoch) = (.running, epoch)
            members[index].isExcused = false
            look()
        case .state(.primary): members[index].body = .running
        case .ended(let epoch, _):
            members[index].ended.insert(epoch)
            if members[index].body != .idle { members[index].body = .stopping(until: now + Self.margin) }
        case .state: break
        }
    }

    private mutating func send(_ request: LocalGroup.Request, _ index: Int) {
        let verb: GroupServerModel.Verb
        switch request.kind {
        case .look: verb = .watch(leases: false)
        case .member(_, let call, let status):
            switch call.kind {
            case .beat:
                verb = .beat(
                    id: call.record.id, session: call.record.session, leaseMilliseconds: Self.lease,
                    joined: call.joined, status: status)
            case .write: verb = .join(call.record, call.mode, RingPolicy(seed: 1, pointsPerWeight: 2), status: status)
            case .leave: return fail("nobody leaves here")
            }
        case .beats: return fail("beats of one member are written together")
        }
        let way = members[index].way
        guard way != .cut else { return handle(.answered(request, .none), index) }
        let answer = call(verb, request.knowledge)
        switch way {
        case .deaf: handle(.answered(request, .none), index)
        case .slow where members[index].late == nil: members[index].late = Late(answer: answer, request: request)
        // One is on its way already: this one does not come.
        case .slow: handle(.answered(request, .none), index)
        default: handle(.answered(request, .answer(answer)), index)
        }
    }

    // MARK: Redis, and what is judged

    private mutating func call(_ verb: GroupServerModel.Verb, _ known: GroupKnowledge) -> GroupAnswer {
        calls += 1
        let before = model.groups[Self.group]?.office.epoch ?? 0
        model.forgetEvents()
        let answer = model.call(verb, Self.group, fresh: "generation\(runs)", known: known)
        for event in model.events where event.type == "primary.elected" { wasElected(event, before, known) }
        return answer
    }

    private mutating func wasElected(_ event: GroupServerModel.Event, _ before: Int64, _ known: GroupKnowledge) {
        elections += 1
        let group = model.groups[Self.group]!
        let epoch = event.epoch!
        if epoch <= max(before, known.epoch) { fail("epoch \(epoch) is given after \(before)") }
        // What Redis lost it is told again within the lease that it waits, by whoever knows and can reach it.
        let isKnown = members.contains { $0.way == .well && $0.local.group.group.epoch >= epoch }
        if epoch <= highest, !hasLost || isKnown { fail("epoch \(epoch) is given after \(highest)") }
        elected[epoch, default: []].insert(group.office.session)
        guard let held = group.held(event.member!), held.ends > group.now, held.record.isCandidate else {
            return fail("\(event.member!) is elected and may not be")
        }
    }

    private func insideByClock(_ member: Member) -> Int64? {
        guard let epoch = member.local.machine.role?.state.epoch, member.local.machine.holds(epoch, now: now) else {
            return nil
        }
        return epoch
    }

    /// The epoch under which something is or may be done.
    func inside(_ member: Member) -> Int64? {
        if let epoch = insideByClock(member) { return epoch }
        guard member.way != .asleep, !member.isExcused else { return nil }
        if case .stopping(let until) = member.body, now < until { return member.bodyEpoch }
        return nil
    }

    private mutating func look() {
        var found: String?
        for member in members {
            guard let epoch = inside(member) else { continue }
            let text = "\(member.id) under \(epoch)"
            if let found { fail("two primaries: \(found), \(text)") }
            found = text
        }
    }

    /// Nothing disturbs any more: in the end there is one primary.
    mutating func calmDown() {
        for index in members.indices { happen(.way(index, .well)) }
        // Who is not known to a primary that may go on waits for that.
        for _ in 0..<(holds ? 40 : 24) {
            pass()
            for index in members.indices { act(index) }
            if complaint != nil { return }
        }
        let office = model.groups[Self.group]?.office
        let primaries = members.filter { inside($0) != nil }
        guard primaries.count == 1, office?.phase == .ready,
            office?.session == primaries[0].local.machine.record.session
        else {
            return fail("in the end \(primaries.map(\.id)) are primary, and Redis says \(office.map { "\($0)" } ?? "")")
        }
    }
}
