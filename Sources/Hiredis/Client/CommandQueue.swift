// SPDX-License-Identifier: Apache-2.0
//
// The commands of one connection from submission to answer: bytes that wait to be written, and which caller waits for
// which reply. Pure memory: no I/O, no clock, no task. Another driver than SwiftNIO could be put under it.
//
//      slots   [ written, in the order of their replies | unwritten, in the order of their bytes ]
//      bytes                                              [ one slab, back to back              ]
//
// A slot is one command, or a group of commands that must stay together on one connection. Three rules make that safe:
//  - The bytes of an unwritten slot that ended (deadline, cancellation) leave the slab with it: they can never be sent
//    late. Ending happens in sweeps, which compact slots and slab in one pass.
//  - A written slot that ended stays as a tombstone until its replies came: every reply meets the slot it belongs to.
//  - A broken connection ends all written slots and no unwritten one: those go out on the next connection.

// SAFETY: sole owner of its memory; not copyable, so it cannot be in two places.
struct CommandQueue<Waiter: Sendable>: ~Copyable, @unchecked Sendable {
    struct Limits {
        /// Slots, tombstones included.
        var commands: Int
        /// Bytes of unanswered slots, written or not.
        var bytes: Int
    }

    enum Refusal: Equatable { case tooManyCommands, tooManyBytes }

    /// A slot that ended before its answer.
    struct Ended: Sendable {
        var waiter: Waiter
        var wasWritten: Bool
        /// False: it was cancelled.
        var isLate: Bool
    }

    /// In this order it takes 48 bytes: the smaller fields lie in what the waiter leaves of its last word.
    private struct Slot {
        /// nil: a tombstone.
        var waiter: Waiter?
        /// One reply answers it, and no array of replies.
        var isSingle: Bool
        /// Replies still to come.
        var replies: Int32
        var deadline: Int64
        var bytes: Int
        /// Of those submitted to this queue, from 1.
        var number: UInt64
    }

    private var slots: UnsafeMutablePointer<Slot>
    /// A power of two.
    private var capacity: Int
    private var head = 0
    /// All slots, tombstones included.
    private(set) var count = 0
    /// How many of them, from the head, were handed to the connection.
    private(set) var written = 0
    /// Slots that somebody waits for.
    private(set) var live = 0
    private(set) var bytesInFlight = 0
    /// How many slots were submitted, ever.
    private(set) var submitted: UInt64 = 0
    /// Slots up to this number were written, or ended before.
    private var taken: UInt64 = 0
    /// Unwritten slots were withdrawn whose bytes are still in the slab.
    private(set) var hasWithdrawn = false
    /// No unwritten slot ends before.
    private var earliestUnwritten = Int64.max
    private var writer = CommandWriter()
    /// Replies to the group at the head, so far.
    private var partial: [RedisReply] = []
    private let limits: Limits

    init(limits: Limits) {
        self.limits = limits
        capacity = 128
        slots = .allocate(capacity: capacity)
    }

    deinit {
        for index in 0..<count { slot(index).deinitialize(count: 1) }
        slots.deallocate()
    }

    var hasUnwritten: Bool { written < count }

    private func slot(_ index: Int) -> UnsafeMutablePointer<Slot> { slots + ((head &+ index) & (capacity &- 1)) }

    // MARK: submission

    /// Encodes one slot of `replies` commands at the end of the slab; refused when that would break a limit.
    mutating func submit(
        _ waiter: Waiter, replies: Int, isSingle: Bool, deadline: Int64, _ encode: (inout CommandWriter) -> Void
    ) -> Refusal? {
        precondition(replies > 0, "a group needs at least one command: nothing would ever answer it")
        guard count < limits.commands else { return .tooManyCommands }
        let start = writer.count
        writer.restart()
        encode(&writer)
        precondition(writer.missing == 0, "a command lacks \(writer.missing) arguments")
        precondition(writer.commands == replies, "\(writer.commands) commands encoded where \(replies) were announced")
        let bytes = writer.count - start
        guard bytesInFlight + bytes <= limits.bytes else {
            writer.truncate(to: start)
            return .tooManyBytes
        }
        if count == capacity { grow() }
        submitted &+= 1
        slot(count).initialize(
            to: Slot(
                waiter: waiter, isSingle: isSingle, replies: Int32(replies), deadline: deadline,
                bytes: bytes, number: submitted))
        count += 1
        live += 1
        bytesInFlight += bytes
        if deadline < earliestUnwritten { earliestUnwritten = deadline }
        return nil
    }

    private mutating func grow() {
        let larger = UnsafeMutablePointer<Slot>.allocate(capacity: capacity * 2)
        for index in 0..<count { (larger + index).moveInitialize(from: slot(index), count: 1) }
        slots.deallocate()
        (slots, capacity, head) = (larger, capacity * 2, 0)
    }

