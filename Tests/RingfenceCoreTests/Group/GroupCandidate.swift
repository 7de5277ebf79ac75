// SPDX-License-Identifier: Apache-2.0
//
// The part of a node that stands for election: its resource, and what its holder says of it. The resource takes time to
// be promoted and to stop, refuses now and then, and writes on while it is primary. How long it takes to stop is kept
// within the margin, for that is what the margin is promised to be good for.
import TestSupport

@testable import RingfenceCore

final class GroupCandidate {
    private enum Body: Equatable { case idle, promoting, running, stopping }

    private unowned let node: GroupNode
    private unowned let world: GroupWorld
    let margin: Nanos
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
        if world.hasPositions { position = 0 }
        goOn()
        if world.holds { holdOn() }
    }

    var state: RoleMachine.State { node.member?.role?.state ?? .standby }
    var isFit: Bool { unfit.isEmpty }

    /// The epoch under which something is or may be done at this true moment.
    var epochInside: Int64? {
        guard node.isAlive else { return nil }
        if let epoch = state.epoch, node.member?.holds(epoch, now: node.clock) == true { return epoch }
        return body == .idle || isExcused || node.isPaused ? nil : bodyEpoch
    }

    // MARK: Its role

    private func say(_ change: (inout RoleMachine) -> RoleMachine.Output?) {
        node.with { $0.say(now: node.clock, change) }
    }

    func hear(_ tell: RoleMachine.Tell) {
        switch tell {
        case .state(.standby), .state(.readyToHandOver): break
        case .state(.elected(let epoch)):
            world.roles.began(node, epoch)
            begin(.promoting, epoch, world.dice(0...40 * .millisecond)) { self.promoted(epoch) }
        case .state(.primary(let epoch)): begin(.running, epoch)
        case .state(.handingOver(let epoch)):
            begin(.stopping, epoch, world.dice(0...300 * .millisecond)) {
                self.end()
                self.say { $0.readyToHandOver(epoch, position: self.position) }
            }
        case .ended(let epoch, let why):
            world.roles.ended(node, epoch)
            if world.flaws.resumes, why == .suspended { node.forgetRole(margin: margin) }
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
        guard let epoch = state.epoch else {
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
        guard let epoch = state.epoch else { return }
        if node.member?.holds(epoch, now: node.clock) == true { isExcused = false }
    }

    // MARK: While Redis is away

    private func holdOn() {
        world.after(max(node.view.pace / 2, 20 * .millisecond)) { [weak self] in
            guard let self, self.node.isAlive else { return }
            if !self.node.isPaused { self.askForPromises() }
            self.holdOn()
        }
    }

    private func askForPromises() {
        let askedAt = node.clock
        guard let view = node.view.viewWhileAway(now: askedAt) else { return }
        guard let asking = node.with({ $0.promisesNeeded(view, now: askedAt) }) ?? nil else { return }
        let question = asking.question
        if asking.peers.isEmpty { promised(question, [], askedAt) }
        for peer in asking.peers {
            guard let other = world.nodes.first(where: { $0.record.session == peer.session }) else { continue }
            node.ask(other) {
                other.isAlive && other.candidate?.promises(question, other.record.session) == true
            } _: { [self] in
                promised(question, [peer.session], askedAt)
                guard let member = node.member, node.clock > member.membership.deadline - margin,
                    member.holds(question.epoch, now: node.clock)
                else { return }
                world.heldRoles += 1
                world.note("\(node.name) is held by \(asking.peers.map(\.session))")
            }
        }
    }

    private func promised(_ question: FailsafeMachine.Question, _ sessions: [String], _ askedAt: Nanos) {
        let view = node.view.known
        node.with { ((), $0.promised(question, by: sessions, askedAt: askedAt, view, now: node.clock)) }
    }

    private func promises(_ question: FailsafeMachine.Question, _ session: String) -> Bool {
        guard let view = node.view.viewWhileAway(now: node.clock) else { return false }
        if world.flaws.forgetsPromises { return FailsafeMachine.objection(to: question, view) == nil }
        let refusal = node.with { $0.promise(question, session: session, view, now: node.clock) }
        guard let refusal, refusal == nil else { return false }
        world.note("\(node.name) promises epoch \(question.epoch) \(question.leaseMilliseconds) ms")
        return true
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
            let isWriting = body == .running && state == .primary(bodyEpoch)
            if isWriting {
                self.position = position + world.dice(0...20)
                world.furthest = max(world.furthest, self.position!)
            } else {
                self.position = max(position, min(world.furthest, position + world.dice(0...40)))
            }
        }
        let known = node.view.known.role
        node.with { ($0.report(position: position, unfit: unfit, known, now: node.clock), tells: []) }
        guard !world.isCalm, world.faults.contains(.leave) || world.faults.contains(.operate) else { return }
        switch world.random.pick(0...399) {
        case 0: stop(saying: "stepDown")
        case 1: withdraw()
        default: break
        }
    }

    private func withdraw() {
        stop(saying: "stepDown") { [self] in
            node.with { ((), $0.withdraw(now: node.clock)) }
            node.change { $0.isCandidate = false }
            world.after(world.dice(0...500 * .millisecond)) { [weak self] in
                guard let self else { return }
                self.node.react {
                    self.node.with { (_ = $0.campaign(margin: self.margin), tells: []) }
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
            if !node.record.health.isEmpty, node.member?.membership.isOver == false {
                world.after(100 * .millisecond) { [weak self] in self?.recover() }
            }
        }
    }
}
