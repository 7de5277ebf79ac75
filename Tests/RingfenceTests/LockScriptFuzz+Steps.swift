// SPDX-License-Identifier: Apache-2.0
//
// The random steps of the fuzz of the lock scripts, and what the model says of them.
import Hiredis
import TestSupport
import Testing

@testable import Ringfence
@testable import RingfenceCore

extension LockScriptFuzz {
    // MARK: Random steps

    private func randomAsk() -> Ask {
        if !recent.isEmpty, random.chance(45) { return random.pick(recent) }
        counter += 1
        var names = Self.names.shuffled(using: &random)
        names.removeLast(Int(random.pick([0, 1, 1, 2, 2, 2])))
        let ask = Ask(
            nonce: nonce(of: names), names: names,
            terms: LockTerms(
                owner: random.pick(["one", "two:2", "dr\u{F6}i"]), ttl: random.pick(1...5) * 1000 * .second))
        recent.append(ask)
        if recent.count > 12 { recent.removeFirst() }
        return ask
    }

    /// A value that is held, mostly.
    private func randomValue() -> (names: [String], value: LockValue)? {
        if let name = model.locks.keys.sorted().randomElement(using: &random), random.chance(80) {
            let value = model.locks[name]!.value
            return values.last { $0.value == value }
        }
        return values.randomElement(using: &random)
    }

    func randomStep() -> Step {
        switch random.pick(0...99) {
        case 0...39:
            let ask = randomAsk()
            return .acquire(ask, randomQueueing(ask))
        case 40...69:
            guard let held = randomValue() else { return .acquire(randomAsk(), .none) }
            var successor: LockMachine.Successor?
            if random.chance(50) {
                let ask = random.chance(70) ? newAsk(of: held.names) : (recent.first { $0.names == held.names })
                successor = ask.map { .init(nonce: $0.nonce, terms: $0.terms, yields: random.chance(50)) }
            }
            return .release(held.names, held.value, successor)
        case 70...79: return .cancel(randomAsk())
        case 80...82: return .force(random.pick(Self.names))
        case 83...91:
            let leases = (0..<random.pick(1...3)).compactMap { _ in randomValue() }
            guard !leases.isEmpty else { return .force(random.pick(Self.names)) }
            return .renew(
                leases.map { ($0.names, $0.value, random.pick(1...5) * 1_000_000) },
                claimedBy: random.chance(50) ? "p\(random.pick(1...4))" : nil)
        case 92...95: return .expireLock(random.pick(Self.names))
        case 96...97: return .expireFence(random.pick(Self.names))
        default: return .expireQueue(random.pick(Self.names))
        }
    }

    func nonce(of names: [String]) -> String {
        "p\(random.pick(1...4))-\(counter)\(names.count > 1 ? "x\(names.count)" : "")-s"
    }

    private func randomQueueing(_ ask: Ask) -> LockMachine.Queueing {
        switch random.pick(0...9) {
        case 0...1: .none
        // Since some time before it was asked, or the time it has, or none that can be.
        case 2...4: .since(model.now - random.pick(-1000...5_000_000))
        default: .last
        }
    }

    private func newAsk(of names: [String]) -> Ask {
        var ask = randomAsk()
        counter += 1
        ask.nonce = nonce(of: names)
        ask.names = names
        recent.append(ask)
        return ask
    }

    // MARK: In the model

    func runInModel(_ step: Step) -> LockServerModel.Answer {
        defer { learnValues() }
        switch step {
        case .acquire(let ask, let queueing):
            let answer = model.acquire(ask.place, queueing)
            if case .full = answer { refusals += 1 }
            return answer
        case .release(let names, let value, let successor):
            return model.release(
                names, value,
                to: successor.map { next in
                    let ask = Ask(nonce: next.nonce, names: names, terms: next.terms)
                    return LockServerModel.Successor(
                        nonce: next.nonce, owner: next.terms.owner, holdMilliseconds: next.terms.holdMilliseconds,
                        place: next.yields ? ask.place : nil)
                })
        case .cancel(let ask):
            return model.cancel(ask.names, nonce: ask.nonce, place: ask.place)
        case .force(let name): return model.force(name)
        case .renew(let leases, let process):
            return model.renew(leases.map { ($0.names, $0.value, $0.milliseconds) }, claimedBy: process)
        case .expireLock(let name):
            model.expireLock(name)
            return .done
        case .expireFence(let name):
            model.expireFence(name)
            return .done
        case .expireQueue(let name):
            model.expireQueue(name)
            return .done
        }
    }

    /// Remembers what is held under which names, to release and renew it later.
    private func learnValues() {
        for name in model.locks.keys.sorted() {
            let value = model.locks[name]!.value
            guard !values.contains(where: { $0.value == value }) else { continue }
            let names = model.locks.filter { $0.value.value == value }.keys.sorted()
            values.append((recent.last { $0.nonce == value.nonce }?.names ?? names, value))
            if values.count > 12 { values.removeFirst() }
        }
    }
}
