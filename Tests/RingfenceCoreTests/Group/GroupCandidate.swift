// SPDX-License-Identifier: Apache-2.0
//
// The part of a node that stands for election: the shell around a RoleMachine, as Membership writes it, and a resource. The
// resource takes time to be promoted and to stop, refuses now and then, and writes on while it is primary. How long it takes to stop
// is kept within the margin, for that is what the margin is promised to be good for.
import RingfenceCore
import TestSupport

final class GroupCandidate {
    private enum Body: Equatable { case idle, promoting, running, stopping }

    private unowned let node: GroupNode
    private unowned let world: GroupWorld
    private var machine: RoleMachine
    private let margin: Nanos
    private var body = Body.idle
    private var bodyEpoch: Int64 = 0
    /// What was planned for an earlier step of the body is void.
    private var step = 0
    /// It slept: nobody could stop the body in time.
    private var isExcused = false
    private var whenIdle: [() -> Void] = []
    private var position: Int64?
    private var unfit = ""

    init(_ node: GroupNode, _ world: GroupWorld) {
        self.node = node
        self.world = world
        margin = world.random.pick([0, 0, node.record.lease / 8, node.record.lease / 3])
        machine = RoleMachine(margin: margin)
        if world.hasPositions { position = 0 }
        goOn()
        if world.holds { holdOn() }
    }

    private var deadline: Nanos { world.flaws.neverFences ? .never : node.membership?.deadline ?? 0 }
    private var isMember: Bool { world.flaws.neverFences || node.membership?.isMember(at: node.clock) == true }
    var wakeAt: Nanos { world.flaws.neverFences ? .never : machine.wakeAt(deadline: deadline) }
    var status: CandidateStatus { machine.status }
    var state: RoleMachine.State { machine.state }
    var isFit: Bool { unfit.isEmpty }

    /// The epoch under which something is or may be done at this true moment.
    var epochInside: Int64? {
        guard node.isAlive else { return nil }
        if let epoch = machine.state.epoch,
            machine.holds(epoch, deadline: deadline, isMember: isMember, now: node.clock)
        {
            return epoch
        }
        return body == .idle || isExcused || node.isPaused ? nil : bodyEpoch
    }

    // MARK: The machine

    func judge() {
        letGoIfOver()
        perform(machine.tick(now: node.clock, deadline: deadline, isMember: isMember))
    }

    private func letGoIfOver() {
        let state = node.membership?.state
        if state != .member, state != .suspended { machine.letGo() }
    }

    func saw() {
        let view = node.view.known
        judgeHold()
        letGoIfOver()
        perform(
            machine.saw(
                view.role, gen: view.gen, version: view.version, asOf: node.view.confirmedAt ?? .min, id: node.name,
                session: node.record.session,
                now: node.clock, deadline: deadline, isMember: isMember))
    }

    func changedSession() { machine.changedSession() }

    private func say(_ change: (inout RoleMachine) -> RoleMachine.Output?) {
        judge()
        if let output = change(&machine) { perform(output) }
    }

    private func perform(_ output: RoleMachine.Output) {
        for tell in output.tell {
            world.note("\(node.name) \(tell)")
            hear(tell)
        }
        if output.speaks { node.speak() }
    }

    private func hear(_ tell: RoleMachine.Tell) {
        switch tell {
        case .state(.standby), .state(.drained): break
        case .state(.elected(let epoch)):
            world.roles.began(node, epoch)
            begin(.promoting, epoch, world.dice(0...40 * .millisecond)) { self.promoted(epoch) }
        case .state(.primary(let epoch)): begin(.running, epoch)
        case .state(.draining(let epoch)):
            begin(.stopping, epoch, world.dice(0...300 * .millisecond)) {
                self.end()
                self.say { $0.drained(epoch, position: self.position) }
            }
        case .ended(let epoch, let why):
            world.roles.ended(node, epoch)
            if world.flaws.resumes, why == .suspended { machine = RoleMachine(margin: margin) }
            // What waits to be stopped is stopped, and most say so.
            let isSilent = world.random.chance(20)
            begin(.stopping, epoch, body == .idle ? 0 : world.dice(0...stopTime)) {
                self.end()
                if !isSilent { self.say { $0.stopped(epoch) } }
            }
        }
    }

    // MARK: The resource

    private var stopTime: Nanos { max(0, margin - margin / 50 - 3 * .millisecond) }

    private func begin(_ body: Body, _ epoch: Int64, _ length: Nanos = 0, _ done: (() -> Void)? = nil) {
        step += 1
        let step = step
        (self.body, bodyEpoch) = (body, epoch)
        guard let done else { return }
        guard length > 0 else { return done() }
        world.after(length) { [weak self] in
            guard let self else { return }
            self.node.react { if self.step == step { done() } }
        }
    }

    private func end() {
        body = .idle
        isExcused = false
        let all = whenIdle
        whenIdle = []
        for one in all { one() }
    }

    private func promoted(_ epoch: Int64) {
        guard !world.isCalm, world.random.chance(8) else { return say { $0.ready(epoch) } }
        end()
        say { $0.giveUp(epoch, reason: self.world.random.pick(["refused", "promotionFailed"])) }
    }

