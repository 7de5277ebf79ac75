// SPDX-License-Identifier: Apache-2.0
//
// Performing what a lock machine decides, and what a caller is told whose wait failed.

import CoreMetrics
import Hiredis
import RingfenceCore

extension LockTable {
    func perform(
        _ action: LockMachine.Action, _ key: LockKey, _ entry: Entry, _ turn: LockLine.Turn, _ now: Nanos,
        _ deferred: inout DeferredResumes
    ) {
        switch action {
        case .ask(let ticket, let nonce, let terms, let queue):
            // That was of the acquire before.
            entry.refusal = nil
            entry.asking = (ticket, send(.acquire(nonce: nonce, terms, queue: queue), key, ticket))
        case .claim(let ticket, let value, let terms):
            sendClaim(key, ticket, value, terms)
        case .release(let ticket, let value, let successor):
            _ = send(.release(value, successor: successor), key, ticket)
        case .deliver(let id, let grant):
            guard let waiting = entry.takeWaiting(id) else { return }
            metrics.grants.increment()
            if turn.passes > 0 { metrics.passes.increment() }
            metrics.wait.recordNanoseconds(now - waiting.since)
            switch waiting.caller {
            case .lease(let continuation, let maximumHold, let renews):
                let lease = LeaseState(key: key, grant: grant, maximumHold: maximumHold, renews: renews)
                keeper.add(lease)
                deferred.append(.lease(continuation, lease))
            case .remote(let continuation): deferred.append(.remote(continuation, grant))
            }
        case .refuse(let id, let refusal):
            guard let waiting = entry.takeWaiting(id) else { return }
            deferred.append(resume(waiting.caller, refused: refusal, turn.failure, key, entry))
        case .releaseDone(let value, let outcome):
            if let index = entry.releasing.firstIndex(where: {
                $0.value.fence == value.fence && $0.value.nonce == value.nonce
            }) {
                deferred.append(.released(entry.releasing.remove(at: index).continuation, outcome))
            }
        case .cleanUp(let nonce, let terms):
            cleanUp.perform(
                scripts.cancel(key.names, nonce: nonce, terms), confirmation: key.confirmation,
                holdMilliseconds: terms.holdMilliseconds)
        case .cleanUpValue(let value):
            // By its nonce: of several names a part may be gone. It stands in no queue, so the hold does not matter.
            let terms = LockTerms(owner: value.owner, ttl: 0)
            cleanUp.perform(
                scripts.cancel(key.names, nonce: value.nonce, terms), confirmation: key.confirmation,
                holdMilliseconds: Limits.ttl.upperBound / .millisecond)
        }
    }

    private func resume(
        _ caller: Caller, refused refusal: LockMachine.Refusal, _ failure: LockLine.Failure?, _ key: LockKey,
        _ entry: Entry
    ) -> DeferredResume {
        switch refusal {
        case .busy:
            metrics.busy.increment()
            return .busy(caller, entry.busy)
        case .failed:
            metrics.failures.increment()
            return .failed(caller, error(of: failure ?? .ended(isUnknown: true), key, entry))
        case .unconfirmed:
            metrics.failures.increment()
            return .failed(caller, entry.refusal ?? .noAnswer(key.names))
        }
    }

    /// Why a wait failed: always the last reason that is known. `unknown` only if bytes of it left.
    private func error(of failure: LockLine.Failure, _ key: LockKey, _ entry: Entry) -> RingfenceError {
        if let refusal = entry.refusal { return refusal }
        let doing = "acquiring \(describe(key.names))"
        switch failure {
        case .notSent(let isUnknown):
            let absence =
                entry.asking?.submission.absence
                ?? RedisError(.notConnected, effect: .none, "the command was not sent in time")
            var error = RingfenceError(absence, doing)
            (error.code, error.isRetriable) = (.coordinatorUnavailable, true)
            error.message = "\(doing): no connection in the time to wait; last: \(absence.message)"
            error.effect = isUnknown ? .unknown : .none
            if isUnknown { error.message += "; an earlier try had no answer and is being withdrawn" }
            return error
        case .ended(let isUnknown):
            guard let last = entry.lastError else { return .noAnswer(key.names) }
            var error = RingfenceError(last, doing)
            if isUnknown, error.effect == .none {
                error.effect = .unknown
                error.message += "; another try had no answer and is being withdrawn"
            }
            return error
        }
    }
}
