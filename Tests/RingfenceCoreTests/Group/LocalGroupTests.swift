// SPDX-License-Identifier: Apache-2.0
import TestSupport
import Testing

@testable import RingfenceCore

/// A process' part in a group, hand in hand with the reference model of Redis.
@Suite struct LocalGroupTests {
    /// What the machine asked for, and was answered by the model.
    private struct World {
        static let lease: Int64 = 1000
        var local = LocalGroup()
        var model = GroupServerModel(clock: 1_790_000_000_000)
        var now: Nanos = 0
        var requests: [LocalGroup.Request] = []
        /// What was told and shown, in order.
        var heard: [String] = []

        init(members: Int, candidates: Int = 0) {
            for index in 0..<members {
                let isCandidate = index < candidates
                let record = MemberRecord(
                    id: "m\(index)", session: "s\(index)", leaseMilliseconds: Self.lease, isCandidate: isCandidate)
                let answer = call(.join(record, .first, RingPolicy(seed: 0, pointsPerWeight: 1), status: nil))
                perform(local.handle(.heard(answer, sentAt: now), now: now, Self.chance))
                var machine = MemberMachine(
                    record: record, joined: answer.mark, pace: record.lease / 5, sentAt: now, rejoins: false)
                if isCandidate { _ = machine.campaign(margin: 0) }
                local.add(machine, index)
                local.begin(index)
            }
            requests = []
            heard = []
        }

        private static let chance = LocalGroup.Chance(newSession: { "new" }, dice: { 0 })

        mutating func call(_ verb: GroupServerModel.Verb, _ known: GroupKnowledge = .none) -> GroupAnswer {
            model.call(verb, "g", fresh: "generation", known: known)
        }

        mutating func pass(_ length: Nanos) {
            now += length
            model.clock += length / .millisecond
        }

        /// Lets time pass until something is due, and be done.
        mutating func tick() {
            let due = local.wakeAt
            if due > now { pass((due - now + .millisecond - 1) / .millisecond * .millisecond) }
            handle(.tick)
        }

        mutating func handle(_ event: LocalGroup.Event) { perform(local.handle(event, now: now, Self.chance)) }

        mutating func perform(_ actions: [LocalGroup.Action]) {
            for action in actions {
                switch action {
                case .send(let request): requests.append(request)
                case .tell(let key, let tell): heard.append("\(key) \(tell)")
                case .show: heard.append("show")
                case .role: heard.append("role")
                case .stepped, .grace: break
                }
            }
        }

        /// Answers all requests by the model.
        mutating func answer() {
            let all = requests
            requests = []
            for request in all {
                var answer: GroupAnswer
                switch request.kind {
                case .look: answer = call(.watch(leases: false), request.knowledge)
                case .member(_, let member, let status):
                    let record = member.record
                    answer = call(
                        .beat(
                            id: record.id, session: record.session, leaseMilliseconds: record.leaseMilliseconds,
                            joined: member.joined, status: status), request.knowledge)
                case .beats(let list):
                    let beats = list.map {
                        GroupAnswer.Beat(
                            id: $0.call.record.id, session: $0.call.record.session,
                            leaseMilliseconds: $0.call.record.leaseMilliseconds, joined: $0.call.joined)
                    }
                    answer = call(.beats(beats), request.knowledge)
                }
                handle(.answered(request, .answer(answer)))
            }
        }
    }

    private func count(_ requests: [LocalGroup.Request]) -> (single: Int, together: [Int], looks: Int) {
        var (single, together, looks) = (0, [Int](), 0)
        for request in requests {
            switch request.kind {
            case .look: looks += 1
            case .member: single += 1
            case .beats(let list): together.append(list.count)
            }
        }
        return (single, together, looks)
    }

