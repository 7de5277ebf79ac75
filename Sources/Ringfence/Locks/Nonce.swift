// SPDX-License-Identifier: Apache-2.0
//
// `<process>-<counter>-<secret>`: the process tells Redis which inbox to push to, the counter makes the first two parts a
// public, unique id of one acquire, and the secret's 128 random bits make the whole the right to renew and release.

import Synchronization

final class NonceSource: Sendable {
    /// 64 random bits, once a client.
    let process: String
    private let counter = Atomic<UInt64>(0)

    init() {
        var generator = SystemRandomNumberGenerator()
        process = Self.hex(generator.next(), 0, digits: 16)
    }

    func next() -> String {
        var generator = SystemRandomNumberGenerator()
        let number = counter.add(1, ordering: .relaxed).newValue
        return "\(process)-\(number)-" + Self.hex(generator.next(), generator.next(), digits: 32)
    }

    private static func hex(_ high: UInt64, _ low: UInt64, digits: Int) -> String {
        String(unsafeUninitializedCapacity: digits) { buffer in
            for position in 0..<digits {
                let word = position < 16 ? high : low
                let digit = UInt8(truncatingIfNeeded: word >> UInt64(60 - 4 * (position & 15))) & 15
                buffer[position] = digit < 10 ? digit + UInt8(ascii: "0") : digit - 10 + UInt8(ascii: "a")
            }
            return digits
        }
    }
}
