// SPDX-License-Identifier: Apache-2.0
//
// Stories of group.lua that chance seldom tells: each step is played on the model and on a real Redis, which must
// agree, and then what became of it is looked at.
import RingfenceCore
import TestSupport
import Testing

@testable import Ringfence

@Suite struct GroupScriptStoryTests {
    private func withStory(_ tell: @Sendable @escaping (GroupStory) async throws -> Void) async throws {
        try await onOwnThread {
            try await withRedis { server in
                let story = GroupStory(try await GroupScriptFuzz(server, seed: 1))
                try await tell(story)
                await story.close()
            }
        }
    }

    // MARK: Another server

    @Test func `no switchover is taken as long as nobody could be elected`() async throws {
        try await withStory { story in
            try await story.lead(["a": 5, "b": 5])
            story.newServer()
            let refused = try await story.order(.switchover(to: "b", timeoutMilliseconds: 30_000))
            #expect(refused.map(\.code) == ["waiting"] && refused.first?.detail == "1800 ms")
            #expect(story.office.phase == .ready && story.count("switchover.started") == 0)
            try await story.live(2000)
            #expect(try await story.order(.switchover(to: "b", timeoutMilliseconds: 30_000)).isEmpty)
            #expect(story.office.phase == .handingOver)
        }
    }

    @Test func `an automatic failback does not begin as long as nobody could be elected`() async throws {
        try await withStory { story in
            try await story.lead(["a": 5])
            _ = try await story.order(.settings([("failback", "automatic"), ("failbackAfterMs", "3000")]))
            try await story.join("b", priority: 1, position: 5)
            try await story.live(2900)
            story.newServer()
            try await story.live(1700)
            #expect(story.office.phase == .ready && story.count("switchover.started") == 0)
            try await story.live(300)
            #expect(story.office.phase == .handingOver && story.office.target == "b")
        }
    }

    @Test func `a primary that stopped keeps its role until another may be elected`() async throws {
        try await withStory { story in
            try await story.lead(["a": 5, "b": 5])
            #expect(try await story.order(.switchover(to: "b", timeoutMilliseconds: 30_000)).isEmpty)
            let drained = RoleClaim.readyToHandOver(1, position: 5, asOf: story.group.version)
            story.newServer()
            try await story.beat("a", drained)
            #expect(story.office.primary == "a" && story.office.phase == .handingOver)
            for _ in 0..<17 {
                try await story.live(100, claims: ["a": drained])
                #expect(story.office.primary == "a", "nobody may be elected yet")
            }
            try await story.live(100, claims: ["a": drained])
            #expect(story.office.primary == "b" && story.office.epoch == 18)
            #expect(story.count("primary.lost") == 0)
        }
    }

    /// Redis was away for longer than a lease, and a promise was missed: whoever led has stopped, and says so.
    @Test(arguments: ["back", "dead", "replaced"])
    func `after a restart with its data a group that holds elects when all are back, and waits if one is missing`(
        other: String
    ) async throws {
        try await withStory { story in
            try await story.lead(other == "replaced" ? ["a": nil, "b": nil] : ["a": nil, "b": nil, "c": nil])
            try await story.order(.settings([("onCoordinatorLoss", "failsafe"), ("failsafeLimitMs", "10000")]))
            try await story.live(500)
            if other == "replaced" {
                let record = MemberRecord(id: "c", session: "old", leaseMilliseconds: 1000, isCandidate: true)
                try await story.call(.join(record, .first, GroupScriptFuzz.policy, status: CandidateStatus()))
            }
            story.newServer()
            if other == "dead" { story.dies("c") }
            // Nobody has noticed yet that it is another server.
            if other == "replaced" { try await story.join("c", position: nil) }
            try await story.beat("a", .gone(1, reason: "suspended"))
            #expect(story.office.primary.isEmpty && story.office.lastWhy == "suspended")
            try await story.live(1700)
            #expect(story.office.primary.isEmpty, "what was lost may have elected one of those that are not back")
            try await story.live(4000)
            #expect(story.office.primary.isEmpty == (other != "back"), "the others cannot know whether it acts")
            guard other != "back" else { return }
            try await story.live(9000)
            #expect(!story.office.primary.isEmpty)
        }
    }

