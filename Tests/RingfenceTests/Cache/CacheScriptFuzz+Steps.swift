// SPDX-License-Identifier: Apache-2.0
//
// The random steps of the fuzz of cache.lua, and what the model says of them.
import Hiredis
import TestSupport
import Testing

@testable import Ringfence
@testable import RingfenceCache
@testable import RingfenceCacheCore
@testable import RingfenceCore

extension CacheScriptFuzz {
    // MARK: Steps

    var run: String { "run\(runs)" }

    func randomStep() -> Step {
        switch random.pick(0...199) {
        case 0: return .flush
        case 1...3: return .save
        case 4: return .stepBack
        case 5...6: return .newRun
        default: break
        }
        let known = model.standing.stamp ?? .none
        let other = CacheStamp(
            epoch: max(0, known.epoch + random.pick([-2, -1, -1, 0, 1, 1])), change: random.pick([1, 2, .max]))
        let (stamp, run) = (random.chance(90) ? known : other, random.chance(95) ? run : "run\(max(1, runs - 1))")
        return .call(
            randomCall(), stamp: stamp, run: run, word: randomWord().flatMap { $0.isOf(stamp, run: run) ? $0 : nil })
    }

    /// As it stands in Redis; nil: nothing.
    var word: String? {
        let standing = model.standing
        guard let stamp = standing.stamp, let swept = standing.swept, let until = standing.wholeUntil else {
            return nil
        }
        let behind = standing.isBehind ? 1 : 0
        return "\(stamp.text) \(standing.run!) \(standing.wholeEpoch!) \(swept) \(until) \(behind)"
    }

    /// The one that holds, or one of before.
    private func randomWord() -> CacheWord? {
        if let word, words.first != word { words = Array(([word] + words).prefix(4)) }
        guard !words.isEmpty, random.chance(80) else { return nil }
        return CacheWord(random.chance(70) ? words[0] : random.pick(words))
    }

    private func randomCall() -> CacheCall {
        switch random.pick(0...99) {
        case 0...29: return .put((0..<random.pick(0...3)).map { _ in randomItem() }, notAfter: randomNotAfter())
        case 30...44: return .get((0..<random.pick(0...4)).map { _ in random.pick(Self.keys) })
        case 45...48: return .heads((0..<random.pick(0...4)).map { _ in random.pick(Self.keys) })
        case 49...52: return .scan(cursor: "0")
        case 53...59:
            nonces = Array((["nonce\(random.pick(1...1_000_000))"] + nonces).prefix(3))
            return .begin(nonce: random.chance(90) ? nonces[0] : random.pick(nonces))
        case 60...62: return .wipe(nonce: randomNonce(), cursor: "0")
        case 63...69: return .end(nonce: randomNonce(), isFull: random.chance(70))
        case 70...72:
            return .raise(
                layout: Array("layout \(random.pick(0...9))".utf8),
                began: max(1, (model.standing.stamp?.epoch ?? 0) + random.pick(-2...1)))
        case 73...79:
            return .hint(
                target: random.pick(Self.targets), keys: (0..<random.pick(0...3)).map { _ in random.pick(Self.keys) })
        case 80...84: return .hinted(target: random.pick(Self.targets))
        case 85...88:
            let target = random.pick(Self.targets)
            let known = (model.hints[CacheNodeModel.Key(target)] ?? [:]).map {
                CacheHint(key: $0.key.text, at: $0.value)
            }
            .sorted { $0.key.isBefore($1.key) }
            return .unhint(
                target: target, known.filter { _ in random.chance(50) } + [CacheHint(key: "a", at: model.clock - 5)])
        case 89...91: return .behind(random.chance(50))
        case 92...94:
            return .drop(
                (0..<random.pick(0...3)).map { _ in
                    let key = random.pick(Self.keys)
                    let version = model.entries[CacheNodeModel.Key(key)]?.version
                    return CacheHead(
                        key: key, version: random.chance(70) ? version ?? randomVersion() : randomVersion())
                })
        default: return .hello(hintedTargets: random.chance(80) ? Self.targets : [])
        }
    }

    private func randomNonce() -> String { random.chance(85) ? nonces[0] : random.pick(nonces) }

    private func randomNotAfter() -> Int64? { random.chance(70) ? nil : model.clock + random.pick([-1, 0, 1, 100]) }

    /// Around the clock and around what is there, with parts that compare otherwise as numbers than as strings of a
    /// locale.
    private func randomVersion() -> CacheVersion {
        let writer = random.pick([0, 1, 9, 10, 0xA_0000_0000, .max] as [UInt64])
        return CacheVersion(
            stamp: UInt64(model.clock + random.pick(-3...3)) << 16 | UInt64(random.pick(0...2)), writer: writer)
    }

