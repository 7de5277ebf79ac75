// SPDX-License-Identifier: Apache-2.0
//
// lock.lua, renew.lua and inspect.lua as typed calls: keys and arguments in, decoded answers out. The scripts' own
// headers say what each means. Answers are decoded strictly: a shape that the script cannot have made is an error,
// never a guess.

import Hiredis
import RingfenceCore

struct LockScripts: Sendable {
    enum Answer: Equatable {
        case granted(fence: Int64)
        case queued(position: Int64, milliseconds: Int64, arrival: Int64)
        /// Held by others; for a release: not all of it held by the value, and how many names were, which it gave back.
        case busy(milliseconds: Int64, owner: String, freed: Int64)
        case done
        /// The line of this one of its names has no place left.
        case full(Int)
    }

    private static let plainLock = RedisScript(LockScriptText.lock)
    private static let shardedLock = RedisScript(ScriptFlavour.sharded.text(LockScriptText.lock))
    static let renew = RedisScript(String(decoding: PackageResources.renew_lua, as: UTF8.self))
    static let inspect = RedisScript(String(decoding: PackageResources.inspect_lua, as: UTF8.self))

    /// How long a pushed grant waits for its claim. Short, for it is what a sleeping waiter costs those behind it.
    static let claimMilliseconds = "1000"

    let keys: Keyspace
    let lock: RedisScript
    let auditLength: String
    /// How many places a line may have.
    let waiters: Int
    /// How long a last fence is kept, in ms.
    private let fenceMilliseconds: String
    /// Made once: it is written with each acquire that waits.
    private let queue: String

    init(
        keys: Keyspace, auditLength: Int, waiters: Int = NamespaceLimits().waiters,
        fenceRetention: Duration = RingfenceConfiguration.defaultFenceRetention
    ) {
        self.keys = keys
        lock = keys.flavour == .sharded ? Self.shardedLock : Self.plainLock
        self.auditLength = String(auditLength)
        self.waiters = waiters
        fenceMilliseconds = String(Nanos(saturating: fenceRetention) / .millisecond)
        queue = "queue \(waiters)"
    }

    // MARK: Calls

    /// What is asked of lock.lua most.
    enum Verb: Sendable {
        case acquire(nonce: String, LockTerms, queue: LockMachine.Queueing)
        case release(LockValue, successor: LockMachine.Successor?)

        var arguments: Int {
            switch self {
            case .acquire: 8
            case .release: 9
            }
        }
    }

    func call(_ names: [String], _ verb: Verb) -> ScriptCall {
        call(names, arguments: verb.arguments) { encode(names, verb, &$0) }
    }

    func encode(_ names: [String], _ verb: Verb, _ writer: inout CommandWriter) {
        switch verb {
        case .acquire(let nonce, let terms, let queue):
            begin(&writer, "acquire", names)
            writer.argument(nonce)
            writer.argument(terms.owner)
            writer.argument(terms.holdMilliseconds)
            switch queue {
            case .none: writer.argument("")
            case .last: writer.argument(self.queue)
            case .since(let arrival): writer.argument(arrival)
            }
        case .release(let value, let successor):
            begin(&writer, "release", names)
            // Its text, which is not made for this.
            writer.argument(value.fence, value.nonce, value.owner)
            guard let successor else {
                for _ in 0..<4 { writer.argument("") }
                return
            }
            writer.argument(successor.nonce)
            writer.argument(successor.terms.owner)
            writer.argument(successor.terms.holdMilliseconds)
            writer.argument(successor.yields ? "queue" : "")
        }
    }

    /// Keys of lock.lua for so many names.
    static func keys(of names: [String]) -> Int { names.count * 3 + 2 }

    func cancel(_ names: [String], nonce: String, _ terms: LockTerms) -> ScriptCall {
        call(names, arguments: 7) { writer in
            begin(&writer, "cancel", names)
            writer.argument(nonce)
            writer.argument(terms.owner)
            writer.argument(terms.holdMilliseconds)
        }
    }

    func force(_ name: String, actor: String, reason: String) -> ScriptCall {
        call([name], arguments: 6) { writer in
            begin(&writer, "force", [name])
            writer.argument(actor)
            writer.argument(reason)
        }
    }

