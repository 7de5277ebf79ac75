// SPDX-License-Identifier: Apache-2.0
//
// `ringfence agent exec`: a service that needs no check to tell whether it lives, because it is our child.
//
// The kernel reports its death at once, and the role is given up in one round trip: no lease has to run out. There are
// two ways to use it. By itself the child runs always, on every machine, and the membership beside it says which of
// them is primary (a pool of servers, one of which takes the writes). With `--while-primary` the child is the primary's
// work: it is started when this member is elected, and is dead before another one can be.
//
// If this process dies, a child that runs always lives on: a supervisor's crash must not take the service down. A child
// that runs while primary dies with it, for nobody would end it in time.
import Logging
import NIOCore
import NIOPosix
package import Ringfence
import RingfenceAgentCore
import RingfenceCore
package import RingfenceOperations
import RingfencePlatform
import Synchronization

/// Runs one child and a membership that ends with it.
package struct AgentExec: Sendable {
    /// How it ended, and so the exit code.
    package enum Outcome: Sendable, Hashable {
        case ended(ChildProcess.Exit)
        /// A signal ended it while no child ran.
        case interrupted(Int32)
        /// Another process joined under this member's id. The child was ended.
        case replaced
    }

    package var group: String
    package var member: String
    package var address = ""
    package var zone = ""
    package var priority = 0
    package var lease: Duration = .seconds(3)
    package var command: [String]
    /// The child runs only while this member is primary.
    package var whilePrimary = false
    /// How long the child has from SIGTERM to SIGKILL, where the lease leaves that much.
    package var grace: Duration = .seconds(10)
    package var listen: AgentConfiguration.Endpoint?
    /// Tells the person at the terminal.
    package var say: @Sendable (String) -> Void

    package init(group: String, member: String, command: [String], say: @Sendable @escaping (String) -> Void) {
        self.group = group
        self.member = member
        self.command = command
        self.say = say
    }

    private enum Input: Sendable {
        case joined(Membership, Candidacy)
        case role(Role)
        case childEnded(ChildProcess.Exit)
        case signal(Int32)
        case membershipOver
        case failed(any Error)
    }

    /// The time the lease leaves for ending the child.
    private var margin: Duration { whilePrimary ? min(.seconds(1), lease / 3) : .zero }

    /// What the endpoints show.
    private struct Shown: Sendable {
        var isChildRunning = false
        var epoch: Epoch?
    }

    /// Runs until the child has ended, and the member has left.
    /// - Parameter server: serves the endpoints, if there are any.
    /// - Throws: `RingfenceError`, ``ChildProcess/StartFailure``, ``Settings/Failure``.
    package func run(with client: RingfenceClient, server: any EndpointServer) async throws -> Outcome {
        let board = Board()
        var endpoints: (any ServedEndpoints)?
        if let listen {
            let health = AgentConfiguration.Endpoint.healthPaths.map { path in
                HTTPEndpoint(path) { _ in board.answer(path, self.group, self.member) }
            }
            endpoints = try await listen.serve(health, by: server, client.logger)
        }
        let (inputs, input) = AsyncStream<Input>.makeStream()
        let signals = Signals.listen(as: .supervisor)
        Orphans.adopt()
        let forwarding = Task { for await signal in signals { input.yield(.signal(signal.number)) } }
        let joining = Task {
            do {
                let (membership, candidacy) = try await join(client)
                input.yield(.joined(membership, candidacy))
                for await role in candidacy.roles { input.yield(.role(role)) }
                input.yield(.membershipOver)
            } catch is CancellationError {
            } catch { input.yield(.failed(error)) }
        }
        defer {
            forwarding.cancel()
            joining.cancel()
        }
        var supervisor = Supervisor(exec: self, board: board) { input.yield(.childEnded($0)) }
        do {
            if !whilePrimary { try await supervisor.start(nil) }
            var outcome: Outcome?
            for await next in inputs {
                outcome = try await supervisor.take(next)
                if outcome != nil { break }
            }
            await supervisor.leave()
            await endpoints?.close()
            return outcome ?? .interrupted(SIGTERM)
        } catch {
            await supervisor.leave()
            await endpoints?.close()
            throw error
        }
    }

    private func join(_ client: RingfenceClient) async throws -> (Membership, Candidacy) {
        var isTold = false
        var patience = IdPatience()
        while true {
            try Task.checkCancellation()
            do {
                let membership = try await client.group(group).join(
                    member, address: address, zone: zone, priority: priority, lease: lease, rejoins: true)
                return (membership, try await membership.campaign(margin: margin))
            } catch let error as RingfenceError where error.code == .membershipTaken {
                guard let pause = patience.pause(error) else { throw error }
                say(error.message)
                try await Task.sleep(for: pause)
            } catch let error as RingfenceError where error.code == .coordinatorUnavailable {
                // Without a connection the client says so itself.
                if !isTold, client.isConnected {
                    say("Redis does not let us join yet: \(error.message)")
                    isTold = true
                }
                try await Task.sleep(for: .milliseconds(500))
            }
        }
    }

    /// What the endpoints are answered from.
    private final class Board: Sendable {
        private let shown = Mutex(Shown())

        func set(_ change: (inout Shown) -> Void) { shown.withLock { change(&$0) } }

        func answer(_ path: String, _ group: String, _ member: String) -> EndpointAnswer {
            let shown = shown.withLock { $0 }
            let isPrimary = shown.isChildRunning && shown.epoch?.isHeld == true
            let isGood: Bool
            switch path {
            case "/primary": isGood = isPrimary
            case "/standby", "/replica": isGood = shown.isChildRunning && !isPrimary
            default: isGood = shown.isChildRunning
            }
            var json = JSONWriter()
            json.object { json in
                json.field("group", group)
                json.field("member", member)
                json.field("role", isPrimary ? "primary" : "standby")
                json.field("epoch", isPrimary ? shown.epoch?.value ?? 0 : 0)
                json.field("running", shown.isChildRunning)
            }
            return EndpointAnswer(status: isGood ? 200 : 503, body: json.text + "\n")
        }
    }

    /// The child and the role, and what each means for the other. Inputs come one after the other.
    private struct Supervisor {
        let exec: AgentExec
        let board: Board
        let onEnd: @Sendable (ChildProcess.Exit) -> Void
        var membership: Membership?
        var candidacy: Candidacy?
        var child: ChildProcess?
        /// The role that is held.
        var role = Role.standby
        /// The epoch that is over when the child is.
        var ending: Epoch?
        /// We end the child: its death is no failure.
        var isEnding = false
        var killing: Scheduled<Void>?
        /// We were told to end, and so the child.
        var isToEnd = false

        init(exec: AgentExec, board: Board, onEnd: @Sendable @escaping (ChildProcess.Exit) -> Void) {
            self.exec = exec
            self.board = board
            self.onEnd = onEnd
        }

        mutating func take(_ input: Input) async throws -> Outcome? {
            switch input {
            case .joined(let membership, let candidacy): (self.membership, self.candidacy) = (membership, candidacy)
            case .role(let role): try await took(role)
            case .childEnded(let exit): return try await ended(exit)
            case .signal(let number):
                guard let child else { return Signals.ends(number) ? .interrupted(number) : nil }
                // Its end is what ends us.
                isToEnd = isToEnd || Signals.ends(number)
                child.signal(number)
            case .membershipOver:
                exec.say("another process joined as \(exec.member): ending the command")
                guard child != nil, exec.whilePrimary else { return .replaced }
                end(within: exec.margin)
            case .failed(let error): throw error
            }
            return nil
        }

        private mutating func took(_ new: Role) async throws {
            role = new
            let held = new.epoch
            board.set { shown in
                if case .primary = new { shown.epoch = held } else { shown.epoch = nil }
            }
            switch new {
            case .elected(let epoch):
                guard exec.whilePrimary else {
                    candidacy?.ready(epoch)
                    return
                }
                if child == nil { try await begin(epoch) }
            case .primary(let epoch): if exec.whilePrimary, child == nil { try await begin(epoch) }
            case .handingOver(let epoch):
                if child == nil || !exec.whilePrimary {
                    candidacy?.readyToHandOver(epoch)
                } else {
                    end(within: exec.grace)
                }
            case .ended(let epoch, let reason):
                guard exec.whilePrimary, child != nil else {
                    candidacy?.stopped(epoch)
                    return
                }
                ending = epoch
                exec.say("no longer primary (\(reason)): ending the command")
                end(within: exec.margin)
            case .standby: break
            }
        }

        /// Starts the primary's work.
        private mutating func begin(_ epoch: Epoch) async throws {
            do { try await start(epoch) } catch {
                candidacy?.giveUp(epoch, reason: "promotionFailed")
                throw error
            }
            exec.say("primary under epoch \(epoch.value)")
            if case .elected = role { candidacy?.ready(epoch) }
        }

        mutating func start(_ epoch: Epoch?) async throws {
            var launch = ChildProcess.Launch(exec.command)
            launch.hasOwnGroup = true
            // The next primary begins when nothing of this one's work is left.
            launch.ownsDescendants = true
            launch.ignoresHangup = Signals.ignoresHangup
            launch.parentDeathSignal = exec.whilePrimary ? SIGKILL : 0
            var added = ["RINGFENCE_GROUP=\(exec.group)", "RINGFENCE_MEMBER=\(exec.member)"]
            if let epoch { added.append("RINGFENCE_EPOCH=\(epoch.value)") }
            let names = added.map { $0.prefix { $0 != "=" } }
            launch.environment =
                Environment.current.filter { entry in !names.contains(entry.prefix { $0 != "=" }) } + added
            let say = exec.say
            let started = try await ChildProcess.start(launch, onSurvivor: { say(ChildProcess.survivorText($0)) })
            child = started
            isEnding = false
            board.set { $0.isChildRunning = true }
            let onEnd = onEnd
            Task { onEnd(await started.wait()) }
        }

        private mutating func end(within time: Duration) {
            isEnding = true
            guard let child else { return }
            child.end(with: SIGTERM)
            killing?.cancel()
            killing = MultiThreadedEventLoopGroup.singleton.any().scheduleTask(in: .init(time)) {
                child.end(with: SIGKILL)
            }
        }

        private mutating func ended(_ exit: ChildProcess.Exit) async throws -> Outcome? {
            child = nil
            killing?.cancel()
            board.set { $0.isChildRunning = false }
            guard isEnding else {
                // First of all, for others wait for it. A child that was told to end, or has done its work, has not
                // failed.
                try? await membership?.leave(reason: isToEnd ? "left" : exit == .code(0) ? "finished" : "exited")
                return .ended(exit)
            }
            isEnding = false
            if let ending { candidacy?.stopped(ending) }
            ending = nil
            if let membership, !membership.isMember, membership.state == .replaced { return .replaced }
            switch role {
            case .handingOver(let epoch): candidacy?.readyToHandOver(epoch)
            case .elected(let epoch), .primary(let epoch): try await begin(epoch)
            case .standby, .ended: break
            }
            return nil
        }

        /// Ends what is left and leaves the group.
        mutating func leave() async {
            if let child {
                end(within: exec.grace)
                _ = await child.wait()
            }
            killing?.cancel()
            guard let membership, membership.isMember else { return }
            try? await membership.leave(reason: "left")
        }
    }
}
