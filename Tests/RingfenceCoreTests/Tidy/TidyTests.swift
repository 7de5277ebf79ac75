// SPDX-License-Identifier: Apache-2.0
//
// The rules of the house (HouseRules.swift), kept by every file.
//
// What is above a ceiling stands here with its size: it may shrink, and not grow. An exception that is not needed any
// more is a failure too, so the lists get shorter by themselves.
import RingfencePlatform
import TestSupport
import Testing

@Suite struct TidyTests {
    /// Files above the ceiling, and their lines.
    private static let longFiles: [String: Int] = [
        // One script is one file: it is read by redis-cli as it is.
        "Sources/Ringfence/Scripts/lock.lua": 487,
        // A play from its first act to the last.
        "Tests/RingfenceTests/Groups/GroupScriptFuzzTests.swift": 1_035,
        "Tests/RingfenceTests/Groups/GroupScriptStoryTests.swift": 720,
        "Tests/RingfenceTests/Groups/NemesisTests.swift": 598,
    ]

    /// Functions above the ceiling, and their lines.
    private static let longFunctions: [String: Int] = [
        // A switch that is a table: a case for each call, what is sent.
        "Sources/RingfenceCache/CacheScripts.swift call": 88,
        // What an order does, who is judged and by what, and the decision: each one piece of the contract.
        "Sources/Ringfence/Scripts/group/group-06-ranking.lua rank": 67,
        "Sources/Ringfence/Scripts/group/group-13-orders.lua carry_out": 133,
        "Sources/Ringfence/Scripts/group/group-15-decision.lua decide": 65,
        // The reference model says in one place what the script says in one.
        "Tests/TestSupport/Model/GroupServerModel+Orders.swift carryOut": 95,
        // A case for each fault.
        "Tests/RingfenceCoreTests/Cache/CacheWorld+Faults.swift strike": 61,
        // Stories, told in one go.
        "Tests/HiredisTests/CommandQueueTests.swift random histories give every command its own answers or one ending, "
            + "and never send the dead": 95,
        "Tests/ProgramTests/Agent/AgentTests.swift where the settings say hold, a primary goes on without Redis by the "
            + "word of all the others, and only so": 70,
        "Tests/RingfenceCoreTests/Agent/AgentMachineRandomTests.swift run": 97,
        "Tests/RingfenceCoreTests/Cache/CacheActors.swift write": 74,
        "Tests/RingfenceTests/Cache/PrimaryCacheTests.swift what was confirmed outlives its primary, and every failure "
            + "tells the truth": 62,
        "Tests/RingfenceTests/Groups/GroupScriptFuzzTests.swift playRemoval": 78,
        "Tests/RingfenceTests/Groups/SoakTests.swift a primary keeps its role on a busy machine, though Redis stalls "
            + "for a fifth of the lease every ten seconds": 67,
        "Tests/ScenarioTests/ServiceTests.swift life": 71,
    ]

