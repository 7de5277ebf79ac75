// SPDX-License-Identifier: Apache-2.0
//
// The fields of the agent's file, by type: each error names its place and what is allowed there.
import RingfenceCore
import RingfenceOperations

/// The fields of an object of the file, with their place in it.
struct FileFields {
    let object: JSONObject
    let place: String

    init(_ object: JSONObject, _ place: String) {
        self.object = object
        self.place = place
    }

    func wrong(_ name: String, _ message: String) -> Settings.Failure {
        Settings.Failure(description: "\(place.isEmpty ? name : "\(place).\(name)") \(message)")
    }

    func allow(_ names: [String]) throws {
        for field in object.fields where !names.contains(field.name) {
            throw wrong(field.name, "is not known here; there are \(names.joined(separator: ", "))")
        }
    }

    func text(_ name: String, mayBeEmpty: Bool = false) throws -> String? {
        guard let value = object[name] else { return nil }
        guard case .string(let text) = value else { throw wrong(name, "must be a string, not \(value.kind)") }
        guard mayBeEmpty || !text.isEmpty else { throw wrong(name, "is empty") }
        guard !text.unicodeScalars.contains(where: \.isUnseen) else {
            throw wrong(name, "must not hold control or format characters")
        }
        return text
    }

    func needed(_ name: String) throws -> String {
        guard let text = try text(name) else { throw wrong(name, "is missing") }
        return text
    }

    func path(_ name: String) throws -> String? {
        guard var text = try text(name) else { return nil }
        if text.hasPrefix("~") { text = try Settings.absolute(text, name) }
        guard text.hasPrefix("/") else { throw wrong(name, "must be an absolute path, not \(quoted(text))") }
        return text
    }

    func integer(_ name: String, _ range: ClosedRange<Int>) throws -> Int? {
        guard let value = object[name] else { return nil }
        guard case .integer(let number) = value else { throw wrong(name, "must be an integer, not \(value.kind)") }
        guard let number = Int(exactly: number), range.contains(number) else {
            throw wrong(name, "must be \(range.lowerBound) to \(range.upperBound), not \(number)")
        }
        return number
    }

    func bool(_ name: String) throws -> Bool? {
        guard let value = object[name] else { return nil }
        guard case .bool(let bool) = value else { throw wrong(name, "must be true or false, not \(value.kind)") }
        return bool
    }

    func duration(_ name: String, _ range: ClosedRange<Duration>) throws -> Duration? {
        guard let text = try text(name) else { return nil }
        guard let duration = Duration(text: text) else {
            throw wrong(name, "must be a number with ms, s, m, h or d behind it, not \(quoted(text))")
        }
        guard range.contains(duration) else {
            throw wrong(
                name,
                "must be \(range.lowerBound.shortText) to \(range.upperBound.shortText), not \(duration.shortText)")
        }
        return duration
    }

    func choice(_ name: String, _ choices: [String]) throws -> String? {
        guard let text = try text(name) else { return nil }
        guard choices.contains(text) else {
            throw wrong(name, "must be \(choices.joined(separator: ", ")), not \(quoted(text))")
        }
        return text
    }

    func endpoint(_ name: String, lowestPort: Int = 1) throws -> AgentConfiguration.Endpoint? {
        guard let text = try text(name) else { return nil }
        guard let endpoint = AgentConfiguration.Endpoint(text, lowestPort: lowestPort) else {
            throw wrong(name, "must be HOST:PORT, with the port \(lowestPort) to 65535, not \(quoted(text))")
        }
        return endpoint
    }

    func neededEndpoint(_ name: String) throws -> AgentConfiguration.Endpoint {
        guard let endpoint = try endpoint(name) else { throw wrong(name, "is missing") }
        return endpoint
    }

    /// One status, or a range: 200, "200-399".
    func status(_ name: String) throws -> ClosedRange<Int>? {
        if case .integer = object[name] { return try integer(name, 100...599).map { $0...$0 } }
        guard let text = try text(name) else { return nil }
        let parts = text.split(separator: "-").compactMap { Int($0) }
        guard parts.count == 2, parts[0] <= parts[1], parts[0] >= 100, parts[1] <= 599 else {
            throw wrong(name, "must be a status or a range such as \"200-399\", not \(quoted(text))")
        }
        return parts[0]...parts[1]
    }

    func command(_ name: String) throws -> [String] {
        guard let value = object[name] else { throw wrong(name, "is missing") }
        guard case .strings(let words) = value else {
            throw wrong(name, "must be an array of strings, the program and its arguments, not \(value.kind)")
        }
        guard let program = words.first, words.count <= 256 else { throw wrong(name, "must be 1 to 256 words") }
        guard program.hasPrefix("/") else {
            throw wrong(name, "must begin with the absolute path of a program, not \(quoted(program))")
        }
        guard !words.contains(where: { $0.utf8.contains(0) }) else { throw wrong(name, "must not hold NUL") }
        return words
    }

    func object(_ name: String) throws -> FileFields? {
        guard let value = object[name] else { return nil }
        guard case .object(let inner) = value else { throw wrong(name, "must be an object, not \(value.kind)") }
        return FileFields(inner, place.isEmpty ? name : "\(place).\(name)")
    }

    func objects(_ name: String) throws -> [FileFields] {
        switch object[name] {
        case nil, .strings([]): return []
        case .objects(let list): return list.enumerated().map { FileFields($1, "\(name)[\($0)]") }
        case .some(let value): throw wrong(name, "must be an array of objects, not \(value.kind)")
        }
    }
}
