// SPDX-License-Identifier: Apache-2.0
//
// The role of primary, as its holder sees it: from its election to the end of its role.
//
// Redis decides who is primary, but it cannot reach into a process, so the process judges itself. It may act as primary
// of an epoch while all of this is so: it saw itself elected; it is a member, by its own clock, with `margin` to spare;
// and it has not been told otherwise. A role that ended here never goes on under the same epoch, whatever Redis says
// later. For when its own deadline has passed, another may have been elected and the record of that lost again: what
// Redis answers then is no proof. A member that lives and is still the best is elected again, under a new epoch.
//
// Where the group's settings say `failsafe`, the role may outlive the membership's deadline while Redis is away: as
// long as each of the other candidates has *promised* to begin no role before `failsafeUntil` (FailsafeMachine.swift
// asks them). A promise is kept by this same machine, in the candidate that gave it: an epoch that it is elected to
// meanwhile *waits*.
//
// Its steps are claimed with each beat (`claim`) rather than sent once, so a lost answer needs no care. Where time
// matters, `speaks` asks for a beat at once.

package struct RoleMachine: Sendable, Hashable {
    /// The part it plays.
    package enum State: Sendable, Hashable {
        case standby
        /// To be promoted.
        case elected(Int64)
        case primary(Int64)
        /// To stop and hand over.
        case handingOver(Int64)
        /// It stopped, and waits for what comes of it.
        case readyToHandOver(Int64)

        package var epoch: Int64? {
            switch self {
            case .standby: nil
            case .elected(let epoch), .primary(let epoch), .handingOver(let epoch), .readyToHandOver(let epoch): epoch
            }
        }
    }

    /// Why a role ended.
    package enum End: Sendable, Hashable {
        /// Its own clock ended it, or it is no member any more.
        case suspended
        /// The target of a switchover has it.
        case handedOver
        /// Somebody ordered a failover.
        case failover
        /// Another has it.
        case lost
        /// Its holder gave it up, for this reason.
        case gaveUp(String)

        /// As it is claimed, and so stands in the event.
        package var text: String {
            switch self {
            case .suspended: "suspended"
            case .handedOver: "switchover"
            case .failover: "failover"
            case .lost: "lost"
            case .gaveUp(let reason): reason
            }
        }
    }

    package enum Tell: Sendable, Hashable {
        case state(State)
        case ended(Int64, End)
    }

    package struct Output: Sendable, Hashable {
        /// In order.
        package var tell: [Tell] = []
        /// A beat is to be sent at once.
        package var speaks = false
        package init() {}
    }

    private struct Ending: Hashable, Sendable {
        var epoch: Int64
        var end: End
        /// No longer than this.
        var until: Nanos = 0
    }

    package private(set) var state = State.standby
    /// How long before the membership's deadline the role ends.
    package private(set) var margin: Nanos
    /// Whether it wants the role. One machine serves all candidacies of a membership, so that no epoch that is over
    /// begins anew.
    package private(set) var stands = true
    /// The newest epoch that was played and is over, and why: claimed until Redis has heard it.
    private var over: Ending?
    /// A role that ended here without its holder's doing; the holder has yet to stop. Nobody else may be elected before
    /// it said so, or before the time it was promised for that is over: the membership's deadline at that moment.
    private var stopping: Ending?
    /// The highest epoch that has ended here, or that another has had since.
    private var closed: Int64 = 0
    /// The newest version whose role was seen.
    private var version: Int64 = 0
    /// The generation of the log it was seen in, and the one in which the holder said that it stopped.
    private var generation = ""
    private var handoverGeneration = ""
    private var position: Int64?
    private var finalPosition: Int64?
    private var unfit = ""
    /// Its role goes on till then, whatever the membership's deadline: all others promised.
    private var failsafeUntil: Nanos = .min
    /// And did once.
    private var wasInFailsafe = false
    /// It promised to begin no role before.
    private var promisedUntil: Nanos = .min
    /// The epoch it is elected to, and begins when Redis says then that it still is. (Not by its own clock: what
    /// elected it may be a server that is lost since, and the primary it promised to wait for go on with another that
    /// never heard of it.)
    private var waiting: Int64?
    private var hasAsked = false

    package init(margin: Nanos) { self.margin = margin }

    /// Stands again.
    package mutating func campaign(margin: Nanos) {
        self.margin = margin
        stands = true
        (position, unfit) = (nil, "")
    }

    /// Stands no more. What it has is given up before.
    package mutating func withdraw() { stands = false }

    // MARK: Time

    /// Whether it may act as primary of this epoch at `now`.
    package func holds(_ epoch: Int64, deadline: Nanos, isMember: Bool, now: Nanos) -> Bool {
        // A holder that said that it stopped does not act, whether it is still primary or not: the target may have been
        // elected.
        if case .readyToHandOver = state { return false }
        let (deadline, isMember) = judged(deadline, isMember, now)
        return state.epoch == epoch && isMember && now < deadline - margin
    }

    /// When the role must have ended, and whether its holder may act at all, with what others promised.
    private func judged(_ deadline: Nanos, _ isMember: Bool, _ now: Nanos) -> (deadline: Nanos, isMember: Bool) {
        switch state {
        case .primary where failsafeUntil > deadline, .handingOver where failsafeUntil > deadline:
            (failsafeUntil, now < failsafeUntil)
        default: (deadline, isMember)
        }
    }

    /// When a role that is held ends unless a beat gets through.
    package func end(deadline: Nanos) -> Nanos { judged(deadline, true, .min).deadline - margin }

    /// When the role would end by itself, or an end can be told.
    package func wakeAt(deadline: Nanos) -> Nanos {
        guard state.epoch == nil else { return end(deadline: deadline) }
        return min(stopping?.until ?? .never, waiting == nil || hasAsked ? .never : promisedUntil)
    }

    package mutating func tick(now: Nanos, deadline: Nanos, isMember: Bool) -> Output {
        var output = Output()
        let (deadline, isMember) = judged(deadline, isMember, now)
        if waiting != nil, !hasAsked, now >= promisedUntil { (hasAsked, output.speaks) = (true, true) }
        if let epoch = state.epoch {
            guard !isMember || now >= deadline - margin else { return output }
            var isStopped = false
            if case .readyToHandOver = state { isStopped = true }
            // What held it may have gone without notice: it takes time to stop all the same.
            let until = wasInFailsafe ? max(deadline, now + margin) : deadline
            end(epoch, .suspended, claims: isStopped, &output)
            if !isStopped { stopping = Ending(epoch: epoch, end: .suspended, until: until) }
        }
        // What there was time for is over.
        if let stopping, now >= stopping.until { output.speaks = stopped(stopping.epoch) != nil || output.speaks }
        return output
    }

    private mutating func end(_ epoch: Int64, _ reason: End, claims: Bool = true, _ output: inout Output) {
        state = .standby
        closed = max(closed, epoch)
        over = claims ? Ending(epoch: epoch, end: reason) : nil
        stopping = nil
        finalPosition = nil
        (failsafeUntil, wasInFailsafe) = (.min, false)
        output.tell += [.ended(epoch, reason), .state(.standby)]
        output.speaks = claims
    }

    // MARK: While Redis is away

    /// All others have promised to begin no role before. An earlier time than the last one counts as well: there may be
    /// more others than were known then.
    package mutating func extend(_ epoch: Int64, until: Nanos) {
        switch state {
        case .primary(epoch), .handingOver(epoch):
            (failsafeUntil, wasInFailsafe) = (until, wasInFailsafe || until > .min)
        default: break
        }
    }

    /// The membership is over: nothing goes on beyond it.
    package mutating func endFailsafe() { failsafeUntil = .min }

    /// Promises the primary of `epoch` to begin no role before `until`. False if that cannot be promised.
    package mutating func promise(_ epoch: Int64, until: Nanos) -> Bool {
        guard state == .standby, stopping == nil, waiting == nil, epoch > closed else { return false }
        promisedUntil = max(promisedUntil, until)
        return true
    }

    // MARK: What Redis says

    /// The group's role changed, or was confirmed.
    ///
    /// - Parameter asOf: Redis was asked then, or later.
    package mutating func saw(
        _ role: GroupRole, generation: String, version: Int64, asOf: Nanos, id: String, session: String, now: Nanos,
        deadline: Nanos, isMember: Bool
    ) -> Output {
        let isMine = role.session == session && role.primary.hasSameBytes(as: id)
        if version >= self.version, !isMine || role.epoch != waiting { waiting = nil }
        var output = tick(now: now, deadline: deadline, isMember: isMember)
        guard version >= self.version else { return output }
        (self.version, self.generation) = (version, generation)
        if let over, role.epoch > over.epoch || !isMine { self.over = nil }
        if let stopping, role.epoch > stopping.epoch || !isMine { self.stopping = nil }
        guard let epoch = state.epoch else {
            if isMine { begin(role, inTime: isMember && now < deadline - margin, asOf: asOf, &output) }
            return output
        }
        guard role.epoch >= epoch else { return output }
        guard role.epoch == epoch, isMine else {
            // Redis lost data and asks who holds the epoch: the next beat says so.
            if role.epoch == epoch, role.phase == .recovering { return output }
            var isReadyToHandOver = false
            if case .readyToHandOver = state { isReadyToHandOver = true }
            end(epoch, isReadyToHandOver ? .handedOver : .lost, claims: false, &output)
            // It may be this one again, under the new epoch.
            if isMine, role.epoch > closed {
                let more = saw(
                    role, generation: generation, version: version, asOf: asOf, id: id, session: session, now: now,
                    deadline: deadline, isMember: isMember)
                output.tell += more.tell
                output.speaks = output.speaks || more.speaks
            }
            return output
        }
        sawOwn(role, epoch, until: judged(deadline, isMember, now).deadline, &output)
        return output
    }

    /// This one is elected, and has no role yet.
    private mutating func begin(_ role: GroupRole, inTime: Bool, asOf: Nanos, _ output: inout Output) {
        guard role.epoch > closed else {
            // Redis had heard that it is over, and lost that.
            if over == nil, stopping == nil {
                over = Ending(epoch: role.epoch, end: .suspended)
                output.speaks = true
            }
            return
        }
        guard inTime else { return }
        // A role that nobody wants here, or that somebody takes away already, is not begun.
        guard stands, role.phase != .handingOver else {
            closed = role.epoch
            over = Ending(epoch: role.epoch, end: stands ? .failover : .gaveUp("stepDown"))
            output.speaks = true
            return
        }
        guard asOf >= promisedUntil else {
            if waiting == nil { (waiting, hasAsked) = (role.epoch, false) }
            return
        }
        (waiting, over) = (nil, nil)
        state = .elected(role.epoch)
        output.tell.append(.state(state))
    }

    /// What Redis says of the role that it has.
    private mutating func sawOwn(_ role: GroupRole, _ epoch: Int64, until: Nanos, _ output: inout Output) {
        switch (role.phase, state) {
        case (.handingOver, _) where role.isForced:
            end(epoch, .failover, claims: false, &output)
            stopping = Ending(epoch: epoch, end: .failover, until: until)
        case (.handingOver, .primary):
            state = .handingOver(epoch)
            output.tell.append(.state(state))
        case (.ready, .readyToHandOver) where generation != handoverGeneration:
            // What looks like a switchover taken back is one that Redis lost, and its target may be primary.
            end(epoch, .suspended, &output)
        case (.ready, .handingOver), (.ready, .readyToHandOver):
            // The switchover was taken back.
            finalPosition = nil
            state = .primary(epoch)
            output.tell.append(.state(state))
        default: break
        }
    }

    // MARK: What its holder says

    /// It is promoted. False if that epoch is over.
    package mutating func ready(_ epoch: Int64) -> Output? {
        guard case .elected(epoch) = state else { return nil }
        state = .primary(epoch)
        var output = Output()
        output.tell = [.state(state)]
        output.speaks = true
        return output
    }

    /// It stopped.
    package mutating func readyToHandOver(_ epoch: Int64, position: Int64?) -> Output? {
        guard case .handingOver(epoch) = state else { return nil }
        state = .readyToHandOver(epoch)
        (finalPosition, handoverGeneration) = (position, generation)
        if let position { self.position = position }
        var output = Output()
        output.speaks = true
        return output
    }

    /// It acts no more under an epoch that ended without its doing.
    package mutating func stopped(_ epoch: Int64) -> Output? {
        guard let stopping, stopping.epoch == epoch else { return nil }
        self.stopping = nil
        over = Ending(epoch: epoch, end: stopping.end)
        var output = Output()
        output.speaks = true
        return output
    }

    package mutating func giveUp(_ epoch: Int64, reason: String) -> Output? {
        guard state.epoch == epoch else { return nil }
        var output = Output()
        end(epoch, .gaveUp(reason), &output)
        return output
    }

    /// True if something changed that others should hear of soon.
    ///
    /// - Parameter isAwaited: whether somebody waits for the position.
    package mutating func report(position: Int64?, unfit: String, isAwaited: Bool = false) -> Bool {
        let isNews = unfit.isEmpty != self.unfit.isEmpty || (isAwaited && position != self.position)
        (self.position, self.unfit) = (position, unfit)
        return isNews
    }

    /// The membership goes on under another session, of which Redis knows no role.
    package mutating func changedSession() { (over, stopping) = (nil, nil) }

    /// What it does as primary is to end.
    package var mustStop: Bool {
        switch state {
        case .elected, .primary: false
        case .standby, .handingOver, .readyToHandOver: true
        }
    }

    package var status: CandidateStatus {
        let claim: RoleClaim =
            switch state {
            case .standby: over.map { .gone($0.epoch, reason: $0.end.text) } ?? .none
            case .elected(let epoch): .elected(epoch)
            case .primary(let epoch), .handingOver(let epoch): .ready(epoch)
            case .readyToHandOver(let epoch): .readyToHandOver(epoch, position: finalPosition, asOf: version)
            }
        return CandidateStatus(claim: claim, position: position, unfit: unfit)
    }
}
