// SPDX-License-Identifier: Apache-2.0
//
// Locks over HTTP. Each handler reads its arguments, calls the library once, and writes the answer.
//
// `deadlineMs`, the one number a holder must get right: the hold ends that many milliseconds after the moment the
// holder SENT its request, on the holder's own monotonic clock. It is the time the request spent here, waiting
// included, plus what was left of the hold when the answer was made. As the request arrived no earlier than it was
// sent, counting from the sending is never too late, however slow the answer's way back was. A holder that has not
// renewed by then must stop.
import HTTPTypes
import NIOCore
import Ringfence
import RingfenceCore
import RingfenceOperations

/// The routes that need Redis.
struct LockRoutes: Sendable {
    let client: RingfenceClient
    /// The service is shutting down: waits end now.
    let shuttingDown: OneShot

    private let repeats = Repeats()

    init(client: RingfenceClient, shuttingDown: OneShot) {
        self.client = client
        self.shuttingDown = shuttingDown
    }

    static let holdSchema = Route.Schema(
        name: "AcquireRequest", fields: ["owner", "ttlMs", "waitMs", "requestId", "confirm"])
    static let renewSchema = Route.Schema(name: "RenewRequest", fields: ["token", "ttlMs"])
    static let releaseSchema = Route.Schema(name: "ReleaseRequest", fields: ["token"])
    static let holdAllSchema = Route.Schema(
        name: "AcquireAllRequest", fields: ["names", "owner", "ttlMs", "waitMs", "requestId", "confirm"])
    static let renewAllSchema = Route.Schema(name: "RenewAllRequest", fields: ["names", "token", "ttlMs"])
    static let releaseAllSchema = Route.Schema(name: "ReleaseAllRequest", fields: ["names", "token"])
    static let forceSchema = Route.Schema(name: "ForceRequest", fields: ["actor", "reason"])

    var routes: [Route] { ofOneLock + ofSeveralLocks + ofOperators }

    private var ofOneLock: [Route] {
        [
            Route(
                method: .post, path: "/v1/locks/{name}/acquire", operation: "acquireLock",
                summary: "Acquires a lock, waiting in line for at most waitMs.",
                request: Self.holdSchema, response: "Hold", problems: [.busy, .notConfirmed, .limitReached],
                gives: true,
                handle: { exchange in
                    let body = try JSONObject(exchange.body, Self.holdSchema, depth: 1)
                    return try await acquire([exchange["name"]], body, exchange) { $0.field("name", exchange["name"]) }
                }),
            Route(
                method: .post, path: "/v1/locks/{name}/renew", operation: "renewLock",
                summary: "Renews a hold for ttlMs from now.",
                request: Self.renewSchema, response: "Hold", problems: [.notHeld],
                handle: { exchange in
                    let body = try JSONObject(exchange.body, Self.renewSchema)
                    let grant = try await client.renew([exchange["name"]], token: try body.token(), ttl: try body.ttl())
                    return Reply(hold(grant, exchange) { $0.field("name", exchange["name"]) })
                }),
            Route(
                method: .post, path: "/v1/locks/{name}/release", operation: "releaseLock",
                summary: "Releases a hold; the first in line gets the lock.",
                request: Self.releaseSchema, response: "Released", problems: [.notHeld],
                handle: { exchange in
                    let body = try JSONObject(exchange.body, Self.releaseSchema)
                    try await client.release([exchange["name"]], token: try body.token())
                    return released
                }),
            Route(
                method: .get, path: "/v1/locks/{name}", operation: "inspectLock",
                summary: "Shows a lock's holder, last fence and queue.",
                response: "Lock",
                handle: { exchange in
                    Reply(JSONWriter.describing(try await client.inspect(exchange["name"])))
                }),
        ]
    }

    private var ofSeveralLocks: [Route] {
        [
            Route(
                method: .post, path: "/v1/locks:acquire", operation: "acquireLocks",
                summary: "Acquires several locks at once, all or none, with one fence.",
                request: Self.holdAllSchema, response: "HoldAll", problems: [.busy, .notConfirmed, .limitReached],
                gives: true,
                handle: { exchange in
                    let body = try JSONObject(exchange.body, Self.holdAllSchema, depth: 1)
                    let names = try body.names()
                    return try await acquire(names, body, exchange) { $0.field("names", names) }
                }),
            Route(
                method: .post, path: "/v1/locks:renew", operation: "renewLocks",
                summary: "Renews a hold of several locks for ttlMs from now.",
                request: Self.renewAllSchema, response: "HoldAll", problems: [.notHeld],
                handle: { exchange in
                    let body = try JSONObject(exchange.body, Self.renewAllSchema)
                    let names = try body.names()
                    let grant = try await client.renew(names, token: try body.token(), ttl: try body.ttl())
                    return Reply(hold(grant, exchange) { $0.field("names", names) })
                }),
            Route(
                method: .post, path: "/v1/locks:release", operation: "releaseLocks",
                summary: "Releases a hold of several locks.",
                request: Self.releaseAllSchema, response: "Released", problems: [.notHeld],
                handle: { exchange in
                    let body = try JSONObject(exchange.body, Self.releaseAllSchema)
                    try await client.release(try body.names(), token: try body.token())
                    return released
                }),
        ]
    }