    @Test func `a lone primary that says after a restart that it has ended is elected again`() async throws {
        try await withStory { story in
            try await story.lead(["a": nil])
            try await story.order(.settings([("onCoordinatorLoss", "failsafe"), ("failsafeLimitMs", "20000")]))
            try await story.live(500)
            story.newServer()
            try await story.join("b", position: nil)
            try await story.beat("a", .gone(1, reason: "suspended"))
            try await story.live(1700)
            #expect(story.office.primary.isEmpty)
            try await story.live(300)
            #expect(story.office.primary == "a" && story.office.epoch == 18)
        }
    }

    /// `b` is cut off and taken out, `a` gives up, `c` comes and is elected: then Redis goes on from a copy of before.
    @Test(arguments: ["heard", "silent", "vacant", "long"])
    func `after a loss nobody is elected beside one that only what was lost knew`(about: String) async throws {
        try await withStory { story in
            try await story.lead(["a": nil, "b": nil])
            try await story.order(.settings([("onCoordinatorLoss", "failsafe"), ("failsafeLimitMs", "10000")]))
            try await story.live(500)
            if about == "vacant" {
                // It rests then, so b must be ill for the role to stay free.
                story.dies("b")
                try await story.live(2500)
                try await story.beat("a", .gone(1, reason: "stepDown"))
                try await story.live(100)
            }
            try await story.save()
            let copied = story.knowledge
            if about != "vacant" {
                story.dies("b")
                try await story.live(2500)
                if about == "heard" { try await story.beat("a", .gone(1, reason: "stepDown")) }
                try await story.live(100, only: "a")
            }
            let last = about == "silent" || about == "long" ? copied : story.knowledge
            story.dies("a")
            try await story.join("c", position: nil)
            try await story.live(about == "long" ? 13_000 : 1000, only: "c")
            #expect((story.office.primary == "c") == (about != "silent"))

            try await story.stepBack()
            story.dies("c")
            if about == "heard" {
                // So that its version alone says nothing.
                for number in 0..<9 { try await story.join("d\(number)", position: nil, isCandidate: false) }
            }
            let status = CandidateStatus(
                claim: about == "vacant" ? .none : .gone(1, reason: "suspended"), position: nil)
            for id in ["a", "b"] where about != "vacant" || id == "a" {
                try await story.call(
                    .beat(
                        id: id, session: "of-\(id)", leaseMilliseconds: 1000, joined: "",
                        status: id == "a" ? status : CandidateStatus()), known: last)
                story.moves(id, to: nil)
            }
            try await story.live(6000)
            #expect(story.office.primary.isEmpty == (about != "silent"), "c may act still")
            try await story.live(9000)
            #expect(!story.office.primary.isEmpty)
        }
    }

    /// The copy has nobody in it; what was lost had a primary.
    @Test(arguments: [false, true])
    func `who comes first to a group that is empty after a loss does not hide that the server is another`(
        isIll: Bool
    ) async throws {
        try await withStory { story in
            try await story.lead(["a": nil])
            try await story.order(.settings([("onCoordinatorLoss", "failsafe"), ("failsafeLimitMs", "10000")]))
            try await story.live(500)
            story.dies("a")
            try await story.call(.leave(id: "a", session: "of-a", reason: "", actor: ""))
            try await story.save()
            try await story.join("p", position: nil)
            try await story.live(500, only: "p")
            #expect(story.office.primary == "p" && story.office.epoch == 2)

            try await story.stepBack()
            story.dies("p")
            // Who cannot be elected does not lead to an election, before which the server is looked at.
            if isIll {
                let record = MemberRecord(id: "c", session: "of-c", leaseMilliseconds: 1000, isCandidate: true)
                try await story.call(
                    .join(record, .first, GroupScriptFuzz.policy, status: CandidateStatus(unfit: "starting")))
                story.moves("c", to: nil)
            } else {
                try await story.join("m", position: nil, isCandidate: false)
                try await story.join("c", position: nil)
            }
            try await story.live(1500)
            #expect(story.office.primary.isEmpty, "p may act still")
            try await story.live(13_000)
            #expect(story.office.primary == "c" && story.office.epoch > 2)
        }
    }

