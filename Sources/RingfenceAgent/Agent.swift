// SPDX-License-Identifier: Apache-2.0
//
// `ringfence agent`: runs beside a database, cache or service, joins a group for it, checks it, and calls its hooks.
//
// The order of a start: listen, check, join. So a load balancer is answered from the first moment, though with 503, and
// a member is not elected, or called by a balancer, before it is known whether its resource is healthy. Redis need not
// be there yet: joining is tried until it is.
//
// On SIGTERM the resource is suspended, a role that is held is given up, and the member leaves. A crash does none of
// that and touches nothing: the resource runs on, only the lease is no longer renewed, and the endpoints that sent
// clients here are gone with the agent. Agent.md says what keeps two from writing then.
package import Logging
import NIOCore
package import Ringfence
import RingfenceAgentCore
import RingfenceCore
package import RingfenceOperations
import ServiceLifecycle
import Synchronization

/// An agent, until graceful shutdown.
package struct Agent: Service {
    private static let joinPause: Duration = .milliseconds(500)
    private static let stopLimit: Duration = .seconds(30)
    /// How long the last notes may take at the end, if Redis can be reached.
    private static let noteLimit: Duration = .seconds(1)

    let configuration: AgentConfiguration
    let client: RingfenceClient
    let logger: Logger
    let server: any EndpointServer
    let onRunning: @Sendable (_ endpoints: Int?) -> Void

    /// - Parameters:
    ///   - server: serves the endpoints, if there are any.
    ///   - onRunning: called when the member has joined, with the port of the endpoints.
    package init(
        _ configuration: AgentConfiguration, client: RingfenceClient, logger: Logger, server: any EndpointServer,
        onRunning: @Sendable @escaping (_ endpoints: Int?) -> Void = { _ in }
    ) {
        self.configuration = configuration
        self.client = client
        self.logger = logger
        self.server = server
        self.onRunning = onRunning
    }

    /// Runs until graceful shutdown.
    /// - Throws: ``Settings/Failure``: what it cannot listen on or read; another joined under its id.
    package func run() async throws {
        let core = AgentCore(configuration, logger: logger)
        let probes = try configuration.checks.map { try $0.makeProbe() }
        let lag = LagLookUp(client: client, group: configuration.group, member: configuration.member)
        let failsafe = AgentFailsafe(logger: logger)
        var endpoints: (any ServedEndpoints)?
        if let listen = configuration.listen {
            let health = AgentConfiguration.Endpoint.healthPaths.map { path in
                HTTPEndpoint(path) { [configuration] query in
                    await Self.answer(path, query, core, configuration, lag, failsafe)
                }
            }
            let promise = HTTPEndpoint(AgentFailsafe.path, isOrder: true) { failsafe.answer($0) }
            endpoints = try await listen.serve(health + [promise], by: server, logger)
        }
        do {
            try await run(core, failsafe, probes, endpoints?.port)
        } catch {
            await endpoints?.close()
            throw error
        }
        await endpoints?.close()
    }

    private func run(
        _ core: AgentCore, _ failsafe: AgentFailsafe, _ probes: [any CheckProbe], _ port: Int?
    ) async throws {
        let stopping = OneShot()
        try await withGracefulShutdownHandler {
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                for (index, probe) in probes.enumerated() { tasks.addTask { await core.check(index, probe) } }
                tasks.addTask { await self.follow(core) }
                if let hook = configuration.onEvent { tasks.addTask { await self.callOnEvent(hook) } }
                let notes = Task { await self.writeNotes(core) }
                defer { notes.cancel() }
                let seat = try await self.join(core, port, stopping)
                guard let seat else { return tasks.cancelAll() }
                onRunning(port)
                tasks.addTask { await self.writeHealth(core, seat.membership) }
                tasks.addTask { await self.watch(core) }
                if seat.candidacy != nil { tasks.addTask { await failsafe.run(seat.membership) } }
                let roles = Task {
                    guard let candidacy = seat.candidacy else { return }
                    for await role in candidacy.roles { await core.took(role) }
                }
                tasks.addTask {
                    for await state in seat.membership.states where state == .replaced || state == .left {
                        stopping.happen()
                    }
                }
                await stopping.wait()
                logger.info("stopping")
                await Self.within(Self.stopLimit) { await core.stop() }
                let isReplaced = seat.membership.state == .replaced
                try? await seat.membership.leave(reason: "left")
                roles.cancel()
                tasks.cancelAll()
                core.endNotes()
                await Self.within(Self.noteLimit) { await notes.value }
                if isReplaced {
                    throw Settings.Failure(
                        description: "another process joined the group \(configuration.group) as "
                            + "\(configuration.member); give each agent a member of its own")
                }
            }
        } onGracefulShutdown: {
            stopping.happen()
        }
    }

    /// Waits for `work`, but not longer than `limit`.
    private static func within(_ limit: Duration, _ work: @Sendable @escaping () async -> Void) async {
        let isOver = OneShot()
        Task {
            await work()
            isOver.happen()
        }
        Task {
            try? await Task.sleep(for: limit)
            isOver.happen()
        }
        await isOver.wait()
    }

    /// Joins, however long Redis takes to come up; nil when the agent is told to stop before.
    private func join(_ core: AgentCore, _ port: Int?, _ stopping: OneShot) async throws -> AgentCore.Seat? {
        var metadata = configuration.metadata
        if let address = configuration.promiseAddress(port: port) { metadata[AgentFailsafe.key] = address }
        var isTold = false
        var patience = IdPatience()
        while !stopping.hasHappened, !Task.isCancelled {
            do {
                let group = try await client.group(configuration.group)
                let membership = try await group.join(
                    configuration.member, address: configuration.address, zone: configuration.zone,
                    weight: configuration.weight, priority: configuration.priority, metadata: metadata,
                    health: Self.short(core.health), lease: configuration.lease, rejoins: true)
                let candidacy =
                    configuration.isCandidate
                    ? try await membership.campaign(margin: configuration.suspendBudget) : nil
                let seat = AgentCore.Seat(group: group, membership: membership, candidacy: candidacy)
                await core.take(seat)
                return seat
            } catch let error as RingfenceError where error.code == .membershipTaken {
                guard let pause = patience.pause(error) else { throw error }
                logger.warning("another has this member's id", metadata: ["why": "\(error.message)"])
                try await Task.sleep(for: pause)
            } catch let error as RingfenceError where error.code == .coordinatorUnavailable {
                // Without a connection the client says so itself.
                if !isTold, client.isConnected {
                    logger.warning("Redis does not let us join yet", metadata: ["why": "\(error.message)"])
                    isTold = true
                }
                try await Task.sleep(for: Self.joinPause)
            }
        }
        return nil
    }

    /// Hands on the group's changes, as its events tell them.
    private func follow(_ core: AgentCore) async {
        while !Task.isCancelled {
            do {
                for try await item in try client.events(ofGroup: configuration.group) {
                    if case .event(let event) = item { await core.happened(event) } else { await core.look() }
                }
                return
            } catch {
                logger.error("the group's events cannot be followed", metadata: ["why": "\(error)"])
                try? await Task.sleep(for: .seconds(5))
            }
        }
    }

    /// The group as it is seen here changes a moment after the event does, or without one: it is looked at now and
    /// then.
    private func watch(_ core: AgentCore) async {
        while !Task.isCancelled {
            await core.look()
            try? await Task.sleep(for: .milliseconds(50))
        }
    }

    private func callOnEvent(_ hook: AgentConfiguration.Hook) async {
        let context = HookContext(configuration)
        while !Task.isCancelled {
            do {
                for try await item in try client.events(ofGroup: configuration.group) {
                    guard case .event(let event) = item else { continue }
                    let plan = context.plan(hook, event: (event.type.description, event.json))
                    let result = await BoundedRun(plan).run()
                    if case .failed(let why) = result.outcome {
                        logger.warning("onEvent failed", metadata: ["event": "\(event.type)", "why": "\(why)"])
                    }
                }
                return
            } catch { try? await Task.sleep(for: .seconds(5)) }
        }
    }

    /// What hooks and checks did goes into the event log, when Redis can be reached: each is tried for a minute.
    private func writeNotes(_ core: AgentCore) async {
        for await note in core.notes {
            for _ in 0..<60 where !Task.isCancelled {
                do {
                    try await client.operations(on: configuration.group).note(
                        note.type, member: configuration.member, detail: Array(note.json.utf8))
                    break
                } catch let error as RingfenceError where error.code == .coordinatorUnavailable {
                    try? await Task.sleep(for: .seconds(1))
                } catch {
                    logger.warning("an event was refused", metadata: ["type": "\(note.type)", "why": "\(error)"])
                    break
                }
            }
        }
    }

    private func writeHealth(_ core: AgentCore, _ membership: Membership) async {
        for await text in core.healths {
            while !Task.isCancelled {
                do {
                    try await membership.update(health: Self.short(text))
                    break
                } catch let error as RingfenceError where error.code == .membershipExpired {
                    // It rejoins with the old health, so this is tried again: else a member that was unhealthy would
                    // never be elected.
                    try? await Task.sleep(for: .milliseconds(100))
                } catch {
                    // Redis is told with the next beat.
                    logger.debug("the health was not written at once", metadata: ["why": "\(error)"])
                    break
                }
            }
        }
    }

    /// What a record takes.
    private static func short(_ text: String) -> String {
        var text = String(
            String.UnicodeScalarView(
                text.unicodeScalars.filter { !$0.isUnseen }))
        while text.utf8.count > 256 { text.removeLast() }
        return text
    }
}

