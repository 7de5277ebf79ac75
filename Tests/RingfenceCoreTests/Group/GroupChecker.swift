// SPDX-License-Identifier: Apache-2.0
//
// The rules, held against what happened: it sees each call with what was stored before and after it, what views show
// and what members are told; it shares no code with what it judges.
//
//   the log        numbers without a hole; a version is one change set, told whole; versions grow
//   one event      a session joins once and ends once, by one event, but for what Redis lost
//   no two         when Redis takes a member out, the member itself does not believe to be one any more
//   no blame       nobody is taken out who was there all the time: an outage of Redis is not a death
//   never again    a session that was a member, to its own knowledge, and was taken out is never a member again; one
//   that
//                  was replaced never takes its id back (a first join whose answer was lost may come late)
//   told first     who was taken out is told so before it is a member again
//   true views     what a view knows under a mark is what was stored under it; what it shows never goes back
//   the end        in the calm all who live are members, all who are dead are out, all views are the same and fresh
import RingfenceCore
import TestSupport

final class GroupChecker {
    unowned var world: GroupWorld!
    private var content: [String: [String: String]] = [:]
    private var ended: [String: String] = [:]
    private var replaced: Set<String> = []
    private var shownVersion: [ObjectIdentifier: Int64] = [:]
    private var dead: Set<String> = []
    private var heardAt: [String: Nanos] = [:]
    private var joinedAt: [String: Nanos] = [:]
    private var lastTold: [ObjectIdentifier: MembershipMachine.State] = [:]
    private var lossAt: Nanos = -1000 * .second
    private(set) var changes = 0
    private(set) var rollbacks = 0
    private(set) var deaths = 0

    /// Redis lost data: what it told is not binding any more.
    func dataWasLost(now model: GroupServerModel) {
        lossAt = world.now
        ended = [:]
        replaced = []
    }

    /// It knows that it is a member under this session.
    func wasTold(_ session: String) { heardAt[session] = world.now }

    func died(_ node: GroupNode) { dead.insert(node.record.session) }

    func executed(
        before old: GroupServerModel.Group?, sequence seqBefore: Int64, after: GroupServerModel
    ) {
        let events = after.events
        let new = after.groups[GroupWorld.group]
        if let old, let new {
            if new.version < old.version { world.fail("the version went from \(old.version) to \(new.version)") }
            if new.now < old.now { world.fail("group time went back") }
        }
        var sequence = seqBefore
        var version = old?.version ?? 0
        var left = 0
        var members = Self.sessions((old?.members.values.map(\.record)) ?? [])
        for event in events {
            sequence += 1
            if event.sequence != sequence { world.fail("event \(event.sequence) follows upon \(sequence - 1)") }
            changes += 1
            if let its = event.version {
                if left > 0 {
                    if its != version { world.fail("a change set of two versions, \(version) and \(its)") }
                    left -= 1
                } else {
                    if event.type == "state.rolledBack" {
                        rollbacks += 1
                        if its <= version { world.fail("healed to \(its), from \(version)") }
                    } else if its != version + 1 {
                        world.fail("version \(its) follows upon \(version)")
                    }
                    version = its
                    left = event.of - 1
                }
                if let record = event.record { members[record.id] = Self.session(record) }
                if event.type == "member.left" || event.type == "member.expired" { members[event.member!] = nil }
                if left == 0 { content["\(event.generation):\(event.sequence)"] = members }
            }
            look(at: event, before: old)
        }
        if left != 0 { world.fail("a change set that is not told whole") }
        if let new {
            if new.version != version { world.fail("version \(new.version) has no event") }
            if let told = content[new.mark], told != Self.sessions(new.members.values.map(\.record)) {
                world.fail("the events tell of \(told), stored is another group")
            }
        }
    }

