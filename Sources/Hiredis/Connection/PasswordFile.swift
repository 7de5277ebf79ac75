// SPDX-License-Identifier: Apache-2.0
import RingfencePlatform

/// A file that holds a password and nothing else, as secrets are mounted into containers.
enum PasswordFile {
    /// The file's text without the line end behind it.
    ///
    /// - Throws: `invalidConfiguration`, naming the file and never what is in it.
    static func read(_ path: String) throws(RedisError) -> String {
        guard let file = fopen(path, "re") else {
            throw wrong(path, "cannot be read: \(String(cString: strerror(errno)))")
        }
        defer { fclose(file) }
        var bytes = [UInt8](repeating: 0, count: 4097)
        let count = fread(&bytes, 1, bytes.count, file)
        guard ferror(file) == 0 else { throw wrong(path, "cannot be read") }
        guard count < bytes.count else { throw wrong(path, "is longer than 4096 bytes") }
        var text = bytes[..<count]
        if text.last == UInt8(ascii: "\n") { text = text.dropLast() }
        if text.last == UInt8(ascii: "\r") { text = text.dropLast() }
        guard !text.isEmpty else { throw wrong(path, "is empty") }
        guard let password = String(validating: text, as: UTF8.self), !text.contains(where: { $0 < 0x20 }) else {
            throw wrong(path, "must hold one line of UTF-8 text")
        }
        return password
    }

    private static func wrong(_ path: String, _ what: String) -> RedisError {
        RedisError(.invalidConfiguration, effect: .none, "the password file \(path) \(what)")
    }
}
