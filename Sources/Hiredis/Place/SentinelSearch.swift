// SPDX-License-Identifier: Apache-2.0
//
// Where the Sentinels say that the primary is.
//
// All are asked at once, those too that the others name. A look ends as soon as more than half agree, or as one knows
// of a later failover than was known before; a host that is silent keeps nobody waiting. An answer that comes after its
// look is heard all the same: it may be the one of the Sentinel that has led a failover just now.
//
// Another address under the epoch of the last place is no failover, so fewer than a majority move nobody. Only a client
// without a place follows it in the end, when all that answer have named it for ten seconds: the primary was made anew,
// and the other Sentinels cannot be reached from here.

/// How many Sentinels answer.
package struct SentinelStanding: Sendable, Equatable {
    package var answering = 0
    /// How many there are, by their own word.
    package var known: Int
    /// A majority is required, and has not answered for a while: nothing new is to be acquired.
    package var refusal: RedisError?
}

struct SentinelSearch: PlaceSearch {
    private(set) var view: SentinelView
    let watchInterval: Duration?
    private(set) var standing: SentinelStanding?
    private let isMajorityRequired: Bool
    private var now: Int64 = 0
    /// When the look began.
    private var beganAt: Int64?
    private var asked: Set<RedisConfiguration.Address> = []
    private var pending: Set<RedisConfiguration.Address> = []
    /// What was found last.
    private var last: SentinelView.Sighting?
    private var hasPlace = false
    /// What a minority has named without contradiction, and since when.
    private var claim: (address: RedisConfiguration.Address, since: Int64)?
    /// How often one that was just changing its mind is asked again in this look.
    private var repeats = 0
    /// When more than half had answered last; nil: never.
    private var majorityAt: Int64?

    init(_ configuration: RedisConfiguration, _ sentinels: [RedisConfiguration.Address], name: String) {
        view = SentinelView(sentinels, name: name, map: configuration.addressMap)
        watchInterval = configuration.watchInterval ?? configuration.place.watchInterval
        isMajorityRequired = configuration.sentinelMajority == .required
        standing = SentinelStanding(known: sentinels.count)
    }

    func limit(_ configuration: RedisConfiguration) -> Duration { min(configuration.connectTimeout, Self.limit) }
    private static let limit = Duration.milliseconds(500)
    /// Without a place, looks follow one another within a second or two. After a longer pause the client was closed,
    /// or had not looked for long: what was heard before it is old.
    private static let absence: Int64 = 10_000_000_000

    /// So long a majority may be silent where one is required: two looks and the time that they may take.
    private var patience: Int64 {
        let watch = watchInterval ?? .seconds(1)
        return Int64((watch * 2 + Self.limit) / .nanoseconds(1))
    }

    var sources: Set<RedisConfiguration.Address> { Set(view.sources) }

    mutating func clock(_ now: Int64) { self.now = now }

    // MARK: A look

    /// What was found and the highest epoch outlive a look, and a close too: a client that comes back is not led to a
    /// place that was left.
    mutating func begin(current: Route?) -> SearchStep {
        hasPlace = current != nil
        let pause = beganAt.map { now - $0 } ?? 0
        if current == nil, pause > Self.absence {
            view.resume()
            standing = SentinelStanding(known: view.known)
        } else if pause > Int64(Self.limit / .nanoseconds(1)) {
            // One that began a moment ago and was broken off by news says nothing of those that are silent.
            count()
        }
        view.begin(now: now)
        (beganAt, repeats) = (now, 3)
        (asked, pending) = ([], [])
        return ask(view.sources)
    }

    private mutating func ask(_ sources: [RedisConfiguration.Address]) -> SearchStep {
        asked.formUnion(sources)
        pending.formUnion(sources)
        return .ask(sources.map { .sentinel($0, withList: view.needsList($0)) })
    }

