// SPDX-License-Identifier: Apache-2.0
//
// What the reference model keeps and is asked.
package import RingfenceCore

extension GroupServerModel {
    package struct Flaws: Sendable {
        /// Time runs on while nobody can reach the group.
        package var ignoresGaps = false
        /// A version that Redis lost is given again.
        package var neverHeals = false
        /// Whoever finds a dead member says so, and leaves it there for the next to find.
        package var leavesTheDead = false
        /// A late first join wins the id back.
        package var forgetsTheReplaced = false
        /// Nobody waits for the lease of a primary that was replaced, removed or is to be failed over.
        package var electsAtOnce = false
        /// After Redis lost data, or a new group began, an election does not wait for who may be primary.
        package var electsAfterLoss = false
        /// What callers know of epochs that Redis lost is not heeded, and none are left out.
        package var forgetsEpochs = false
        /// Whom a silent primary did not know is elected like others.
        package var electsTheUnknown = false
        /// After Redis may have lost an election, whoever is back is believed to be all there are.
        package var believesWhoIsBack = false
        package init() {}
    }

    package enum Verb: Sendable {
        case watch(leases: Bool)
        /// `status`: of a candidate.
        case beat(id: String, session: String, leaseMilliseconds: Int64, joined: String, status: CandidateStatus?)
        /// Of members that are no candidates.
        case beats([GroupAnswer.Beat])
        case join(MemberRecord, JoinMode, RingPolicy, status: CandidateStatus?)
        case leave(id: String, session: String, reason: String, actor: String)
        case order(RoleOrder, actor: String, reason: String, id: String)
        case note(type: String, member: String, reason: String, actor: String, detail: String)
    }

    package struct Held: Sendable, Hashable {
        package var record: MemberRecord
        package var ends: Int64
        /// The sessions it took the id from, newest first.
        package var before: [String] = []
        /// Of a candidate.
        package var standing: Standing?
    }

    package struct Group: Sendable, Hashable {
        package var version: Int64 = 0
        package var mark = ""
        /// The version of the last change of members.
        package var memberVersion: Int64 = 0
        package var now: Int64 = 0
        package var offset: Int64 = 0
        package var graceUntil: Int64 = 0
        package var recoverUntil: Int64 = 0
        /// In a row, up to the last call.
        package var gaps: Int64 = 0
        /// The server that was seen last, and when.
        package var run = ""
        package var runAt: Int64 = 0
        /// By the bytes of their ids.
        package var members: [[UInt8]: Held] = [:]
        package var policy: RingPolicy?
        package var settings: [String: String] = [:]
        package var office = Office()
        /// Of a large group.
        package var changes: Changes?
        /// Nothing is kept but that its versions and epochs go on.
        package var isRemoved = false

        package init() {}

        package var shortest: Int64 {
            members.isEmpty ? 0 : members.values.reduce(.max) { min($0, $1.record.leaseMilliseconds) }
        }
        package var longest: Int64 { members.values.reduce(0) { max($0, $1.record.leaseMilliseconds) } }
        package var pace: Int64 { members.isEmpty ? 1000 : min(1000, shortest / 5) }
        mutating func noteServer(_ name: String) { (run, runAt, office.runVersion) = (name, now, version) }

        package var firstEnd: Int64? { members.isEmpty ? nil : members.values.reduce(.max) { min($0, $1.ends) } }

        package func held(_ id: String) -> Held? { members[Array(id.utf8)] }
    }

    /// In which version each member of a large group last changed, and the last ones that are gone went.
    package struct Changes: Sendable, Hashable {
        package var last: [[UInt8]: Int64] = [:]
        package var gone: [[UInt8]: Int64] = [:]
        /// Of who went in versions up to here some are forgotten.
        package var floor: Int64
    }

    package struct Floors: Sendable, Hashable {
        package var version: Int64 = 0
        package var epoch: Int64 = 0
    }

    package struct Event: Sendable, Equatable {
        package var generation: String
        package var sequence: Int64
        package var group: String
        package var type: String
        package var member: String?
        package var version: Int64?
        package var of: Int = 1
        package var record: MemberRecord?
        package var epoch: Int64?
        package var reason = ""
        package var text: String
    }

    /// What an event will say, but for where it stands in the log.
    struct News {
        var type: String
        var member: String?
        var record: MemberRecord?
        var epoch: Int64?
        var previous = ""
        var reason = ""
        var actor = ""
        /// JSON.
        var detail: String?

        init(_ type: String, member: String? = nil, record: MemberRecord? = nil, detail: String? = nil) {
            self.type = type
            self.member = member
            self.record = record
            self.detail = detail
        }
    }

    package struct Log: Sendable, Hashable {
        package var generation: String
        package var sequence: Int64
        package var run: String
        /// The last number kept of each generation that ended, newest first.
        package var forks: [(generation: String, kept: Int64)] = []

        package static func == (one: Log, other: Log) -> Bool {
            one.generation == other.generation && one.sequence == other.sequence && one.run == other.run
                && one.forks.elementsEqual(other.forks) { $0 == $1 }
        }

        package func hash(into hasher: inout Hasher) {
            hasher.combine(generation)
            hasher.combine(sequence)
            hasher.combine(run)
        }
    }

    /// One call, while it is carried out.
    struct Call {
        let verb: Verb
        let name: String
        let fresh: String
        let known: GroupKnowledge
        var group: Group
        /// Whether the server was compared with the group's in this call, which is done once; and with which.
        var isServerChecked = false
        let runBefore: String
        /// Since the last call that the group knows, by the clocks of the servers.
        let away: Int64
        /// The role that ended in this call.
        var ended: RoleEnded?
        /// Whom an order wants in its place.
        var favoured = ""
        var refusals: [RoleReason] = []
        /// Under which the order was carried out, in this call or before.
        var orderEpoch: Int64 = 0
        /// Who came, changed or went.
        var touched: Set<[UInt8]> = []
        /// Who keeps the id that a join wanted.
        var holder: GroupAnswer.Holder?
        /// Of many beats, of each.
        var statuses: [GroupAnswer.Status] = []
    }
}

extension GroupServerModel.Verb {
    /// The members that call.
    package var ids: [String] {
        switch self {
        case .watch, .order, .note: []
        case .beat(let id, _, _, _, _), .leave(let id, _, _, _): [id]
        case .beats(let beats): beats.map(\.id)
        case .join(let record, _, _, _): [record.id]
        }
    }
}
