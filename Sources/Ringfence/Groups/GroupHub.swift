// SPDX-License-Identifier: Apache-2.0
//
// What all groups of a client share: the way to Redis, the metrics, the table of groups, and the memberships, which the
// client keeps alive until they are over, whether their handles are held or not, and ends when it is shut down.

import CoreMetrics
import Hiredis
import Logging
import NIOCore
import RingfenceCore
import Synchronization

final class GroupHub: Sendable {
    private struct Weak {
        weak var group: Group?
    }

    /// A group's name by its bytes, as Redis compares it.
    private struct Name: Hashable {
        var text: String
        static func == (one: Self, other: Self) -> Bool { one.text.hasSameBytes(as: other.text) }
        func hash(into hasher: inout Hasher) { hasher.combineBytes(of: text) }
    }

    private struct State {
        var groups: [Name: Weak] = [:]
        var memberships: [ObjectIdentifier: Membership] = [:]
        var isShutDown = false
    }

    let feed: EventFeed
    let runner: ScriptRunner
    let scripts: GroupScripts
    let cleanUp: CleanUp
    let nonces: NonceSource
    let metrics: RingfenceMetrics
    let logger: Logger
    let commandTimeout: Nanos
    /// The name that events give as the actor.
    let owner: String
    let joinGate: JoinGate
    private let state = Mutex(State())

    init(
        feed: EventFeed, runner: ScriptRunner, scripts: GroupScripts, cleanUp: CleanUp, nonces: NonceSource,
        metrics: RingfenceMetrics, commandTimeout: Nanos, owner: String, logger: Logger
    ) {
        self.feed = feed
        self.runner = runner
        self.scripts = scripts
        self.cleanUp = cleanUp
        self.nonces = nonces
        self.metrics = metrics
        self.commandTimeout = commandTimeout
        self.owner = owner
        self.logger = logger
        joinGate = JoinGate(runner.main.eventLoop)
        feed.listen(
            .init(
                heard: { [weak self] record in self?.heard(record) },
                missed: { [weak self] in
                    for group in self?.groups ?? [] { group.handle(.missed) }
                }))
    }

    private func heard(_ record: EventRecord) {
        guard let name = record.group, let group = state.withLock({ $0.groups[Name(text: name)]?.group }) else {
            return
        }
        metrics.happened(record)
        if let event = GroupEvent(record) { group.handle(.happened(event)) }
    }

    var eventLoop: any EventLoop { runner.main.eventLoop }
    var isShutDown: Bool { state.withLock { $0.isShutDown } }

    /// The group of this name: the same object as long as somebody holds it.
    func group(_ name: String) -> Group {
        state.withLock { state in
            if let group = state.groups[Name(text: name)]?.group { return group }
            let group = Group(name: name, hub: self)
            if state.isShutDown { group.stop() }
            state.groups[Name(text: name)] = Weak(group: group)
            return group
        }
    }

    /// The group of this name, with its first view fetched.
    func followed(_ name: String) async throws -> Group {
        guard !isShutDown else { throw RingfenceError.shutDown }
        let group = group(name)
        if !group.isKnown { try await group.refresh() }
        return group
    }

    /// What is known here of a group, if anything is.
    func knowledge(of name: String) -> GroupKnowledge {
        state.withLock { $0.groups[Name(text: name)]?.group }?.knowledge(now: Moment.now) ?? .none
    }

    /// A group's last holder let go of it.
    func forget(_ name: String) {
        state.withLock { state in
            guard let entry = state.groups[Name(text: name)], entry.group == nil else { return }
            state.groups[Name(text: name)] = nil
        }
    }

    var groups: [Group] { state.withLock { $0.groups.values.compactMap(\.group) } }

    /// Writes an event about a group that changes nothing, if Redis can be reached now. Nobody waits for it.
    func note(_ type: String, group: String, member: String, reason: String, detail: [UInt8]) {
        let call = scripts.note(
            group, .notAsking, type: type, member: member, reason: reason, actor: owner, detail: detail)
        runner.run(call, confirmation: nil) { [logger] result in
            guard case .failure(let error) = result else { return }
            logger.debug(
                "an event could not be written",
                metadata: [
                    LoggingKeys.group: "\(group)", LoggingKeys.reason: "\(type)", LoggingKeys.error: "\(error)",
                ])
        }
    }

    // MARK: Memberships

    /// False if the client is shut down.
    func add(_ membership: Membership) -> Bool {
        let count = state.withLock { state -> Int? in
            guard !state.isShutDown else { return nil }
            state.memberships[ObjectIdentifier(membership)] = membership
            return state.memberships.count
        }
        if let count { metrics.memberships.record(count) }
        return count != nil
    }

    func remove(_ membership: Membership) {
        let (count, _) = state.withLock { state in
            let removed = state.memberships.removeValue(forKey: ObjectIdentifier(membership))
            return (state.memberships.count, removed)
        }
        metrics.memberships.record(count)
    }

    /// Leaves all groups, within one command timeout, and stops looking at them.
    func shutDown() async {
        let (memberships, groups) = state.withLock { state in
            state.isShutDown = true
            return (Array(state.memberships.values), state.groups.values.compactMap(\.group))
        }
        await withTaskGroup(of: Void.self) { tasks in
            for membership in memberships {
                tasks.addTask { try? await membership.leave(reason: "shutdown") }
            }
        }
        for group in groups { group.stop() }
        // Let go of outside: the last reference to one may be here.
        let rest = state.withLock { state in
            defer { state.memberships = [:] }
            return state.memberships
        }
        withExtendedLifetime(rest) {}
    }

    /// The client was dropped: nothing is beaten for any more, and what has joined expires.
    func abandon() {
        let (groups, memberships) = state.withLock { state in
            state.isShutDown = true
            defer { state.memberships = [:] }
            return (state.groups.values.compactMap(\.group), Array(state.memberships.values))
        }
        for membership in memberships { membership.abandon() }
        for group in groups { group.stop() }
    }
}

extension GroupEvent {
    /// nil for an event that made no version. A change that cannot be read is one all the same: the group then asks
    /// Redis.
    fileprivate init?(_ record: EventRecord) {
        guard let version = record.version else { return nil }
        var kind = Kind.other
        if let id = record.member {
            let member = record.detail.flatMap { try? MemberRecord(id: id, json: $0) }
            switch (record.type, member) {
            case ("member.joined", let member?): kind = .joined(member)
            case ("member.updated", let member?): kind = .updated(member)
            case ("member.left", _): kind = .left(id)
            case ("member.expired", _): kind = .expired(id)
            default: break
            }
        }
        self.init(
            generation: record.position.generation, sequence: record.position.sequence, version: version,
            of: record.changes, kind: kind)
    }
}
