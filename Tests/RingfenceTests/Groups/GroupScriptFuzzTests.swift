// SPDX-License-Identifier: Apache-2.0
//
// group.lua on a real redis-server against the reference model: the same random calls to both, and after each the
// answer, and all that is stored, down to the bytes of every event, must be the same.
//
// The script asks for the time and for the name of the server; a few lines of Lua before its text answer both from two
// more arguments, so that model and script see the same moment, which can also stand still or step by an hour, and the
// same restart. Data that Redis loses is really lost: keys are deleted, or put back as they were some time ago. The
// calls are encoded, and their answers decoded, by the library's own code.
import Hiredis
import Logging
import TestSupport
import Testing

@testable import Ringfence
@testable import RingfenceCore

@Suite struct GroupScriptFuzzTests {
    @Test func `group.lua and the model agree on every step`() async throws {
        let met = try await withThrowingTaskGroup(of: Set<String>.self) { tasks in
            for seed in 1...4 as ClosedRange<UInt64> {
                tasks.addTask {
                    try await onOwnThread {
                        try await withRedis { server in
                            let fuzz = try await GroupScriptFuzz(server, seed: seed)
                            for _ in 0..<65 { try await fuzz.play(steps: 400) }
                            await fuzz.close()
                            #expect(fuzz.steps >= 26_000)
                            #expect(fuzz.forks > 5, "the log forked \(fuzz.forks) times only")
                            return fuzz.met
                        }
                    }
                }
            }
            return try await tasks.reduce(into: Set<String>()) { $0.formUnion($1) }
        }
        let missing = GroupScriptFuzz.toBeMet.subtracting(met)
        #expect(missing.isEmpty, "not met: \(missing.sorted())")
    }

    @Test func `a group that fails over too often is held, until time or an operator lets it go`() async throws {
        try await onOwnThread {
            try await withRedis { server in
                let fuzz = try await GroupScriptFuzz(server, seed: 8)
                try await fuzz.playBrake()
                await fuzz.close()
            }
        }
    }

    @Test func `two hundred members that die at once are taken out by four calls, and one more if it is dead itself`()
        async throws
    {
        try await onOwnThread {
            try await withRedis { server in
                let fuzz = try await GroupScriptFuzz(server, seed: 5)
                try await fuzz.playManyDead()
                await fuzz.close()
            }
        }
    }

    @Test
    func `a group that nobody is in is removed when no primary of it can act any more, and goes on if joined again`()
        async throws
    {
        try await onOwnThread {
            try await withRedis { server in
                let fuzz = try await GroupScriptFuzz(server, seed: 13)
                try await fuzz.playRemoval()
                await fuzz.close()
            }
        }
    }

    @Test(arguments: [11, 12] as [UInt64])
    func `a large group is told by pages, and who gathers them knows it as it is, whatever changed meanwhile`(
        seed: UInt64
    ) async throws {
        try await onOwnThread {
            try await withRedis { server in
                let fuzz = try await GroupScriptFuzz(server, seed: seed)
                try await fuzz.playLarge()
                await fuzz.close()
                let missing = Set(["page start", "page known", "page on", "page more", "page gone"])
                    .subtracting(fuzz.met)
                #expect(missing.isEmpty, "not met: \(missing.sorted())")
            }
        }
    }

    @Test(arguments: [3000, 10_000, 60_000] as [Int64])
    func `a promoted server that lost beats takes nobody out before that member's own clock would`(
        lease: Int64
    ) async throws {
        try await onOwnThread {
            try await withRedis { server in
                let fuzz = try await GroupScriptFuzz(server, seed: 6)
                try await fuzz.playPromotion(leaseOfA: lease)
                await fuzz.close()
            }
        }
    }

    @Test
    func `who knew a group that Redis lost gives it its seed and points per weight back, though another made it anew`()
        async throws
    {
        try await onOwnThread {
            try await withRedis { server in
                let fuzz = try await GroupScriptFuzz(server, seed: 7)
                try await fuzz.playLostPolicy()
                await fuzz.close()
            }
        }
    }
}

/// The model and the server side by side.
final class GroupScriptFuzz {
    enum Step {
        case call(GroupServerModel.Verb, group: String, known: GroupKnowledge)
        /// The data is gone.
        case forget
        /// The data is copied away.
        case save
        /// The data is what it was when it was saved.
        case stepBack
        /// What is kept of groups that were removed has had its time.
        case forgetRemoved([String])
    }

    private struct Expected {
        var step: Step
        var clock: Int64
        var run: String
        var answer: GroupAnswer?
        /// nil: not looked at after this step.
        var state: String?
    }

    private struct Disagreement: Error, CustomStringConvertible {
        var description: String
    }

    private static let names = ["g", "zwei/\u{E4}"]
    private static let ids = ["a", "b/\"1\"", "\u{FC}", "e\u{301}", "long-" + String(repeating: "x", count: 60)]
    static let policy = RingPolicy(seed: .max, pointsPerWeight: 256)

    private let client: RedisClient
    private let scripts = GroupScripts(keys: Keyspace(namespace: "fuzz"), eventLength: 1000, nonces: NonceSource())
    private let script: LoadedScript
    private let dumping: LoadedScript
    private let copying: LoadedScript
    private let seed: UInt64
    private var random: SplitMix64
    var model: GroupServerModel
    /// To the last call.
    private(set) var answer: GroupAnswer?
    private var saved: GroupServerModel
    private var runs = 1
    private var sessions = 0
    private var generations = 0
    private var members: [String: [(id: String, session: String, record: MemberRecord, joined: String)]] = [:]
    private var views: [String: [GroupKnowledge]] = [:]
    private(set) var steps = 0
    /// Answers, events, refusals, orders, and why primaries were elected and lost.
    private(set) var met: Set<String> = []
    private var lastOrders: [String] = []
    private(set) var forks = 0

