// SPDX-License-Identifier: Apache-2.0
//
// Rules of the house that no compiler knows.
import TestSupport
import Testing

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

@Suite struct TidyTests {
    private static let sources: String = {
        let parts = #filePath.split(separator: "/").dropLast(3)
        return "/" + parts.joined(separator: "/") + "/Sources"
    }()
    private static let scripts = sources + "/Ringfence/Scripts"

    private func files(in directory: String, ending suffix: String = ".lua") throws -> [String] {
        guard let handle = opendir(directory) else { throw TestSupportError("cannot open \(directory)") }
        defer { closedir(handle) }
        var names: [String] = []
        while let entry = readdir(handle) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name.hasPrefix(".") { continue }
            if name.hasSuffix(suffix) { names.append(directory + "/" + name) }
            if suffix != ".lua", entry.pointee.d_type == UInt8(DT_DIR) {
                names += try files(in: directory + "/" + name, ending: suffix)
            }
        }
        return names.sorted()
    }

    /// By bytes: to split by characters takes a hundred times as long.
    private func lines(_ file: String) throws -> [Substring] {
        try readFile(file).utf8.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
            .map { Substring($0) }
    }

    @Test func `a part of the group script has at most 230 lines, of at most 120 characters`() throws {
        let parts = try files(in: Self.scripts + "/group")
        #expect(parts.count > 10)
        for part in parts {
            let lines = try lines(part)
            #expect(lines.count <= 230, "\(part) has \(lines.count) lines")
            for (index, line) in lines.enumerated() where line.count > 120 {
                Issue.record("\(part):\(index + 1) has \(line.count) characters")
            }
        }
    }

    @Test func `a comment has at most 120 characters in a line`() throws {
        let files = try files(in: Self.sources, ending: ".swift")
        #expect(files.count > 200)
        for file in files {
            for (index, line) in try lines(file).enumerated() where line.utf8.count > 120 {
                let isComment = line.drop { $0 == " " }.hasPrefix("//")
                if isComment, line.count > 120 { Issue.record("\(file):\(index + 1) has \(line.count) characters") }
            }
        }
    }

    @Test func `every script opens with its keys, its arguments and its result`() throws {
        let scripts = try files(in: Self.scripts).filter { !$0.hasSuffix("/guard.lua") }
        #expect(scripts.count > 5)
        let caches = try files(in: Self.sources + "/RingfenceCache/Scripts")
        #expect(caches.count == 2)
        for script in try scripts + caches + files(in: Self.scripts + "/group").prefix(1) {
            let header = try lines(script).prefix { $0.hasPrefix("--") }.joined(separator: "\n")
            for word in ["KEYS", "ARGV", "RESULT"] where !header.contains("-- \(word)") {
                Issue.record("\(script) does not say \(word)")
            }
        }
    }
}
