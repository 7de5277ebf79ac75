// SPDX-License-Identifier: Apache-2.0
//
// What all Sentinels say together: one sighting of the primary, or why there is none.
//
// A client that believes the first Sentinel that answers follows the one that was cut off with the old primary, and
// writes there for as long as that lasts. Sentinels themselves decide by config epochs: each failover has a higher
// number, won by the votes of a majority, and every one of them follows the highest it hears of. So does this: all are
// asked, the highest epoch wins, and an epoch that was seen once is not gone below. Two addresses under one epoch are
// no failover but a mistake of configuration; there a majority decides, or nobody. (What a client without a place does
// with the lasting word of a few is for SentinelSearch.)
//
// How many Sentinels there are is their own word: a majority counts those that are down. But never fewer than the URL
// names, and fewer than before only when that has been said for long: one that was set up anew knows nobody, and would
// be a majority of one. A Sentinel may be known under several addresses (a name in the URL, a number in another's
// list), so they are counted by their ids.

struct SentinelView: Sendable {
    /// Where they say the primary is.
    struct Sighting: Sendable, Equatable {
        /// What to dial: after the address map.
        var address: RedisConfiguration.Address
        var epoch: Int64
        /// How many Sentinels name it.
        var votes: Int
        /// More than half of all.
        var isAgreed: Bool
    }

    /// A majority that knows only a lower epoch is right after all when it has said so for this long: its Sentinels
    /// were set up anew, or the one that led the failover was lost before it told anybody. Sentinels tell one another
    /// every two seconds.
    static let regressionPatience: Int64 = 10_000_000_000
    /// How many are asked.
    static let limit = 64

    let name: String
    private let configured: [RedisConfiguration.Address]
    private let map: AddressMap
    /// Of this round.
    private var opinions: [RedisConfiguration.Address: Result<SentinelAnswer, RedisError>] = [:]
    /// The last list that each has given.
    private var lists: [RedisConfiguration.Address: [String: RedisConfiguration.Address]] = [:]
    private var ids: [RedisConfiguration.Address: String] = [:]
    /// Those that gave an answer when they were asked last.
    private var reachable: Set<RedisConfiguration.Address> = []
    /// Whose list is not trusted to be whole any more.
    private(set) var stale: Set<RedisConfiguration.Address> = []
    /// The highest epoch that was seen.
    private(set) var highestEpoch: Int64 = -1
    /// Since when a majority has known only a lower one.
    private var lowerSince: Int64?
    /// How many Sentinels there are, by their own word.
    private var total = 0
    /// Since when all that answer have told of fewer.
    private var fewerSince: Int64?

    /// - Parameter configured: the Sentinels of the URL, which are always asked.
    init(_ configured: [RedisConfiguration.Address], name: String, map: AddressMap = AddressMap()) {
        self.configured = configured
        self.name = name
        self.map = map
    }

    // MARK: Whom to ask

    /// Those of the URL, and those that they know; each Sentinel once, as far as that is known.
    var sources: [RedisConfiguration.Address] {
        var sources = configured
        // One that answers under its address of the URL needs no second connection.
        var seen = Set(configured.filter(reachable.contains).compactMap { ids[$0] })
        // One that is gone keeps nobody in the list: two of them would keep each other, and hide who came after them.
        let heard = lists.filter { reachable.contains($0.key) }
        for list in (heard.isEmpty ? lists : heard).values {
            for (id, address) in list where sources.count < Self.limit && seen.insert(id).inserted {
                if !sources.contains(address) { sources.append(address) }
            }
        }
        return sources
    }

    /// Whether `source` should also be asked who the others are.
    func needsList(_ source: RedisConfiguration.Address) -> Bool {
        lists[source] == nil || stale.contains(source)
    }

    /// `source` has told of a Sentinel that is new, or at another address.
    mutating func listChanged(at source: RedisConfiguration.Address) { stale.insert(source) }

    // MARK: What they say

    /// All are asked again. `now`: monotonic, in ns.
    mutating func begin(now: Int64) {
        if let lower = best, lower.isAgreed, lower.epoch < highestEpoch {
            let since = lowerSince ?? now
            lowerSince = since
            if now - since >= Self.regressionPatience { (highestEpoch, lowerSince) = (lower.epoch, nil) }
        } else if best != nil {
            lowerSince = nil
        }
        shrink(now)
        let asked = Set(sources)
        lists = lists.filter { asked.contains($0.key) }
        ids = ids.filter { asked.contains($0.key) }
        reachable.formIntersection(asked)
        stale.formIntersection(asked)
        opinions = [:]
    }

    /// A smaller number counts when it has been said for long: those that answer may have been set up anew, or been
    /// told to forget the others, and would for a while be a majority of themselves.
    private mutating func shrink(_ now: Int64) {
        guard let said = answers.map({ $0.value.others + 1 }).max() else { return }
        guard said < total else { return fewerSince = nil }
        let since = fewerSince ?? now
        fewerSince = since
        if now - since >= Self.regressionPatience { (total, fewerSince) = (said, nil) }
    }

    /// Nobody has asked or listened for a while. What was said before is no part of what is said from now on, and news
    /// of other Sentinels was missed.
    mutating func resume() {
        (opinions, lowerSince, fewerSince) = ([:], nil, nil)
        stale.formUnion(sources)
    }

