// SPDX-License-Identifier: Apache-2.0
//
// The comparing half of the fuzz of the lock scripts: answers, stored data and pushes.
import Hiredis
import TestSupport
import Testing

@testable import Ringfence
@testable import RingfenceCore

extension LockScriptFuzz {
    private func isNear(_ one: Int64, _ other: Int64?) -> Bool {
        guard let other else { return false }
        return abs(one - other) <= Self.tolerance
    }

    func compare(_ answer: LockServerModel.Answer, _ reply: RedisReply, _ expected: Expected, _ step: Int)
        throws
    {
        let parts = reply.array ?? []
        let agrees =
            switch answer {
            case .fence(let fence): reply.text == "\(fence)"
            case .queued(let position, let milliseconds, let arrival):
                parts.count == 4 && parts[0].int == 2 && parts[1].int == position
                    && isNear(milliseconds, parts[2].int) && parts[3].int == arrival
            case .busy(let milliseconds, let owner):
                parts.count == 3 && parts[0].int == 0 && isNear(milliseconds, parts[1].int) && parts[2].text == owner
            case .notWhole(let milliseconds, let owner, let freed):
                parts.count == 4 && parts[0].int == 0 && isNear(milliseconds, parts[1].int) && parts[2].text == owner
                    && parts[3].int == freed
            case .done: expected.step.verb.hasPrefix("expire") ? reply.int != nil : reply == .integer(1)
            case .forced(let fence, let value, let milliseconds):
                parts.count == 3 && parts[0].text == "\(fence)" && parts[1].text == value.text
                    && isNear(milliseconds, parts[2].int)
            case .full(let index): parts.map(\.int) == [3, index]
            case .free: reply.isNull
            case .renewed(let results): parts.map(\.int) == results.map { $0 ? 1 : 0 }
            }
        if !agrees { try complain("the model answers \(answer), Redis \(reply)", expected, step) }
    }

    func compareState(_ model: LockServerModel, _ state: [RedisReply], _ expected: Expected, _ step: Int) throws {
        for (index, name) in Self.names.enumerated() {
            let at = 6 * index
            let lock = model.locks[name]
            if state[at].text != lock?.value.text {
                try complain(
                    "lock \(name): \(state[at].text ?? "nil") not \(lock?.value.text ?? "nil")", expected, step)
            }
            try compareEnd("lock \(name)", lock?.expiresAt, state[at + 1], expected, step)
            let fence = model.fences[name]
            if state[at + 2].text != fence.map({ "\($0.value)" }) {
                try complain("fence \(name): \(state[at + 2]) not \(fence as Any)", expected, step)
            }
            try compareEnd("fence \(name)", fence?.expiresAt, state[at + 3], expected, step)
            let queue = model.queues[name]
            let entries = (queue?.value ?? []).flatMap { [$0.text, "\($0.arrival)"] }
            let real = (state[at + 4].array ?? []).map { $0.text ?? "" }
            if real != entries { try complain("queue \(name): \(real) not \(entries)", expected, step) }
            try compareEnd("queue \(name)", queue?.expiresAt, state[at + 5], expected, step)
        }
        let silent = (1...4).map { model.unanswered["p\($0)"].map { "\($0.value)" } }
        let realSilent = state[(6 * Self.names.count)..<(6 * Self.names.count + 4)].map(\.text)
        if realSilent != silent { try complain("unanswered: \(realSilent) not \(silent)", expected, step) }
        let kept = model.several.map { "\($0.key)=\($0.value.joined(separator: "\n"))" }
        let real = (state.last?.array ?? []).map { $0.text ?? "" }
        if real.sorted() != kept.sorted() { try complain("places: \(real) not \(kept)", expected, step) }
    }

    private func compareEnd(
        _ what: String, _ expiresAt: Int64?, _ left: RedisReply, _ expected: Expected, _ step: Int
    ) throws {
        let agrees = expiresAt.map { isNear(($0 - expected.model.now) / 1000, left.int) } ?? (left.int == -2)
        if !agrees { try complain("the end of \(what): \(left) not \(expiresAt as Any)", expected, step) }
    }
}
