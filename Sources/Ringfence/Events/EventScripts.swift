// SPDX-License-Identifier: Apache-2.0
//
// events.lua as typed calls. Its answers are decoded strictly; only an event that cannot be read is no error of the
// page: it is a hole in it, which its reader is told of as a loss.

import Hiredis
import RingfenceCore

struct EventScripts: Sendable {
    static let events = RedisScript(String(decoding: PackageResources.events_lua, as: UTF8.self))

    /// The log, the names of groups and their members at one moment.
    struct State: Sendable {
        var head: LogHead
        var groups:
            [(
                name: String, version: Int64, generation: String, members: [(id: String, record: [UInt8])],
                role: GroupRole,
                breaker: GroupBreaker
            )]
    }

    let keys: Keyspace

    /// At most `count` events behind the number `sequence`; nil: only the head.
    func page(after sequence: Int64?, count: Int) -> ScriptCall {
        call(arguments: 3, answerBytes: count * 1024) { writer in
            writer.argument("page")
            if let sequence { writer.argument(sequence) } else { writer.argument("") }
            writer.argument(count)
        }
    }

    /// The members of one group, or of all.
    func state(of group: String?) -> ScriptCall {
        // As large as all that is there.
        call(arguments: 2, answerBytes: .max) { writer in
            writer.argument("state")
            writer.argument(group ?? "")
        }
    }

    private func call(
        arguments: Int, answerBytes: Int, _ encode: @escaping @Sendable (inout CommandWriter) -> Void
    ) -> ScriptCall {
        let keys = keys
        var call = ScriptCall(script: Self.events, keys: 4, arguments: arguments) { writer in
            writer.argument(keys.log)
            writer.argument(keys.events)
            writer.argument(keys.groups)
            writer.argument(keys.absent)
            encode(&writer)
        }
        call.answerBytes = answerBytes
        return call
    }

    // MARK: Answers

    /// The page behind `sequence`; nil if the script cannot have made it.
    static func page(_ reply: RedisReply, after sequence: Int64?) -> LogPage<EventRecord>? {
        guard case .array(let parts) = reply, let head = head(parts), case .array(let entries) = parts[4] else {
            return nil
        }
        return LogPage(head: head, after: sequence ?? head.sequence, read: entries.map { entry($0) })
    }

    /// The state; nil if the script cannot have made it.
    static func state(_ reply: RedisReply) -> State? {
        guard case .array(let parts) = reply, let head = head(parts), case .array(let items) = parts[4],
            items.count.isMultiple(of: 5)
        else { return nil }
        var state = State(head: head, groups: [])
        for index in stride(from: 0, to: items.count, by: 5) {
            guard let name = items[index].text, let version = items[index + 1].int,
                let mark = items[index + 2].text, case .array(let pairs) = items[index + 3],
                pairs.count.isMultiple(of: 2), let (role, breaker) = role(items[index + 4])
            else { return nil }
            var members: [(id: String, record: [UInt8])] = []
            for pair in stride(from: 0, to: pairs.count, by: 2) {
                guard let id = pairs[pair].text, let record = pairs[pair + 1].bytes else { return nil }
                members.append((id, record))
            }
            state.groups.append((name, version, GroupMachine.generation(of: mark), members, role, breaker))
        }
        return state
    }

    private static func role(_ reply: RedisReply) -> (GroupRole, GroupBreaker)? {
        guard case .array(let items) = reply, items.count == 6, let epoch = items[0].int, let primary = items[1].text,
            let session = items[2].text, let phase = items[3].text.flatMap({ GroupRole.Phase(rawValue: $0) }),
            let target = items[4].text, let breaker = items[5].text
        else { return nil }
        return (
            GroupRole(epoch: epoch, primary: primary, session: session, phase: phase, target: target),
            GroupBreaker(["breaker": breaker])
        )
    }

    private static func head(_ parts: [RedisReply]) -> LogHead? {
        guard parts.count == 5, let generation = parts[0].bytes,
            let sequence = parts[1].bytes.flatMap({ LogPosition.sequence($0) }),
            let oldest = parts[2].bytes, let forks = parts[3].text
        else { return nil }
        // Before the first event there is no generation; what lies in the stream without one is nobody's.
        guard !generation.isEmpty else {
            return LogHead(generation: LogPosition.start.generation, sequence: 0, first: 1, forks: [])
        }
        guard LogPosition.isGeneration(generation), generation != Array(LogPosition.start.generation.utf8) else {
            return nil
        }
        var first = sequence + 1
        if !oldest.isEmpty {
            guard let number = self.sequence(ofEntry: oldest) else { return nil }
            first = min(first, number)
        }
        return LogHead(
            generation: String(decoding: generation, as: UTF8.self), sequence: sequence, first: first, forks: forks)
    }

    private static func sequence(ofEntry id: [UInt8]) -> Int64? {
        guard id.suffix(2) == Array("-0".utf8) else { return nil }
        return LogPosition.sequence(id.dropLast(2))
    }

    private static func entry(_ reply: RedisReply) -> EventRecord? {
        guard case .array(let parts) = reply, parts.count == 2,
            let sequence = parts[0].bytes.flatMap({ sequence(ofEntry: $0) }),
            case .array(let fields) = parts[1], fields.count == 2, fields[0].bytes == Array("e".utf8),
            let json = fields[1].bytes, let record = try? EventRecord(json), record.position.sequence == sequence
        else { return nil }
        return record
    }
}
