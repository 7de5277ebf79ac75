// SPDX-License-Identifier: Apache-2.0
//
// A member of a group as it stands in Redis: one line of JSON under its id in the hash of the group's members.
//
// The order of the fields is fixed and what is empty is left out, so that the same member is the same bytes: group.lua
// compares records by their bytes, and finds session and lease at their beginning without decoding anything. Reading is
// strict about every field known here. Names not known here are passed over: while a newer version is rolled out, its
// members must stay on everybody's ring, or two processes would have two rings.
//
// A record in memory is one pointer to fields that never change: thousands of them stand in order, and are moved,
// copied and compared with each change of a large group.

package struct MemberRecord: Sendable, Hashable {
    private struct Fields: Sendable, Hashable {
        var id: String
        var session: String
        var leaseMilliseconds: Int64
        var isCandidate: Bool
        var address: String
        var zone: String
        var weight: Int
        var priority: Int
        var capabilities: [String]
        var metadata: [String: String]
        var health: String
    }

    private final class Box: Sendable {
        let fields: Fields
        init(_ fields: Fields) { self.fields = fields }
    }

    private var box: Box
    private var fields: Fields {
        get { box.fields }
        set { box = Box(newValue) }
    }

    package var id: String {
        get { box.fields.id }
        set { fields.id = newValue }
    }
    /// One life of a member: a new one with each join, so that a process that comes back is told from the one that
    /// died.
    package var session: String {
        get { box.fields.session }
        set { fields.session = newValue }
    }
    package var leaseMilliseconds: Int64 {
        get { box.fields.leaseMilliseconds }
        set { fields.leaseMilliseconds = newValue }
    }
    /// It can be primary.
    package var isCandidate: Bool {
        get { box.fields.isCandidate }
        set { fields.isCandidate = newValue }
    }
    package var address: String {
        get { box.fields.address }
        set { fields.address = newValue }
    }
    package var zone: String {
        get { box.fields.zone }
        set { fields.zone = newValue }
    }
    /// 0: draining, a member that takes nothing new.
    package var weight: Int {
        get { box.fields.weight }
        set { fields.weight = newValue }
    }
    package var priority: Int {
        get { box.fields.priority }
        set { fields.priority = newValue }
    }
    package var capabilities: [String] {
        get { box.fields.capabilities }
        set { fields.capabilities = newValue }
    }
    package var metadata: [String: String] {
        get { box.fields.metadata }
        set { fields.metadata = newValue }
    }
    /// Why its check fails; empty: it passes.
    package var health: String {
        get { box.fields.health }
        set { fields.health = newValue }
    }

    package init(
        id: String, session: String, leaseMilliseconds: Int64, address: String = "", zone: String = "", weight: Int = 1,
        priority: Int = 0, capabilities: [String] = [], metadata: [String: String] = [:], isCandidate: Bool = false,
        health: String = ""
    ) {
        box = Box(
            Fields(
                id: id, session: session, leaseMilliseconds: leaseMilliseconds, isCandidate: isCandidate,
                address: address, zone: zone, weight: weight, priority: priority, capabilities: capabilities,
                metadata: metadata, health: health))
    }

    package static func == (one: Self, other: Self) -> Bool {
        one.box === other.box || one.box.fields == other.box.fields
    }

    package func hash(into hasher: inout Hasher) { hasher.combine(box.fields) }

    package var lease: Nanos { leaseMilliseconds * .millisecond }

    /// The record's text, as group.lua stores and compares it.
    package var json: [UInt8] {
        var json: [UInt8] = []
        json.reserveCapacity(128 + address.utf8.count + zone.utf8.count)
        json += #"{"session":"#.utf8
        json.appendJSON(session)
        json += #","leaseMs":\#(leaseMilliseconds)"#.utf8
        if isCandidate { json += #","candidate":true"#.utf8 }
        if !address.isEmpty {
            json += #","address":"#.utf8
            json.appendJSON(address)
        }
        if !zone.isEmpty {
            json += #","zone":"#.utf8
            json.appendJSON(zone)
        }
        json += #","weight":\#(weight),"priority":\#(priority)"#.utf8
        if !capabilities.isEmpty {
            json += #","capabilities":["#.utf8
            for (index, word) in capabilities.enumerated() {
                if index > 0 { json.append(UInt8(ascii: ",")) }
                json.appendJSON(word)
            }
            json.append(UInt8(ascii: "]"))
        }
        if !metadata.isEmpty {
            json += #","metadata":{"#.utf8
            for (index, pair) in metadata.sorted(by: { $0.key.isBefore($1.key) }).enumerated() {
                if index > 0 { json.append(UInt8(ascii: ",")) }
                json.appendJSON(pair.key)
                json.append(UInt8(ascii: ":"))
                json.appendJSON(pair.value)
            }
            json.append(UInt8(ascii: "}"))
        }
        if !health.isEmpty {
            json += #","health":"#.utf8
            json.appendJSON(health)
        }
        json.append(UInt8(ascii: "}"))
        return json
    }

    /// Reads the record stored under `id`.
    ///
    /// - Throws: ``JSONError`` for what is not a record, ``InvalidArgument`` for a value outside its limits.
    package init(id: String, json: some Collection<UInt8>) throws {
        try self.init(id: id, JSONObject(json, allowed: nil, depth: 1))
    }

    /// Reads the record that an event carries as its detail.
    package init(id: String, _ object: JSONObject) throws {
        guard case .string(let session)? = object["session"] else { throw Self.wrong("session", "a string") }
        guard case .integer(let leaseMilliseconds)? = object["leaseMs"] else {
            throw Self.wrong("leaseMs", "an integer")
        }
        var capabilities: [String] = []
        switch object["capabilities"] {
        case nil: break
        case .strings(let words)?: capabilities = words
        case _?: throw Self.wrong("capabilities", "an array of strings")
        }
        var metadata: [String: String] = [:]
        switch object["metadata"] {
        case nil: break
        case .object(let pairs)?: metadata = try Self.metadata(pairs)
        case _?: throw Self.wrong("metadata", "an object of strings")
        }
        var isCandidate = false
        switch object["candidate"] {
        case nil: break
        case .bool(let value)?: isCandidate = value
        case _?: throw Self.wrong("candidate", "a boolean")
        }
        self.init(
            id: id, session: session, leaseMilliseconds: leaseMilliseconds, address: try Self.text(object, "address"),
            zone: try Self.text(object, "zone"), weight: try Self.number(object, "weight") ?? 1,
            priority: try Self.number(object, "priority") ?? 0, capabilities: capabilities, metadata: metadata,
            isCandidate: isCandidate, health: try Self.text(object, "health"))
        try Limits.check(self, isStored: true)
    }

    /// Free pairs of strings.
    package static func metadata(_ object: JSONObject) throws(JSONError) -> [String: String] {
        var metadata: [String: String] = [:]
        for field in object.fields {
            guard case .string(let value) = field.value else { throw wrong("metadata", "an object of strings") }
            // Two spellings of one key are one key to a dictionary: better refused than one of them lost.
            guard metadata.updateValue(value, forKey: field.name) == nil else {
                throw JSONError(field: "metadata", message: "metadata has two keys that read the same", offset: 0)
            }
        }
        return metadata
    }

    private static func text(_ object: JSONObject, _ name: String) throws(JSONError) -> String {
        switch object[name] {
        case nil: return ""
        case .string(let text)?: return text
        case _?: throw wrong(name, "a string")
        }
    }

    private static func number(_ object: JSONObject, _ name: String) throws(JSONError) -> Int? {
        switch object[name] {
        case nil: return nil
        case .integer(let number)?: return Int(clamping: number)
        case _?: throw wrong(name, "an integer")
        }
    }

    private static func wrong(_ name: String, _ kind: String) -> JSONError {
        JSONError(field: name, message: "\(name) of a member's record must be \(kind)", offset: 0)
    }
}