    private func look(at event: GroupServerModel.Event, before: GroupServerModel.Group?) {
        guard let member = event.member else { return }
        let held = before?.members[Array(member.utf8)]
        switch event.type {
        case "member.joined":
            guard let record = event.record else { return world.fail("a join without a record") }
            if let how = ended.removeValue(forKey: record.session) {
                // Data that was lost after its join may hold the member from before: then nothing tells what became of
                // it. And what a member has not heard of it cannot know: a join may be repeated late.
                let joined = joinedAt[record.session] ?? 0
                if joined > lossAt, heardAt[record.session] ?? 0 > joined {
                    world.fail("\(record.session) ended by \(how), and joins again")
                }
            }
            joinedAt[record.session] = world.now
            guard let held, event.text.contains("\"replaced\"") else { return }
            if replaced.contains(record.session) { world.fail("\(record.session) was replaced, and takes its id back") }
            replaced.insert(held.record.session)
        case "member.left", "member.expired":
            // (A member that joined within this very call cannot end in it.)
            guard let session = held?.record.session else { return world.fail("\(member) ends and was not there") }
            if let how = ended[session] { world.fail("\(session) ends twice, by \(how) and \(event.type)") }
            ended[session] = event.type
            guard event.type == "member.expired" else { return }
            deaths += 1
            guard let node = world.nodes.first(where: { $0.isAlive && $0.record.session == session }) else { return }
            if node.believes { world.fail("\(session) is taken out and believes to be a member") }
            let lease = node.record.lease
            // Slow wires and lost answers are faults of the way, not of Redis: with them nothing is promised.
            let isInnocent = !world.faults.contains(.slowWires) && !world.faults.contains(.lostAnswers)
            if isInnocent, node.faultAt + 2 * lease < world.now, lossAt + 2 * lease + 2 * .second < world.now,
                node.member?.membership.state == .member || node.member?.membership.state == .suspended
            {
                world.fail("\(session) is taken out though nothing was wrong with it")
            }
        default: break
        }
    }

    private static func sessions(_ records: [MemberRecord]) -> [String: String] {
        Dictionary(uniqueKeysWithValues: records.map { ($0.id, session($0)) })
    }

    private static func session(_ record: MemberRecord) -> String { "\(record.session) \(record.weight)" }

    func shows(_ node: GroupNode, before: GroupMachine.View) {
        let view = node.view
        let key = ObjectIdentifier(node)
        if view.shown.version < shownVersion[key, default: 0] {
            world.fail("\(node.name) shows \(view.shown.version) after \(shownVersion[key, default: 0])")
        }
        shownVersion[key] = view.shown.version
        guard !view.mark.isEmpty else { return }
        if let stored = content[view.mark] {
            if stored != Self.sessions(view.known.members) {
                world.fail(
                    "\(node.name) takes \(Self.sessions(view.known.members)) for \(view.mark), which was \(stored)")
            }
        } else {
            world.fail("\(node.name) knows \(view.mark), which never was")
        }
    }

    func told(_ node: GroupNode, _ state: MembershipMachine.State) {
        let key = ObjectIdentifier(node)
        let last = lastTold[key] ?? .member
        lastTold[key] = state
        let isLegal =
            switch (last, state) {
            case (.member, .suspended), (.suspended, .member), (.member, .expired), (.suspended, .expired),
                (.expired, .member), (_, .replaced):
                true
            // The join that came between was answered when its lease was over.
            case (.expired, .expired): node.rejoins
            default: false
            }
        if !isLegal { world.fail("\(node.name) is told \(state) after \(last)") }
    }

    func checkTheEnd() {
        let group = world.model.groups[GroupWorld.group]
        let there = Set((group?.members.values.map(\.record.session)) ?? [])
        for session in dead where there.contains(session) { world.fail("\(session) is dead and still a member") }
        for node in world.nodes where node.isAlive {
            if let membership = node.member?.membership, !membership.isOver {
                if membership.state != .member { world.fail("\(node.name) is \(membership.state) at the end") }
                if !there.contains(node.record.session) { world.fail("\(node.name) is no member at the end") }
                if let held = group?.held(node.name), held.record.session == node.record.session,
                    held.record != node.record
                {
                    world.fail("\(node.name) is \(node.record), and Redis says \(held.record)")
                }
            }
            if node.view.isStale(at: node.clock) { world.fail("\(node.name)'s view is stale at the end") }
            if Set(node.view.shown.members.map(\.session)) != there {
                world.fail("\(node.name) shows \(node.view.shown.members.map(\.session)) at the end, not \(there)")
            }
        }
    }
}
