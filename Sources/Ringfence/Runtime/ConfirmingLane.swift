// SPDX-License-Identifier: Apache-2.0
//
// The way of all calls for locks that replicas confirm.
//
// `WAIT` stops everything behind it on its connection until the replicas have answered. With one `WAIT` behind each
// call such a connection carries one grant per round trip to the replicas, however many ask. But `WAIT` counts the
// replicas that have all that its connection wrote so far; so one of them is good for all calls before it. Here calls
// gather while one group of calls with its `WAIT` is under way, and all that gathered go as the next: a grant waits for
// at most two.
//
// The order of calls is kept, also of those that nobody confirms (a withdrawal must not pass the acquire that it
// withdraws): they go at once only if nothing waits here, and else in their place. Submitting is done under the lane's
// own lock, or one thread could pass another between the decision and the deed; the connection calls nobody back from
// there.
//
// A call can be taken back as long as its bytes did not leave: from those that wait, and from a group that stands in
// the connection's queue while there is no connection. The rest of that group then goes again, and nothing may have
// passed it meanwhile; so while a group is not written, all others wait here. Without a connection a group is one call,
// which makes taking back cheap where there is most of it, in an outage.
//
// A call that ends without having been sent is told so outside the lock, a moment later. A caller that takes it back in
// that moment must not hear that Redis may know of it, so its number is kept until it was told.

import Hiredis
import NIOCore
import RingfenceCore
import Synchronization

final class ConfirmingLane: Sendable {
    typealias Completion = @Sendable (Result<RedisClient.Confirmed, RedisError>) -> Void

    private struct Entry: Sendable {
        /// Rising in the order of the calls.
        var number: UInt64 = 0
        /// Taken back; it stays until it is met.
        var isWithdrawn = false
        var part: RedisClient.ScriptPart
        /// nil: nobody confirms it.
        var confirmation: Durability.Confirmation?
        /// It is not begun after this moment.
        var until: Nanos
        var completion: Completion
    }

    private struct State {
        var waiting: [Entry] = []
        /// How many of them were taken back.
        var withdrawn = 0
        var underWay: Group?
        var lastNumber: UInt64 = 0
        /// They ended without having been sent, and are about to be told.
        var unsent: Set<UInt64> = []
    }

    /// Calls with one `WAIT` behind them.
    private struct Group {
        /// Which group: the answer to one that was taken back does not count.
        var number: UInt64
        var entries: [Entry]
        var submission: RedisClient.Submission
    }

    /// A call on its way through the lane.
    struct Submission: Sendable {
        /// 0: it was refused.
        fileprivate var number: UInt64
        /// What has nothing to wait for goes straight to the connection.
        fileprivate var direct: RedisClient.Submission?
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
    @discardableResult
    func run(_ request: any ScriptRequest) -> Submission {
        submit(request, until: Moment.now.adding(Nanos(saturating: request.deadline ?? commandTimeout)))
    }

    /// Runs a call, and asks how many replicas have it.
    @discardableResult
    func run(
        _ call: ScriptCall, _ confirmation: Durability.Confirmation, completion: @escaping Completion
    ) -> Submission {
        let patience = Nanos(saturating: commandTimeout) + confirmation.milliseconds * .millisecond
        return append(
            Entry(
                part: .init(call), confirmation: confirmation, until: Moment.now.adding(patience),
                completion: completion))
    }

    /// Takes a call back whose bytes did not leave: they never will. Nobody is told of it, unless it ended just before,
    /// with an error of effect `none`. False if Redis may know of it.
    func withdraw(_ submission: Submission) -> Bool {
        if let direct = submission.direct { return client.withdraw(direct) }
        guard submission.number > 0 else { return true }
        let (isTaken, late) = state.withLock { state -> (Bool, [Entry]) in
            let isUnsent = state.unsent.contains(submission.number)
            if isUnsent || Self.withdraw(submission.number, &state) { return (true, []) }
            guard let group = state.underWay,
                let index = group.entries.firstIndex(where: { $0.number == submission.number }),
                client.withdraw(group.submission)
            else { return (false, []) }
            var rest = group.entries
            rest.remove(at: index)
            state.underWay = nil
            state.waiting.insert(contentsOf: rest, at: 0)
            return (true, sendNext(&state))
        }
        refuse(late)
        return isTaken
    }

    /// Whether the bytes of a call left; true as well when it ended otherwise.
    func wasWritten(_ submission: Submission) -> Bool {
        if let direct = submission.direct { return client.wasWritten(direct) }
        return state.withLock { state in
            if Self.index(of: submission.number, in: state) != nil || state.unsent.contains(submission.number) {
                return false
            }
            guard let group = state.underWay, group.entries.contains(where: { $0.number == submission.number }) else {
                return submission.number != 0
            }
            return client.wasWritten(group.submission)
        }
    }

    private static func index(of number: UInt64, in state: State) -> Int? {
        var (low, high) = (0, state.waiting.count)
        while low < high {
            let middle = (low + high) / 2
            if state.waiting[middle].number < number { low = middle + 1 } else { high = middle }
        }
        guard low < state.waiting.count, state.waiting[low].number == number, !state.waiting[low].isWithdrawn else {
            return nil
        }
        return low
    }

