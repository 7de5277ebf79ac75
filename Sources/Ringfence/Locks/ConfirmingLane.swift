// SPDX-License-Identifier: Apache-2.0
//
// The way of all calls for locks that replicas confirm.
//
// `WAIT` stops everything behind it on its connection until the replicas have answered. With one `WAIT` behind each call
// such a connection carries one grant per round trip to the replicas, however many ask. But `WAIT` counts the replicas that
// have all that its connection wrote so far; so one of them is good for all calls before it. Here calls gather while one
// group of calls with its `WAIT` is under way, and all that gathered go as the next: a grant waits for at most two.
//
// The order of calls is kept, also of those that nobody confirms (a withdrawal must not pass the acquire that it
// withdraws): they go at once only if nothing waits here, and else in their place. Submitting is done under the lane's own
// lock, or one thread could pass another between the decision and the deed; the connection calls nobody back from there.

import Hiredis
import NIOCore
import RingfenceCore
import Synchronization

final class ConfirmingLane: Sendable {
    typealias Completion = @Sendable (Result<RedisClient.Confirmed, RedisError>) -> Void

    private struct Entry: Sendable {
        var call: RedisClient.ScriptPart
        /// nil: nobody confirms it.
        var confirmation: Durability.Confirmation?
        /// It is not begun after this moment.
        var until: Nanos
        var completion: Completion
    }

    private struct State {
        var waiting: [Entry] = []
        var isUnderWay = false
    }

    /// Calls of one group: what Redis does without looking at others, but for the `WAIT`.
    private static let most = 128

    let client: RedisClient
    private let commandTimeout: Duration
    private let limit: Int
    private let state = Mutex(State())

    init(_ client: RedisClient, commandTimeout: Duration, limit: Int) {
        self.client = client
        self.commandTimeout = commandTimeout
        self.limit = limit
    }

    /// Runs a call that nobody confirms, behind all that came before it.
    func run(_ errand: any ScriptErrand) {
        submit(errand, until: Moment.now.adding(Nanos(saturating: errand.deadline ?? commandTimeout)))
    }

    /// Runs a call, and asks how many replicas have it.
    func run(_ call: ScriptCall, _ confirmation: Durability.Confirmation, completion: @escaping Completion) {
        let patience = Nanos(saturating: commandTimeout) + confirmation.milliseconds * .millisecond
        let part = RedisClient.ScriptPart(
            script: call.script, keys: call.keys, arguments: call.arguments, encode: call.encode)
        append(
            Entry(
                call: part, confirmation: confirmation, until: Moment.now.adding(patience), completion: completion))
    }

    private func submit(_ errand: any ScriptErrand, until: Nanos) {
        let isSent = state.withLock { state in
            guard state.waiting.isEmpty else { return false }
            client.run(errand)
            return true
        }
        guard !isSent else { return }
        let part = RedisClient.ScriptPart(
            script: errand.script, keys: errand.keys, arguments: errand.arguments, encode: { errand.encode(&$0) })
        append(
            Entry(call: part, confirmation: nil, until: until) { result in errand.finish(result.map(\.reply)) })
    }

    private func append(_ entry: Entry) {
        let (late, isFull) = state.withLock { state -> ([Entry], Bool) in
            guard state.waiting.count < limit else { return ([], true) }
            state.waiting.append(entry)
            return (sendNext(&state), false)
        }
        if isFull {
            client.eventLoop.execute {
                entry.completion(
                    .failure(RedisError(.overloaded, effect: .none, "too many calls wait for their confirmation")))
            }
        }
        refuse(late)
    }

    /// Those for which it is too late now are for the caller to refuse, outside the lock.
    private func sendNext(_ state: inout State) -> [Entry] {
        guard !state.isUnderWay else { return [] }
        let now = Moment.now
        let late = state.waiting.filter { $0.until <= now }
        state.waiting.removeAll { $0.until <= now }
        let confirmation = state.waiting.lazy.compactMap(\.confirmation).first
        let count =
            state.waiting.prefix(Self.most).firstIndex { $0.confirmation != nil && $0.confirmation != confirmation }
            ?? min(state.waiting.count, Self.most)
        guard count > 0 else { return late }
        let group = Array(state.waiting[..<count])
        state.waiting.removeFirst(count)
        state.isUnderWay = true
        let within = Duration.milliseconds(confirmation?.milliseconds ?? 1)
        client.runAndWait(
            group.map(\.call), replicas: confirmation?.replicas ?? 0, within: within, deadline: commandTimeout + within
        ) { [self] result in ended(group, result) }
        return late
    }

    private func ended(_ group: [Entry], _ result: Result<RedisClient.ConfirmedParts, RedisError>) {
        var again: [Entry] = []
        var done: [(Entry, Result<RedisClient.Confirmed, RedisError>)] = []
        for (index, entry) in group.enumerated() {
            let its = result.flatMap { $0.part(index) }
            if case .failure(let error) = its, error.server?.prefix == .noScript, !entry.call.isWhole {
                // Nothing was done. It keeps its place before all that came after it.
                var entry = entry
                entry.call.isWhole = true
                again.append(entry)
            } else {
                done.append((entry, its))
            }
        }
        let late = state.withLock { state in
            state.isUnderWay = false
            state.waiting.insert(contentsOf: again, at: 0)
            return sendNext(&state)
        }
        for (entry, result) in done { entry.completion(result) }
        refuse(late)
    }

    private func refuse(_ late: [Entry]) {
        guard !late.isEmpty else { return }
        client.eventLoop.execute {
            for entry in late {
                entry.completion(
                    .failure(RedisError(.timedOut, effect: .none, "its turn did not come within the deadline")))
            }
        }
    }
}