    private static func paths(in directory: String) throws -> [String] {
        guard let handle = opendir(repositoryRoot + directory) else {
            throw TestSupportError("cannot open \(directory)")
        }
        defer { closedir(handle) }
        var paths: [String] = []
        while let entry = readdir(handle) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
                String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name.hasPrefix(".") { continue }
            if entry.pointee.d_type == UInt8(DT_DIR) {
                paths += try Self.paths(in: directory + "/" + name)
            } else if name.hasSuffix(".swift") || name.hasSuffix(".lua") || name == "openapi.json" {
                paths.append(directory + "/" + name)
            }
        }
        return paths.sorted()
    }

    /// All of the repository's, read once.
    private static let files = Result {
        try (paths(in: "Sources") + paths(in: "Tests") + ["Package.swift"]).map {
            SourceFile($0, try readFile(repositoryRoot + $0))
        }
    }

    private func files(_ isMeant: (SourceFile) -> Bool) throws -> [SourceFile] {
        let all = try Self.files.get()
        #expect(all.count > 500)
        return all.filter(isMeant)
    }

    private func report(_ breaches: [Breach]) {
        for breach in breaches { Issue.record("\(breach)") }
    }

    // MARK: The files

    @Test func `a file has at most 400 lines`() throws {
        for file in try files({ !$0.path.hasSuffix(".json") }) {
            report(HouseRules.length(file, most: Self.longFiles[file.path] ?? HouseRules.mostLines))
        }
        for (path, most) in Self.longFiles {
            let file = try files { $0.path == path }.first
            #expect((file?.length ?? 0) > HouseRules.mostLines, "\(path) needs no exception (\(most)) any more")
        }
    }

    @Test func `a function has at most 60 lines`() throws {
        let files = try files { _ in true }
        for file in files { report(HouseRules.functions(file, ceilings: Self.longFunctions)) }
        let long = Set(files.flatMap { HouseRules.functions($0) }.map { "\($0.path) \($0.rule)" })
        for exception in Self.longFunctions.keys {
            #expect(long.contains { $0.hasPrefix(exception + " has") }, "\(exception) needs no exception any more")
        }
    }

    @Test func `a line has at most 120 columns`() throws {
        for file in try files({ !$0.path.hasSuffix(".json") }) { report(HouseRules.columns(file)) }
    }

    @Test func `a part of the group script has at most 230 lines`() throws {
        let parts = try files { $0.path.hasPrefix("Sources/Ringfence/Scripts/group/") }
        #expect(parts.count > 10)
        for part in parts { report(HouseRules.length(part, most: 230)) }
    }

    @Test func `every script opens with its keys, its arguments and its result`() throws {
        // Of a script in parts, the first says it.
        let scripts = try files {
            $0.isScript && (!$0.path.contains("/Scripts/group/") || $0.path.hasSuffix("/group-01-call.lua"))
        }
        #expect(scripts.count > 10)
        for script in scripts { report(HouseRules.header(script)) }
    }

    @Test func `words that the glossary replaced are not used`() throws {
        for file in try files({ $0.path.hasPrefix("Sources/") }) { report(HouseRules.words(file)) }
    }

    // MARK: The rules themselves

    private func breaches(_ path: String, _ text: String, _ rule: (SourceFile) -> [Breach]) -> [String] {
        rule(SourceFile(path, text)).map(\.description)
    }

    @Test func `a file that is too long is found`() {
        let rule = { HouseRules.length($0) }
        #expect(breaches("a.swift", String(repeating: "x\n", count: 400), rule) == [])
        #expect(
            breaches("a.swift", String(repeating: "x\n", count: 401), rule) == ["a.swift:401: 401 lines, 400 may be"])
    }

    @Test func `a line that is too long is found, by its characters`() {
        let long = String(repeating: "ä", count: 120)
        #expect(breaches("a.lua", "\n" + long, HouseRules.columns) == [])
        #expect(breaches("a.lua", "\n" + long + "x", HouseRules.columns) == ["a.lua:2: 121 columns, 120 may be"])
    }

    @Test(arguments: [
        ("    func f(_ x: Int) {", "f"), ("    private static func f<T>(", "f"),
        ("    package init?(x: Int) {", "init"),
        ("    @discardableResult func f()", "f"), ("    @Test func `a b`() {", "a b"), ("    deinit {", "deinit"),
        ("    package mutating func f(", "f"),
    ])
    func `a function that is too long is found, however it begins`(line: String, name: String) {
        let rule = { HouseRules.functions($0) }
        let closing = line.hasSuffix("{") ? "" : "    )\n    {\n"
        func text(_ count: Int) -> String {
            line + "\n" + closing + String(repeating: "        x {\n        }\n", count: count) + "    }\n}\n"
        }
        #expect(breaches("a.swift", text(28), rule) == [])
        let length = 62 + (closing.isEmpty ? 0 : 2)
        #expect(breaches("a.swift", text(30), rule) == ["a.swift:1: \(name) has \(length) lines, 60 may be"])
        let excepted = HouseRules.functions(SourceFile("a.swift", text(30)), ceilings: ["a.swift \(name)": length])
        #expect(excepted.isEmpty)
    }

    @Test func `a function of Lua that is too long is found, and one without a body is none`() {
        let body = String(repeating: "  if x then y() end\n", count: 60)
        let rule = { HouseRules.functions($0) }
        #expect(breaches("a.lua", "local function f(x)\n\(body)end\n", rule) == ["a.lua:1: f has 62 lines, 60 may be"])
        let declared = "    func f()\n    var x: Int {\n" + String(repeating: "        x\n", count: 70) + "    }\n"
        #expect(breaches("a.swift", declared, rule) == [])
    }

    @Test func `a script without its result is found`() {
        let text = "-- KEYS[1]  the lock\n--   ARGV[1]  the owner\n"
        #expect(breaches("a.lua", text, HouseRules.header) == ["a.lua:1: the header does not say RESULT"])
        #expect(breaches("a.lua", text + "-- RESULT  1\n", HouseRules.header) == [])
    }

    @Test func `a word of before the glossary is found, alone and not within another one`() {
        #expect(breaches("a.swift", "let generation = sequences", HouseRules.words) == [])
        #expect(
            breaches("a.swift", "\nlet gen = 1", HouseRules.words) == ["a.swift:2: gen is called generation here"])
    }
}