    // MARK: the way out

    /// True when an unwritten slot may be late or was withdrawn: sweep before `takeUnwritten`, so that no such is ever
    /// written.
    func needsSweep(now: Int64) -> Bool { hasWithdrawn || earliestUnwritten <= now }

    /// Hands all unwritten bytes to `write`; their slots count as written from here.
    mutating func takeUnwritten(_ write: (UnsafeRawBufferPointer) -> Void) {
        guard hasUnwritten else { return }
        write(writer.bytes)
        writer.removeAll()
        written = count
        taken = submitted
        earliestUnwritten = .max
    }

    // MARK: the way back

    /// Matches `replies`, in order, with the slots at the head and appends each waiter that is answered to `answered`:
    /// a group is answered by an array. False when there is a reply nobody asked for.
    mutating func complete(_ replies: [RedisReply], _ answered: inout [(waiter: Waiter, reply: RedisReply)]) -> Bool {
        for reply in replies {
            guard written > 0 else { return false }
            let first = slot(0)
            first.pointee.replies -= 1
            if first.pointee.isSingle {
                if let waiter = pop() { answered.append((waiter, reply)) }
                continue
            }
            if first.pointee.waiter != nil { partial.append(reply) }
            guard first.pointee.replies == 0 else { continue }
            if let waiter = pop() { answered.append((waiter, .array(partial))) }
            partial = []
        }
        return true
    }

    private mutating func pop() -> Waiter? {
        let slot = slot(0).move()
        head = (head &+ 1) & (capacity &- 1)
        count -= 1
        written -= 1
        bytesInFlight -= slot.bytes
        if slot.waiter != nil { live -= 1 }
        return slot.waiter
    }

    // MARK: endings

    /// Ends every slot whose deadline is not after `now` or that `isCancelled`.
    mutating func sweep(now: Int64, isCancelled: (Waiter) -> Bool) -> [Ended] {
        var ended: [Ended] = []
        let unwrittenLive = count - written
        for index in 0..<count {
            let slot = slot(index)
            guard let waiter = slot.pointee.waiter else { continue }
            let isLate = slot.pointee.deadline <= now
            guard isLate || isCancelled(waiter) else { continue }
            slot.pointee.waiter = nil
            live -= 1
            ended.append(Ended(waiter: waiter, wasWritten: index < written, isLate: isLate))
        }
        if unwrittenLive > 0, hasWithdrawn || ended.last?.wasWritten == false { compact() }
        if live == 0 || slot(0).pointee.waiter == nil { partial = [] }
        return ended
    }

    /// Removes the unwritten slots that ended, and their bytes.
    private mutating func compact() {
        var (source, target) = (0, 0)
        var kept = written
        hasWithdrawn = false
        earliestUnwritten = .max
        for index in written..<count {
            let bytes = slot(index).pointee.bytes
            if slot(index).pointee.waiter == nil {
                slot(index).deinitialize(count: 1)
                bytesInFlight -= bytes
            } else {
                if target != source { writer.move(from: source, to: target, length: bytes) }
                earliestUnwritten = min(earliestUnwritten, slot(index).pointee.deadline)
                if kept != index { slot(kept).moveInitialize(from: slot(index), count: 1) }
                kept += 1
                target += bytes
            }
            source += bytes
        }
        writer.truncate(to: target)
        count = kept
    }

    /// Whether a slot was handed to the connection, or ended; until then nobody but us knows of it.
    func wasWritten(_ number: UInt64) -> Bool { number <= taken }

    /// Takes an unwritten slot out, without a word to its waiter. False if it is not there: it was written, or ended.
    mutating func withdraw(_ number: UInt64) -> Bool {
        guard number > taken else { return false }
        var (low, high) = (written, count)
        while low < high {
            let middle = (low + high) / 2
            if slot(middle).pointee.number < number { low = middle + 1 } else { high = middle }
        }
        guard low < count, slot(low).pointee.number == number, slot(low).pointee.waiter != nil else { return false }
        slot(low).pointee.waiter = nil
        live -= 1
        hasWithdrawn = true
        return true
    }

    /// The connection broke: ends every written slot. Unwritten ones stay.
    mutating func loseWritten() -> [Ended] {
        var ended: [Ended] = []
        while written > 0 {
            if let waiter = pop() { ended.append(Ended(waiter: waiter, wasWritten: true, isLate: false)) }
        }
        partial = []
        return ended
    }

    /// Ends every unwritten slot.
    mutating func failUnwritten() -> [Ended] {
        var ended: [Ended] = []
        for index in written..<count {
            guard let waiter = slot(index).pointee.waiter else { continue }
            slot(index).pointee.waiter = nil
            live -= 1
            ended.append(Ended(waiter: waiter, wasWritten: false, isLate: false))
        }
        compact()
        return ended
    }
}