    @Test func `who is new is elected when the one that gave up knows that it was heard, or must have stopped`()
        async throws
    {
        for dies in [false, true] {
            try await withStory { story in
                try await story.lead(["a": nil])
                try await story.order(.settings([("onCoordinatorLoss", "failsafe"), ("failsafeLimitMs", "5000")]))
                try await story.live(500)
                try await story.join("b", position: nil)
                let before = story.knowledge
                let claim = RoleClaim.gone(1, reason: "stepDown")
                let last = GroupServerModel.Verb.beat(
                    id: "a", session: "of-a", leaseMilliseconds: 1000, joined: "", status: CandidateStatus(claim: claim)
                )
                for _ in 0..<3 {
                    try await story.call(last, known: before)
                    try await story.live(100, only: "b")
                    #expect(story.office.primary.isEmpty, "its answer may have been lost")
                }
                if dies { story.dies("a") }
                try await story.live(200)
                #expect((story.office.primary == "b") == !dies)
                try await story.live(6000)
                #expect(story.office.primary == "b")
            }
        }
    }

    @Test func `after a loss of all data nobody is elected for one lease, though who comes first knew of no members`()
        async throws
    {
        try await withStory { story in
            try await story.lead(["a": 5])
            story.dies("a")
            try await story.call(.leave(id: "a", session: "of-a", reason: "", actor: "ann"))
            #expect(story.group.members.isEmpty)
            // As far as this one knows nobody is there. Somebody may have come since, and lead.
            let known = GroupKnowledge(version: story.group.version, mark: story.group.mark, epoch: 1)
            try await story.forget()
            try await story.call(.watch(leases: false), known: known)
            try await story.join("b", position: 5)
            for _ in 0..<9 {
                try await story.live(100)
                #expect(story.office.primary == "", "whoever led may lead still")
            }
            try await story.live(200)
            #expect(story.office.primary == "b" && story.office.epoch == 2)
        }
    }

    // MARK: One id, twice

    private func join(_ story: GroupStory, _ session: String, at address: String) async throws -> GroupAnswer {
        let record = MemberRecord(
            id: "a", session: session, leaseMilliseconds: 1000, address: address, isCandidate: true)
        return try await story.call(.join(record, .first, GroupScriptFuzz.policy, status: CandidateStatus()))
    }

    @Test func `a living holder at another address keeps its id, and one at the same is replaced`() async throws {
        try await withStory { story in
            #expect(try await join(story, "of-a", at: "h1:1").status == .member)
            let other = try await join(story, "s2", at: "h2:1")
            #expect(other.status == .taken)
            #expect(other.holder == GroupAnswer.Holder(milliseconds: 1000, address: "h1:1"))
            #expect(try await join(story, "s3", at: "h1:1").status == .member)
            #expect(try await join(story, "s4", at: "").status == .member, "where it is nobody knows")
            #expect(try await join(story, "s5", at: "h2:1").status == .member)
            // Its lease is over; nobody has looked since. (Time in which nobody calls is an outage, and ends no lease.)
            for _ in 0..<9 {
                story.wait(100)
                try await story.call(.watch(leases: false))
            }
            story.wait(100)
            #expect(try await join(story, "s6", at: "h3:1").status == .member)
        }
    }

