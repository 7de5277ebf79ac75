// SPDX-License-Identifier: Apache-2.0
//
// One event, read from the bytes that the scripts wrote. The bytes are kept: what is passed on is exactly what the log
// holds. Fields known here are read strictly; fields and types that a later version adds are passed over, so that an
// old subscriber lives through a rolling upgrade.

/// A class, because one event is read once and handed to a thousand subscribers.
package final class EventRecord: LogEntry {
    private static let names = [
        "generation", "sequence", "at", "type", "group", "member", "version", "of", "epoch", "previous", "reason",
        "actor",
    ]

    package let position: LogPosition
    /// Milliseconds since 1970, by Redis' clock.
    package let at: Int64
    package let type: String
    package let group: String?
    package let member: String?
    package let version: Int64?
    package let changes: Int
    package let epoch: Int64?
    package let previous: String?
    package let reason: String?
    package let actor: String?
    package let json: [UInt8]
    private let detailRange: Range<Int>?

    /// The JSON of `detail`.
    package var detail: ArraySlice<UInt8>? { detailRange.map { json[$0] } }
    package var byteCount: Int { json.count + 256 }

    /// - Throws: ``JSONError`` for what is no event.
    package init(_ json: [UInt8]) throws(JSONError) {
        let (object, range) = try JSONObject.reading(Self.names, raw: "detail", of: json)
        guard let generation = try Self.text(object, "generation"), LogPosition.isGeneration(generation.utf8),
            generation != LogPosition.start.generation,
            let sequence = try Self.number(object, "sequence", 1...LogPosition.seqMaximum),
            let at = try Self.number(object, "at", 0...Int64.max), let type = try Self.text(object, "type")
        else { throw JSONError(message: "an event has generation, sequence, at and type", offset: 0) }
        position = LogPosition(generation: generation, sequence: sequence)
        self.at = at
        self.type = type
        group = try Self.text(object, "group")
        member = try Self.text(object, "member")
        version = try Self.number(object, "version", 0...Int64.max)
        changes = Int(try Self.number(object, "of", 1...1_000_000) ?? 1)
        epoch = try Self.number(object, "epoch", 0...Int64.max)
        previous = try Self.text(object, "previous")
        reason = try Self.text(object, "reason")
        actor = try Self.text(object, "actor")
        self.json = json
        detailRange = range
    }

    private static func text(_ object: JSONObject, _ name: String) throws(JSONError) -> String? {
        switch object[name] {
        case nil: return nil
        case .string(let text)?: return text
        case _?: throw JSONError(field: name, message: "\(name) of an event must be a string", offset: 0)
        }
    }

    private static func number(
        _ object: JSONObject, _ name: String, _ range: ClosedRange<Int64>
    ) throws(JSONError) -> Int64? {
        switch object[name] {
        case nil: return nil
        case .integer(let number)? where range.contains(number): return number
        case _?: throw JSONError(field: name, message: "\(name) of an event must be an integer", offset: 0)
        }
    }
}
