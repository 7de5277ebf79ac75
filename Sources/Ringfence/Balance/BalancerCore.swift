// SPDX-License-Identifier: Apache-2.0
//
// The shell around `BalanceMachine`: one for each policy and options of a group, kept by the group, so that all callers
// with the same balancer learn from each other's calls.
//
// The machine is behind one lock, taken when a call ends, when the group changes, and by the alarm; never by a pick.
// What it decides is a plan with a version, and each shard makes its own table of it when it sees that the version is
// another. What is to be told (metrics, log, events) is told on the event loop: the group may be the one that holds a
// lock around us.

import CThreadNumber
import CoreMetrics
import Hiredis
import Logging
import NIOCore
import RingfenceCore
import Synchronization

final class BalancerCore: Sendable {
    /// What it has of the world.
    struct Outside: Sendable {
        var eventLoop: any EventLoop
        var logger: Logger
        /// Writes an event into the log, if that can be done now: type, member, reason and detail.
        var note: @Sendable (String, String, String, [UInt8]) -> Void
    }

    /// A call that has begun.
    struct Begun: Sendable {
        var handle: MemberHandle
        var beganAt: Nanos
        var probe: Int?
    }

    private enum Found {
        case member(MemberHandle)
        case nobody
        case gated
    }

    private struct Guarded {
        var machine: BalanceMachine
        var dice = Dice(seed: .random(in: 0 ... .max))
    }

    private struct Metrics: Sendable {
        let succeeded, failed, cancelled, refused, noMember, ejections, panics: Counter
        let breaker: Gauge

        init(_ group: String, _ policy: String) {
            let dimensions = [("group", group), ("policy", policy)]
            func calls(_ outcome: String) -> Counter {
                Counter(label: "ringfence_balancer_calls_total", dimensions: dimensions + [("outcome", outcome)])
            }
            succeeded = calls("succeeded")
            failed = calls("failed")
            cancelled = calls("cancelled")
            refused = calls("refused")
            noMember = calls("noMember")
            ejections = Counter(label: "ringfence_balancer_ejections_total", dimensions: dimensions)
            panics = Counter(label: "ringfence_balancer_panics_total", dimensions: dimensions)
            breaker = Gauge(label: "ringfence_balancer_breaker_state", dimensions: dimensions)
        }
    }

    let rule: PickRule
    let needsKey: Bool
    private let group: String
    private let outside: Outside
    private let metrics: Metrics
    private let alarm: Alarm
    private let version = Atomic<Int>(0)
    private let isBounded: Bool
    private let readsClock: Bool
    /// All outstanding calls, where the rule bounds them.
    private let total = Atomic<Int>(0)
    private let shards: [Shard]
    private let guarded: Mutex<Guarded>

    init(_ rule: PickRule, _ settings: BalanceSettings, group: String, _ outside: Outside) {
        self.rule = rule
        self.group = group
        self.outside = outside
        needsKey = rule.needsKey
        isBounded = rule == .boundedLoad
        readsClock = rule == .peakEWMA
        metrics = Metrics(group, rule.name)
        shards = (0..<Int(RF_THREAD_NUMBERS)).map { _ in Shard(seed: .random(in: 0 ... .max)) }
        guarded = Mutex(Guarded(machine: BalanceMachine(rule: rule, settings: settings)))
        alarm = Alarm(eventLoop: outside.eventLoop)
        alarm.onRing { [weak self] now in self?.tick(now: now) }
    }

    func stop() { alarm.stop() }

    // MARK: What the group says

    /// The group as it is shown from now on. Called in the order of its versions.
    func saw(_ view: GroupMachine.View, ring: Ring?) {
        change { guarded, now in
            guarded.machine.saw(view.members, view.role, ring: ring, force: view.breaker, now: now)
        }
    }

    // MARK: Picking

    /// The member that would be called now.
    func pick(_ key: UnsafeRawBufferPointer?) throws -> MemberHandle {
        if needsKey, key == nil { throw noKey }
        switch find(key, begins: false, isAdmitted: false) {
        case .member(let handle): return handle
        case .nobody: throw nobody
        case .gated: break
        }
        let now = Moment.now
        if let until = guarded.withLock({ $0.machine.breaker.openUntil(now: now) }) {
            throw until == .never ? forbidden : refusal(until, now)
        }
        guard case .member(let handle) = find(key, begins: false, isAdmitted: true) else { throw nobody }
        return handle
    }