    @Test func `a primary that is replaced again and again is replaced after a rest only, twice as long each time`()
        async throws
    {
        try await withStory { story in
            try await story.lead(["b": nil])
            let replaced = try await story.replacePrimaryAgainAndAgain("b", times: 8)
            let gaps = zip(replaced.dropFirst(), replaced).map { $0 - $1 }
            #expect(
                gaps.count == 7 && gaps[1] >= 4000 && gaps[2] >= 8000 && gaps[3] >= 16_000 && gaps[6] >= 60_000,
                "\(gaps)")
        }
    }

    // MARK: Who wanted it

    @Test func `a job that crashes wherever it runs is begun less and less often`() async throws {
        try await withStory { story in
            let ids = ["a", "b", "c"]
            for id in ids { try await story.join(id, position: nil) }
            try await story.live(1100)
            for _ in 0..<150 {
                let primary = story.office.primary
                if !primary.isEmpty {
                    let session = story.office.session
                    try await story.call(.leave(id: primary, session: session, reason: "exited", actor: ""))
                    try await story.join(primary, position: nil)
                }
                try await story.live(100)
            }
            #expect(story.count("primary.elected") <= 12, "in 15 s: two each, one each after 4 s, one each after 8 s")
        }
    }

    @Test func `what somebody wanted is no failure: no penalty, no rest, no brake`() async throws {
        try await withStory { story in
            try await story.lead(["a": nil, "b": nil])
            for _ in 0..<6 {
                let (id, session) = (story.office.primary, story.office.session)
                try await story.call(.leave(id: id, session: session, reason: "left", actor: ""))
                #expect(story.office.primary == (id == "a" ? "b" : "a"))
                try await story.join(id, position: nil)
                try await story.live(200)
                let (next, its) = (story.office.primary, story.office.session)
                try await story.call(.leave(id: next, session: its, reason: "", actor: "ann"))
                try await story.join(next, position: nil)
                try await story.live(1200)
                #expect(story.office.primary != "" && story.office.brakedUntil == nil)
            }
            #expect(story.office.penalties.isEmpty && story.office.failures.isEmpty && story.office.failovers.isEmpty)
        }
    }

    @Test func `whoever lacks more than 16 MiB is not elected, unless that was set`() async throws {
        try await withStory { story in
            try await story.lead(["a": 17_000_000, "b": 100])
            story.dies("a")
            try await story.live(2500)
            #expect(story.office.primary == "" && story.group.held("a") == nil)
            _ = try await story.order(.settings([("maxLag", "-1")]))
            #expect(story.office.primary == "b")
        }
    }

    // MARK: Orders

    @Test func `an order that is repeated is not carried out again, though others came after it`() async throws {
        try await withStory { story in
            try await story.lead(["a": 5, "b": 5])
            let switchover = RoleOrder.switchover(to: "b", timeoutMilliseconds: 30_000)
            #expect(try await story.order(switchover, id: "lost").isEmpty)
            let epoch = story.office.epoch
            #expect(try await story.order(.abort, id: "abort").isEmpty)
            for other in 0..<6 { #expect(try await story.order(.resume, id: "other-\(other)").isEmpty) }
            for _ in 0..<3 {
                #expect(try await story.order(switchover, id: "lost").isEmpty)
                #expect(story.office.phase == .ready && story.lastReport?.orderEpoch == epoch)
            }
            #expect(story.count("switchover.started") == 1)
            #expect(try await story.order(switchover).isEmpty)
            #expect(try await story.order(.abort, id: "abort").isEmpty)
            #expect(story.office.phase == .handingOver, "that was to end the other one")
            // Nothing was done for it, so it may be yet.
            try await story.order(.abort)
            #expect(try await story.order(.failover(to: "nobody"), id: "refused").map(\.code) == ["notACandidate"])
            try await story.join("nobody", position: 5)
            #expect(try await story.order(.failover(to: "nobody"), id: "refused").isEmpty)
            #expect(story.count("failover.started") == 1)
        }
    }

    @Test func `a switchover whose first answer was lost and that was taken back is not told as done`() {
        func status(_ member: String, _ epoch: Int64, _ phase: GroupRole.Phase = .ready) -> PrimaryStatus {
            PrimaryStatus(GroupRole(epoch: epoch, primary: member, session: "s", phase: phase))
        }
        let role = GroupRole(epoch: 4, primary: "a", session: "s", phase: .ready)
        let taken = Ordered(.switchover(to: "b", timeoutMilliseconds: 10), role, epoch: 4, version: 9)
        #expect(taken.outcome(status("a", 4), version: 8) == .pending, "older than the order")
        guard case .aborted(let why) = taken.outcome(status("a", 4), version: 9) else {
            Issue.record("the old primary is told as the new one")
            return
        }
        #expect(why.contains("'b'") && why.contains("'a' goes on"))
        #expect(taken.outcome(status("b", 5, .elected), version: 11) == .pending)
        #expect(taken.outcome(status("b", 5), version: 12) == .done(status("b", 5)))
    }

    @Test func `a failover whose target is gone ends with an event, and its caller is told`() async throws {
        for others in [true, false] {
            try await withStory { story in
                try await story.lead(others ? ["a": 5, "b": 5, "c": 5] : ["a": 5, "b": 5])
                let version = story.group.version
                let order = RoleOrder.failover(to: "b")
                #expect(try await story.order(order).isEmpty)
                let ordered = Ordered(order, story.group.role, epoch: 1, version: version + 1)
                func outcome() -> Ordered.Outcome {
                    ordered.outcome(PrimaryStatus(story.group.role), version: story.group.version)
                }
                #expect(outcome() == .pending)
                try await story.call(.leave(id: "b", session: "of-b", reason: "", actor: ""))
                story.dies("b")
                #expect(story.count("failover.aborted") == 0 && outcome() == .pending, "a has not stopped yet")
                if others {
                    try await story.beat("a", .gone(1, reason: "failover"))
                } else {
                    try await story.call(.leave(id: "a", session: "of-a", reason: "", actor: ""))
                }
                let aborted = story.events("failover.aborted")
                #expect(aborted.map(\.member) == ["b"] && aborted.map(\.reason) == ["target"])
                #expect(!story.office.isForced && story.office.target.isEmpty)
                guard case .dropped(let why) = outcome() else {
                    Issue.record("it is \(outcome())")
                    return
                }
                #expect(why.contains("'b' was gone") && why.contains("was elected") == others)
                #expect(story.office.epoch == (others ? 2 : 1))
            }
        }
    }

    @Test func `a failback whose target never comes as far waits longer each time`() async throws {
        try await withStory { story in
            try await story.lead(["a": 100])
            try await story.order(
                .settings([("failback", "automatic"), ("failbackAfterMs", "1000"), ("handoverTimeoutMs", "300")]))
            try await story.join("b", priority: 1, position: 5)
            var starts: [Int64] = []
            for _ in 0..<180 {
                let before = story.count("switchover.started")
                let claim =
                    story.office.phase == .handingOver
                    ? RoleClaim.readyToHandOver(1, position: 100, asOf: .max >> 11) : nil
                try await story.live(100, claims: claim.map { ["a": $0] } ?? [:])
                if story.count("switchover.started") > before { starts.append(story.group.now) }
            }
            let gaps = zip(starts.dropFirst(), starts).map { $0 - $1 }
            #expect(gaps == [1300, 2300, 4300, 8300])
            story.moves("b", to: 100)
            for _ in 0..<200 where story.office.epoch == 1 {
                let claim =
                    story.office.phase == .handingOver
                    ? RoleClaim.readyToHandOver(1, position: 100, asOf: .max >> 11) : nil
                try await story.live(100, claims: claim.map { ["a": $0] } ?? [:])
            }
            #expect(story.office.primary == "b" && story.office.failbackWait == 0)
        }
    }

    // MARK: Positions

    @Test func `who stops and does not say how far it came hands over only where nobody tells positions`() async throws
    {
        try await withStory { story in
            try await story.lead(["a": 100, "b": 5])
            #expect(try await story.order(.switchover(to: "b", timeoutMilliseconds: 1000)).isEmpty)
            let blind = RoleClaim.readyToHandOver(1, position: nil, asOf: story.group.version)
            try await story.live(900, claims: ["a": blind])
            #expect(story.office.primary == "a" && story.office.phase == .handingOver, "b lacks 95")
            try await story.live(100, claims: ["a": blind])
            #expect(story.office.primary == "a" && story.office.phase == .ready)
            #expect(story.events("switchover.aborted").map(\.reason) == ["position"])
            // It may say it later.
            #expect(try await story.order(.switchover(to: "b", timeoutMilliseconds: 1000)).isEmpty)
            let version = story.group.version
            try await story.live(300, claims: ["a": .readyToHandOver(1, position: nil, asOf: version)])
            story.moves("b", to: 110)
            let told = RoleClaim.readyToHandOver(1, position: 110, asOf: version)
            try await story.live(200, claims: ["a": told])
            #expect(story.office.primary == "b" && story.office.epoch == 2)
        }
        try await withStory { story in
            try await story.lead(["a": nil, "b": nil])
            #expect(try await story.order(.switchover(to: "b", timeoutMilliseconds: 1000)).isEmpty)
            try await story.beat("a", .readyToHandOver(1, position: nil, asOf: story.group.version))
            #expect(story.office.primary == "b")
        }
    }

    @Test func `a primary without a position makes that of the one before it no measure`() async throws {
        try await withStory { story in
            try await story.lead(["a": 100])
            try await story.join("b", position: nil)
            try await story.call(.leave(id: "a", session: "of-a", reason: "", actor: ""))
            story.dies("a")
            try await story.order(.failover(to: "b"))
            try await story.live(300)
            #expect(story.office.primary == "b" && story.office.phase == .ready && story.office.lastPosition == nil)
            try await story.join("c", position: nil)
            try await story.call(.leave(id: "b", session: "of-b", reason: "", actor: ""))
            #expect(story.office.primary == "c")
        }
    }

    // MARK: Who decides

    /// What the script reads to decide, it reads in each call that is not quiet.
    @Test func `while the role is vacant or handed over only candidates and time make Redis think`() async throws {
        try await withStory { story in
            try await story.lead(["a": 100, "b": 5])
            try await story.join("w", position: nil, isCandidate: false)
            func isQuiet() async throws -> Bool {
                try await story.thoughts {
                    for _ in 0..<3 {
                        try await story.beat("w")
                        try await story.call(.watch(leases: false))
                    }
                } == 0
            }
            #expect(try await isQuiet())
            try await story.order(.switchover(to: "b", timeoutMilliseconds: 400))
            #expect(try await isQuiet() && story.office.phase == .handingOver)
            // Time takes it back, whoever calls.
            for _ in 0..<4 { try await story.live(100, only: "w") }
            #expect(story.office.phase == .ready && story.count("switchover.aborted") == 1)
            try await story.order(.pause(milliseconds: 500))
            try await story.beat("a", .gone(1, reason: "stepDown"))
            #expect(try await isQuiet() && story.office.primary.isEmpty)
            for _ in 0..<5 { try await story.live(100, only: "w") }
            #expect(story.office.primary == "b", "the pause is over")
            try await story.beat("b", .gone(2, reason: "stepDown"))
            #expect(try await isQuiet() && story.office.primary.isEmpty, "both are left out for a lease")
            try await story.live(100)
            for _ in 0..<4 { try await story.live(100, only: "w") }
            #expect(story.office.primary == "a")
        }
    }

    @Test func `who is only told what others heard before it is told at once`() async throws {
        try await withStory { story in
            try await story.lead(["a": 100, "b": 5])
            try await story.join("w", position: nil, isCandidate: false)
            let before = story.knowledge
            try await story.order(.pause(milliseconds: 60_000))
            // What a call that may decide begins with.
            let writes = try await story.fuzz.callsOf("hdel")
            for known in [before, GroupKnowledge()] {
                for verb in [story.beatOf("w"), story.beatOf("b"), .watch(leases: false)] {
                    let answer = try await story.call(verb, known: known)
                    #expect(answer.version == before.version + 1 && answer.content?.role.primary == "a")
                }
            }
            #expect(try await story.fuzz.callsOf("hdel") == writes)
            // Its mark is of another life of the log: what it knew may have been lost.
            var other = before
            other.mark = "0123456789abcdef:1"
            try await story.call(.watch(leases: false), known: other)
            #expect(try await story.fuzz.callsOf("hdel") > writes)
        }
    }

    // MARK: The end of a role

    @Test func `only with its session and without an actor is it the primary's own word that it left`() async throws {
        for (session, actor, isOwn) in [("of-a", "", true), ("", "", false), ("", "ann", false)] {
            try await withStory { story in
                try await story.lead(["a": 5, "b": 5])
                try await story.call(.leave(id: "a", session: session, reason: "", actor: actor))
                story.dies("a")
                #expect(story.office.primary == (isOwn ? "b" : ""))
                #expect(story.office.lastWhy == (isOwn ? "left" : "removed"))
                try await story.live(900)
                #expect(story.office.primary == (isOwn ? "b" : ""), "its lease is not over yet")
                try await story.live(100)
                #expect(story.office.primary == "b")
            }
        }
    }

    @Test(arguments: ["", "stepDown", "exited"])
    func `who gives up without a reason is left out as one that steps down`(reason: String) async throws {
        try await withStory { story in
            try await story.lead(["a": 5])
            try await story.beat("a", .gone(1, reason: reason))
            #expect(story.office.primary == (reason == "exited" ? "a" : ""))
            #expect(story.office.lastWhy == (reason == "exited" ? "exited" : "stepDown"))
        }
    }

    @Test func `a failover that waits for its time cannot be taken back, and says so`() async throws {
        try await withStory { story in
            try await story.lead(["a": 5, "b": 5])
            try await story.call(.leave(id: "a", session: "", reason: "", actor: "ann"))
            story.dies("a")
            #expect(try await story.order(.failover(to: "b")).isEmpty)
            #expect(story.office.primary.isEmpty && story.office.isForced)
            #expect(try await story.order(.abort).map(\.code) == ["handingOver"])
            #expect(story.office.isForced)
        }
    }

    @Test func `maintenance has room for 128, and whoever is gone makes room`() async throws {
        try await withStory { story in
            for number in 0...128 {
                try await story.join("m\(number)", position: nil)
                let refused = try await story.order(.maintenance("m\(number)", isOn: true))
                #expect(refused.map(\.code) == (number < 128 ? [] : ["maintenanceFull"]))
            }
            try await story.call(.leave(id: "m7", session: "of-m7", reason: "", actor: ""))
            #expect(story.office.maintenance.contains("m7"), "it stays so over its restart")
            #expect(try await story.order(.maintenance("m128", isOn: true)).isEmpty)
            #expect(story.office.maintenance.count == 128 && !story.office.maintenance.contains("m7"))
            #expect(story.events("member.maintenance").suffix(2).map(\.reason) == ["gone", ""])
        }
    }
}

