// SPDX-License-Identifier: Apache-2.0

/// A Lua script, known to the server by the SHA-1 of its text.
package final class RedisScript: Sendable {
    package let source: String
    /// 40 lower-case hexadecimal digits.
    package let sha1: String
    private let bySHA1: [UInt8]
    private let bySource: [UInt8]

    package init(_ source: String) {
        self.source = source
        sha1 = SHA1.hexadecimal(source.utf8)
        bySHA1 = Self.prepare("EVALSHA", sha1)
        bySource = Self.prepare("EVAL", source)
    }

    private static func prepare(_ name: String, _ script: String) -> [UInt8] {
        var writer = CommandWriter(capacity: 256)
        writer.begin(2)
        let start = writer.count
        writer.argument(name)
        writer.argument(script)
        return Array(writer.bytes[start...])
    }

    /// Starts `EVALSHA sha keys` or `EVAL source keys`; `keys` keys and `arguments` arguments must follow.
    func begin(_ writer: inout CommandWriter, keys: Int, arguments: Int, whole: Bool) {
        writer.begin(3 + keys + arguments)
        writer.prepared(whole ? bySource : bySHA1, arguments: 2)
        writer.argument(keys)
    }
}
