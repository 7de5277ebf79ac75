// SPDX-License-Identifier: Apache-2.0
//
// Those who know where the primary is, as the world of the locator has them: each learns of a failover in its own time,
// and some say for a while what is not so.
@testable import Hiredis

/// What somebody believes from a moment on.
private struct Belief {
    var from: Int64
    var server: Int
    var epoch: Int64
}

extension [Belief] {
    fileprivate func at(_ now: Int64) -> Belief { last { $0.from <= now } ?? self[0] }

    /// What is learnt later replaces what would have been learnt after it.
    fileprivate mutating func learn(_ belief: Belief) {
        removeAll { $0.from >= belief.from }
        append(belief)
    }
}

private let millisecond: Int64 = 1_000_000

/// Three Sentinels that talk to one another.
///
/// The one that leads a failover knows of it at once, and its row shows the old address under the new epoch for
/// seconds; the others hear of it later, one of them perhaps much later. One may be cut off from the client, or be set
/// up anew: then it begins with epoch 0 and with what its file says, has another id, and knows nobody.
struct SentinelAuthority {
    private var beliefs = [[Belief]](repeating: [Belief(from: 0, server: 0, epoch: 0)], count: 3)
    /// Whose row shows whom, until when.
    private var lies = [(until: Int64, old: Int)](repeating: (0, 0), count: 3)
    private var silent = [Range<Int64>](repeating: 0..<0, count: 3)
    /// How often each was set up anew, and until when it and the others do not know of one another then.
    private var lives = [(count: Int, unknownUntil: Int64)](repeating: (0, 0), count: 3)
    private var epoch: Int64 = 0
    /// When all were set up anew.
    private(set) var remadeAt: Int64?
    /// Who won which epoch.
    private(set) var winners: [Int64: Int] = [:]
    private let readsRowOnly: Bool

    /// `readsRowOnly`: the control, in which GET-MASTER-ADDR-BY-NAME says what the row says.
    init(readsRowOnly: Bool) { self.readsRowOnly = readsRowOnly }

    static func address(_ number: Int) -> RedisConfiguration.Address {
        .tcp(host: "10.1.0.\(number + 1)", port: 26_379)
    }

    /// A failover that a majority has agreed on. Returns when who announces it: a message may be lost or come twice.
    mutating func failed(
        over old: Int, to new: Int, at: Int64, _ random: inout SeededRandom
    ) -> [(at: Int64, by: RedisConfiguration.Address)] {
        epoch += Int64.random(in: 1...3, using: &random)
        winners[epoch] = new
        var messages: [(at: Int64, by: RedisConfiguration.Address)] = []
        let leader = Int.random(in: 0..<3, using: &random)
        let last = (leader + Int.random(in: 1...2, using: &random)) % 3
        for number in 0..<3 {
            let most: Int64 = number == leader ? 0 : number == last ? 8_000 : 300
            let from = at + Int64.random(in: 0...most * millisecond, using: &random)
            beliefs[number].learn(Belief(from: from, server: new, epoch: epoch))
            var told = from + Int64.random(in: 0...100 * millisecond, using: &random)
            if number == leader {
                lies[number] = (at + Int64.random(in: 0...3_000 * millisecond, using: &random), old)
                told = max(told, lies[number].until)
            }
            for _ in 0..<Int.random(in: 0...2, using: &random) { messages.append((told, Self.address(number))) }
        }
        return messages
    }

    /// Something that befalls one of them.
    mutating func disturb(at now: Int64, _ random: inout SeededRandom) {
        let number = Int.random(in: 0..<3, using: &random)
        guard Bool.random(using: &random) else {
            return silent[number] = now..<now + Int64.random(in: 0...8_000 * millisecond, using: &random)
        }
        let time = Int64.random(in: 0...4_000 * millisecond, using: &random)
        // Set up anew: it hears of the epoch from the others within two seconds.
        let later = beliefs[number].filter { $0.from > now }
        let known = beliefs.map { $0.at(now) }.max { $0.epoch < $1.epoch } ?? beliefs[number].at(now)
        beliefs[number] = [
            Belief(from: 0, server: Int.random(in: 0..<3, using: &random), epoch: 0),
            Belief(from: now + min(time, 2_000 * millisecond), server: known.server, epoch: known.epoch),
        ]
        for belief in later where belief.from > now + time { beliefs[number].learn(belief) }
        lives[number] = (lives[number].count + 1, now + min(time, 2_000 * millisecond))
    }

    /// The primary was made anew, and all Sentinels with it.
    mutating func remade(at server: Int, now: Int64) {
        beliefs = Array(repeating: [Belief(from: 0, server: server, epoch: 0)], count: 3)
        for number in 0..<3 { lives[number] = (lives[number].count + 1, now) }
        (epoch, remadeAt) = (0, now)
        winners[0] = server
    }

    /// How many have been silent since then.
    func silence(since: Int64, until now: Int64) -> Int {
        silent.count { $0.lowerBound <= since && $0.upperBound >= now }
    }

