// SPDX-License-Identifier: Apache-2.0
import RingfencePlatform

/// This very executable, for commands that start more of themselves.
package enum OwnExecutable {
    /// On Linux the kernel's link, which stays right when the file was moved or replaced meanwhile.
    package static var path: String {
        access("/proc/self/exe", X_OK) == 0 ? "/proc/self/exe" : CommandLine.arguments[0]
    }

    /// Another program of the same build, which lies beside this one.
    package static func sibling(_ name: String) throws -> String {
        var bytes = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlink("/proc/self/exe", &bytes, bytes.count)
        let own =
            count > 0
            ? String(decoding: bytes[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
            : CommandLine.arguments[0]
        let path = own[..<(own.lastIndex(of: "/").map { own.index(after: $0) } ?? own.startIndex)] + name
        guard access(String(path), X_OK) == 0 else {
            throw CommandFailure(
                "there is no \(path): the programs of one build lie in one directory (swift build -c release)")
        }
        return String(path)
    }
}