    private func randomItem() -> CacheItem {
        let key = random.pick(Self.keys)
        let same = random.chance(15) ? model.entries[CacheNodeModel.Key(key)]?.version : nil
        let life: Int64? =
            random.chance(30) ? nil : random.chance(10) ? 0 : Self.leastLife + random.pick([0, 1, 50_000])
        return CacheItem(
            key,
            CacheEntry(
                version: same ?? randomVersion(),
                payload: random.chance(25) ? nil : Array(random.pick(["", "v", "value \(random.pick(0...999))"]).utf8),
                ttlMilliseconds: random.chance(50) ? nil : random.pick([0, 5, 100, 3000, 550_000]),
                lifeMilliseconds: life))
    }

    // MARK: In the model

    func runInModel(_ step: Step) -> CacheAnswer? {
        switch step {
        case .flush: model.forgetEverything()
        case .save: saved = model
        case .stepBack:
            model.stepBack(to: saved)
            runs += 1
        case .newRun: runs += 1
        case .call(let call, let stamp, let run, _):
            let before = model
            let answer = model.call(call, stamp: stamp, run: run)
            meet(call, answer, before)
            return answer
        }
        return nil
    }

    func meet(_ call: CacheCall, _ answer: CacheAnswer, _ before: CacheNodeModel) {
        if answer.wholeEpoch >= 0 { met.insert("whole") }
        if answer.isBehind { met.insert("behind") }
        switch (call, answer.result) {
        case (_, .outdated(let layout)): met.insert(layout == nil ? "outdated" : "outdated with layout")
        case (_, .late): met.insert("late")
        case (_, .put(let newer)): for one in newer { met.insert(one == nil ? "stored" : "newer") }
        case (_, .entries(let entries)):
            for entry in entries { met.insert(entry.map { $0.payload == nil ? "over" : "value" } ?? "nothing") }
        case (.end(_, let isFull), .ended(let isDone)):
            met.insert(isDone ? (isFull ? "ended" : "partly ended") : "not ended")
        case (_, .begun(let mustWipe, let isBlank)):
            met.insert(isBlank ? "blank" : mustWipe ? "must wipe" : "need not wipe")
        case (.wipe, .keys(let cursor, _)): met.insert(cursor.isEmpty ? "not wiped" : "wiped")
        case (.scan, .keys(_, let keys)) where !keys.isEmpty: met.insert("scan")
        case (.hint, .done(let refused)): met.insert(refused > 0 ? "refused hints" : "taken hints")
        case (.hinted(let target), .hints(let hints)):
            if !hints.isEmpty { met.insert("hints") }
            if hints.count < before.hints[CacheNodeModel.Key(target)]?.count ?? 0 { met.insert("forgotten hints") }
        case (_, .hello(_, _, let left)) where left > 0: met.insert("hello whole")
        case (_, .heads): met.insert("heads")
        default: break
        }
    }

    var state: String {
        let standing = model.standing
        func text(_ number: Int64?) -> String { number.map { "\($0)" } ?? "-" }
        var lines = [
            standing.stamp?.text ?? "-", standing.layout.map { String(decoding: $0, as: UTF8.self) } ?? "-",
            standing.run ?? "-",
            text(standing.wholeEpoch), text(standing.swept), text(standing.wholeUntil), standing.isBehind ? "1" : "-",
            standing.building ?? "-", standing.buildingRun ?? "-", text(standing.buildingEpoch), text(standing.began),
            standing.isWiping ? "1" : "-", word ?? "-",
        ]
        for target in Self.targets {
            let hints = (model.hints[CacheNodeModel.Key(target)] ?? [:]).sorted {
                $0.value != $1.value ? $0.value < $1.value : $0.key.text.isBefore($1.key.text)
            }
            lines.append(hints.map { "\($0.key.text) \($0.value)" }.joined(separator: " "))
        }
        func digits(_ number: Int64) -> String {
            let text = "\(number)"
            return String(repeating: "0", count: 13 - text.count) + text
        }
        for key in Self.keys {
            guard let entry = model.entries[CacheNodeModel.Key(key)] else {
                lines.append("-")
                continue
            }
            lines.append(
                entry.version.text + (entry.isRemoval ? "x" : "v") + digits(entry.ends) + digits(entry.forgets)
                    + String(decoding: entry.payload, as: UTF8.self) + (entry.forgets > 0 ? " ends" : ""))
        }
        return lines.joined(separator: "\n")
    }
}