    init(_ server: RedisServer, seed: UInt64) async throws {
        self.seed = seed
        random = SplitMix64(seed: seed)
        model = GroupServerModel(clock: 1_790_000_000_000)
        saved = model
        client = RedisClient(try RedisConfiguration(url: server.unixURL), logger: testLogger)
        script = try await LoadedScript(Self.fed + GroupScriptText.group, on: client)
        dumping = try await LoadedScript(Self.dump, on: client)
        copying = try await LoadedScript(LoadedScript.copy, on: client)
    }

    private static let fed = """
        local fresh_text, clock, run = table.remove(ARGV), table.remove(ARGV), table.remove(ARGV)
        ARGV[3] = fresh_text
        local redis = setmetatable({
            call = function(command, ...)
                if command == 'TIME' then
                    local micro = string.format('%.0f', clock % 1000 * 1000)
                    return { string.format('%.0f', math.floor(clock / 1000)), micro }
                end
                return redis.call(command, ...)
            end,
            pcall = function(command, section, ...)
                if command ~= 'INFO' then return redis.pcall(command, section, ...) end
                return '# Replication\\r\\nmaster_replid:' .. run .. '\\r\\n'
            end
        }, { __index = redis })

        """

    private static let dump = """
        local text = {}
        for i = 1, #KEYS - 3, 5 do
            local leases = redis.call('ZRANGE', KEYS[i], 0, -1, 'WITHSCORES')
            for j = 1, #leases, 2 do
                text[#text + 1] = leases[j] .. ' ' .. leases[j + 1] .. ' ' .. redis.call('HGET', KEYS[i + 1], leases[j])
                    .. ' ' .. (redis.call('HGET', KEYS[i + 2], 'was:' .. leases[j]) or '')
                    .. ' ' .. (redis.call('HGET', KEYS[i + 4], leases[j]) or '')
            end
            text[#text + 1] = redis.call('HLEN', KEYS[i + 1])
            local state = redis.call('HMGET', KEYS[i + 2], 'version', 'mark', 'now', 'offset', 'graceUntil',
                'recoverUntil', 'shortest', 'longest', 'gaps', 'runAt', 'run')
            for j = 1, 11 do text[#text + 1] = state[j] or '0' end
            for _, field in ipairs({ 'runVersion', 'copyVersion', 'missed', 'gaveUp', 'vouched', 'emptySince',
                'epoch', 'primary', 'pSession', 'phase', 'candidates', 'checkAt', 'since',
                'electAfter', 'vacantSince', 'lastPrimary', 'lastWhy', 'lastPosition', 'final', 'target',
                'handoverUntil',
                'forced', 'orders', 'orderBy', 'orderWhy', 'skip', 'pausedUntil', 'brakedUntil', 'failovers', 'short',
                'failbackAt', 'penalties', 'failures', 'maintenance', 'readyMember', 'readyEpoch',
                'handoverVersion', 'pKnown', 'silentSince', 'lostAt', 'failbackWait', 'memberVersion' }) do
                local value = redis.call('HGET', KEYS[i + 2], field) or (field == 'phase' and 'vacant' or '')
                text[#text + 1] = field .. ' ' .. string.gsub(value, '\\n', '|')
            end
            text[#text + 1] = 'candidates ' .. redis.call('HLEN', KEYS[i + 4])
            local policy, settings = redis.call('HGETALL', KEYS[i + 3]), {}
            for j = 1, #policy, 2 do settings[#settings + 1] = policy[j] .. '=' .. policy[j + 1] end
            table.sort(settings)
            text[#text + 1] = table.concat(settings, ' ')
            text[#text + 1] = redis.call('SISMEMBER', KEYS[#KEYS - 2], ARGV[(i + 4) / 5])
        end
        for _, field in ipairs({ 'generation', 'sequence', 'run', 'forks', 'versionFloor', 'epochFloor' }) do
            text[#text + 1] = redis.call('HGET', KEYS[#KEYS], field) or ''
        end
        for _, entry in ipairs(redis.call('XREVRANGE', KEYS[#KEYS - 1], '+', '-', 'COUNT', ARGV[#ARGV])) do
            text[#text + 1] = entry[1]
            text[#text + 1] = entry[2][2]
        end
        return table.concat(text, '\\n')
        """