    @Test func `up to eight members beat each for itself, and each beat asks what is new`() {
        var world = World(members: 8)
        for _ in 0..<20 {
            world.tick()
            #expect(count(world.requests).together.isEmpty)
            for request in world.requests where request.knowledge == .notAsking { Issue.record("a beat does not ask") }
            world.answer()
        }
        for key in 0..<8 { #expect(world.local.member(key)?.membership.isMember(at: world.now) == true) }
    }

    @Test func `beats of many wait for each other for a part of a pace, count from before, and keep all members`() {
        var world = World(members: 200)
        var largest = 0
        for _ in 0..<400 {
            world.tick()
            let sent = count(world.requests)
            for request in world.requests {
                guard case .beats(let list) = request.kind else { continue }
                largest = max(largest, list.count)
                #expect(request.knowledge == .notAsking)
                #expect(world.now - request.sentAt <= World.lease * .millisecond / 100 + 2 * .millisecond)
            }
            #expect(sent.together.allSatisfy { $0 <= 64 })
            world.answer()
            for key in 0..<200 where world.local.member(key)!.membership.isMember(at: world.now) == false {
                Issue.record("m\(key) is no member at \(world.now)")
                return
            }
        }
        #expect(largest == 64)
    }

    @Test func `each of the beats that were written together hears its own status`() throws {
        var world = World(members: 40)
        // One is replaced behind its back.
        let other = MemberRecord(id: "m7", session: "other", leaseMilliseconds: World.lease)
        _ = world.call(.join(other, .first, RingPolicy(seed: 0, pointsPerWeight: 1), status: nil))
        for _ in 0..<40 where world.local.member(7)!.membership.state == .member {
            world.tick()
            world.answer()
        }
        for key in 0..<40 {
            #expect(world.local.member(key)!.membership.state == (key == 7 ? .replaced : .member), "m\(key)")
        }
    }

    @Test func `an answer with too few statuses is none`() throws {
        var world = World(members: 40)
        while count(world.requests).together.isEmpty { world.tick() }
        let together = try #require(
            world.requests.first { if case .beats = $0.kind { true } else { false } })
        var answer = world.call(.watch(leases: false))
        answer.status = .member
        world.handle(.answered(together, .answer(answer)))
        guard case .beats(let list) = together.kind else { return }
        for beat in list { #expect(world.local.member(beat.key)!.membership.state == .member) }
    }

    @Test func `what is new is shown before anybody is told, and all members hear of a role`() {
        var world = World(members: 3, candidates: 2)
        for _ in 0..<200 where !world.heard.contains(where: { $0.contains("elected") }) {
            world.heard = []
            world.tick()
            world.answer()
        }
        let shown = world.heard.firstIndex(of: "show")
        let told = world.heard.firstIndex { $0.contains("elected") }
        #expect(shown != nil && told != nil && shown! < told!, "\(world.heard)")
    }

    @Test func `one look at a time, and one more for what happened meanwhile`() {
        var world = World(members: 0)
        world.handle(.missed)
        #expect(count(world.requests).looks == 1)
        world.handle(.missed)
        world.handle(.missed)
        #expect(count(world.requests).looks == 1)
        world.answer()
        #expect(count(world.requests).looks == 1)
        world.answer()
        #expect(world.requests.isEmpty)
    }

    @Test func `who was stopped asks for nothing, and who is gone is not woken`() {
        var world = World(members: 3)
        world.local.remove(1)
        for _ in 0..<30 {
            world.tick()
            for request in world.requests {
                if case .member(1, _, _) = request.kind { Issue.record("it beats") }
            }
            world.answer()
        }
        world.local.stop()
        #expect(world.local.wakeAt == .never)
        world.pass(10 * .second)
        world.handle(.tick)
        world.handle(.missed)
        #expect(world.requests.isEmpty)
    }

    @Test func `thousands that are due at once take their steps in turns`() {
        var world = World(members: 600)
        world.pass(300 * .millisecond)
        var stepped: [Int] = []
        for _ in 0..<4 {
            let before = world.requests.count
            world.handle(.tick)
            stepped.append(world.requests.count - before)
            if world.local.wakeAt > world.now { break }
        }
        #expect(stepped.count > 1, "\(stepped)")
    }
}