    @inline(__always)
    private func find(_ key: UnsafeRawBufferPointer?, begins: Bool, isAdmitted: Bool) -> Found {
        let shard = shards[Int(rf_thread_number())]
        let version = version.load(ordering: .acquiring)
        return shard.state.withLock { state in
            if state.version != version { refresh(&state) }
            if state.isGated, !isAdmitted { return .gated }
            var position: UInt64 = 0
            if needsKey, let key { position = RingHash.position(of: key, seed: state.table.seed) }
            let place = state.table.pick(
                &state.cursor, position: position, total: isBounded ? total.load(ordering: .relaxed) : 0,
                now: readsClock ? Moment.now : 0)
            guard place >= 0 else { return .nobody }
            let handle = state.handles[place]
            if begins {
                handle.load.begin()
                if isBounded { total.wrappingAdd(1, ordering: .relaxed) }
            }
            return .member(handle)
        }
    }

    @inline(never)
    private func refresh(_ state: inout Shard.State) {
        let (plan, version) = guarded.withLock { ($0.machine.plan, self.version.load(ordering: .relaxed)) }
        state.take(plan, version: version)
    }

    // MARK: Calls

    /// A call begins, and must end.
    func begin(_ key: UnsafeRawBufferPointer?) throws -> Begun {
        if needsKey, key == nil { throw noKey }
        switch find(key, begins: true, isAdmitted: false) {
        case .member(let handle): return Begun(handle: handle, beganAt: Moment.now, probe: nil)
        case .nobody:
            metrics.noMember.increment()
            throw nobody
        case .gated: return try beginProbe(key)
        }
    }

    private func beginProbe(_ key: UnsafeRawBufferPointer?) throws -> Begun {
        let now = Moment.now
        var probe: Int?
        switch admit(now: now) {
        case .go: break
        case .probe(let round): probe = round
        case .refused(let until):
            metrics.refused.increment()
            throw refusal(until, now)
        case .probing(let until):
            metrics.refused.increment()
            throw probing(until, now)
        case .forbidden:
            metrics.refused.increment()
            throw forbidden
        }
        if case .member(let handle) = find(key, begins: true, isAdmitted: true) {
            return Begun(handle: handle, beganAt: now, probe: probe)
        }
        // No seat has this number: only the probe is given back.
        let unused = BalanceMachine.Call(number: 0, beganAt: now, probe: probe)
        change { $0.machine.finished(unused, .cancelled, now: $1, dice: &$0.dice) }
        metrics.noMember.increment()
        throw nobody
    }

    private func admit(now: Nanos) -> BreakerMachine.Admission {
        let (admission, state) = guarded.withLock { guarded in
            let before = guarded.machine.breaker.state
            let admission = guarded.machine.admit(now: now)
            return (admission, guarded.machine.breaker.state == before ? nil : guarded.machine.breaker)
        }
        if let state { record(state) }
        return admission
    }

    func end(_ call: Begun, _ outcome: BalanceMachine.Outcome) {
        call.handle.load.end()
        if isBounded { total.wrappingSubtract(1, ordering: .relaxed) }
        let ended = BalanceMachine.Call(number: call.handle.number, beganAt: call.beganAt, probe: call.probe)
        change { $0.machine.finished(ended, outcome, now: $1, dice: &$0.dice) }
        switch outcome {
        case .success: metrics.succeeded.increment()
        case .failure: metrics.failed.increment()
        case .cancelled: metrics.cancelled.increment()
        }
    }

    // MARK: Changes

    private func tick(now: Nanos) {
        change { $0.machine.tick(now: $1, dice: &$0.dice) }
        setAlarm()
    }

    /// A step of the machine, and what follows from it.
    private func change(_ step: (inout Guarded, Nanos) -> BalanceMachine.Output) {
        let now = Moment.now
        let (output, breaker) = guarded.withLock { guarded in
            let before = (guarded.machine.breaker.state, guarded.machine.breaker.force)
            let output = step(&guarded, now)
            if output.isNew { version.wrappingAdd(1, ordering: .releasing) }
            let after = (guarded.machine.breaker.state, guarded.machine.breaker.force)
            return (output, before == after ? nil : guarded.machine.breaker)
        }
        if let breaker { record(breaker) }
        if output.isNew || output.wakes { setAlarm() }
        for tell in output.tell { outside.eventLoop.execute { self.tell(tell, now: now) } }
    }

    private func setAlarm() {
        let now = Moment.now
        alarm.set(guarded.withLock { $0.machine.wakeAt(now: now) }, now: now)
    }

    private func record(_ breaker: BreakerMachine) {
        let number =
            switch (breaker.force, breaker.state) {
            case (.open, _), (.automatic, .open): 2
            case (.automatic, .halfOpen): 1
            case (.closed, _), (.automatic, .closed): 0
            }
        outside.eventLoop.execute { self.metrics.breaker.record(number) }
    }

