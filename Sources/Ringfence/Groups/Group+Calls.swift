// SPDX-License-Identifier: Apache-2.0
//
// A group's calls to Redis: what the machine asks for is written, and what comes is read and handed back to it.

import CoreMetrics
import Hiredis
import Logging
import NIOCore
import RingfenceCore
import Synchronization

extension Group {
    func send(_ request: LocalGroup.Request) {
        switch request.kind {
        case .look: run(request, hub.scripts.watch(name, request.knowledge))
        case .member(_, let call, let status):
            run(request, script(call, request.knowledge, status), for: call.record.lease)
        case .beats(let list):
            let beats = list.map { beat in
                let record = beat.call.record
                return GroupAnswer.Beat(
                    id: record.id, session: record.session, leaseMilliseconds: record.leaseMilliseconds,
                    joined: beat.call.joined)
            }
            run(request, hub.scripts.beats(name, beats), for: list[0].call.record.lease)
        }
    }

    private func script(
        _ call: MemberMachine.Call, _ knowledge: GroupKnowledge, _ status: CandidateStatus?
    ) -> ScriptCall {
        let record = call.record
        switch call.kind {
        case .beat:
            return hub.scripts.beat(
                name, knowledge, id: record.id, session: record.session, leaseMilliseconds: record.leaseMilliseconds,
                joined: call.joined, status: status)
        case .write:
            return hub.scripts.join(
                name, knowledge, record, call.mode, policy ?? requestedPolicy, status: status)
        case .leave:
            return hub.scripts.leave(
                name, knowledge, id: record.id, session: record.session, reason: call.reason, actor: "")
        }
    }

    /// A call that is late is given up while there is time to try again.
    private func run(_ request: LocalGroup.Request, _ script: ScriptCall, for lease: Nanos? = nil) {
        let patience = lease.map { Duration.nanoseconds(min(hub.commandTimeout, MembershipMachine.patience($0))) }
        hub.runner.run(script, confirmation: nil, deadline: patience) { [self] result in
            let answer = read(result, sentAt: request.sentAt, asked: request.knowledge.asks)
            countBeats(request, answer)
            let reply: MemberMachine.Reply =
                switch answer {
                case .success(let answer): .answer(answer)
                case .failure(let error): error.code == .closed ? .closed : .none
                }
            handle(.answered(request, reply))
        }
    }

    private func countBeats(_ request: LocalGroup.Request, _ answer: Result<GroupAnswer, RedisError>) {
        let keys: [LocalGroup.Key]
        switch request.kind {
        case .look: return
        case .member(let key, let call, _): keys = call.kind == .leave ? [] : [key]
        case .beats(let list): keys = list.map(\.key)
        }
        guard !keys.isEmpty else { return }
        hub.metrics.beats.increment(by: Int64(keys.count))
        if case .failure = answer { return hub.metrics.beatFailures.increment(by: Int64(keys.count)) }
        let now = Moment.now
        for deadline in deadlines(of: keys) { hub.metrics.memberMargin.recordNanoseconds(max(0, deadline - now)) }
    }

    private func read(
        _ result: Result<RedisReply, RedisError>, sentAt: Nanos, asked: Bool
    ) -> Result<GroupAnswer, RedisError> {
        let answer = result.flatMap { reply -> Result<GroupAnswer, RedisError> in
            GroupScripts.answer(reply).map { .success($0) } ?? .failure(.shape(reply))
        }
        switch answer {
        case .failure(let error):
            if error.code == .protocolViolation {
                hub.logger.error(
                    "a group's answer cannot be read",
                    metadata: [LoggingKeys.group: "\(name)", LoggingKeys.error: "\(error)"])
            }
            let confirmed = confirmedAt.load(ordering: .acquiring)
            if confirmed != .min { hub.metrics.snapshotAge.recordNanoseconds(max(0, Moment.now - confirmed)) }
        case .success(let answer):
            // Followers of the log learn here that it has gone on, should the message be lost.
            hub.feed.heard(generation: answer.generation, sequence: answer.sequence)
            if let content = answer.content, !content.unreadable.isEmpty {
                hub.logger.error(
                    "records of members cannot be read: left out of what this process sees of the group",
                    metadata: [
                        LoggingKeys.group: "\(name)",
                        LoggingKeys.member: "\(content.unreadable.joined(separator: " "))",
                    ])
            }
            if asked { hub.metrics.snapshotAge.recordNanoseconds(max(0, Moment.now - sentAt)) }
        }
        return answer
    }

    /// The answer to a call about this group that was made elsewhere and asked what is new, or that none came.
    func heard(_ result: Result<RedisReply, RedisError>, sentAt: Nanos) -> Result<GroupAnswer, RedisError> {
        let answer = read(result, sentAt: sentAt, asked: true)
        handle(.heard(try? answer.get(), sentAt: sentAt))
        return answer
    }
}