    /// How often Redis has carried out a command.
    func callsOf(_ command: String) async throws -> Int {
        let reply = try await client.send { writer in
            writer.begin(2)
            writer.argument("INFO")
            writer.argument("commandstats")
        }
        let line = try #require(reply.text).split(whereSeparator: \.isNewline).first {
            $0.hasPrefix("cmdstat_\(command):")
        }
        return line.flatMap { Int($0.split(separator: ",")[0].split(separator: "=")[1]) } ?? 0
    }

    func close() async { await client.close() }

    static var toBeMet: Set<String> {
        let answers = [
            "member", "taken", "replaced", "expired", "unknown", "left", "gone", "watching", "ordered", "refused",
            "noted",
            "unchanged",
        ]
        let events = [
            "member.joined", "member.updated", "member.left", "member.expired", "member.maintenance", "coordinator.gap",
            "state.rolledBack", "primary.elected", "primary.ready", "primary.lost", "primary.confirmed",
            "switchover.started", "switchover.aborted", "failover.started", "failover.aborted", "group.paused",
            "group.resumed",
            "group.settings", "breaker.forced", "standby.shortfall", "standby.restored", "agent.hook",
            "agent.check",
        ]
        let reasons = [
            "primary", "lease", "health", "unfit", "maintenance", "draining", "gaveUp", "unknownToPrimary", "lag",
            "position",
        ]
        let refusals =
            reasons + [
                "noGroup", "notACandidate", "handingOver", "noPrimary", "notReady", "noCandidate", "standbys",
                "notAMember", "waiting", "hasMembers", "kept",
            ]
        let orders = [
            "switchover", "abort", "failover", "pause", "resume", "maintenance", "acknowledge", "settings", "breaker",
            "remove",
        ]
        let whys = [
            "first", "expired", "left", "replaced", "removed", "stepDown", "suspended", "unhealthy", "refused",
            "exited", "finished", "switchover", "failback", "failover", "lost",
        ]
        var all = Set(answers.map { "answer \($0)" })
        all.formUnion(events.map { "event \($0)" })
        all.formUnion(reasons.map { "reason \($0)" })
        all.formUnion(refusals.map { "refusal \($0)" })
        all.formUnion(orders.map { "order \($0) ordered" })
        all.formUnion(whys.map { "primary.elected \($0)" })
        all.formUnion(["target", "timeout", "aborted"].map { "switchover.aborted \($0)" })
        all.formUnion(["group.resumed expired", "removal forgotten"])
        return all
    }

    // MARK: Playing

    func play(steps count: Int) async throws {
        try await play((0..<count).map { _ in nil })
    }

    func playManyDead() async throws {
        func join(_ id: String, lease: Int64) -> Step {
            let record = MemberRecord(id: id, session: "s", leaseMilliseconds: lease)
            return .call(.join(record, .first, Self.policy, status: nil), group: "g", known: .none)
        }
        let watch = Step.call(.watch(leases: false), group: "g", known: .none)
        try await play((0..<200).map { join("dead \($0)", lease: 1000) } + [join("alive", lease: 3000)])
        #expect(model.groups["g"]?.members.count == 201)
        for _ in 0..<6 {
            model.clock += 180
            let beat = GroupServerModel.Verb.beat(
                id: "alive", session: "s", leaseMilliseconds: 3000, joined: "", status: nil)
            try await play([.call(beat, group: "g", known: .none)])
        }
        let before = model.groups["g"]!.members.count
        #expect(before > 65 && before < 201, "the beats took out some, 64 each")
        let late = "dead 99"
        let beat = GroupServerModel.Verb.beat(
            id: late, session: "s", leaseMilliseconds: 1000, joined: model.groups["g"]!.mark, status: nil)
        try await play([.call(beat, group: "g", known: .none)])
        #expect(model.groups["g"]!.members.count == max(1, before - 65))
        for _ in 0..<3 { try await play([watch]) }
        #expect(model.groups["g"]!.members.keys.map { String(decoding: $0, as: UTF8.self) } == ["alive"])
        let expired = model.events.filter { $0.type == "member.expired" }
        #expect(expired.count == 200 && Set(expired.map(\.member)).count == 200)
    }

    func playRemoval() async throws {
        func call(_ verb: GroupServerModel.Verb) async throws {
            let group = model.groups["g"]
            let known = GroupKnowledge(version: group?.version ?? 0, mark: group?.mark ?? "")
            try await play([.call(verb, group: "g", known: known)])
        }
        func remove(_ id: String, empty: Int64 = 0) async throws -> [String] {
            try await call(.order(.remove(emptyForMilliseconds: empty), actor: "ann", reason: "old", id: id))
            return answer?.content?.report?.refusals.map(\.code) ?? []
        }
        let record = MemberRecord(id: "a", session: "s", leaseMilliseconds: 1000, isCandidate: true)
        #expect(try await remove("o0") == ["noGroup"])
        try await call(.join(record, .first, Self.policy, status: CandidateStatus()))
        for _ in 0..<15 {
            model.clock += 100
            try await call(
                .beat(id: "a", session: "s", leaseMilliseconds: 1000, joined: "", status: CandidateStatus()))
        }
        #expect(model.groups["g"]?.office.epoch == 1)
        try await call(.order(.settings([("maxLag", "5"), ("minStandbys", "1")]), actor: "", reason: "", id: "o1"))
        #expect(try await remove("o2") == ["hasMembers"])
        // By an operator, so that it hears of it later than Redis.
        try await call(.leave(id: "a", session: "", reason: "", actor: "ann"))
        #expect(try await remove("o3") == ["waiting"])
        model.clock += 5000
        #expect(try await remove("o4") == [] && model.groups["g"]!.isRemoved)
        let version = model.groups["g"]!.version
        #expect(try await remove("o4") == [], "repeated, it was done")
        #expect(try await remove("o5") == ["noGroup"])
        try await call(.watch(leases: false))
        #expect(model.groups["g"]!.isRemoved && model.groups["g"]!.version == version)
        try await call(.join(record, .first, RingPolicy(seed: 1, pointsPerWeight: 2), status: CandidateStatus()))
        #expect(!model.groups["g"]!.isRemoved && model.groups["g"]!.version > version)
        #expect(
            model.groups["g"]!.policy == RingPolicy(seed: 1, pointsPerWeight: 2) && model.groups["g"]!.settings.isEmpty)
        for _ in 0..<15 {
            model.clock += 100
            try await call(
                .beat(id: "a", session: "s", leaseMilliseconds: 1000, joined: "", status: CandidateStatus()))
        }
        #expect(model.groups["g"]!.office.epoch == 2)

        func comeAndGo() async throws {
            try await call(.join(record, .first, Self.policy, status: CandidateStatus()))
            try await call(.leave(id: "a", session: "s", reason: "", actor: ""))
        }
        try await call(.leave(id: "a", session: "s", reason: "", actor: ""))
        model.clock += 3000
        #expect(try await remove("o6", empty: 3000) == ["waiting"], "the time begins when somebody asks")
        model.clock += 2999
        #expect(try await remove("o7", empty: 3000) == ["waiting"])
        try await comeAndGo()
        model.clock += 3000
        #expect(try await remove("o8", empty: 3000) == ["waiting"], "somebody was in it meanwhile")
        try await call(.order(.pause(milliseconds: 60_000), actor: "", reason: "", id: "o9"))
        model.clock += 3000
        #expect(try await remove("o10", empty: 3000) == ["kept"])
        try await call(.order(.resume, actor: "", reason: "", id: "o11"))
        #expect(try await remove("o12", empty: 3000) == ["waiting"], "the pause has to be over for so long")
        // A clock that goes back takes nothing from it, and gives nothing.
        model.clock -= 60_000
        #expect(try await remove("o13", empty: 3000) == ["waiting"])
        model.clock += 2999
        #expect(try await remove("o14", empty: 3000) == ["waiting"])
        model.clock += 1
        #expect(try await remove("o15", empty: 3000) == [])
        let last = model.groups["g"]!
        try await play([.forgetRemoved(["g"])])
        #expect(model.groups["g"] == nil)
        for name in ["g", Self.names[1]] {
            try await play([
                .call(.join(record, .first, Self.policy, status: CandidateStatus()), group: name, known: .none)
            ])
            let new = model.groups[name]!
            #expect(new.version > last.version && new.office.epoch == last.office.epoch, "\(name)")
            #expect(new.office.electAfter == new.now + 1000, "one of the old ones may act still")
        }
    }

    /// Two that look, one often and one seldom, while hundreds come, change, die and leave, and Redis loses data or is
    /// another.
    func playLarge() async throws {
        var views = [GroupMachine(), GroupMachine()]
        var ids: [String] = []
        func call(_ verb: GroupServerModel.Verb, _ known: GroupKnowledge) async throws {
            try await play([.call(verb, group: "g", known: known)])
        }
        func look(_ index: Int, leases: Bool = false) async throws {
            let now = model.clock * .millisecond
            views[index].asks(now: now)
            try await call(.watch(leases: leases), views[index].knowledge)
            if !leases { _ = views[index].answered(answer!, sentAt: now, now: now) }
        }
        func catchUp(_ index: Int) async throws {
            repeat { try await look(index) } while views[index].isGathering
            let members = model.groups["g"]!.members.values.map(\.record).sorted { $0.id.isBefore($1.id) }
            #expect(views[index].known.members == members && views[index].mark == model.groups["g"]!.mark)
            #expect(views[index].knowledge.longestLeaseMilliseconds == model.groups["g"]!.longest)
        }
        var next = 0
        for step in 0..<3000 {
            model.clock += random.pick(0...3)
            let target: Int64 = step < 900 || step > 2600 ? 40 : 15
            switch random.pick(0...99) {
            case 0..<target:
                next += 1
                let lease: Int64 = random.pick([600_000, 900_000, 1500])
                let record = MemberRecord(id: "m\(next)", session: "s", leaseMilliseconds: lease)
                ids.append(record.id)
                try await call(
                    .join(record, .first, Self.policy, status: nil), views[Int(random.pick(0...1))].knowledge)
            case 40..<60 where !ids.isEmpty:
                let id = random.pick(ids)
                let text = "a\(step)" + String(repeating: "x", count: random.pick([0, 400] as [Int]))
                let record = MemberRecord(id: id, session: "s", leaseMilliseconds: 600_000, address: text)
                try await call(.join(record, .stay(since: ""), Self.policy, status: nil), views[0].knowledge)
            case 60..<80 where step > 1200 && !ids.isEmpty:
                let id = ids.remove(at: Int(random.pick(0...Int64(ids.count) - 1)))
                try await call(.leave(id: id, session: "s", reason: "", actor: ""), .notAsking)
            case 90..<98: try await look(0)
            case 98 where step % 3 == 0: try await catchUp(Int(random.pick(0...1)))
            case 99 where step % 5 == 0: try await look(1, leases: true)
            default: if views[1].isGathering { try await look(1) }
            }
            if step == 1000 { try await play([.save]) }
            if step == 1100 { try await play([.stepBack]) }
            if step == 2000 { model.run = "another" }
        }
        try await catchUp(0)
        try await catchUp(1)
    }

    /// `a` beats last, unheard by the replica, and cannot reach it once it is promoted; `b`, whose lease is 3 s, can.
    func playPromotion(leaseOfA lease: Int64) async throws {
        func join(_ id: String, _ lease: Int64) -> Step {
            let record = MemberRecord(id: id, session: id, leaseMilliseconds: lease)
            return .call(.join(record, .first, Self.policy, status: nil), group: "g", known: .none)
        }
        func beat(_ id: String, _ lease: Int64) -> Step {
            let joined = model.groups["g"]!.mark
            return .call(
                .beat(id: id, session: id, leaseMilliseconds: lease, joined: joined, status: nil), group: "g",
                known: .none)
        }
        func members() -> Int { model.groups["g"]!.members.count }
        try await play([join("a", lease), join("b", 3000)])
        for beats in 0..<16 {
            // A stall, and so a hold, not long before.
            model.clock += beats == 12 ? 1600 : 600
            try await play([beat("a", lease), beat("b", 3000)])
            // The replica is this far; its primary lives on for two beats.
            if beats == 13 { try await play([.save]) }
        }
        let lastOfA = model.clock
        try await play([.stepBack])
        while model.clock < lastOfA + lease {
            model.clock += 200
            try await play([beat("b", 3000)])
            #expect(members() == 2, "\(model.clock - lastOfA) ms after its last beat")
        }
        #expect(model.events.contains { $0.text.contains(#""reason":"server""#) })
        while model.clock < lastOfA + lease + 6000 {
            model.clock += 200
            try await play([beat("b", 3000)])
        }
        #expect(members() == 1, "the dead are found in the end")
    }

    /// Each primary dies as soon as it is ready.
    func playBrake() async throws {
        let known = {
            GroupKnowledge(version: self.model.groups["g"]?.version ?? 0, mark: self.model.groups["g"]?.mark ?? "")
        }
        func call(_ verb: GroupServerModel.Verb) async throws {
            try await play([.call(verb, group: "g", known: known())])
        }
        func order(_ order: RoleOrder, _ id: String) async throws {
            try await call(.order(order, actor: "op", reason: "", id: id))
        }
        func live(ms: Int64, but dead: String = "") async throws {
            for _ in 0..<ms / 100 {
                model.clock += 100
                for id in ["a", "b", "c"] where id != dead {
                    let office = model.groups["g"]?.office ?? .init()
                    let claim = office.primary == id ? RoleClaim.ready(office.epoch) : .none
                    let record = MemberRecord(id: id, session: id, leaseMilliseconds: 1000, isCandidate: true)
                    let status = CandidateStatus(claim: claim, position: 1)
                    if model.groups["g"]?.held(id) == nil {
                        try await call(.join(record, .first, Self.policy, status: status))
                    } else {
                        try await call(
                            .beat(id: id, session: id, leaseMilliseconds: 1000, joined: "", status: status))
                    }
                }
            }
        }
        func events(_ type: String) -> Int { model.events.count { $0.type == type } }
        try await live(ms: 1500)
        try await order(.settings([("brakeCount", "2"), ("brakeWindowMs", "20000")]), "o1")
        for failovers in 1...3 {
            let office = model.groups["g"]!.office
            #expect(office.phase == .ready && office.epoch == failovers)
            try await live(ms: 1500, but: office.primary)
            try await live(ms: 300)
        }
        #expect(events("group.braked") == 1 && events("group.unbraked") == 0)
        #expect(model.groups["g"]!.office.primary.isEmpty && model.groups["g"]!.office.lastWhy == "expired")
        try await order(.acknowledge, "o2")
        try await live(ms: 300)
        for _ in 1...3 {
            #expect(model.groups["g"]!.office.phase == .ready)
            try await live(ms: 1500, but: model.groups["g"]!.office.primary)
            try await live(ms: 300)
        }
        #expect(events("group.braked") == 2 && events("group.unbraked") == 1)
        try await live(ms: 20_000)
        #expect(events("group.unbraked") == 2 && model.groups["g"]!.office.phase == .ready)
        // Where one alone can lead, it leads.
        try await order(.settings([("brakeCount", "1")]), "o3")
        try await call(.leave(id: "c", session: "c", reason: "", actor: ""))
        let primary = model.groups["g"]!.office.primary
        for _ in 0..<15 {
            model.clock += 100
            let id = primary == "a" ? "b" : "a"
            let status = CandidateStatus(position: 1)
            try await call(.beat(id: id, session: id, leaseMilliseconds: 1000, joined: "", status: status))
        }
        #expect(!model.groups["g"]!.office.primary.isEmpty && model.groups["g"]!.office.primary != primary)
    }

    func playLostPolicy() async throws {
        let mine = RingPolicy(seed: 7, pointsPerWeight: 100)
        func join(_ id: String, _ policy: RingPolicy) -> Step {
            let record = MemberRecord(id: id, session: id, leaseMilliseconds: 3000)
            return .call(.join(record, .first, policy, status: nil), group: "g", known: .none)
        }
        try await play([join("a", mine), join("b", Self.policy)])
        #expect(model.groups["g"]?.policy == mine)
        let known = GroupKnowledge(
            version: 2, mark: model.groups["g"]!.mark, longestLeaseMilliseconds: 3000, policy: mine)
        try await play([.forget, join("newcomer", Self.policy)])
        #expect(model.groups["g"]?.policy == Self.policy)
        try await play([.call(.watch(leases: false), group: "g", known: known)])
        #expect(model.groups["g"]?.policy == mine && model.groups["g"]?.version == 3)
    }

    /// Plays the given steps, or random ones for nil: in the model first, then all in one write on Redis.
    func play(_ plan: [Step?]) async throws {
        var expected: [Expected] = []
        for (index, planned) in plan.enumerated() {
            if planned == nil { passTime() }
            let step = planned ?? randomStep()
            let answer = runInModel(step)
            let isLookedAt = index % 8 == 0 || index == plan.count - 1
            expected.append(
                Expected(
                    step: step, clock: model.clock, run: model.run, answer: answer,
                    state: isLookedAt ? state(events: index == plan.count - 1 ? 300 : 3) : nil))
        }
        let looks = expected.count { $0.state != nil }
        let count = expected.count + looks
        let calls = expected.count { $0.answer != nil }
        let first = generations - calls
        let replies = try await client.pipeline(count: count, deadline: Duration.seconds(120)) { writer in
            var generation = first
            for (index, step) in expected.enumerated() {
                encode(step, &generation, &writer)
                if step.state != nil { encodeDump(events: index == expected.count - 1 ? 300 : 3, &writer) }
            }
        }
        var next = replies[...]
        for expected in expected {
            steps += 1
            let reply = next.removeFirst()
            if let answer = expected.answer {
                met.insert("answer \(answer.status)")
                if let content = answer.content, content.members == nil { met.insert("answer unchanged") }
                if let content = answer.content, content.isMore { met.insert("page more") }
                if let page = answer.content?.page {
                    met.insert("page \(page.from.contains(":") ? "on" : page.from.isEmpty ? "start" : page.from)")
                    if !page.gone.isEmpty { met.insert("page gone") }
                }
                for refusal in answer.content?.report?.refusals ?? [] { met.insert("refusal \(refusal.code)") }
                for candidate in answer.content?.report?.candidates ?? [] {
                    for reason in candidate.reasons { met.insert("reason \(reason.code)") }
                }
                guard let real = GroupScripts.answer(reply), real == answer else {
                    throw complaint("the model answers \(answer), Redis \(reply)", expected)
                }
            } else if reply.error != nil {
                throw complaint("\(reply)", expected)
            }
            guard let state = expected.state else { continue }
            let real = next.popFirst()?.text ?? ""
            guard real == state else {
                let lines = zip(real.split(separator: "\n"), state.split(separator: "\n")).first { $0 != $1 }
                throw complaint("stored is \(lines?.0 ?? "") not \(lines?.1 ?? "")\n\(real)\nnot\n\(state)", expected)
            }
        }
    }

    private func complaint(_ text: String, _ expected: Expected) -> Disagreement {
        Disagreement(description: "seed \(seed), step \(steps), after \(expected.step) at \(expected.clock): \(text)")
    }

    private func passTime() {
        switch random.pick(0...999) {
        case 0...99: break
        case 100...104: model.clock -= random.pick([30, 700, 3_600_000])
        case 105...109: model.clock += random.pick([1500, 4000, 3_600_000])
        case 110...199: model.clock += random.pick(80...500)
        default: model.clock += random.pick(1...50)
        }
    }

    // MARK: Random steps

    private func randomStep() -> Step {
        switch random.pick(0...999) {
        case 0...1: return .forget
        case 2...5: return .save
        case 6...8: return .stepBack
        case 9...10: newRun()
        case 11...14: return .forgetRemoved(Self.names.filter { model.groups[$0]?.isRemoved == true })
        default: break
        }
        let group = random.chance(92) ? Self.names[0] : Self.names[1]
        let known = randomKnowledge(group)
        let verb: GroupServerModel.Verb
        switch random.pick(0...99) {
        case 0...14: verb = .watch(leases: random.chance(20))
        case 15...75: verb = randomBeat(group) ?? randomJoin(group)
        case 76...84: verb = randomJoin(group)
        case 85...96: verb = randomOrder(group)
        case 97:
            verb = .note(
                type: random.pick(["agent.hook", "agent.check"]), member: random.pick(["", "a"]),
                reason: random.pick(["", "on \"x\""]), actor: random.pick(["", "a/b"]),
                detail: random.pick(["", "{\"exit\":1}"]))
        default:
            let member = members[group]?.randomElement(using: &random)
            verb = .leave(
                id: member?.id ?? "a", session: random.chance(20) ? "" : member?.session ?? "s0",
                reason: random.pick(["", "exited", "finished", "bye / \"now\""]),
                actor: random.pick(["", "m\u{FC}ller"]))
        }
        // Of many at once none asks.
        if case .beats = verb { return .call(verb, group: group, known: .notAsking) }
        if case .beat = verb, random.chance(10) { return .call(verb, group: group, known: .notAsking) }
        return .call(verb, group: group, known: known)
    }

    private func randomKnowledge(_ group: String) -> GroupKnowledge {
        guard random.chance(97),
            let view = random.chance(95) ? views[group]?.last : views[group]?.randomElement(using: &random)
        else { return .none }
        return view
    }

    private func present(_ group: String) -> [GroupServerModel.Held] {
        (model.groups[group]?.members.values ?? [:].values).sorted { $0.record.id.isBefore($1.record.id) }
    }

    /// Mostly of one that is there, and what it would say.
    private func randomBeat(_ group: String) -> GroupServerModel.Verb? {
        if random.chance(10), let known = members[group], !known.isEmpty {
            // Of candidates too: they say nothing then.
            let some = Set((0..<random.pick(1...4)).map { _ in Int(random.pick(0...Int64(known.count) - 1)) }).sorted()
            var ids: [String] = []
            let beats = some.compactMap { index -> GroupAnswer.Beat? in
                let (record, joined) = (known[index].record, known[index].joined)
                guard !ids.contains(record.id) else { return nil }
                ids.append(record.id)
                return GroupAnswer.Beat(
                    id: record.id, session: record.session, leaseMilliseconds: record.leaseMilliseconds, joined: joined)
            }
            return .beats(beats)
        }
        if random.chance(80), let held = present(group).randomElement(using: &random) {
            let joined = members[group]?.last { $0.session == held.record.session }?.joined ?? ""
            return beat(held.record, joined, group)
        }
        return members[group]?.randomElement(using: &random).map { beat($0.record, $0.joined, group) }
    }

    private func beat(_ record: MemberRecord, _ joined: String, _ group: String) -> GroupServerModel.Verb {
        .beat(
            id: record.id, session: record.session, leaseMilliseconds: record.leaseMilliseconds, joined: joined,
            status: randomStatus(of: record, group))
    }

    private func randomStatus(of record: MemberRecord, _ group: String) -> CandidateStatus? {
        guard random.chance(record.isCandidate ? 95 : 10) else { return nil }
        let position: Int64? = random.chance(85) ? random.pick([0, 90, 99, 100, 100, 100, 101, 250]) : nil
        let office = model.groups[group]?.office ?? .init()
        let epoch = office.epoch + (random.chance(5) ? random.pick(-1...1) : 0)
        var claim = RoleClaim.none
        let isHolder = office.session == record.session || office.phase == .recovering
        if isHolder || random.chance(5), epoch > 0 {
            switch (random.pick(0...99), office.phase) {
            case (0...1, _):
                claim = .gone(
                    epoch, reason: random.pick(["", "stepDown", "suspended", "unhealthy", "refused", "exited"]))
            case (2...29, .handingOver), (2...3, _):
                let version = model.groups[group]?.version ?? 0
                claim = .readyToHandOver(epoch, position: position, asOf: random.chance(85) ? version : version - 2)
            case (4...39, .elected), (4...5, _): claim = .elected(epoch)
            default: claim = .ready(epoch)
            }
        }
        return CandidateStatus(
            claim: claim, position: position, unfit: random.chance(10) ? random.pick(["busy", "a \"b\" / c"]) : "")
    }

    private func randomOrder(_ group: String) -> GroupServerModel.Verb {
        sessions += 1
        let id = (random.chance(15) ? lastOrders.randomElement(using: &random) : nil) ?? "o\(sessions)"
        lastOrders = Array(([id] + lastOrders).prefix(9))
        let member =
            random.chance(85)
            ? present(group).randomElement(using: &random)?.record.id ?? "a" : random.pick(Self.ids)
        let isEmpty = model.groups[group]?.members.isEmpty ?? true
        let order: RoleOrder =
            switch random.pick(isEmpty ? -20...20 : 0...21) {
            case 0...6:
                .switchover(to: random.chance(60) ? member : nil, timeoutMilliseconds: random.pick([10, 300, 2000]))
            case 7...9: .failover(to: member)
            case 10...11: .abort
            case 12: .pause(milliseconds: random.pick([200, 1500, 4000]))
            case 13: .resume
            case 14...15: .maintenance(member, isOn: random.chance(45))
            case 16: .acknowledge
            case 17: .breaker(random.pick([.automatic, .automatic, .open, .closed]))
            case 21, ...(-1): .remove(emptyForMilliseconds: random.pick([0, 0, 50, 2000]))
            default: .settings((0..<random.pick(1...3)).map { _ in randomSetting() })
            }
        return .order(
            order, actor: random.pick(["", "m\u{FC}ller", "o\"p\""]), reason: random.pick(["", "a/b"]), id: id)
    }

    private func randomSetting() -> (name: String, value: String) {
        random.pick(
            [
                ("rank", ["data", "priority"]), ("maxLag", ["-1", "-1", "5"]), ("lagStep", ["1", "50"]),
                ("zone", ["", "z", "a\"b"]), ("failback", ["never", "manual", "automatic", "automatic"]),
                ("failbackAfterMs", ["0", "300", "1000"]), ("handoverTimeoutMs", ["10", "500"]),
                ("minStandbys", ["0", "1", "2", "3"]),
                ("minStandbysAction", ["warn", "refuseSwitchover", "suspendWrites"]),
                ("brakeCount", ["0", "1", "1", "2"]),
                ("brakeWindowMs", ["1000", "20000"]),
                ("onCoordinatorLoss", ["demote", "failsafe", "failsafe"]),
                ("failsafeLimitMs", ["200", "2000", "600000"]),
            ].map { ($0.0, random.pick($0.1)) })
    }

    private func randomJoin(_ group: String) -> GroupServerModel.Verb {
        if random.chance(75), let member = members[group]?.randomElement(using: &random) {
            var record = member.record
            if random.chance(40) { record.weight = Int(random.pick(0...3)) }
            if random.chance(20) { record.leaseMilliseconds = random.pick([200, 800, 1000]) }
            if random.chance(20) { record.health = random.pick(["", "", "no \"answer\""]) }
            if random.chance(10) { record.isCandidate.toggle() }
            remember(record, member.joined, group)
            return .join(record, randomMode(group), Self.policy, status: randomStatus(of: record, group))
        }
        sessions += 1
        let record = MemberRecord(
            id: random.pick(Self.ids), session: "s\(sessions)",
            leaseMilliseconds: random.pick([300, 1000, 1000, 3000]),
            address: random.pick(["", "", "h1:1", "h2:1"]), zone: random.pick(["", "z", "a\"b"]),
            priority: Int(random.pick(-1...1)),
            metadata: random.chance(30) ? ["k": "\u{1F600}"] : [:], isCandidate: random.chance(75))
        remember(record, "", group)
        return .join(record, randomMode(group), Self.policy, status: randomStatus(of: record, group))
    }

    private func randomMode(_ group: String) -> JoinMode {
        switch random.pick(0...9) {
        case 0...3: .first
        case 4...5: .again
        case 6: .stay(since: "")
        case 7: .stay(since: members[group]?.randomElement(using: &random)?.joined ?? "")
        default: .over(members[group]?.randomElement(using: &random)?.session ?? "s0")
        }
    }

    private func remember(_ record: MemberRecord, _ joined: String, _ group: String) {
        members[group, default: []].append((record.id, record.session, record, joined))
        if members[group]!.count > 9 { members[group]!.removeFirst() }
    }

    func newRun() {
        runs += 1
        model.run = "run\(runs)"
    }

    // MARK: In the model

    private func runInModel(_ step: Step) -> GroupAnswer? {
        switch step {
        case .forget:
            if random.chance(60) { newRun() }
            model.forgetEverything()
            return nil
        case .save:
            saved = model
            return nil
        case .stepBack:
            newRun()
            model.stepBack(to: saved)
            return nil
        case .forgetRemoved(let names):
            if !names.isEmpty { met.insert("removal forgotten") }
            model.forgetRemoved()
            return nil
        case .call(let verb, let group, let known):
            generations += 1
            let before = model.events.count
            let generation = model.log?.generation
            let answer = model.call(verb, group, fresh: "fresh\(generations)", known: known)
            self.answer = answer
            for event in model.events[before...] {
                met.insert("event \(event.type)")
                if event.type.hasPrefix("primary.") || event.type.hasPrefix("group.")
                    || event.type == "switchover.aborted"
                {
                    met.insert("\(event.type) \(event.reason)")
                }
            }
            if case .order(let order, _, _, _) = verb { met.insert("order \(order.name) \(answer.status)") }
            if let generation, generation != model.log?.generation { forks += 1 }
            views[group, default: []].append(
                GroupKnowledge(
                    version: answer.version, mark: answer.mark, longestLeaseMilliseconds: random.pick(0...7000),
                    policy: random.chance(50) ? RingPolicy(seed: random.pick([7, .max]), pointsPerWeight: 100) : nil,
                    epoch: (model.groups[group]?.office.epoch ?? 0)
                        + (random.pick(0...999) < 2 ? random.pick(1...3) : 0)))
            if views[group]!.count > 12 { views[group]!.removeFirst() }
            if case .join(let record, _, _, _) = verb, answer.status == .member,
                let index = members[group]?.lastIndex(where: { $0.session == record.session && $0.joined.isEmpty })
            {
                members[group]![index].joined = answer.mark
            }
            return answer
        }
    }

    private func state(events: Int) -> String {
        var lines: [String] = []
        for name in Self.names {
            let group = model.groups[name] ?? .init()
            let members = group.members.values.sorted {
                $0.ends != $1.ends ? $0.ends < $1.ends : $0.record.id.isBefore($1.record.id)
            }
            for held in members {
                let json = String(decoding: held.record.json, as: UTF8.self)
                lines.append(
                    "\(held.record.id) \(held.ends) \(json) \(held.before.joined(separator: " ")) "
                        + (held.standing.map(Self.text) ?? ""))
            }
            lines += [
                "\(group.members.count)", "\(group.version)", group.version == 0 ? "0" : group.mark, "\(group.now)",
                "\(group.offset)", "\(group.graceUntil)", "\(group.recoverUntil)", "\(group.shortest)",
                "\(group.longest)", "\(group.gaps)", "\(group.runAt)", group.run.isEmpty ? "0" : group.run,
            ]
            lines += Self.fields(of: group)
            lines.append("candidates \(group.members.values.count { $0.standing != nil })")
            var settings = group.settings.map { "\($0.key)=\($0.value)" }
            if let policy = group.policy {
                settings += ["seed=\(policy.seed)", "pointsPerWeight=\(policy.pointsPerWeight)"]
            }
            lines += [
                settings.sorted { $0.isBefore($1) }.joined(separator: " "),
                group.version > 0 && !group.isRemoved ? "1" : "0",
            ]
        }
        if let log = model.log {
            let forks: [String] = log.forks.map { "\($0.generation)@\($0.kept)" }
            let floors = model.floors
            lines += [log.generation, "\(log.sequence)", log.run, forks.joined(separator: " ")]
            lines += floors.version == 0 ? ["", ""] : ["\(floors.version)", "\(floors.epoch)"]
        } else {
            lines += ["", "", "", "", "", ""]
        }
        for event in model.events.suffix(events).reversed() { lines += ["\(event.sequence)-0", event.text] }
        return lines.joined(separator: "\n")
    }

    private static func text(_ standing: GroupServerModel.Standing) -> String {
        let position = standing.position.map { "\($0)" } ?? "-"
        return "\(standing.fitSince) \(standing.barredUntil) \(standing.joined) \(position) \(standing.unfit)"
    }

    private static func fields(of group: GroupServerModel.Group) -> [String] {
        let office = group.office
        func text(_ number: Int64?) -> String { number.map { $0 == 0 ? "" : "\($0)" } ?? "" }
        let final =
            switch office.final {
            case .unsaid: ""
            case .said(let position): position.map { "\($0)" } ?? "-"
            }
        let candidates = group.members.values.count { $0.standing != nil }
        func lines(_ marks: [GroupServerModel.Penalty]) -> String {
            marks.map { "\($0.id)\t\($0.thousandths)\t\($0.since)|" }.joined()
        }
        var gaveUp = ""
        if let word = office.gaveUp { gaveUp = "\(word.version) \(word.session)" }
        let fields: KeyValuePairs = [
            "runVersion": text(office.runVersion), "copyVersion": text(office.copyVersion),
            "missed": text(office.missed),
            "gaveUp": gaveUp, "vouched": office.isVouched ? "1" : "",
            "emptySince": text(office.emptySince),
            "epoch": text(office.epoch), "primary": office.primary, "pSession": office.session,
            "phase": office.phase.rawValue, "candidates": text(Int64(candidates)), "checkAt": text(office.checkAt),
            "since": text(office.since), "electAfter": text(office.electAfter),
            "vacantSince": text(office.vacantSince), "lastPrimary": office.lastPrimary, "lastWhy": office.lastWhy,
            "lastPosition": office.lastPosition.map { "\($0)" } ?? "", "final": final, "target": office.target,
            "handoverUntil": text(office.handoverUntil), "forced": office.isForced ? "1" : "",
            "orders": office.orders.map { "\($0.id)@\($0.epoch)" }.joined(separator: " "),
            "orderBy": office.orderBy, "orderWhy": office.orderWhy, "skip": text(office.skip),
            "pausedUntil": text(office.pausedUntil), "brakedUntil": text(office.brakedUntil),
            "failovers": office.failovers.map { "\($0)" }.joined(separator: " "), "short": office.isShort ? "1" : "",
            "failbackAt": text(office.failbackAt), "penalties": lines(office.penalties),
            "failures": lines(office.failures),
            "maintenance": office.maintenance.map { $0 + "|" }.joined(),
            "readyMember": office.readyMember, "readyEpoch": text(office.readyEpoch),
            "handoverVersion": text(office.handoverVersion), "pKnown": text(office.known),
            "silentSince": text(office.silentSince), "lostAt": text(office.lostAt),
            "failbackWait": text(office.failbackWait), "memberVersion": text(group.memberVersion),
        ]
        return fields.map { "\($0.key) \($0.value)" }
    }

    // MARK: On Redis

    private func encode(_ expected: Expected, _ generation: inout Int, _ writer: inout CommandWriter) {
        let keys = allKeys
        let copies = keys.map { $0 + ":saved" }
        switch expected.step {
        case .forget:
            writer.begin(1 + keys.count)
            writer.argument("DEL")
            for key in keys { writer.argument(key) }
        case .forgetRemoved(let names):
            writer.begin(2 + names.count)
            writer.argument("DEL")
            writer.argument("none")
            for name in names { writer.argument(scripts.keys.state, name) }
        case .save: encodeCopy(copies + keys, &writer)
        case .stepBack: encodeCopy(keys + copies, &writer)
        case .call(let verb, let group, let known):
            generation += 1
            let call =
                switch verb {
                case .watch(let leases): scripts.watch(group, known, leases: leases)
                case .beat(let id, let session, let lease, let joined, let status):
                    scripts.beat(
                        group, known, id: id, session: session, leaseMilliseconds: lease, joined: joined,
                        status: status)
                case .beats(let beats): scripts.beats(group, beats)
                case .join(let record, let mode, let policy, let status):
                    scripts.join(group, known, record, mode, policy, status: status)
                case .leave(let id, let session, let reason, let actor):
                    scripts.leave(group, known, id: id, session: session, reason: reason, actor: actor)
                case .order(let order, let actor, let reason, let id):
                    scripts.order(group, known, order, actor: actor, reason: reason, id: id)
                case .note(let type, let member, let reason, let actor, let detail):
                    scripts.note(
                        group, known, type: type, member: member, reason: reason, actor: actor,
                        detail: Array(detail.utf8))
                }
            script.begin(&writer, keys: call.keys, arguments: call.arguments + 3)
            call.encode(&writer)
            writer.argument(expected.run)
            writer.argument(expected.clock)
            writer.argument("fresh\(generation)")
        }
    }

    private var allKeys: [String] {
        dumpedKeys + Self.names.flatMap { [scripts.keys.changes + $0, scripts.keys.gone + $0] }
    }

    private var dumpedKeys: [String] {
        let keys = scripts.keys
        return Self.names.flatMap {
            [keys.leases + $0, keys.members + $0, keys.state + $0, keys.policy + $0, keys.candidates + $0]
        }
            + [keys.groups, keys.events, keys.log]
    }

    private func encodeCopy(_ keys: [String], _ writer: inout CommandWriter) {
        copying.begin(&writer, keys: keys.count, arguments: 0)
        for key in keys { writer.argument(key) }
    }

    private func encodeDump(events: Int, _ writer: inout CommandWriter) {
        let keys = dumpedKeys
        dumping.begin(&writer, keys: keys.count, arguments: Self.names.count + 1)
        for key in keys { writer.argument(key) }
        for name in Self.names { writer.argument(name) }
        writer.argument(Int64(events))
    }
}