    mutating func answered(_ source: RedisConfiguration.Address, _ result: Result<SentinelAnswer, RedisError>) {
        opinions[source] = result.mapError { SentinelWords(source: source, name: name).failure($0) }
        guard case .success(let answer) = result else {
            reachable.remove(source)
            // While it was away, news of it may have been missed too.
            stale.insert(source)
            return
        }
        reachable.insert(source)
        if let list = answer.list {
            lists[source] = list.mapValues { map($0) }
            stale.remove(source)
        } else if answer.others != lists[source]?.count || answer.id != ids[source] {
            stale.insert(source)
        }
        // Behind a name may be another one today.
        ids[source] = answer.id
        highestEpoch = max(highestEpoch, answer.epoch)
        total = max(total, answer.others + 1)
    }

    private func answer(of source: RedisConfiguration.Address) -> SentinelAnswer? { try? opinions[source]?.get() }

    private var answers: [(key: RedisConfiguration.Address, value: SentinelAnswer)] {
        opinions.compactMap { source, opinion in (try? opinion.get()).map { (source, $0) } }
    }

    /// One Sentinel, under whichever address.
    private func identity(_ source: RedisConfiguration.Address) -> String { ids[source] ?? "\(source)" }

    // MARK: What follows

    /// How many Sentinels there are: by their own word, by the URL, and by those that answer.
    var known: Int { max(total, answering, Set(configured.map(identity)).count) }

    /// How many have answered in this round.
    var answering: Int { Set(answers.map { identity($0.key) }).count }

    /// More than half have answered.
    var hasMajority: Bool { answering * 2 > known }

    /// Who names which address, under the highest epoch of this round.
    private var votes: (epoch: Int64, byAddress: [RedisConfiguration.Address: Set<String>])? {
        guard let epoch = answers.map(\.value.epoch).max() else { return nil }
        var votes: [RedisConfiguration.Address: Set<String>] = [:]
        for (source, answer) in answers where answer.epoch == epoch {
            votes[map(answer.address), default: []].insert(identity(source))
        }
        return (epoch, votes)
    }

    /// The sighting under the highest epoch of this round, which may be lower than one that was seen before.
    private var best: Sighting? {
        guard let votes else { return nil }
        let sightings = votes.byAddress.map { address, names in
            Sighting(
                address: address, epoch: votes.epoch, votes: names.count, isAgreed: names.count * 2 > known)
        }
        return sightings.count == 1 ? sightings[0] : sightings.first(where: \.isAgreed)
    }

    /// Where the primary is; nil: see `whyNot`.
    var sighting: Sighting? {
        guard let best, best.epoch >= highestEpoch else { return nil }
        return best
    }

    /// Why nothing is sighted.
    var whyNot: RedisError {
        guard let votes else { return nobody() }
        if votes.epoch < highestEpoch {
            let names = Self.list(answers.map { "\($0.key)" })
            return error(
                .noPrimary,
                """
                the Sentinels that answer (\(names)) know epoch \(votes.epoch) of "\(name)", and epoch \
                \(highestEpoch) was seen: they are behind
                """)
        }
        let sides = votes.byAddress.keys.map { address in
            let names = answers.filter { $0.value.epoch == votes.epoch && map($0.value.address) == address }
            return "\(address) by \(Self.list(names.map { "\($0.key)" }))"
        }
        return error(
            .sentinelsDisagree,
            """
            the Sentinels disagree where "\(name)" is, under one epoch (\(votes.epoch)): it is named \
            \(sides.sorted().joined(separator: ", ")); no address has more than half of \(known) Sentinels
            """)
    }

    /// Fewer than a majority name another address than the last one, under the same epoch.
    func notAgreed(_ sighting: Sighting, after last: Sighting) -> RedisError {
        error(
            .sentinelsDisagree,
            """
            \(sighting.votes) of \(known) Sentinels say that "\(name)" is at \(sighting.address), and it was found at \
            \(last.address) under the same epoch (\(last.epoch)): that is no failover, and only a majority is believed
            """)
    }

    /// Fewer than a majority answer.
    var noMajority: RedisError {
        error(
            .noMajority,
            "\(answering) of \(known) Sentinels of \"\(name)\" answer, and a majority is required: \(failures())")
    }

    private func nobody() -> RedisError {
        let errors = opinions.values.compactMap { opinion in
            if case .failure(let error) = opinion { error } else { nil }
        }
        // What all have in common is the fault of the whole; but a Sentinel that is not there is not a Redis to start.
        let faults = Set(errors.map(\.fault))
        let fault = faults.count == 1 && faults != [.refused] ? faults.first ?? nil : nil
        return RedisError(
            .connectFailed, effect: .none, "no Sentinel says where \"\(name)\" is: \(failures())",
            server: errors.count == 1 ? errors[0].server : nil, fault: fault ?? .noPrimary)
    }

    /// What those say that do not answer well; three of them are enough to see what is wrong.
    private func failures() -> String {
        var texts = Set<String>()
        for source in sources where answer(of: source) == nil {
            if case .failure(let error)? = opinions[source] {
                texts.insert(error.message)
            } else {
                texts.insert("no answer from \(source)")
            }
        }
        let more = texts.count > 3 ? "; and \(texts.count - 3) more" : ""
        return texts.sorted().prefix(3).joined(separator: "; ") + more
    }

    private static func list(_ names: [String]) -> String { names.sorted().joined(separator: ", ") }

    private func error(_ fault: ConnectionFault, _ message: String) -> RedisError {
        RedisError(.connectFailed, effect: .none, message, fault: fault)
    }
}