    mutating func answered(_ question: Question, _ result: Result<Answer, RedisError>) -> SearchStep {
        guard case .sentinel(let source, _) = question, pending.remove(source) != nil else { return .wait }
        let isChanging = learn(source, result)
        if let sighting = view.sighting, sighting.isAgreed || isNews(sighting), isEnough(sighting) {
            return found(sighting)
        }
        var next = view.sources.filter { !asked.contains($0) }
        if isChanging, repeats > 0 {
            repeats -= 1
            next.append(source)
        }
        if !next.isEmpty { return ask(next) }
        return pending.isEmpty ? timedOut() : .wait
    }

    mutating func timedOut() -> SearchStep {
        count()
        guard let sighting = view.sighting else { return .nothing(view.whyNot) }
        // A failover has an epoch of its own. Without one, a minority moves nobody when the others are merely late.
        if let last, sighting.epoch == last.epoch, sighting.address != last.address, !sighting.isAgreed,
            !isLasting(sighting)
        {
            return .nothing(view.notAgreed(sighting, after: last))
        }
        return isEnough(sighting) ? found(sighting) : .nothing(view.noMajority)
    }

    /// Without a place, all that answer have named it for long: the primary was made anew at another address, and the
    /// other Sentinels cannot be reached from here.
    private mutating func isLasting(_ sighting: SentinelView.Sighting) -> Bool {
        guard !hasPlace, sighting.votes == view.answering, let claim, claim.address == sighting.address else {
            claim = hasPlace ? nil : (sighting.address, now)
            return false
        }
        return now - claim.since >= SentinelView.regressionPatience
    }

    /// Where a majority is required, the word of fewer leads to no new place; back to the last one it does, for what is
    /// held there is to be renewed.
    private func isEnough(_ sighting: SentinelView.Sighting) -> Bool {
        !isMajorityRequired || view.hasMajority || sighting.address == last?.address
    }

    private mutating func found(_ sighting: SentinelView.Sighting) -> SearchStep {
        (last, claim) = (sighting, nil)
        // One that alone leads back to the last place opens nothing there.
        if isMajorityRequired, !view.hasMajority { count() }
        let why = "\(sighting.votes) of \(view.known) Sentinels name it in epoch \(sighting.epoch)"
        return .found(Sighting(route: Route(sighting.address), epoch: sighting.epoch, why: why))
    }

    /// Returns whether it was just changing its mind.
    private mutating func learn(
        _ source: RedisConfiguration.Address, _ result: Result<Answer, RedisError>
    ) -> Bool {
        var isChanging = false
        switch result {
        case .success(.greeting): return false
        case .failure(let error): view.answered(source, .failure(error))
        case .success(.replies(let replies)):
            do throws(RedisError) {
                view.answered(source, .success(try SentinelAnswer(replies, about: view.name, from: source)))
            } catch {
                view.answered(source, .failure(error))
                isChanging = error.fault == .sentinelChanges
            }
        }
        if view.hasMajority { majorityAt = now }
        // Fewer are counted only at the end.
        if view.answering >= standing?.answering ?? 0 { count(isOver: false) }
        return isChanging
    }

    /// `isOver`: the look has ended. Before that, nobody is silent yet who was not before.
    private mutating func count(isOver: Bool = true) {
        // Before there was one, there is no place either.
        let isSilent = isMajorityRequired && majorityAt.map { now - $0 > patience } ?? false
        let isRefused = isSilent && (isOver || standing?.refusal != nil)
        standing = SentinelStanding(
            answering: view.answering, known: view.known, refusal: isRefused ? view.noMajority : nil)
    }

    // MARK: Beside a look

    mutating func late(_ question: Question, _ result: Result<Answer, RedisError>) -> Bool {
        guard case .sentinel(let source, _) = question else { return false }
        _ = learn(source, result)
        return view.sighting.map { isNews($0) } ?? false
    }

    /// It tells of a later failover than the one by which the place was found.
    private func isNews(_ sighting: SentinelView.Sighting) -> Bool { last.map { sighting.epoch > $0.epoch } ?? false }

    mutating func announced(by source: RedisConfiguration.Address) { view.listChanged(at: source) }
}