/// A group whose members live 100 ms at a time, on the model and on Redis.
final class GroupStory {
    let fuzz: GroupScriptFuzz
    private var positions: [String: Int64?] = [:]
    /// Members that do not stand.
    private var others: Set<String> = []
    private var orders = 0

    init(_ fuzz: GroupScriptFuzz) { self.fuzz = fuzz }

    func close() async { await fuzz.close() }

    var group: GroupServerModel.Group { fuzz.model.groups["g"] ?? .init() }
    var office: GroupServerModel.Office { group.office }
    func events(_ type: String) -> [GroupServerModel.Event] { fuzz.model.events.filter { $0.type == type } }
    func count(_ type: String) -> Int { events(type).count }
    var lastReport: RoleReport? { fuzz.answer?.content?.report }
    func wait(_ milliseconds: Int64) { fuzz.model.clock += milliseconds }
    func newServer() { fuzz.newRun() }

    func save() async throws { try await fuzz.play([.save]) }
    func stepBack() async throws { try await fuzz.play([.stepBack]) }

    /// Redis loses everything.
    func forget() async throws { try await fuzz.play([.forget]) }

    /// All there is to know.
    var knowledge: GroupKnowledge {
        GroupKnowledge(version: group.version, mark: group.mark, epoch: office.epoch)
    }

