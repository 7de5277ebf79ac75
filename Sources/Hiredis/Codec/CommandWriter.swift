// SPDX-License-Identifier: Apache-2.0
//
// Commands become bytes here, once, in the buffer they are sent from.
//
// All tasks that share a connection append to one growing slab of memory, so a command costs no allocation and no copy
// of its own. Constant parts ("*3\r\n$3\r\nSET\r\n…") are prepared as templates. A test holds every byte against
// hiredis' own encoder. A wrong argument count would shift every later answer to the wrong caller, so it traps at once,
// in release builds too.
import RingfencePlatform

/// Writes commands in RESP. `begin(n)` starts a command of n arguments, the command's name included; exactly n
/// `argument`s must follow.
// SAFETY: sole owner of its memory; not copyable, so it cannot be in two places.
package struct CommandWriter: ~Copyable, @unchecked Sendable {
    private var base: UnsafeMutablePointer<UInt8>
    private var capacity: Int
    /// Bytes written.
    private(set) var count = 0
    /// Commands begun since `restart()`.
    private(set) var commands = 0
    /// Arguments that the command begun last still lacks.
    private(set) var missing = 0

    init(capacity: Int = 16_384) {
        base = .allocate(capacity: capacity)
        self.capacity = capacity
    }

    deinit { base.deallocate() }

    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: base, count: count) }

    /// Starts a command of `arguments` arguments, its name included.
    package mutating func begin(_ arguments: Int) {
        precondition(missing == 0, "a command was begun \(missing) arguments before the end of the one before")
        precondition(arguments > 0, "a command needs at least its name")
        missing = arguments
        commands += 1
        reserve(24)
        putHeader(UInt8(ascii: "*"), arguments)
    }

    /// Starts a command with the constant arguments of `template`; `template.following` more must follow.
    package mutating func template(_ template: CommandTemplate) {
        precondition(missing == 0, "a command was begun \(missing) arguments before the end of the one before")
        missing = template.following
        commands += 1
        template.bytes.withUnsafeBytes { raw($0) }
    }

    /// Text, as UTF-8.
    package mutating func argument(_ text: String) {
        let done: Void? = text.utf8.withContiguousStorageIfAvailable { argument(UnsafeRawBufferPointer($0)) }
        if done == nil { argument(Array(text.utf8)) }
    }

    /// Any bytes.
    package mutating func argument(_ bytes: [UInt8]) {
        bytes.withUnsafeBytes { argument($0) }
    }

    /// Any bytes.
    package mutating func argument(_ bytes: UnsafeRawBufferPointer) {
        take()
        reserve(bytes.count + 26)
        putHeader(UInt8(ascii: "$"), bytes.count)
        if let start = bytes.baseAddress { memcpy(base + count, start, bytes.count) }
        count += bytes.count
        putLineEnd()
    }

    /// Two texts as one argument, such as a key's prefix and a name.
    package mutating func argument(_ first: String, _ second: String) {
        let length = first.utf8.count + second.utf8.count
        take()
        reserve(length + 26)
        putHeader(UInt8(ascii: "$"), length)
        copy(first)
        copy(second)
        putLineEnd()
    }

    /// A positive number and two texts as one argument, `number:first:second`.
    package mutating func argument(_ number: Int64, _ first: String, _ second: String) {
        precondition(number > 0)
        let digits = Self.digits(number.magnitude)
        let length = digits + first.utf8.count + second.utf8.count + 2
        take()
        reserve(length + 26)
        putHeader(UInt8(ascii: "$"), length)
        put(number.magnitude, digits: digits)
        put(UInt8(ascii: ":"))
        copy(first)
        put(UInt8(ascii: ":"))
        copy(second)
        putLineEnd()
    }

    /// Bytes in two parts as one argument.
    package mutating func argument(_ first: [UInt8], _ second: [UInt8]) {
        let length = first.count + second.count
        take()
        reserve(length + 26)
        putHeader(UInt8(ascii: "$"), length)
        first.withUnsafeBytes { raw($0) }
        second.withUnsafeBytes { raw($0) }
        putLineEnd()
    }

    /// A number, in decimal.
    package mutating func argument(_ number: Int64) {
        take()
        reserve(64)
        let (sign, digits) = (number < 0 ? 1 : 0, Self.digits(number.magnitude))
        putHeader(UInt8(ascii: "$"), sign + digits)
        if sign == 1 { put(UInt8(ascii: "-")) }
        put(number.magnitude, digits: digits)
        putLineEnd()
    }

    /// A number, in decimal.
    package mutating func argument(_ number: Int) { argument(Int64(number)) }

    /// One whole command.
    package mutating func command(_ words: [String]) {
        begin(words.count)
        for word in words { argument(word) }
    }

    // MARK: inside the target

    /// Bytes that already are RESP: `arguments` arguments of the command begun.
    mutating func prepared(_ bytes: [UInt8], arguments: Int) {
        missing -= arguments
        precondition(missing >= 0, "more arguments than the command was begun with")
        bytes.withUnsafeBytes { raw($0) }
    }

    /// Forgets the count of commands begun, before a new group of them.
    mutating func restart() { commands = 0 }

    /// Takes back everything after the first `length` bytes.
    mutating func truncate(to length: Int) {
        count = length
        missing = 0
    }

    /// Forgets all bytes, and gives back the memory of a burst.
    mutating func removeAll() {
        count = 0
        guard capacity > 1_048_576 else { return }
        base.deallocate()
        capacity = 16_384
        base = .allocate(capacity: capacity)
    }

    /// Moves `length` bytes from `source` down to `target`.
    mutating func move(from source: Int, to target: Int, length: Int) {
        memmove(base + target, base + source, length)
    }

    private mutating func take() {
        precondition(missing > 0, "more arguments than the command was begun with")
        missing -= 1
    }

    private mutating func raw(_ bytes: UnsafeRawBufferPointer) {
        guard let start = bytes.baseAddress else { return }
        reserve(bytes.count)
        memcpy(base + count, start, bytes.count)
        count += bytes.count
    }

    @inline(__always)
    private mutating func reserve(_ more: Int) {
        if count + more > capacity { grow(more) }
    }

    @inline(never)
    private mutating func grow(_ more: Int) {
        let larger = max(capacity * 2, count + more)
        let memory = UnsafeMutablePointer<UInt8>.allocate(capacity: larger)
        memcpy(memory, base, count)
        base.deallocate()
        (base, capacity) = (memory, larger)
    }

    @inline(__always)
    private mutating func put(_ byte: UInt8) {
        base[count] = byte
        count += 1
    }

    /// There is room for it. (Not by `withUTF8`, which needs a copy of the text to be made and let go.)
    @inline(__always)
    private mutating func copy(_ text: String) {
        let target = base + count
        let done: Void? = text.utf8.withContiguousStorageIfAvailable { bytes in
            if let start = bytes.baseAddress { memcpy(target, start, bytes.count) }
        }
        if done == nil { for (index, byte) in text.utf8.enumerated() { target[index] = byte } }
        count += text.utf8.count
    }

    @inline(__always)
    private mutating func putLineEnd() {
        base[count] = 13
        base[count + 1] = 10
        count += 2
    }

    @inline(__always)
    private mutating func putHeader(_ kind: UInt8, _ number: Int) {
        put(kind)
        if number < 10 {
            put(48 + UInt8(truncatingIfNeeded: number))
        } else {
            put(UInt64(number), digits: Self.digits(UInt64(number)))
        }
        putLineEnd()
    }

    private mutating func put(_ number: UInt64, digits: Int) {
        var rest = number
        var index = count + digits
        while index > count {
            index -= 1
            let (quotient, remainder) = rest.quotientAndRemainder(dividingBy: 10)
            base[index] = 48 + UInt8(truncatingIfNeeded: remainder)
            rest = quotient
        }
        count += digits
    }

    private static func digits(_ number: UInt64) -> Int {
        var (count, limit) = (1, UInt64(10))
        while number >= limit {
            count += 1
            let (next, overflow) = limit.multipliedReportingOverflow(by: 10)
            if overflow { break }
            limit = next
        }
        return count
    }
}

/// The constant start of a command, encoded once.
package struct CommandTemplate: Sendable {
    let bytes: [UInt8]
    let following: Int

    /// A command that starts with the arguments `constant` and goes on with `following` more.
    package init(_ constant: [String], following: Int) {
        precondition(!constant.isEmpty && following >= 0)
        var writer = CommandWriter(capacity: 256)
        writer.begin(constant.count + following)
        for argument in constant { writer.argument(argument) }
        bytes = Array(writer.bytes)
        self.following = following
    }
}