    /// Stops first, and then says so.
    func stop(saying reason: String, _ done: @escaping () -> Void = {}) {
        guard let epoch = machine.state.epoch else {
            if body == .idle { done() } else { whenIdle.append(done) }
            return
        }
        begin(.stopping, epoch, body == .idle ? 0 : world.dice(0...stopTime)) {
            self.end()
            self.say { $0.giveUp(epoch, reason: reason) }
            done()
        }
    }

    func sleeps() { isExcused = body != .idle }

    func woke() {
        guard let epoch = machine.state.epoch else { return }
        if machine.holds(epoch, deadline: deadline, isMember: isMember, now: node.clock) { isExcused = false }
    }

    // MARK: While Redis is away

    private var hold = HoldMachine(epoch: 0)

    private func holdOn() {
        world.after(max(node.view.pace / 2, 20 * .millisecond)) { [weak self] in
            guard let self, self.node.isAlive else { return }
            if !self.node.isPaused { self.askForPromises() }
            self.holdOn()
        }
    }

    private func askForPromises() {
        let view = node.view
        guard case .primary(let epoch) = machine.state, view.known.holdLimit != nil, let at = view.confirmedAt,
            HoldMachine.isAway(confirmedAt: at, pace: view.pace, now: node.clock)
        else { return }
        if hold.epoch != epoch { hold = HoldMachine(epoch: epoch) }
        let peers = HoldMachine.peers(view.known, but: node.name)
        let question = HoldMachine.Question(
            epoch: epoch, session: node.record.session, leaseMilliseconds: node.record.leaseMilliseconds)
        let askedAt = node.clock
        if peers.isEmpty { judgeHold() }
        for peer in peers {
            guard let other = world.nodes.first(where: { $0.record.session == peer.session }) else { continue }
            node.ask(other) {
                other.isAlive && other.candidate?.promises(question) == true
            } _: { [self] in
                hold.promised(peer.session, until: HoldMachine.end(question, askedAt: askedAt))
                judgeHold()
                guard let deadline = node.membership?.deadline, node.clock > deadline - margin,
                    machine.holds(epoch, deadline: deadline, isMember: isMember, now: node.clock)
                else { return }
                world.heldRoles += 1
                world.note("\(node.name) is held by \(peers.map(\.session))")
            }
        }
    }

    /// By whom it knows by now.
    func judgeHold() {
        guard world.holds, let deadline = node.membership?.deadline else { return }
        machine.hold(hold.epoch, until: hold.until(node.view.known, but: node.name, deadline: deadline))
        node.planWake()
    }

    private func promises(_ question: HoldMachine.Question) -> Bool {
        let view = node.view
        guard HoldMachine.objection(to: question, view.known) == nil,
            let at = view.confirmedAt, HoldMachine.isAway(confirmedAt: at, pace: view.pace, now: node.clock)
        else { return false }
        if world.flaws.forgetsPromises { return true }
        let isPromised = machine.promise(question.epoch, until: HoldMachine.binding(question, now: node.clock))
        if isPromised { world.note("\(node.name) promises epoch \(question.epoch) \(question.leaseMilliseconds) ms") }
        return isPromised
    }

    // MARK: What goes on by itself

    private func goOn() {
        world.after(world.dice(60 * .millisecond...200 * .millisecond)) { [weak self] in
            guard let self, self.node.isAlive else { return }
            if !self.node.isPaused { self.work() }
            self.goOn()
        }
    }

    private func work() {
        if let position {
            let isWriting = body == .running && machine.state == .primary(bodyEpoch)
            if isWriting {
                self.position = position + world.dice(0...20)
                world.furthest = max(world.furthest, self.position!)
            } else {
                self.position = max(position, min(world.furthest, position + world.dice(0...40)))
            }
        }
        if machine.report(position: position, unfit: unfit) { node.speak() }
        guard !world.isCalm, world.faults.contains(.leave) || world.faults.contains(.operate) else { return }
        switch world.random.pick(0...399) {
        case 0: stop(saying: "stepDown")
        case 1: withdraw()
        default: break
        }
    }

    private func withdraw() {
        stop(saying: "stepDown") { [self] in
            machine.withdraw()
            node.change { $0.isCandidate = false }
            world.after(world.dice(0...500 * .millisecond)) { [weak self] in
                guard let self else { return }
                self.node.react {
                    self.machine.stand(margin: self.margin)
                    self.node.change { $0.isCandidate = true }
                }
            }
        }
    }

    /// It may not lead for a while.
    func ail(for length: Nanos) {
        guard unfit.isEmpty, node.record.health.isEmpty, !node.isPaused else { return }
        if world.random.chance(50) { unfit = "busy" } else { node.change { $0.health = "down" } }
        if world.random.chance(30) { stop(saying: "unhealthy") }
        world.after(length) { [weak self] in self?.recover() }
    }

    func recover() {
        node.react { [self] in
            unfit = ""
            guard !node.record.health.isEmpty else { return }
            node.change { $0.health = "" }
            // A membership that has expired takes no change until it is one again.
            if !node.record.health.isEmpty, node.membership?.isOver == false {
                world.after(100 * .millisecond) { [weak self] in self?.recover() }
            }
        }
    }
}
