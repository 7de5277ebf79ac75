// SPDX-License-Identifier: Apache-2.0
//
// The commands of the lock machines, and their answers as events.

import Hiredis
import RingfenceCore

extension LockTable {
    /// A command of a machine, under way.
    final class Command: ScriptRequest {
        let table: LockTable
        let key: LockKey
        let ticket: LockMachine.Ticket
        let verb: LockScripts.Verb

        init(_ table: LockTable, _ key: LockKey, _ ticket: LockMachine.Ticket, _ verb: LockScripts.Verb) {
            self.table = table
            self.key = key
            self.ticket = ticket
            self.verb = verb
        }

        var script: RedisScript { table.scripts.lock }
        var keys: Int { LockScripts.keys(of: key.names) }
        var arguments: Int { verb.arguments }
        var deadline: Duration? { nil }
        func encode(_ writer: inout CommandWriter) { table.scripts.encode(key.names, verb, &writer) }

        func finish(_ result: Result<RedisReply, RedisError>) {
            switch result {
            case .success(let reply): table.answered(self, .init(reply: reply, acknowledgement: nil))
            case .failure(let error): table.failed(self, error)
            }
        }

        /// What may have been got and is not wanted any more, if this asked for anything.
        var asked: (nonce: String, terms: LockTerms)? {
            if case .acquire(let nonce, let terms, _) = verb { (nonce, terms) } else { nil }
        }

        /// Whether somebody gets the lock by it, which replicas may have to confirm.
        var grants: Bool { if case .release(_, nil) = verb { false } else { true } }
    }

    func send(_ verb: LockScripts.Verb, _ key: LockKey, _ ticket: LockMachine.Ticket) -> ScriptRunner.Submission {
        let command = Command(self, key, ticket, verb)
        guard command.grants, let confirmation = key.confirmation else {
            return runner.run(command, confirmation: key.confirmation)
        }
        return runner.runConfirmed(scripts.call(key.names, verb), confirmation) { [self] result in
            switch result {
            case .success(let confirmed): answered(command, confirmed)
            case .failure(let error): failed(command, error)
            }
        }
    }

    func sendClaim(_ key: LockKey, _ ticket: LockMachine.Ticket, _ value: LockValue, _ terms: LockTerms) {
        let call = scripts.renew(
            [(key.names, value.text, terms.holdMilliseconds)], claimedBy: nonces.process)
        let finish: @Sendable (Result<RedisClient.Confirmed, RedisError>) -> Void = { [self] result in
            switch result {
            case .failure(let error): claimFailed(key, ticket, error)
            case .success(let confirmed):
                guard let renewed = LockScripts.renewed(confirmed.reply, count: 1) else {
                    claimFailed(key, ticket, .shape(confirmed.reply))
                    return
                }
                if !renewed[0] {
                    handle(key, .claimRefused(ticket))
                } else if let shortfall = shortfall(key, confirmed) {
                    handle(key, .unconfirmed(ticket, fence: value.fence)) {
                        if $0.line.machine.awaits(ticket) { $0.refusal = shortfall }
                        return true
                    }
                } else {
                    handle(key, .claimed(ticket))
                }
            }
        }
        if let confirmation = key.confirmation {
            runner.runConfirmed(call, confirmation, completion: finish)
        } else {
            runner.run(call, confirmation: nil) { result in
                finish(result.map { .init(reply: $0, acknowledgement: nil) })
            }
        }
    }

    /// What is told of a grant that too few replicas have; nil if it is good.
    private func shortfall(_ key: LockKey, _ confirmed: RedisClient.Confirmed) -> RingfenceError? {
        guard let confirmation = key.confirmation, let acknowledgement = confirmed.acknowledgement,
            !acknowledgement.isEnough
        else { return nil }
        return .notConfirmed(key.names, acknowledgement, confirmation)
    }

    private func answered(_ command: Command, _ confirmed: RedisClient.Confirmed) {
        let (key, ticket) = (command.key, command.ticket)
        switch LockScripts.answer(confirmed.reply) {
        case .granted(let fence):
            if let shortfall = shortfall(key, confirmed) {
                ended(command, .unconfirmed(ticket, fence: fence), refusal: shortfall)
            } else {
                ended(command, .granted(ticket, fence: fence))
            }
        case .queued(let position, let milliseconds, let arrival):
            ended(command, .queued(ticket, position: position, milliseconds: milliseconds, arrival: arrival))
        case .busy(let milliseconds, let owner, _):
            let reason = owner.isEmpty ? BusyReason.line : .held(by: owner, milliseconds: milliseconds)
            ended(command, .busy(ticket, milliseconds: milliseconds), busy: reason)
        case .done: ended(command, .released(ticket))
        case .full(let index):
            let name = key.names.indices.contains(index) ? key.names[index] : ""
            ended(
                command, .failed(ticket, retriable: false),
                error: RedisError(.server, effect: .none, "there is no place left in the line"),
                refusal: .lineIsFull(name, scripts.waiters))
        case nil: failed(command, .shape(confirmed.reply))
        }
    }

    private func failed(_ command: Command, _ error: RedisError) {
        let error = runner.refusals.noted(error)
        ended(command, failure(command.ticket, error), error: error)
    }

    private func failure(_ ticket: LockMachine.Ticket, _ error: RedisError) -> LockMachine.Event {
        guard error.isForNow else { return .failed(ticket, retriable: error.isTransient) }
        return .deferred(
            ticket, pause: Nanos(saturating: RedisError.pauseForNow()), patience: runner.commandTimeout)
    }

    private func ended(
        _ command: Command, _ event: LockMachine.Event, error: RedisError? = nil, refusal: RingfenceError? = nil,
        busy: BusyReason = .unknown
    ) {
        let (key, ticket) = (command.key, command.ticket)
        let ending = LockLine.Ending(event, isUndone: error?.effect == RedisError.Effect.none)
        let isAwaited = handle(key, event, ended: (ticket, ending), error: error, refusal: refusal, busy: busy)
        guard !isAwaited, LockLine.withdrawsAgain(ending), let asked = command.asked else { return }
        cleanUp.perform(
            scripts.cancel(key.names, nonce: asked.nonce, asked.terms), confirmation: key.confirmation,
            holdMilliseconds: asked.terms.holdMilliseconds)
    }

    private func claimFailed(_ key: LockKey, _ ticket: LockMachine.Ticket, _ error: RedisError) {
        let error = runner.refusals.noted(error)
        let event = failure(ticket, error)
        handle(key, event, ended: (ticket, .init(event, isUndone: error.effect == .none)), error: error)
    }
}