// MARK: Endpoints

extension Agent {
    static func answer(
        _ path: String, _ query: String, _ core: AgentCore, _ configuration: AgentConfiguration, _ lag: LagLookUp,
        _ failsafe: AgentFailsafe
    ) async -> EndpointAnswer {
        let status = await core.status
        let isPrimary = await core.isServingPrimary
        var told: Int64?
        let isGood: Bool
        switch path {
        case "/primary": isGood = isPrimary
        case "/standby", "/replica":
            var limit: Int64?
            if !query.isEmpty {
                guard let text = query.split(separator: "&").first(where: { $0.hasPrefix("lag=") }),
                    let bytes = byteCount(text.dropFirst(4))
                else { return EndpointAnswer(status: 400, body: #"{"error":"lag=BYTES, such as 1MB"}"#) }
                limit = bytes
            }
            var isFit = status.isStandby && status.verdict == .passing && status.resourceRole != .primary
            if isFit, let limit {
                told = await lag.lag
                isFit = told.map { $0 <= limit } ?? false
            }
            isGood = isFit
        default: isGood = status.verdict == .passing
        }
        let phase = await core.snapshot?.primary?.phase.rawValue
        var json = JSONWriter()
        json.object { json in
            json.field("group", configuration.group)
            json.field("member", configuration.member)
            json.field("role", isPrimary ? "primary" : "standby")
            json.field("state", status.role.name)
            json.field("epoch", status.role.held ?? 0)
            json.field("phase", phase ?? "unknown")
            json.field("check", status.verdict.rawValue)
            if failsafe.isInFailsafe { json.field("failsafe", true) }
            if !status.why.isEmpty { json.field("why", status.why) }
            if !status.unfit.isEmpty { json.field("unfit", status.unfit) }
            if let role = status.resourceRole { json.field("resource", role.rawValue) }
            if let position = status.position { json.field("position", position) }
            if let told { json.field("lag", told) }
            if let hook = status.hook { json.field("hook", hook.rawValue) }
            if !status.detail.isEmpty {
                json.key("detail")
                json.object { json in
                    for (key, value) in status.detail.sorted(by: { $0.key < $1.key }) { json.field(key, value) }
                }
            }
        }
        return EndpointAnswer(status: isGood ? 200 : 503, body: json.text + "\n")
    }

    /// `1048576`, `1024kB`, `1MB`, `2GB`: powers of 1024, as PostgreSQL counts.
    static func byteCount(_ text: some StringProtocol) -> Int64? {
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        guard !digits.isEmpty, digits.count <= 12, let count = Int64(digits) else { return nil }
        switch text[digits.endIndex...].lowercased() {
        case "", "b": return count
        case "kb": return count << 10
        case "mb": return count << 20
        case "gb": return count << 30
        default: return nil
        }
    }
}

/// How much a member lacks, as Redis knows it: looked up on demand, at most twice a second.
actor LagLookUp {
    private static let fresh: Duration = .milliseconds(500)
    /// How long the last value is told while Redis does not answer.
    private static let stale: Duration = .seconds(10)

    private let client: RingfenceClient
    private let group: String
    private let member: String
    private var known: (lag: Int64?, at: ContinuousClock.Instant)?
    private var asking: Task<Int64??, Never>?

    init(client: RingfenceClient, group: String, member: String) {
        self.client = client
        self.group = group
        self.member = member
    }

    var lag: Int64? {
        get async {
            if let known, ContinuousClock.now - known.at < Self.fresh { return known.lag }
            let task =
                asking
                ?? Task { [client, group, member] in
                    guard let plan = try? await client.operations(on: group).plan() else { return .none }
                    return .some(plan.candidates.first { $0.id == member }?.lag)
                }
            asking = task
            let answer = await task.value
            asking = nil
            if let answer {
                known = (answer, .now)
                return answer
            }
            if let known, ContinuousClock.now - known.at < Self.stale { return known.lag }
            return nil
        }
    }
}
