// SPDX-License-Identifier: Apache-2.0
//
// Every failure leaves the service in one shape: application/problem+json (RFC 9457) with a stable `code` to branch on,
// the field at fault, what is known of the request's work at Redis (`effect`), and when it is worth asking again. One
// code has one status, listed here and nowhere else; the OpenAPI document is made from the same list.
import HTTPTypes
import Hiredis
import Ringfence
import RingfenceCore
import RingfenceOperations

/// A failure as the client sees it.
struct Problem: Error {
    /// The stable kind of a failure, its status and its title.
    struct Code: Hashable, Sendable {
        let name: String
        let status: Int
        let title: String

        static let invalidArgument = Code(name: "argument.invalid", status: 400, title: "An argument is not valid")
        static let badRequest = Code(name: "request.malformed", status: 400, title: "The request is not HTTP/1.1")
        static let unauthorized = Code(name: "unauthorized", status: 401, title: "A bearer token is required")
        static let originRefused = Code(
            name: "origin.refused", status: 403, title: "A web page of another origin may not order this")
        static let hostRefused = Code(
            name: "host.refused", status: 421, title: "The service is not called by this name")
        static let routeNotFound = Code(name: "route.notFound", status: 404, title: "There is no such resource")
        static let memberNotFound = Code(name: "member.notFound", status: 404, title: "There is no such member")
        static let callNotFound = Code(name: "call.notFound", status: 404, title: "There is no such call")
        static let methodNotAllowed = Code(name: "method.notAllowed", status: 405, title: "Method not allowed")
        static let timeout = Code(name: "request.timeout", status: 408, title: "The request came too slowly")
        static let busy = Code(name: "lock.busy", status: 409, title: "Somebody else holds the lock")
        static let notHeld = Code(name: "lock.notHeld", status: 409, title: "The lock is not held with this token")
        static let notConfirmed = Code(
            name: "lock.notConfirmed", status: 409, title: "Too few replicas have the grant")
        static let replaced = Code(name: "membership.replaced", status: 409, title: "Another session has this id")
        static let taken = Code(name: "membership.taken", status: 409, title: "Another member lives under this id")
        static let expired = Code(name: "membership.expired", status: 409, title: "This session is no member any more")
        static let limitReached = Code(name: "limit.reached", status: 409, title: "A limit of the namespace is reached")
        static let orderRefused = Code(name: "order.refused", status: 409, title: "The order is refused")
        static let switchoverAborted = Code(
            name: "switchover.aborted", status: 409, title: "The switchover was taken back")
        static let failoverAborted = Code(
            name: "failover.aborted", status: 409, title: "Failover aborted")
        static let eventsGone = Code(name: "events.gone", status: 410, title: "The log does not have these events")
        static let bodyTooLarge = Code(name: "body.tooLarge", status: 413, title: "The body is too large")
        static let unsupportedMedia = Code(name: "body.unsupported", status: 415, title: "The body must be JSON")
        static let headersTooLarge = Code(name: "headers.tooLarge", status: 431, title: "The headers are too large")
        static let `internal` = Code(name: "internal", status: 500, title: "The service failed")
        static let overloaded = Code(name: "coordinator.overloaded", status: 503, title: "Too many requests wait")
        static let unavailable = Code(name: "coordinator.unavailable", status: 503, title: "Redis cannot be reached")
        static let refused = Code(name: "coordinator.refused", status: 503, title: "Redis refused the command")
        static let breakerOpen = Code(name: "breaker.open", status: 503, title: "Calls to the group are stopped")
        static let noMember = Code(name: "balancer.noMember", status: 503, title: "No member available")
        // What /readyz says of Redis.
        static let isReplica = Code(name: "redis.isReplica", status: 503, title: "This Redis is a replica")
        static let isSentinel = Code(name: "redis.isSentinel", status: 503, title: "This Redis is a Sentinel")
        static let isCluster = Code(
            name: "redis.isCluster", status: 503, title: "This Redis is a node of a Cluster")
        static let notCluster = Code(
            name: "redis.notCluster", status: 503, title: "This Redis is no node of a Cluster")
        static let slotElsewhere = Code(
            name: "redis.slotElsewhere", status: 503, title: "The slot is at another node of the Cluster")
        static let slotMigrating = Code(
            name: "redis.slotMigrating", status: 503, title: "The slot is being moved to another node")
        static let clusterDown = Code(name: "redis.clusterDown", status: 503, title: "The Redis Cluster is down")
        static let noPrimary = Code(name: "redis.noPrimary", status: 503, title: "No Redis is primary now")
        static let sentinelsDisagree = Code(
            name: "redis.sentinelsDisagree", status: 503, title: "The Sentinels name two primaries")
        static let noMajority = Code(
            name: "redis.noMajority", status: 503, title: "Too few Sentinels answer")
        static let forbidden = Code(
            name: "redis.forbidden", status: 503, title: "The user of Redis may not do what locks need")
        static let notReady = Code(name: "redis.notReady", status: 503, title: "Redis takes no commands yet")
        static let ofRedis: [Code] = [
            isReplica, isSentinel, isCluster, notCluster, slotElsewhere, slotMigrating, clusterDown, noPrimary,
            sentinelsDisagree, noMajority, forbidden, notReady,
        ]
        static let full = Code(name: "service.full", status: 503, title: "Too many connections are open")
        static let shuttingDown = Code(name: "service.shuttingDown", status: 503, title: "The service is shutting down")
    }

