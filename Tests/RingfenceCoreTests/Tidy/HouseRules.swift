// SPDX-License-Identifier: Apache-2.0
//
// Rules of the house that no compiler knows: what is wrong with a file, by its text alone.
//
// A function is found by its first line and by how far that is indented, for `swift format` puts the brace that closes
// it under its beginning: no parser is needed, and a pass over all files takes less than a second. Sizes are ceilings
// for people who read; what stands above them by good reason is in a list of exceptions (TidyTests.swift).

/// A file of the repository.
struct SourceFile {
    /// From the root of the repository.
    let path: String
    let lines: [Substring]

    /// By bytes: to split by characters takes a hundred times as long.
    init(_ path: String, _ text: String) {
        self.path = path
        lines = text.utf8.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).map { Substring($0) }
    }

    var isScript: Bool { path.hasSuffix(".lua") }
    /// Without what is behind the last end of a line.
    var length: Int { lines.count - (lines.last == "" ? 1 : 0) }
}

/// Where a file breaks a rule.
struct Breach: Hashable, CustomStringConvertible {
    var path: String
    var line: Int
    var rule: String
    var description: String { "\(path):\(line): \(rule)" }
}

enum HouseRules {
    static let mostLines = 400
    static let mostLinesOfFunction = 60
    static let mostColumns = 120

    /// Words that the glossary replaced, and by what: one word has one meaning.
    static let replaced = [
        "whenAway": "onCoordinatorLoss", "holdMs": "failsafeMs or graceMs", "heldByPromises": "inFailsafe",
        "holdUntil": "graceUntil", "heldUntil": "brakedUntil", "drainMs": "handoverMs", "gen": "generation",
        "seq": "sequence", "Letter": "BeatRequest", "Courier": "ScriptRunner",
        "Errand": "ScriptRequest", "Steward": "Repair", "StewardMachine": "RepairMachine",
        "CacheSteward": "CacheRepair", "HoldMachine": "FailsafeMachine", "OutlierMachine": "EjectionMachine",
        "LockWords": "LockTerms", "GroupShelf": "GroupCache", "OpenCalls": "OutstandingCalls",
        "Nap": "InterruptibleSleep", "Happening": "Notice", "wantedPolicy": "requestedPolicy",
        "BreakerForce": "BreakerOverride", "WhenAway": "OnCoordinatorLoss", "fenceBudget": "suspendBudget",
    ]

    // MARK: Sizes

    /// - Parameter most: what this file may have.
    static func length(_ file: SourceFile, most: Int = mostLines) -> [Breach] {
        guard file.length > most else { return [] }
        return [Breach(path: file.path, line: most + 1, rule: "\(file.length) lines, \(most) may be")]
    }

    static func columns(_ file: SourceFile) -> [Breach] {
        file.lines.enumerated().compactMap { index, line in
            guard line.utf8.count > mostColumns, line.count > mostColumns else { return nil }
            return Breach(path: file.path, line: index + 1, rule: "\(line.count) columns, \(mostColumns) may be")
        }
    }

    /// - Parameter ceilings: what single functions may have, by `path name`.
    static func functions(_ file: SourceFile, ceilings: [String: Int] = [:]) -> [Breach] {
        file.lines.indices.compactMap { index in
            guard let name = functionName(file.lines[index], isLua: file.isScript) else { return nil }
            let length = functionLength(file, index)
            guard length > mostLinesOfFunction else { return nil }
            let most = ceilings["\(file.path) \(name)"] ?? mostLinesOfFunction
            guard length > most else { return nil }
            return Breach(path: file.path, line: index + 1, rule: "\(name) has \(length) lines, \(most) may be")
        }
    }

    private static let modifiers: Set<Substring> = [
        "public", "package", "private", "fileprivate", "internal", "static", "class", "final", "override", "mutating",
        "nonmutating", "nonisolated", "convenience", "required", "isolated", "consuming", "borrowing", "local",
    ]

    /// The name of the function that begins in a line.
    static func functionName(_ line: Substring, isLua: Bool) -> Substring? {
        let bytes = line.utf8
        guard bytes.contains(UInt8(ascii: "f")) || bytes.contains(UInt8(ascii: "i")) else { return nil }
        var words = line.split(separator: " ")[...]
        while let word = words.first, modifiers.contains(word) || (!isLua && word.hasPrefix("@")) {
            words.removeFirst()
        }
        guard let first = words.first else { return nil }
        if first == (isLua ? "function" : "func") {
            let name = words.dropFirst().joined(separator: " ")
            if name.hasPrefix("`") { return name.dropFirst().prefix { $0 != "`" } }
            return name[...].prefix { $0 != "(" && $0 != "<" }
        }
        guard !isLua else { return nil }
        let name = first.prefix { $0 != "(" && $0 != "<" && $0 != "?" }
        return name == "init" && name != first || name == "deinit" ? name : nil
    }

    /// From the line where it begins to the one that closes it; 1 if that is the same.
    private static func functionLength(_ file: SourceFile, _ start: Int) -> Int {
        let depth = indentation(file.lines[start])
        for index in file.lines.indices.dropFirst(start + 1) {
            let line = file.lines[index]
            let own = indentation(line)
            if own > depth || own == line.utf8.count { continue }
            let rest = line.utf8.dropFirst(own)
            if own < depth { return 1 }
            if file.isScript { return rest.starts(with: "end".utf8) ? index - start + 1 : 1 }
            switch rest.first {
            case UInt8(ascii: "}"): return index - start + 1
            // The signature goes on, as `swift format` breaks it.
            case UInt8(ascii: ")"), UInt8(ascii: "{"): continue
            default: return 1
            }
        }
        return 1
    }

    private static func indentation(_ line: Substring) -> Int { line.utf8.prefix { $0 == UInt8(ascii: " ") }.count }

    // MARK: Words

    /// Words of before the glossary.
    static func words(_ file: SourceFile) -> [Breach] {
        var breaches: [Breach] = []
        for (index, line) in file.lines.enumerated() {
            for word in line.utf8.split(whereSeparator: { !isOfWord($0) }) {
                // Most words are no candidates by their length.
                guard word.count >= 3, word.count <= 16, let better = replaced[String(Substring(word))] else {
                    continue
                }
                breaches.append(
                    Breach(path: file.path, line: index + 1, rule: "\(Substring(word)) is called \(better) here"))
            }
        }
        return breaches
    }

    private static func isOfWord(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"):
            true
        default: false
        }
    }

    // MARK: Scripts

    /// A script opens with what it takes and what it says.
    static func header(_ file: SourceFile) -> [Breach] {
        let header = file.lines.prefix { $0.hasPrefix("--") }.map { $0.dropFirst(2).drop { $0 == " " } }
        return ["KEYS", "ARGV", "RESULT"].filter { word in !header.contains { $0.hasPrefix(word) } }
            .map { Breach(path: file.path, line: 1, rule: "the header does not say \($0)") }
    }
}