    private var ofOperators: [Route] {
        [
            Route(
                method: .get, path: "/v1/locks", operation: "listLocks",
                summary: "Lists held locks by the start of their name, a page at a time.",
                query: [
                    ("prefix", OpenAPI.reference("Prefix"), "Only names that start with this."),
                    ("cursor", OpenAPI.reference("Unsigned64"), "Where the page before ended: its `next`."),
                    ("limit", OpenAPI.reference("PageLimit"), "About how many at most."),
                ],
                response: "LockPage",
                handle: { exchange in
                    let query = exchange.query
                    try Limits.check(reason: query["prefix"] ?? "", field: "prefix")
                    // Whether Redis gave it is not to be known; what it cannot have given is refused by its name.
                    if let cursor = query["cursor"], UInt64(digits: cursor) == nil {
                        throw InvalidArgument("cursor", "is not one that a page gave as next")
                    }
                    let page = try await client.locks(
                        prefix: query["prefix"] ?? "", cursor: query["cursor"], limit: try pageLimit(query))
                    return Reply(JSONWriter.describing(page))
                }),
            Route(
                method: .delete, path: "/v1/locks/{name}", operation: "forceReleaseLock",
                summary: "Takes a lock away from its holder, raises its fence and records who did it.",
                query: Route.orderQuery, request: Self.forceSchema, requestIsOptional: true, response: "ForcedRelease",
                problems: [.notHeld],
                handle: { exchange in try await force(&exchange) }),
            Route(
                method: .get, path: "/v1/audit", operation: "listAudit",
                summary: "Shows the newest grants and releases, newest first.",
                query: [("limit", OpenAPI.reference("PageLimit"), "How many at most.")],
                response: "Audit",
                handle: { exchange in
                    Reply(JSONWriter.describing(try await client.audit(limit: try pageLimit(exchange.query))))
                }),
        ]
    }

    private var released: Reply {
        var json = JSONWriter(capacity: 24)
        json.object { $0.field("released", true) }
        return Reply(json)
    }

    private func hold(
        _ grant: LockGrant, _ exchange: Exchange, _ names: (inout JSONWriter) -> Void
    ) -> JSONWriter {
        var json = JSONWriter()
        let deadline = (ContinuousClock.now - exchange.arrived) + grant.remaining
        json.object { json in
            names(&json)
            json.field("owner", grant.owner)
            json.field("id", grant.id)
            json.field("fence", String(grant.fence))
            json.field("token", grant.token)
            json.field("deadlineMs", deadline.wholeMilliseconds)
        }
        return json
    }

    private func acquire(
        _ names: [String], _ body: JSONObject, _ exchange: Exchange, _ describe: (inout JSONWriter) -> Void
    ) async throws -> Reply {
        let ttl = try body.ttl()
        let wait = try body.wait()
        let owner = try body.owner() ?? peer(of: exchange.channel)
        let id = try body.requestId()
        let acquisition = Acquisition(
            names: names, owner: owner, ttl: ttl, wait: wait, durability: try body.durability(ttl))
        do {
            guard let id else {
                let grant =
                    wait > .zero
                    ? try await waited(for: Task { try await client.grant(acquisition) }, exchange)
                    : try await client.grant(acquisition)
                var reply = Reply(hold(grant, exchange, describe))
                reply.undo = { try? await client.release(names, token: grant.token) }
                return reply
            }
            let (grant, claim) = try await repeated(acquisition, id, exchange)
            var reply = Reply(hold(grant, exchange, describe))
            reply.undo = { [repeats] in
                if repeats.letGo(claim) { try? await client.release(names, token: grant.token) }
            }
            return reply
        } catch let error as RingfenceError where error.code == .lockBusy {
            throw await busy(acquisition, error)
        }
    }

    /// Waits in line as long as the client is there and the service stays up. The library gives back a grant that
    /// arrives as the wait is cancelled; one that got through just before the client hung up is given back here.
    private func waited(for task: Task<LockGrant, any Error>, _ exchange: Exchange) async throws -> LockGrant {
        let result = try await result(of: task, exchange) { task.cancel() }
        if exchange.hangUp?.hasHappened == true, case .success(let grant) = result {
            try? await client.release(grant.names, token: grant.token)
            throw ConnectionEnded()
        }
        return try result.get()
    }

