// SPDX-License-Identifier: Apache-2.0
//
// One process' view of a group: the last answer of Redis, the events since, when to ask again, and what to show.
//
// News comes in two ways. Answers of group.lua carry the whole group if it changed; they are the truth, at most one
// pace old. Events carry one change set each, and come at once; they are applied only if they follow what is known
// without a gap and in the same generation of the log, else Redis is asked. The two come over different connections and
// so in any order, which is settled by the version: it never goes back, because a caller says which one it knows. An
// answer that is older than what is known was overtaken by an event, and is passed over.
//
// A large group comes in pages (group.lua). They are gathered in a draft, which becomes what is known with the last
// page: before that, it is the group of no version. And showing a large group takes time in proportion to its size,
// during which others on the same event loop wait: while it changes again and again it is shown now and then, at once
// only if the role changes.
//
// Shown is not always what is known. When Redis has lost members (it restarted empty, or an older copy was promoted),
// they come back one by one within the longest lease. The first view after the loss would for a moment be a ring of
// one. So while members that were shown are missing in such a recovery, and no longer than it lasts, the previous
// members are shown, as stale.

package struct GroupMachine: Sendable {
    package enum Action: Equatable {
        case none
        /// Another view is to be shown.
        case show
        /// Something is missing: ask at once.
        case look
    }

    /// Nobody has told how fast to ask.
    package static let firstPace = Nanos.second

    /// Groups up to this size are shown as soon as they change.
    package static let smallSize = 256
    /// For each member, the least time between two changes that are shown.
    package static let showingCost: Nanos = 20_000
    /// How many changes are made one by one; for more the members are sorted anew.
    private static let fewChanges = 32

    package private(set) var known = View(generation: "", version: 0, members: [], policy: nil, isRecovering: false)
    /// The pages that came so far, and what to go on from.
    private var draft: (members: [MemberRecord], hasUnreadable: Bool, cursor: String)?
    private var shownAt: Nanos?
    /// When to show what is known; `.never` if it is shown already.
    private var showAt = Nanos.never
    /// How many of those known have which lease.
    private var leases: [Int64: Int] = [:]
    package private(set) var mark = ""
    package private(set) var shown = View(generation: "", version: 0, members: [], policy: nil, isRecovering: false)
    /// The log had come so far when the known view was current.
    package private(set) var sequence: Int64 = 0
    package private(set) var logGeneration = ""
    /// Before this moment the view was asked for that is known to be current.
    package private(set) var confirmedAt: Nanos?
    package private(set) var pace = GroupMachine.firstPace
    package private(set) var isInGrace = false
    /// When the next lease ends, unless it is renewed; `.never` if there is none.
    package private(set) var deathAt = Nanos.never
    /// The highest epoch ever seen.
    package private(set) var epoch: Int64 = 0
    /// When the last call that asks what is new was written.
    package private(set) var askedAt = -Nanos.second
    private var askAt: Nanos = 0
    /// When the newest recovery is over at the latest; the earliest bound of all its answers.
    private var recoverUntil: Nanos = 0
    /// What was lost is known here: the members that came with an answer within the recovery.
    private var isLossKnown = false
    /// All members that were shown are back. One that is missing from here on has left or died.
    private var hasRecovered = false
    /// Nothing had been seen of the group before its recovery: nobody here knows which members are missing.
    private var isNewcomer = false
    /// Members that left or died in events meanwhile, and are not waited for.
    private var gone: [String] = []
    /// The policy came with the members. The one who makes the group gives it one without an event for it.
    private var isPolicyKnown = false
    /// The events of a change set that is not complete yet.
    private var pending: [GroupEvent] = []

    package init() {}

    package var knowledge: GroupKnowledge {
        var knowledge = GroupKnowledge(
            version: known.version, mark: mark, longestLeaseMilliseconds: leases.keys.max() ?? 0, policy: known.policy,
            epoch: epoch)
        knowledge.cursor = draft?.cursor ?? ""
        return knowledge
    }

    /// Whether more pages are to come.
    package var isGathering: Bool { draft != nil }

    /// When to ask again. `dice`: 0 to 3 ms, so that not all watchers ask for one death at once.
    package func wakeAt(dice: Nanos) -> Nanos {
        let death = deathAt == .never ? Nanos.never : deathAt.adding(dice)
        return min(showAt, min(askAt, max(death, askedAt + .millisecond)))
    }

    /// Whether Redis has not been heard of for longer than it should, or lost members and does not have them back.
    package func isStale(at now: Nanos) -> Bool {
        guard let confirmedAt else { return true }
        return shown.isRecovering || now - confirmedAt > Self.patience(pace)
    }

    /// What is known, and when Redis was asked last that said so.
    package var sight: MemberMachine.Sight { .init(known, asOf: confirmedAt ?? .min) }

    /// What is known, but only when Redis has not been heard of for longer than it should.
    package func viewWhileAway(now: Nanos) -> View? {
        guard let confirmedAt, FailsafeMachine.isAway(confirmedAt: confirmedAt, pace: pace, now: now) else {
            return nil
        }
        return known
    }

    /// How long after the last confirmation a view is no longer called fresh.
    package static func patience(_ pace: Nanos) -> Nanos { 3 * pace + 100 * .millisecond }

    // MARK: Asking

    /// A call, of whatever verb, is being written.
    package mutating func asks(now: Nanos) {
        askedAt = now
        askAt = now + pace
    }

    /// No answer came: ask again soon.
    package mutating func failed(now: Nanos) {
        askAt = min(askAt, now + min(pace, 100 * .millisecond))
    }

    package mutating func answered(_ answer: GroupAnswer, sentAt: Nanos, now: Nanos) -> Action {
        pace = answer.paceMilliseconds * .millisecond
        askAt = min(askAt, sentAt + pace)
        deathAt = answer.nextMilliseconds.map { now + $0 * .millisecond } ?? .never
        isInGrace = answer.graceMilliseconds > 0
        if answer.recoveryMilliseconds > 0 {
            recovers(for: answer.recoveryMilliseconds * .millisecond, sentAt: sentAt, now: now)
        }
        guard answer.mark != mark else {
            if let policy = answer.content?.policy { (known.policy, isPolicyKnown) = (policy, true) }
            confirm(answer, sentAt: sentAt)
            return settle(now: now)
        }
        guard answer.version > known.version else {
            if !mark.isEmpty, answer.version == known.version { draft = nil }
            return .none
        }
        guard let content = answer.content, !content.isMore else { return .look }
        // No member has changed since the version that was known when this was asked. What came in between is of the
        // same story only if it is of the same generation.
        let generation = Self.generation(of: answer.mark)
        var (members, hasUnreadable) = (content.members, known.hasUnreadable)
        if let page = content.page {
            switch take(page, of: generation, content) {
            case .whole(let all, let isUnreadable): (members, hasUnreadable) = (all, isUnreadable)
            case .partial(let action): return action
            case .lost: return look(now: now)
            }
        } else if members != nil {
            hasUnreadable = !content.unreadable.isEmpty
        }
        guard members != nil || known.generation == generation else { return look(now: now) }
        draft = nil
        if let members {
            leases = [:]
            for member in members { leases[member.leaseMilliseconds, default: 0] += 1 }
        }
        known = View(
            generation: generation, version: answer.version, members: members ?? known.members,
            policy: content.policy ?? known.policy, isRecovering: false, role: content.role,
            failsafeLimit: hasUnreadable ? nil : Self.failsafeLimit(content.settings))
        known.hasUnreadable = hasUnreadable
        known.breaker = GroupBreaker(content.settings)
        epoch = max(epoch, content.role.epoch)
        isPolicyKnown = content.policy != nil
        isLossKnown = answer.recoveryMilliseconds > 0
        mark = answer.mark
        pending = []
        confirm(answer, sentAt: sentAt)
        return settle(now: now)
    }

    private enum Taken {
        /// All members; nil: those known, which were changed in place.
        case whole([MemberRecord]?, isUnreadable: Bool)
        case partial(Action)
        case lost
    }

    /// A page of a large group.
    private mutating func take(
        _ page: GroupAnswer.Page, of generation: String, _ content: GroupAnswer.Content
    ) -> Taken {
        let before: (members: [MemberRecord], hasUnreadable: Bool)
        switch page.from {
        case GroupAnswer.Page.start: before = ([], false)
        // Whatever came since is in this page again.
        case GroupAnswer.Page.known where known.generation == generation:
            let isUnreadable = known.hasUnreadable || !content.unreadable.isEmpty
            if page.next.isEmpty, page.count <= Self.fewChanges {
                // In place: each call of each member of a large group that is changing is answered so.
                for record in page.members { put(record) }
                for id in page.gone { remove(id) }
                return .whole(nil, isUnreadable: isUnreadable)
            }
            before = (known.members, known.hasUnreadable)
        case GroupAnswer.Page.known: return .lost
        default:
            // Another answer to the same question came before.
            guard let draft, draft.cursor == page.from else { return .partial(.none) }
            before = (draft.members, draft.hasUnreadable)
        }
        let members = page.applied(to: before.members)
        let isUnreadable = before.hasUnreadable || !content.unreadable.isEmpty
        guard page.next.isEmpty else {
            draft = (members, isUnreadable, page.next)
            return .partial(.look)
        }
        return .whole(members, isUnreadable: isUnreadable)
    }

    /// The answer tells when the recovery ends: between these two moments. Another loss ends later than any bound for
    /// this.
    private mutating func recovers(for left: Nanos, sentAt: Nanos, now: Nanos) {
        if sentAt + left > recoverUntil + .millisecond {
            recoverUntil = now + left
            (isLossKnown, hasRecovered, gone) = (false, false, [])
            isNewcomer = confirmedAt == nil
        } else {
            recoverUntil = min(recoverUntil, now + left)
        }
    }

    private mutating func confirm(_ answer: GroupAnswer, sentAt: Nanos) {
        confirmedAt = max(confirmedAt ?? sentAt, sentAt)
        sequence = answer.sequence
        logGeneration = answer.generation
    }

    // MARK: Events

    /// An event of this group that made a version.
    package mutating func happened(_ event: GroupEvent, now: Nanos) -> Action {
        guard confirmedAt != nil else { return .none }
        // In another generation the same version may be another group: data was lost between them.
        guard event.generation == logGeneration else { return look(now: now) }
        guard event.version > known.version else { return .none }
        guard event.version == known.version + 1, event.kind != .other, isPolicyKnown else { return look(now: now) }
        if let first = pending.first {
            guard event.generation == first.generation, event.version == first.version,
                event.sequence == pending.last!.sequence + 1
            else {
                return look(now: now)
            }
        }
        pending.append(event)
        guard pending.count == event.of else { return pending.count < event.of ? .none : look(now: now) }
        for event in pending { apply(event.kind) }
        pending = []
        known.generation = event.generation
        known.version = event.version
        mark = "\(event.generation):\(event.sequence)"
        sequence = event.sequence
        return settle(now: now)
    }

    /// Events may have been missed: asks at once.
    package mutating func look(now: Nanos) -> Action {
        pending = []
        askAt = min(askAt, now)
        return .look
    }

    private mutating func apply(_ kind: GroupEvent.Kind) {
        switch kind {
        case .joined(let record), .updated(let record):
            put(record)
            pace = min(pace, record.lease / 5)
            askAt = min(askAt, askedAt + pace)
        case .left(let id), .expired(let id):
            gone.append(id)
            remove(id)
        case .other: break
        }
    }

    private mutating func put(_ record: MemberRecord) {
        let index = place(of: record.id)
        if index < known.members.count, known.members[index].id.hasSameBytes(as: record.id) {
            forgetLease(of: known.members[index])
            known.members[index] = record
        } else {
            known.members.insert(record, at: index)
        }
        leases[record.leaseMilliseconds, default: 0] += 1
    }

    private mutating func remove(_ id: String) {
        let index = place(of: id)
        guard index < known.members.count, known.members[index].id.hasSameBytes(as: id) else { return }
        forgetLease(of: known.members[index])
        known.members.remove(at: index)
    }

    private mutating func forgetLease(of record: MemberRecord) {
        let count = leases[record.leaseMilliseconds] ?? 0
        leases[record.leaseMilliseconds] = count > 1 ? count - 1 : nil
    }

    /// Where a member with this id stands or would stand.
    private func place(of id: String) -> Int { Self.place(of: id, in: known.members[...]) }

    static func place(of id: String, in members: ArraySlice<MemberRecord>) -> Int {
        var low = members.startIndex
        var high = members.endIndex
        while low < high {
            let middle = (low + high) / 2
            if members[middle].id.isBefore(id) { low = middle + 1 } else { high = middle }
        }
        return low
    }

    // MARK: Showing

    /// Time passed: a recovery may be over.
    package mutating func tick(now: Nanos) -> Action { settle(now: now) }

    private mutating func settle(now: Nanos) -> Action {
        var next = known
        if now < recoverUntil, !hasRecovered {
            if isNewcomer {
                next.isRecovering = true
                askAt = min(askAt, recoverUntil)
            } else if !shown.members.isEmpty, !hasAll(shown.members) {
                // Its version is what it was made of; what is known by now is newer, and is not shown yet.
                next = shown
                next.isRecovering = true
                askAt = min(askAt, recoverUntil)
            } else if isLossKnown {
                hasRecovered = true
            }
        } else {
            gone = []
        }
        showAt = .never
        guard next != shown else { return .none }
        if next.members.count > Self.smallSize, let shownAt, next.role == shown.role {
            let due = shownAt.adding(Nanos(next.members.count) * Self.showingCost)
            guard now >= due else {
                showAt = due
                return .none
            }
        }
        shown = next
        shownAt = now
        return .show
    }

    private func hasAll(_ members: [MemberRecord]) -> Bool {
        var index = 0
        for member in members {
            while index < known.members.count, known.members[index].id.isBefore(member.id) { index += 1 }
            if index < known.members.count, known.members[index].id.hasSameBytes(as: member.id) { continue }
            guard gone.contains(where: { $0.hasSameBytes(as: member.id) }) else { return false }
        }
        return true
    }

    private static func failsafeLimit(_ settings: [String: String]) -> Nanos? {
        guard settings["onCoordinatorLoss"] == "failsafe" else { return nil }
        return (settings["failsafeLimitMs"].flatMap { Int64($0) } ?? 600_000).multipliedClamping(by: .millisecond)
    }

    /// The generation of the log that a version was made in, by the version's mark.
    package static func generation(of mark: String) -> String { String(mark.prefix { $0 != ":" }) }
}
