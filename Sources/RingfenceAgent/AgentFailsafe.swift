// SPDX-License-Identifier: Apache-2.0
//
// Agents without Redis, while it is away: the primary's agent asks the others for the promise that lets its role go on,
// and each answers for itself. What may be promised, and what follows from it, is decided in the membership
// (FailsafeMachine, RoleMachine); here is only the transport: `POST /promise` at the address that each agent has in its
// member's metadata.
//
// A question names the primary's session and the session that it is for. Both are known only to processes that can read
// the group, and a question can do no more than keep one member from a role for one lease, while it cannot reach Redis.
// So the endpoint needs no password of its own. An answer counts only if it repeats in its own words what was asked:
// another program on the port of an agent that is gone, which says 200 to everything, makes no promise. An attacker who
// can change the traffic can forge one: see Failover.md.
import Logging
import Ringfence
import RingfenceAgentCore
import RingfenceCore
import RingfenceOperations
import Synchronization

/// Asks for promises and gives them, for one membership.
final class AgentFailsafe: Sendable {
    static let path = "/promise"
    /// The metadata key of the address at which a member is asked.
    static let key = "ringfence.agent"

    private let logger: Logger
    private let membership = Mutex<Membership?>(nil)
    private let hasWarned = Atomic<Bool>(false)

    init(logger: Logger) { self.logger = logger }

    /// Whether the role goes on by the promises of others now.
    var isInFailsafe: Bool { membership.withLock { $0 }?.isInFailsafe == true }

    // MARK: Asking

    /// Asks whenever it is needed, for as long as the task runs.
    func run(_ membership: Membership) async {
        self.membership.withLock { $0 = membership }
        var wasInFailsafe = false
        while !Task.isCancelled {
            let pause = membership.member.lease / 10
            if let (question, peers, askedAt) = membership.promisesNeeded() {
                let limit = Duration.milliseconds(question.leaseMilliseconds) / 4
                if peers.isEmpty { membership.promised(question, by: [], askedAt: askedAt) }
                warn(of: peers.filter { $0.metadata[Self.key] == nil }.map(\.id), in: membership.groupName)
                await withTaskGroup(of: Void.self) { tasks in
                    for peer in peers {
                        tasks.addTask {
                            guard await Self.ask(peer, question, within: limit) else { return }
                            membership.promised(question, by: [peer.session], askedAt: askedAt)
                        }
                    }
                }
            }
            let isInFailsafe = isInFailsafe
            if isInFailsafe != wasInFailsafe {
                let text =
                    isInFailsafe
                    ? "Redis is away: the role goes on by the promise of all other candidates"
                    : "the role does not need the others' promise any more, or has ended"
                logger.warning("\(text)", metadata: ["group": "\(membership.groupName)"])
            }
            wasInFailsafe = isInFailsafe
            try? await Task.sleep(for: max(pause, .milliseconds(10)))
        }
    }

    /// The setting says failsafe, and no candidate can be asked.
    private func warn(of silent: [String], in group: String) {
        guard !silent.isEmpty, !hasWarned.exchange(true, ordering: .relaxed) else { return }
        logger.warning(
            """
            candidates that cannot be asked for a promise: the role ends with its lease, though the settings say \
            failsafe
            """,
            metadata: ["group": "\(group)", "members": "\(silent.joined(separator: " "))"])
    }

    private static func ask(_ peer: MemberRecord, _ question: FailsafeMachine.Question, within limit: Duration) async
        -> Bool
    {
        guard let text = peer.metadata[key], MemberAddress.isEndpoint(text),
            let endpoint = AgentConfiguration.Endpoint(text, lowestPort: 1)
        else {
            return false
        }
        let plan = AgentConfiguration.HTTPRequestPlan(
            isSecure: false, endpoint: endpoint,
            target: "\(path)?for=\(peer.session)&session=\(question.session)&epoch=\(question.epoch)"
                + "&leaseMs=\(question.leaseMilliseconds)",
            authority: text, method: "POST", status: 200...200, body: word(question, of: peer.session))
        guard let probe = try? HTTPProbe(plan) else { return false }
        return await probe.look(timeout: limit).failure == nil
    }

    // MARK: Answering

    /// The answer to a question: 200 if it is promised, else why not.
    func answer(_ query: String) -> EndpointAnswer {
        var fields: [Substring: Substring] = [:]
        for pair in query.split(separator: "&") {
            let parts = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            if parts.count == 2 { fields[parts[0]] = parts[1] }
        }
        guard let own = fields["for"], let session = fields["session"],
            let epoch = fields["epoch"].flatMap({ Int64($0) }), let lease = fields["leaseMs"].flatMap({ Int64($0) }),
            Limits.memberLease.contains(lease.multipliedClamping(by: .millisecond))
        else {
            return EndpointAnswer(status: 400, body: Self.refusal("for, session, epoch and leaseMs are needed"))
        }
        guard let membership = membership.withLock({ $0 }) else {
            return EndpointAnswer(status: 409, body: Self.refusal("this agent is no candidate"))
        }
        let question = FailsafeMachine.Question(epoch: epoch, session: String(session), leaseMilliseconds: lease)
        if let objection = membership.promise(question, session: String(own)) {
            return EndpointAnswer(status: 409, body: Self.refusal(objection))
        }
        return EndpointAnswer(status: 200, body: "{\(Self.word(question, of: String(own)))}\n")
    }

    /// What an answer says that promises.
    private static func word(_ question: FailsafeMachine.Question, of session: String) -> String {
        #""promised":"\#(session) \#(question.epoch) \#(question.session)""#
    }

    private static func refusal(_ why: String) -> String {
        var json = JSONWriter()
        json.object { $0.field("error", why) }
        return json.text + "\n"
    }
}

extension AgentConfiguration {
    /// Where other agents ask this one; nil: nowhere.
    func promiseAddress(port: Int?) -> String? {
        guard let listen, let port else { return nil }
        if let advertise { return "\(advertise.authority)" }
        guard !["0.0.0.0", "::", "*"].contains(listen.host) else { return nil }
        return Endpoint(host: listen.host, port: port).authority
    }
}

extension AgentConfiguration.Endpoint {
    /// HOST:PORT, as it is read.
    fileprivate var authority: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}
