// SPDX-License-Identifier: Apache-2.0
//
// The observers of one membership: followers of its states and roles, callers that wait for a change of it to be
// written or for its leaving, and what runs as long as it is primary. A part of its group's state, behind the group's
// lock. They are told under it, so that everybody is told in the order in which it happened; nothing of the user's runs
// there.

import Logging
import NIOCore
import RingfenceCore

struct MemberObservers {
    struct Update: Sendable {
        var revision: Int
        var number: Int
        var continuation: CheckedContinuation<RingfenceError?, Never>
        /// Ends the wait when Redis does not answer.
        var timer: Scheduled<Void>?
    }

    /// What is resumed and ended when the lock is free again: it may come back here.
    struct Afterwards: Sendable {
        fileprivate var updates: [(Update, RingfenceError?)] = []
        fileprivate var leavers: [CheckedContinuation<Bool, Never>] = []
        fileprivate var streams: [any Finishable] = []
        fileprivate var over: [Membership] = []

        func run(_ hub: GroupHub) {
            for (update, error) in updates {
                update.timer?.cancel()
                update.continuation.resume(returning: error)
            }
            for leaver in leavers { leaver.resume(returning: true) }
            for stream in streams { stream.finish() }
            for membership in over { hub.remove(membership) }
        }
    }

    /// The object, kept alive until the membership is over.
    private var membership: Membership?
    /// Nothing more is told.
    private(set) var isEnded = false
    /// What runs as long as it is primary, to be ended before it leaves.
    var term: PrimaryTerm?
    var states: [Int: AsyncStream<Membership.State>.Continuation] = [:]
    var roles: [Int: AsyncStream<Role>.Continuation] = [:]
    var updates: [Update] = []
    var leavers: [(number: Int, continuation: CheckedContinuation<Bool, Never>)] = []
    private var lastNumber = 0

    init(_ membership: Membership) { self.membership = membership }

    mutating func nextNumber() -> Int {
        lastNumber += 1
        return lastNumber
    }

    /// The object is not kept alive any more.
    mutating func release() -> Membership? {
        defer { membership = nil }
        return membership
    }

    func tell(_ tell: MemberMachine.Tell, _ machine: MemberMachine, _ hub: GroupHub) {
        switch tell {
        case .state(let state, let session):
            let told = Membership.State(state)
            for listener in states.values { listener.yield(told) }
            guard let membership else { return }
            let id = machine.record.id
            hub.eventLoop.execute { membership.log(state, id, session) }
        case .role(let tell):
            // Nor on the pool, which may be blocked.
            if case .ended(_, let end) = tell { hub.eventLoop.execute { hub.metrics.ended(end) } }
            guard let membership else { return }
            let told = membership.role(tell)
            for listener in roles.values { listener.yield(told) }
            if let term, told.epoch?.value != term.epoch || machine.role?.mustStop == true {
                hub.eventLoop.execute { term.cancel() }
            }
        }
    }

    /// Those who waited for what has come by now, and all if it is over.
    mutating func settle(_ machine: MemberMachine, in group: String, _ after: inout Afterwards) {
        let membership = machine.membership
        let state = membership.state
        let isEnded = membership.isOver || state == .left || state == .expired
        if !updates.isEmpty {
            let error = Membership.error(state, machine.record.id, group)
            for update in updates where isEnded || update.revision <= membership.written {
                after.updates.append((update, update.revision <= membership.written ? nil : error))
            }
            updates.removeAll { isEnded || $0.revision <= membership.written }
        }
        guard membership.isOver else { return }
        after.leavers += leavers.map(\.continuation)
        leavers = []
        end(&after)
    }

    /// Nothing more is told, and the object is not kept alive any more.
    mutating func end(_ after: inout Afterwards) {
        isEnded = true
        finishStates(&after)
        finishRoles(&after)
        if let object = release() { after.over.append(object) }
    }

    mutating func finishStates(_ after: inout Afterwards) {
        after.streams += states.values.map { $0 as any Finishable }
        states = [:]
    }

    mutating func finishRoles(_ after: inout Afterwards) {
        after.streams += roles.values.map { $0 as any Finishable }
        roles = [:]
    }
}

private protocol Finishable: Sendable { func finish() }
extension AsyncStream.Continuation: Finishable {}