    /// As `waited`, but a request with the same id shares what the first was given, or still waits for: neither may
    /// give up what the other may have been told of (Repeats.swift).
    private func repeated(
        _ acquisition: Acquisition, _ id: String, _ exchange: Exchange
    ) async throws -> (LockGrant, Repeats.Claim) {
        while true {
            let key = Repeats.Key(id: id, names: acquisition.names, durability: acquisition.durability)
            let claim = repeats.claim(key, acquisition.ttl) {
                Task { try await client.grant(acquisition) }
            }
            let result = try await result(of: claim.task, exchange) { [repeats] in
                if repeats.giveUp(claim) { claim.task.cancel() }
            }
            switch result {
            case .success(let grant):
                let hasHungUp = exchange.hangUp?.hasHappened == true
                guard !hasHungUp, repeats.tell(claim) else {
                    if repeats.letGo(claim) { try? await client.release(grant.names, token: grant.token) }
                    if hasHungUp { throw ConnectionEnded() }
                    throw Problem(.shuttingDown, "the service is shutting down", retryAfterMs: 1_000)
                }
                if claim.isFirst { return (grant, claim) }
                do {
                    let renewed = try await client.renew(grant.names, token: grant.token, ttl: acquisition.ttl)
                    return (renewed, claim)
                } catch let error as RingfenceError where error.code == .lockNotHeld {
                    // Its time is over, or it was released: this is a request like any other.
                    repeats.forget(claim)
                } catch {
                    // Not told after all; nor was the first, perhaps.
                    if repeats.letGo(claim) { try? await client.release(grant.names, token: grant.token) }
                    throw error
                }
            case .failure(let error):
                repeats.forget(claim)
                throw error
            }
        }
    }

    private func result(
        of task: Task<LockGrant, any Error>, _ exchange: Exchange, _ giveUp: @Sendable @escaping () -> Void
    ) async throws -> Result<LockGrant, any Error> {
        let hangUp = try await ConnectionGuard.wait(on: exchange.channel)
        let onHangUp = hangUp.observe(giveUp)
        let onShutdown = shuttingDown.observe(giveUp)
        defer {
            hangUp.forget(onHangUp)
            shuttingDown.forget(onShutdown)
        }
        let result = await withTaskCancellationHandler {
            await task.result
        } onCancel: {
            giveUp()
        }
        // A client that closed before the grant may not have been noticed yet: its end of file lies in the socket. The
        // loop looks at the socket before it runs this.
        try? await exchange.channel.eventLoop.scheduleTask(in: .microseconds(200)) {}.futureResult.get()
        return result
    }

    /// Says who holds, with a second look. What is seen may be newer than the refusal: then there is no holder to name.
    private func busy(_ asked: Acquisition, _ error: RingfenceError) async -> Problem {
        var problem = Problem(error as any Error)
        for name in asked.names {
            guard let status = try? await client.inspect(name) else { break }
            guard let holder = status.holder else { continue }
            let remaining = holder.remaining.wholeMilliseconds
            let reason = BusyReason.held(by: holder.owner, milliseconds: remaining)
            problem.detail = RingfenceError.busy([name], reason, waited: asked.wait).message
            problem.holder = .init(name: name, owner: holder.owner, fence: holder.fence, remainingMs: remaining)
            // The holder may release at any time, and a queue is better than polling: hence at most a second.
            problem.retryAfterMs = min(max(remaining, 50), 1_000)
            break
        }
        if problem.retryAfterMs == nil { problem.retryAfterMs = 50 }
        return problem
    }

    private func force(_ exchange: inout Exchange) async throws -> Reply {
        let body = exchange.body.readableBytes > 0 ? try JSONObject(exchange.body, Self.forceSchema) : nil
        let actor = try exchange.readActor(body)
        let reason = try exchange.reason(body)
        guard let forced = try await client.forceRelease(exchange["name"], actor: actor, reason: reason) else {
            throw Problem(.notHeld, "nobody holds \(quoted(exchange["name"]))")
        }
        return Reply(JSONWriter.describing(forced))
    }
}

/// What is asked for.
struct Acquisition: Sendable {
    var names: [String]
    var owner: String
    var ttl: Duration
    var wait: Duration
    var durability: Durability
}

extension RingfenceClient {
    fileprivate func grant(_ asked: Acquisition) async throws -> LockGrant {
        try await acquireGrant(
            asked.names, owner: asked.owner, ttl: asked.ttl, wait: asked.wait, durability: asked.durability)
    }
}