    private static func withdraw(_ number: UInt64, _ state: inout State) -> Bool {
        guard let index = index(of: number, in: state) else { return false }
        state.waiting[index].isWithdrawn = true
        state.withdrawn += 1
        // Now and then for many at once: each alone would move all that stand behind it.
        if state.withdrawn > max(64, state.waiting.count / 2) { drop(&state) { $0.isWithdrawn } }
        return true
    }

    private static func drop(_ state: inout State, _ isOver: (Entry) -> Bool) {
        state.waiting.removeAll { $0.isWithdrawn || isOver($0) }
        state.withdrawn = 0
    }

    private func submit(_ request: any ScriptRequest, until: Nanos) -> Submission {
        let direct = state.withLock { state -> RedisClient.Submission? in
            guard state.waiting.isEmpty, state.underWay.map({ client.wasWritten($0.submission) }) ?? true else {
                return nil
            }
            return client.run(request)
        }
        if let direct { return Submission(number: 0, direct: direct) }
        let call = ScriptCall(
            script: request.script, keys: request.keys, arguments: request.arguments, encode: { request.encode(&$0) })
        return append(
            Entry(part: .init(call), confirmation: nil, until: until) { result in request.finish(result.map(\.reply)) })
    }

    private func append(_ entry: Entry) -> Submission {
        let (number, late) = state.withLock { state -> (UInt64, [Entry]) in
            guard state.waiting.count - state.withdrawn < limit else { return (0, []) }
            state.lastNumber += 1
            var entry = entry
            entry.number = state.lastNumber
            state.waiting.append(entry)
            return (entry.number, sendNext(&state))
        }
        if number == 0 {
            client.eventLoop.execute {
                entry.completion(
                    .failure(RedisError(.overloaded, effect: .none, "too many calls wait for their confirmation")))
            }
        }
        refuse(late)
        return Submission(number: number)
    }

    /// Those for which it is too late now are for the caller to refuse, outside the lock.
    private func sendNext(_ state: inout State) -> [Entry] {
        guard state.underWay == nil else { return [] }
        let now = Moment.now
        let late = state.waiting.filter { $0.until <= now && !$0.isWithdrawn }
        state.unsent.formUnion(late.map(\.number))
        Self.drop(&state) { $0.until <= now }
        let confirmation = state.waiting.lazy.compactMap(\.confirmation).first
        let most = client.isConnected ? Self.most : 1
        let count =
            state.waiting.prefix(most).firstIndex { $0.confirmation != nil && $0.confirmation != confirmation }
            ?? min(state.waiting.count, most)
        guard count > 0 else { return late }
        let entries = Array(state.waiting[..<count])
        state.waiting.removeFirst(count)
        state.lastNumber += 1
        let number = state.lastNumber
        let within = Duration.milliseconds(confirmation?.milliseconds ?? 1)
        let submission = client.runAndWait(
            entries.map(\.part), replicas: confirmation?.replicas ?? .atLeast(0), within: within,
            deadline: commandTimeout + within
        ) { [self] result in ended(number, result) }
        state.underWay = Group(number: number, entries: entries, submission: submission)
        return late
    }

    private func ended(_ number: UInt64, _ result: Result<RedisClient.ConfirmedParts, RedisError>) {
        var done: [(entry: Entry, result: Result<RedisClient.Confirmed, RedisError>)] = []
        let late = state.withLock { state -> [Entry] in
            guard let group = state.underWay, group.number == number else { return [] }
            var again: [Entry] = []
            for (index, entry) in group.entries.enumerated() {
                let its = result.flatMap { $0.part(index) }
                if case .failure(let error) = its, error.server?.prefix == .noScript, !entry.part.isWhole {
                    // Nothing was done. It keeps its place before all that came after it.
                    var entry = entry
                    entry.part.isWhole = true
                    again.append(entry)
                } else {
                    if its.neverLeft { state.unsent.insert(entry.number) }
                    done.append((entry, its))
                }
            }
            state.underWay = nil
            state.waiting.insert(contentsOf: again, at: 0)
            return sendNext(&state)
        }
        tell(done)
        refuse(late)
    }

    private func tell(_ done: [(entry: Entry, result: Result<RedisClient.Confirmed, RedisError>)]) {
        for (entry, result) in done { entry.completion(result) }
        state.withLock { state in
            for (entry, result) in done where result.neverLeft { state.unsent.remove(entry.number) }
        }
    }

    private func refuse(_ late: [Entry]) {
        guard !late.isEmpty else { return }
        let absence = client.absence
        let error =
            absence.map {
                RedisError(
                    .notConnected, effect: .none, "no connection within the deadline; last: \($0.message)",
                    server: $0.server)
            } ?? RedisError(.timedOut, effect: .none, "its turn did not come within the deadline")
        client.eventLoop.execute { self.tell(late.map { ($0, .failure(error)) }) }
    }
}

extension Result<RedisClient.Confirmed, RedisError> {
    /// It failed before a byte of it was written.
    fileprivate var neverLeft: Bool {
        if case .failure(let error) = self { error.effect == .none && error.code != .server } else { false }
    }
}