    /// - Parameter process: with a claim, whose: it is heard of by it.
    func renew(
        _ leases: [(names: [String], value: String, milliseconds: Int64)], claimedBy process: String? = nil
    ) -> ScriptCall {
        let keys = keys
        return ScriptCall(
            script: Self.renew, keys: leases.reduce(process == nil ? 0 : 1) { $0 + $1.names.count },
            arguments: leases.count * 3
        ) { writer in
            for lease in leases {
                for name in lease.names { writer.argument(keys.lock, name) }
            }
            if let process { writer.argument(keys.unanswered, process) }
            for lease in leases {
                writer.argument(Int64(lease.names.count))
                writer.argument(lease.value)
                writer.argument(lease.milliseconds)
            }
        }
    }

    func inspect(_ name: String, waiters: Int) -> ScriptCall {
        let keys = keys
        var call = ScriptCall(script: Self.inspect, keys: 4, arguments: 2) { writer in
            writer.argument(keys.lock, name)
            writer.argument(keys.fence, name)
            writer.argument(keys.queue, name)
            writer.argument(keys.absent)
            writer.argument(Int64(waiters))
            writer.argument(keys.place)
        }
        call.answerBytes = waiters * 1024
        return call
    }

    /// A call of lock.lua. One closure a verb, which begins with `begin`: closures within closures were felt.
    private func call(
        _ names: [String], arguments: Int, _ encode: @escaping @Sendable (inout CommandWriter) -> Void
    ) -> ScriptCall {
        ScriptCall(script: lock, keys: Self.keys(of: names), arguments: arguments, encode: encode)
    }

    private func begin(_ writer: inout CommandWriter, _ verb: String, _ names: [String]) {
        for name in names { writer.argument(keys.lock, name) }
        for name in names { writer.argument(keys.fence, name) }
        for name in names { writer.argument(keys.queue, name) }
        writer.argument(keys.absent)
        writer.argument(keys.audit)
        writer.argument(verb)
        writer.argument(auditLength)
        writer.argument(Self.claimMilliseconds)
        writer.argument(fenceMilliseconds)
    }

    // MARK: Answers

    /// The answer of acquire and release; nil if the script cannot have made it.
    static func answer(_ reply: RedisReply) -> Answer? {
        switch reply {
        case .string(let bytes):
            return fence(bytes).map { .granted(fence: $0) }
        case .integer(1):
            return .done
        case .array(let items):
            if items.count == 2, items[0] == .integer(3), case .integer(let index) = items[1], index > 0 {
                return .full(Int(index) - 1)
            }
            guard items.count >= 3, case .integer(let kind) = items[0], case .integer(let second) = items[1] else {
                return nil
            }
            switch (kind, items[2], items.count) {
            case (2, .integer(let milliseconds), 4):
                guard case .integer(let arrival) = items[3] else { return nil }
                return .queued(position: second, milliseconds: milliseconds, arrival: arrival)
            case (0, .string(let owner), 3):
                return .busy(milliseconds: second, owner: String(decoding: owner, as: UTF8.self), freed: 0)
            case (0, .string(let owner), 4):
                guard case .integer(let freed) = items[3] else { return nil }
                return .busy(milliseconds: second, owner: String(decoding: owner, as: UTF8.self), freed: freed)
            default: return nil
            }
        default:
            return nil
        }
    }

    /// Renewed or not, one for each lease; nil if the script cannot have made it.
    static func renewed(_ reply: RedisReply, count: Int) -> [Bool]? {
        guard case .array(let items) = reply, items.count == count else { return nil }
        var renewed: [Bool] = []
        renewed.reserveCapacity(count)
        for item in items {
            switch item {
            case .integer(1): renewed.append(true)
            case .integer(0): renewed.append(false)
            default: return nil
            }
        }
        return renewed
    }

    static func fence(_ bytes: [UInt8]) -> Int64? {
        guard !bytes.isEmpty, bytes.count <= 19 else { return nil }
        var value: Int64 = 0
        for byte in bytes {
            guard byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9") else { return nil }
            let (product, overflow) = value.multipliedReportingOverflow(by: 10)
            let (sum, overflow2) = product.addingReportingOverflow(Int64(byte - UInt8(ascii: "0")))
            if overflow || overflow2 { return nil }
            value = sum
        }
        return value
    }
}
