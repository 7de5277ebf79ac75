// SPDX-License-Identifier: Apache-2.0
//
// `<process>-<counter>-<secret>`: the process tells Redis which inbox to push to, the counter makes the first two parts
// a public, unique id of one acquire, and the secret's 128 random bits make the whole the right to renew and release.
// For several names the counter ends in `x` and their number, and the secret in their digest.

import RingfenceCore
import RingfencePlatform
import Synchronization

final class NonceSource: Sendable {
    /// 64 random bits, once a client.
    let process: String
    private let counter = Atomic<UInt64>(0)
    private let secrets = Mutex(Secrets())

    init() {
        var generator = SystemRandomNumberGenerator()
        let random: UInt64 = generator.next()
        process = String(unsafeUninitializedCapacity: 16) { Self.write(UInt128(random), digits: 16, to: $0, at: 0) }
    }

    /// Made in one piece: one is made for every acquire.
    func next(_ names: [String]) -> String {
        let number = counter.add(1, ordering: .relaxed).newValue
        let secret = secrets.withLock { $0.next() }
        var process = process
        return process.withUTF8 { process in
            String(unsafeUninitializedCapacity: process.count + 91) { buffer in
                var end = buffer[...].update(fromContentsOf: process)
                end = Self.write("-", to: buffer, at: end)
                end = Self.write(number, to: buffer, at: end)
                if names.count > 1 {
                    end = Self.write("x", to: buffer, at: end)
                    end = Self.write(UInt64(names.count), to: buffer, at: end)
                }
                end = Self.write("-", to: buffer, at: end)
                end = Self.write(secret, digits: 32, to: buffer, at: end)
                // Of several names, which: so a token shows itself to be of others before anything is asked of Redis.
                guard names.count > 1 else { return end }
                return Self.write(UInt128(LockValue.digest(of: names)), digits: 16, to: buffer, at: end)
            }
        }
    }

    /// 128 random bits in hexadecimal: a session of a member. No secret, but never given twice.
    func session() -> String {
        let secret = secrets.withLock { $0.next() }
        return String(unsafeUninitializedCapacity: 32) { Self.write(secret, digits: 32, to: $0, at: 0) }
    }

    /// A name for a generation of the event log, should this call be the one to begin it. Of a generation only one is
    /// ever begun at a time, so what must not repeat is process and number.
    func generation() -> String {
        let number = counter.add(1, ordering: .relaxed).newValue
        return process + "g" + String(number, radix: 36)
    }

    /// The system's randomness, fetched 16 secrets at a time: a system call for each acquire is felt.
    private struct Secrets {
        private var unused: [UInt128] = []

        mutating func next() -> UInt128 {
            if unused.isEmpty {
                unused = Array(repeating: 0, count: 16)  // 256 bytes, the most getentropy gives
                unused.withUnsafeMutableBytes { Self.fill($0) }
            }
            return unused.removeLast()
        }

        private static func fill(_ bytes: UnsafeMutableRawBufferPointer) {
            // getentropy fails for no reason but a wrong size; anything else would be a secret that is none.
            precondition(getentropy(bytes.baseAddress!, bytes.count) == 0, "getentropy failed: errno \(errno)")
        }
    }

    private static func write(
        _ character: Unicode.Scalar, to buffer: UnsafeMutableBufferPointer<UInt8>, at start: Int
    ) -> Int {
        buffer[start] = UInt8(ascii: character)
        return start + 1
    }

    /// In decimal.
    private static func write(_ number: UInt64, to buffer: UnsafeMutableBufferPointer<UInt8>, at start: Int) -> Int {
        var digits = 1
        var rest = number
        while rest >= 10 {
            rest /= 10
            digits += 1
        }
        rest = number
        for position in stride(from: start + digits - 1, through: start, by: -1) {
            buffer[position] = UInt8(ascii: "0") + UInt8(rest % 10)
            rest /= 10
        }
        return start + digits
    }

    /// In hexadecimal, half by half: shifting 128 bits for each digit is felt.
    private static func write(
        _ number: UInt128, digits: Int, to buffer: UnsafeMutableBufferPointer<UInt8>, at start: Int
    ) -> Int {
        var end = start + digits
        var rest = UInt64(truncatingIfNeeded: number)
        while end > start {
            if end == start + digits - 16 { rest = UInt64(truncatingIfNeeded: number >> 64) }
            end -= 1
            let digit = UInt8(truncatingIfNeeded: rest & 15)
            buffer[end] = digit &+ (digit < 10 ? UInt8(ascii: "0") : UInt8(ascii: "a") - 10)
            rest &>>= 4
        }
        return start + digits
    }
}