    @discardableResult
    func call(_ verb: GroupServerModel.Verb, known: GroupKnowledge? = nil) async throws -> GroupAnswer {
        try await fuzz.play([.call(verb, group: "g", known: known ?? knowledge)])
        return try #require(fuzz.answer)
    }

    func join(_ id: String, priority: Int = 0, position: Int64?, isCandidate: Bool = true) async throws {
        positions[id] = .some(position)
        if !isCandidate { others.insert(id) }
        let record = MemberRecord(
            id: id, session: "of-\(id)", leaseMilliseconds: 1000, priority: priority, isCandidate: isCandidate)
        let status = isCandidate ? CandidateStatus(position: position) : nil
        try await call(.join(record, .first, GroupScriptFuzz.policy, status: status))
    }

    /// Says where it is, and what it claims: if nothing is given, that it is ready, if it is primary.
    func beat(_ id: String, _ claim: RoleClaim? = nil) async throws {
        let own = office.primary == id ? RoleClaim.ready(office.epoch) : .none
        let status = CandidateStatus(claim: claim ?? own, position: positions[id] ?? nil)
        try await call(beatOf(id, status))
    }

    func beatOf(_ id: String, _ status: CandidateStatus = CandidateStatus()) -> GroupServerModel.Verb {
        .beat(
            id: id, session: "of-\(id)", leaseMilliseconds: 1000, joined: "",
            status: others.contains(id) ? nil : status)
    }

