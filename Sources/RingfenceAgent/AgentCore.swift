// SPDX-License-Identifier: Apache-2.0
//
// The shell around the agent's machine: it hands the machine everything that happens, one input at a time, and does
// what that asks for.
//
// An actor, so that inputs come one after the other; nothing in it waits. Hooks, notes and the member's record are
// written by tasks of their own, so that a slow Redis does not delay a suspension.
import Logging
import NIOCore
import NIOPosix
import Ringfence
import RingfenceAgentCore
import RingfenceCore
import RingfenceOperations
import Synchronization

/// The shell of the agent's machine.
actor AgentCore {
    /// What it has in the group.
    struct Seat: Sendable {
        var group: Group
        var membership: Membership
        /// nil: it does not stand for primary.
        var candidacy: Candidacy?
    }

    private static let origin = ContinuousClock.now
    private static var now: Nanos { Nanos(saturating: ContinuousClock.now - origin) }

    private let configuration: AgentConfiguration
    private let context: HookContext
    private let logger: Logger
    private let loop: any EventLoop
    private let naps: [InterruptibleSleep]
    /// What happened, for the event log: type and JSON.
    nonisolated let notes: AsyncStream<(type: String, json: String)>
    private let noting: AsyncStream<(type: String, json: String)>.Continuation
    /// The newest health of the member's record.
    nonisolated let healths: AsyncStream<String>
    private let healthing: AsyncStream<String>.Continuation

    private var machine: AgentMachine
    private var seat: Seat?
    /// The epoch of the role that is held.
    private var epoch: Epoch?
    /// The newest epoch in which Redis has confirmed that this member is ready: a write taken earlier could belong to a
    /// reign that nobody remembers.
    private var confirmed: Int64 = 0
    private var running: BoundedRun?
    private var alarm: Scheduled<Void>?
    private var lastReport: (position: Int64?, unfit: String) = (nil, "")
    /// Why members were elected, as events told it.
    private var elections: (epoch: Int64, reason: String) = (0, "")
    private var finishers: [CheckedContinuation<Void, Never>] = []
    private var isFinished = false

    init(_ configuration: AgentConfiguration, logger: Logger) {
        self.configuration = configuration
        self.logger = logger
        context = HookContext(configuration)
        loop = MultiThreadedEventLoopGroup.singleton.any()
        machine = AgentMachine(configuration.policy)
        naps = configuration.checks.map { _ in InterruptibleSleep() }
        (notes, noting) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(64))
        (healths, healthing) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
    }

    // MARK: inputs

    /// The member is in the group.
    func take(_ seat: Seat) {
        self.seat = seat
        report(lastReport.position, lastReport.unfit)
        look()
    }

    func took(_ role: Role) {
        if let new = role.epoch { epoch = new }
        look()
        let told: AgentRole =
            switch role {
            case .standby: .standby
            case .elected(let epoch): .elected(epoch.value)
            case .primary(let epoch): .primary(epoch.value)
            case .handingOver(let epoch): .handingOver(epoch.value, until: .never)
            case .ended(let epoch, let reason): .ended(epoch.value, reason: reason.description)
            }
        logger.info("role", metadata: ["role": "\(told.name)", "epoch": "\(role.epoch?.value ?? epoch?.value ?? 0)"])
        perform(machine.took(told, now: Self.now))
    }

    /// The group may have changed.
    func look() {
        guard let seat else { return }
        let snapshot = seat.group.snapshot
        // If the group cannot be seen, it is not known that there is no primary.
        guard !snapshot.isStale, let status = snapshot.primary else { return }
        let isMine = status.member == configuration.member
        if isMine, status.phase == .ready || status.phase == .handingOver { confirmed = max(confirmed, status.epoch) }
        let isTarget = status.phase == .handingOver && status.target == configuration.member
        perform(
            machine.took(
                primary: primary(status, in: snapshot),
                lastReady: AgentReign(member: status.lastReady ?? "", epoch: status.lastReadyEpoch),
                isTarget: isTarget, now: Self.now))
    }

    /// An event of the group.
    func happened(_ event: Event) {
        if event.type == .primaryElected, let epoch = event.epoch, epoch > elections.epoch {
            elections = (epoch, event.reason ?? "")
        }
        look()
    }

    private func primary(_ status: PrimaryStatus, in snapshot: GroupSnapshot) -> AgentPrimary? {
        guard let member = status.member else { return nil }
        let isReady =
            switch status.phase {
            case .ready, .handingOver: true
            case .vacant, .elected, .recovering: false
            }
        return AgentPrimary(
            member: member, epoch: status.epoch, address: snapshot.member(member)?.address ?? "", isReady: isReady,
            reason: elections.epoch == status.epoch ? elections.reason : "",
            suspendsWrites: status.role.suspendsWrites)
    }

    /// Looks with a check for as long as the task runs.
    func check(_ index: Int, _ probe: any CheckProbe) async {
        let timeout = Duration.nanoseconds(configuration.checks[index].policy.timeout)
        while !Task.isCancelled {
            let begun = Self.now
            let observation = await probe.look(timeout: timeout)
            perform(machine.saw(observation, check: index, begun: begun, now: Self.now))
            let next = begun + machine.pause(check: index, dice: Double.random(in: 0..<1))
            await naps[index].sleep(.nanoseconds(max(0, next - Self.now)))
        }
        await probe.close()
    }

    private func hookEnded(_ call: HookCall, _ result: BoundedRun.Result) {
        running = nil
        let metadata: Logger.Metadata = [
            "hook": "\(call.kind.rawValue)", "epoch": "\(call.epoch)", "took": "\(result.took.shortText)",
        ]
        switch result.outcome {
        case .passed: logger.info("hook passed", metadata: metadata)
        case .failed(let why):
            logger.warning("hook failed", metadata: metadata.merging(["why": "\(why)"]) { $1 })
        }
        noting.yield(("agent.hook", result.json(call)))
        perform(machine.hookEnded(call.id, result.outcome, now: Self.now))
    }

    /// Nothing more is told.
    nonisolated func endNotes() { noting.finish() }

    private func tick() { perform(machine.tick(now: Self.now)) }

    /// Suspends the resource, gives up a role that is held, and returns when that is done.
    func stop() async {
        perform(machine.stop(now: Self.now))
        if isFinished { return }
        await withCheckedContinuation { finishers.append($0) }
    }

    /// The health in the member's record at the start.
    var health: String { machine.health }
    /// The current state.
    var status: AgentStatus { machine.status(now: Self.now) }
    /// Whether it is promoted, Redis has confirmed it, and the role's own deadline has not passed.
    var isServingPrimary: Bool {
        guard let epoch, epoch.isHeld, epoch.value == confirmed else { return false }
        return machine.status(now: Self.now).isServingPrimary
    }
    var snapshot: GroupSnapshot? { seat?.group.snapshot }

    // MARK: outputs

    private func perform(_ outputs: [AgentOutput]) {
        for output in outputs { perform(output) }
        setAlarm()
    }

    private func perform(_ output: AgentOutput) {
        switch output {
        case .run(let call): run(call)
        case .kill: running?.kill()
        case .ready(let number): if let epoch = held(number) { seat?.candidacy?.ready(epoch) }
        case .readyToHandOver(let number, let position):
            if let epoch = held(number) { seat?.candidacy?.readyToHandOver(epoch, position: position.map(Self.told)) }
        case .giveUp(let number, let reason):
            logger.warning("giving the role up", metadata: ["epoch": "\(number)", "reason": "\(reason)"])
            if let epoch = held(number) { seat?.candidacy?.giveUp(epoch, reason: reason) }
        case .stopped(let number): if let epoch = held(number) { seat?.candidacy?.stopped(epoch) }
        case .report(let position, let unfit): report(position, unfit)
        case .health(let text): healthing.yield(text)
        case .verdict(let check, let isPassing, let why):
            let name = configuration.checks[check].name
            if isPassing {
                logger.info("check passes", metadata: ["check": "\(name)"])
            } else {
                logger.warning("check fails", metadata: ["check": "\(name)", "why": "\(why)"])
            }
            var json = JSONWriter()
            json.object { json in
                json.field("check", name)
                json.field("passing", isPassing)
                if !isPassing { json.field("why", why) }
            }
            noting.yield(("agent.check", json.text))
        case .look: for nap in naps { nap.wake() }
        case .finished:
            isFinished = true
            for finisher in finishers { finisher.resume() }
            finishers = []
        }
    }

    private func held(_ number: Int64) -> Epoch? { epoch?.value == number ? epoch : nil }

    private func run(_ call: HookCall) {
        guard let hook = configuration.hooks[call.kind] else { return }
        logger.info(
            "hook begins",
            metadata: ["hook": "\(call.kind.rawValue)", "epoch": "\(call.epoch)", "reason": "\(call.reason)"])
        let run = BoundedRun(context.plan(hook, call))
        running = run
        Task { hookEnded(call, await run.run()) }
    }

    /// What Redis takes for a position.
    private static func told(_ position: Int64) -> Int64 { min(max(0, position), 1 << 53 - 1) }

    private func report(_ position: Int64?, _ unfit: String) {
        lastReport = (position, unfit)
        var text = unfit
        while text.utf8.count > 256 { text.removeLast() }
        let printable = String(
            String.UnicodeScalarView(text.unicodeScalars.filter { !$0.isUnseen }))
        // What cannot be printed is a reason all the same.
        let reason = unfit.isEmpty ? nil : printable.isEmpty ? "unfit" : printable
        do { try seat?.candidacy?.report(position: position.map(Self.told), ineligibleBecause: reason) } catch {
            logger.error("the report was refused", metadata: ["error": "\(error)"])
        }
    }

    private func setAlarm() {
        alarm?.cancel()
        alarm = nil
        let at = machine.wakeAt
        guard at != .never else { return }
        alarm = loop.scheduleTask(in: .nanoseconds(max(0, at - Self.now))) { Task { await self.tick() } }
    }
}

/// A sleep that can be cut short, also before it begins.
final class InterruptibleSleep: Sendable {
    private struct State {
        var sleeper: CheckedContinuation<Void, Never>?
        var number = 0
        var isWoken = false
    }

    private let state = Mutex(State())
    private let loop = MultiThreadedEventLoopGroup.singleton.any()

    func sleep(_ time: Duration) async {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let number = state.withLock { state -> Int? in
                    guard !state.isWoken, !Task.isCancelled else {
                        state.isWoken = false
                        return nil
                    }
                    state.number += 1
                    state.sleeper = continuation
                    return state.number
                }
                guard let number else { return continuation.resume() }
                loop.scheduleTask(in: .init(time)) { [self] in end(number) }
            }
        } onCancel: {
            wake()
        }
    }

    func wake() {
        let sleeper = state.withLock { state in
            defer { state.sleeper = nil }
            if state.sleeper == nil { state.isWoken = true }
            return state.sleeper
        }
        sleeper?.resume()
    }

    private func end(_ number: Int) {
        let sleeper = state.withLock { state -> CheckedContinuation<Void, Never>? in
            guard state.number == number else { return nil }
            defer { state.sleeper = nil }
            return state.sleeper
        }
        sleeper?.resume()
    }
}