    private func tell(_ tell: BalanceMachine.Tell, now: Nanos) {
        func milliseconds(_ until: Nanos) -> Nanos { max(0, until - now) / .millisecond }
        let reason: String
        let numbers: [(String, Int64)]
        var isBad = true
        switch tell.kind {
        case .ejected(let ejection):
            metrics.ejections.increment()
            reason = ejection.reason.text
            numbers = [("forMs", milliseconds(ejection.until)), ("times", Int64(ejection.times))]
        case .returned:
            isBad = false
            reason = "its time is over"
            numbers = []
        case .panic(let open, let all):
            metrics.panics.increment()
            reason = "only \(open) of \(all) members can be picked: now all are"
            numbers = [("open", Int64(open)), ("members", Int64(all))]
        case .calm(let open, let all):
            isBad = false
            reason = "\(open) of \(all) members can be picked"
            numbers = [("open", Int64(open)), ("members", Int64(all))]
        case .breaker(.opened(let until, let failed, let calls)):
            reason = "\(failed) of \(calls) calls failed"
            numbers = [
                ("forMs", milliseconds(until)), ("failed", Int64(failed)), ("calls", Int64(calls)),
            ]
        case .breaker(.closed):
            isBad = false
            reason = "its probes succeeded"
            numbers = []
        }
        var metadata: Logger.Metadata = [
            LoggingKeys.group: "\(group)", LoggingKeys.policy: "\(rule.name)", LoggingKeys.reason: "\(reason)",
        ]
        if !tell.member.isEmpty { metadata[LoggingKeys.member] = "\(tell.member)" }
        outside.logger.log(level: isBad ? .warning : .info, "\(tell.type)", metadata: metadata)
        guard tell.isNoted else { return }
        let fields = ["\"policy\":\"\(rule.name)\""] + numbers.map { "\"\($0.0)\":\($0.1)" }
        outside.note(tell.type, tell.member, reason, Array("{\(fields.joined(separator: ","))}".utf8))
    }

    // MARK: Failures

    private var noKey: RingfenceError {
        RingfenceError(InvalidArgument("key", "is needed: the policy \(rule.name) picks by it"))
    }

    private var nobody: RingfenceError {
        let why = guarded.withLock { $0.machine.nobody }
        return RingfenceError(
            .balancerNoMember, effect: .none, isRetriable: true, "the group '\(group)' has nobody to call: \(why)")
    }

    private var forbidden: RingfenceError { isOpen("an operator forced it open, until it is let go") }

    private func refusal(_ until: Nanos, _ now: Nanos) -> RingfenceError {
        // Upwards: who asks a part of a millisecond too early is refused once more.
        let left = (max(0, until - now) + .millisecond - 1) / .millisecond
        return isOpen(
            "too many calls failed; it lets some through again in \(left) ms", retryAfter: .milliseconds(left))
    }

    /// `until`: when there are new probes, if these have not ended by then.
    private func probing(_ until: Nanos, _ now: Nanos) -> RingfenceError {
        let left = (max(0, until - now) + .millisecond - 1) / .millisecond
        // It closes as soon as enough of them succeed: that is worth a look each second.
        return isOpen(
            "too many calls failed, and all calls that it lets through to try are under way; it decides when they "
                + "end, and lets others through in \(left) ms",
            retryAfter: .milliseconds(min(left, 1_000)))
    }

    private func isOpen(_ why: String, retryAfter: Duration? = nil) -> RingfenceError {
        var error = RingfenceError(
            .breakerOpen, effect: .none, isRetriable: true, "the breaker of the group '\(group)' is open: \(why)")
        error.retryAfter = retryAfter
        return error
    }

    // MARK: For those who look

    var state: BalancerState {
        let now = Moment.now
        let (members, breaker, isPanicking) = guarded.withLock { guarded in
            (guarded.machine.members(now: now), guarded.machine.breaker, guarded.machine.isPanicking)
        }
        let shown: BalancerState.Breaker =
            switch (breaker.force, breaker.state) {
            case (.open, _): .forcedOpen
            case (.closed, _): .forcedClosed
            case (.automatic, .closed): .closed
            case (.automatic, .halfOpen): .halfOpen
            case (.automatic, .open(let until)): .open(until: Moment.instant(until))
            }
        return BalancerState(
            members: members.map { member in
                .init(
                    member: Member(member.record), canBePicked: member.canBePicked, outstanding: member.outstanding,
                    cost: member.cost == 0 ? nil : .nanoseconds(Int64(member.cost * 1e9)),
                    ejectedUntil: member.ejectedUntil.map { Moment.instant($0) }, ramp: member.ramp)
            }, breaker: shown, isPanicking: isPanicking)
    }
}
