// SPDX-License-Identifier: Apache-2.0
import RingfencePlatform

/// A fresh directory, removed with all in it when the last reference goes.
package final class TemporaryDirectory: Sendable {
    package let path: String

    package init() throws {
        // Short on purpose: a unix socket's path may have at most 107 bytes.
        var template = Array("/tmp/ringfence-XXXXXX".utf8CString)
        guard let made = mkdtemp(&template) else { throw TestSupportError("mkdtemp failed") }
        path = String(cString: made)
    }

    deinit { Self.delete(path) }

    package static func delete(_ path: String) {
        // remove() deletes a file, a link or an empty directory.
        if remove(path) == 0 { return }
        guard let directory = opendir(path) else { return }
        while let entry = readdir(directory) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
                String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name != "." && name != ".." { delete(path + "/" + name) }
        }
        closedir(directory)
        remove(path)
    }
}