    /// The holder of the lock asked for.
    struct Holder {
        var name: String
        var owner: String
        var fence: Int64
        var remainingMs: Int64
    }

    var code: Code
    /// In place of the code's own.
    var title: String?
    var detail: String
    var field: String?
    /// `none`, `applied` or `unknown`.
    var effect = "none"
    var retryAfterMs: Int64?
    var holder: Holder?
    /// For 410: where the log is, and how many events lie between.
    var gone: (cursor: String, oldest: String, lost: Int?)?
    /// Of a refused order: all of them.
    var reasons: [Refusal] = []
    /// Of the answer, beside those that follow from the rest: what is allowed instead.
    var headers: [HTTPField] = []

    init(_ code: Code, _ detail: String, field: String? = nil, retryAfterMs: Int64? = nil) {
        self.code = code
        self.detail = detail
        self.field = field
        self.retryAfterMs = retryAfterMs
    }

    init(_ error: InvalidArgument) {
        self.init(.invalidArgument, error.description, field: error.field)
    }

    /// Any error of a handler.
    init(_ error: any Error) {
        switch error {
        case let problem as Problem: self = problem
        case let error as InvalidArgument: self.init(error)
        case let error as JSONError: self.init(.invalidArgument, error.message, field: error.field ?? "body")
        case let error as RingfenceError: self.init(error)
        case is CancellationError:
            // Nothing but the end of the service cancels a handler.
            self.init(.shuttingDown, "the service is shutting down", retryAfterMs: 1_000)
            effect = "unknown"
        default: self.init(.internal, "the service failed unexpectedly; its log says more")
        }
    }

    private init(_ error: RingfenceError) {
        switch error.code {
        case .argumentInvalid: self.init(.invalidArgument, error.message)
        case .lockBusy: self.init(.busy, error.message)
        case .lockNotHeld, .leaseLost: self.init(.notHeld, error.message)
        case .lockNotConfirmed: self.init(.notConfirmed, error.message, retryAfterMs: 1_000)
        case .membershipReplaced: self.init(.replaced, error.message)
        case .membershipTaken: self.init(.taken, error.message, retryAfterMs: error.retryAfterMilliseconds)
        case .membershipExpired: self.init(.expired, error.message)
        case .limitReached: self.init(.limitReached, error.message)
        case .orderRefused: self.init(.orderRefused, error.message)
        case .switchoverAborted: self.init(.switchoverAborted, error.message)
        case .failoverAborted: self.init(.failoverAborted, error.message)
        case .breakerOpen:
            // Of one that an operator forced open nobody knows.
            self.init(
                .breakerOpen, error.message,
                retryAfterMs: error.retryAfter.map { max(1, $0.wholeMilliseconds) } ?? 1_000)
        case .balancerNoMember: self.init(.noMember, error.message, retryAfterMs: 1_000)
        case .coordinatorOverloaded: self.init(.overloaded, error.message, retryAfterMs: 100)
        case .coordinatorUnavailable: self.init(.unavailable, error.message, retryAfterMs: 1_000)
        case .coordinatorRefused: self.init(.refused, error.message, retryAfterMs: 1_000)
        case .cancelled, .clientShutDown: self.init(.shuttingDown, error.message, retryAfterMs: 1_000)
        default: self.init(.internal, error.message)
        }
        effect = error.effect.rawValue
        reasons = error.reasons
        if code == .unavailable || code == .refused { title = (error.underlying as? RedisError)?.title }
    }

    /// The answer that carries it.
    var reply: Reply {
        var json = JSONWriter(capacity: 320)
        json.object { json in
            json.field("type", "urn:ringfence:problem:" + code.name)
            json.field("title", title ?? code.title)
            json.field("status", code.status)
            json.field("code", code.name)
            json.field("detail", detail)
            if let field { json.field("field", field) }
            json.field("effect", effect)
            if let retryAfterMs { json.field("retryAfterMs", retryAfterMs) }
            if !reasons.isEmpty {
                json.key("reasons")
                json.reasons(reasons)
            }
            if let gone {
                json.field("cursor", gone.cursor)
                json.field("oldest", gone.oldest)
                json.key("lost")
                if let lost = gone.lost { json.integer(lost) } else { json.null() }
            }
            if let holder {
                json.key("holder")
                json.object { json in
                    json.field("name", holder.name)
                    json.field("owner", holder.owner)
                    json.field("fence", String(holder.fence))
                    json.field("remainingMs", holder.remainingMs)
                }
            }
        }
        var reply = Reply(json, status: .init(code: code.status), type: "application/problem+json")
        // Whole seconds, never less than asked for.
        if let retryAfterMs { reply.headers.append(.init(name: .retryAfter, value: "\((retryAfterMs + 999) / 1_000)")) }
        reply.headers += headers
        reply.code = code
        if code == .unauthorized {
            reply.headers.append(.init(name: .wwwAuthenticate, value: #"Bearer realm="ringfence""#))
        }
        return reply
    }
}