    func moves(_ id: String, to position: Int64?) { positions[id] = .some(position) }
    func dies(_ id: String) { positions[id] = nil }

    /// Time passes, and all that live call each 100 ms.
    func live(_ milliseconds: Int64, claims: [String: RoleClaim] = [:], only: String? = nil) async throws {
        for _ in 0..<milliseconds / 100 {
            fuzz.model.clock += 100
            for id in positions.keys.sorted() where only == nil || id == only { try await beat(id, claims[id]) }
        }
    }

    /// How often Redis read settings or candidates meanwhile, in calls that ask for no members.
    func thoughts(while body: () async throws -> Void) async throws -> Int {
        let (before, steps) = (try await fuzz.callsOf("hgetall"), fuzz.steps)
        try await body()
        // Each step is looked at, which takes two.
        return try await fuzz.callsOf("hgetall") - before - 2 * (fuzz.steps - steps)
    }

    /// Why it was refused.
    @discardableResult
    func order(_ order: RoleOrder, id: String? = nil, reason: String = "") async throws -> [RoleReason] {
        orders += 1
        let answer = try await call(.order(order, actor: "ann", reason: reason, id: id ?? "o\(orders)"))
        return try #require(answer.content?.report).refusals
    }

    /// The first of them is ready under epoch 1.
    func lead(_ members: KeyValuePairs<String, Int64?>) async throws {
        for (id, position) in members { try await join(id, position: position) }
        try await live(1200)
        #expect(office.primary == members.first?.key && office.phase == .ready && office.epoch == 1)
    }
}

extension GroupStory {
    /// Joins anew under the primary's id whenever `id` is primary, until it was let in so many times.
    /// - Returns: when it was let in.
    fileprivate func replacePrimaryAgainAndAgain(_ id: String, times: Int) async throws -> [Int64] {
        var replaced: [Int64] = []
        for number in 0..<3000 where replaced.count < times {
            let epoch = office.epoch
            let session = office.session
            // Whoever is primary is another one's id at once.
            if office.primary == id {
                let record = MemberRecord(id: id, session: "n\(number)", leaseMilliseconds: 1000, isCandidate: true)
                let answer = try await call(
                    .join(record, .first, GroupScriptFuzz.policy, status: CandidateStatus(claim: .none)))
                if answer.status == .member { replaced.append(group.now) }
            }
            wait(100)
            var held = ""
            if let member = group.held(id) { held = member.record.session }
            var claim = RoleClaim.none
            if held == session, !session.isEmpty { claim = .ready(epoch) }
            let status = CandidateStatus(claim: claim)
            try await call(
                .beat(id: id, session: held, leaseMilliseconds: 1000, joined: "", status: status))
        }
        return replaced
    }
}