    /// How many of these have answered since then whenever they were asked.
    func answering(_ sources: Set<RedisConfiguration.Address>, since: Int64, until now: Int64) -> Int {
        (0..<3).count { sources.contains(Self.address($0)) && !silent[$0].overlaps(since..<now) }
    }

    /// Whether two of these at least have known of `server` since then, and answered all the time.
    func haveAgreed(
        on server: Int, _ sources: Set<RedisConfiguration.Address>, since: Int64, until now: Int64
    ) -> Bool {
        (0..<3).count { number in
            let belief = beliefs[number].at(now)
            return sources.contains(Self.address(number)) && belief.server == server && belief.epoch == epoch
                && belief.from <= since && !silent[number].overlaps(since..<now)
        } >= 2
    }

    /// nil: it does not answer.
    func answer(_ source: RedisConfiguration.Address, withList: Bool, at now: Int64) -> [RedisReply]? {
        guard let number = (0..<3).first(where: { Self.address($0) == source }), !silent[number].contains(now) else {
            return nil
        }
        let belief = beliefs[number].at(now)
        let shown = lies[number].until > now ? lies[number].old : belief.server
        let address = Self.host(readsRowOnly ? shown : belief.server)
        // Its mind changes between two questions.
        let after = beliefs[number].at(now + 2 * millisecond)
        let others = lives[number].unknownUntil > now ? [] : (0..<3).filter { $0 != number }
        let replies = PlantedSentinel.replies(
            address, epoch: Int(belief.epoch), row: Self.host(shown),
            after: readsRowOnly ? address : Self.host(after.server), others: others.count,
            id: withList ? nil : id(number))
        guard withList else { return replies }
        // The others know the former one still.
        let list = others.map { other in
            (id: id(other, isFormer: lives[other].unknownUntil > now), host: "10.1.0.\(other + 1)")
        }
        return replies + PlantedSentinel.list(list, id: id(number))
    }

    private func id(_ number: Int, isFormer: Bool = false) -> String {
        "sentinel-\(number)-\(lives[number].count - (isFormer ? 1 : 0))"
    }
    private static func host(_ server: Int) -> String { "10.0.0.\(server + 1)" }
}

/// Six nodes: 0 to 2 are a primary and its replicas, 3 to 5 primaries of other slots. Each has its own view of who has
/// the slot, and those that are behind send a client back to where it came from.
struct ClusterAuthority {
    static let count = 6
    private var beliefs = [[Belief]](repeating: [Belief(from: 0, server: 0, epoch: 0)], count: count)
    /// Who takes no commands, because it is cut off from most.
    private var down = [Range<Int64>](repeating: 0..<0, count: count)

    private static let slot = Int64(ClusterView.slot(ofTag: ""))

    /// The slot has another owner from `at` on. `old` knows it at `oldKnows`.
    mutating func moved(from old: Int, to new: Int, at: Int64, oldKnows: Int64, _ random: inout SeededRandom) {
        for number in 0..<Self.count {
            let late = Int64.random(in: 0...1_500 * millisecond, using: &random)
            let from = number == new ? at : number == old ? oldKnows : at + late
            beliefs[number].learn(Belief(from: from, server: new, epoch: 0))
        }
    }

    /// The new owner of a slot that was moved by hand is the last to hear of it: until then it sends clients back.
    mutating func hears(_ number: Int, late: Int64) {
        guard let last = beliefs[number].popLast() else { return }
        beliefs[number].append(Belief(from: last.from + late, server: last.server, epoch: 0))
    }

    mutating func goesDown(_ number: Int, _ time: Range<Int64>) { down[number] = time }

    /// What a node says to a write: nil, it takes it.
    func refusal(by number: Int, at now: Int64) -> RedisServerError? {
        if down[number].contains(now) { return RedisServerError(message: "CLUSTERDOWN The cluster is down") }
        let owner = beliefs[number].at(now).server
        guard owner != number else { return nil }
        return RedisServerError(message: "MOVED \(Self.slot) 10.0.0.\(owner + 1):6379")
    }

    /// The answer of a node to CLUSTER SLOTS. Some do not say their own host, each in another way.
    func slots(_ number: Int, at now: Int64) -> RedisReply {
        func node(_ other: Int) -> RedisReply {
            let host: RedisReply =
                other == number && other % 3 == 1
                ? .null : PlantedSentinel.bulk(other == number && other % 3 == 2 ? "?" : "10.0.0.\(other + 1)")
            return .array([host, .integer(6379)])
        }
        func range(_ first: Int64, _ last: Int64, _ nodes: [Int]) -> RedisReply {
            .array([.integer(first), .integer(last)] + nodes.map(node))
        }
        let owner = beliefs[number].at(now).server
        let replicas = owner < 3 ? (0..<3).filter { $0 != owner } : []
        let slot = Self.slot
        return .array(
            (slot > 0 ? [range(0, slot - 1, [4])] : []) + [
                range(slot, slot, [owner] + replicas), range(slot + 1, 8_000, [3]), range(8_001, 16_383, [5]),
            ])
    }
}
