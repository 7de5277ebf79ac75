// SPDX-License-Identifier: Apache-2.0
import RingfencePlatform

/// The clock of a redis-server, to be stepped: `withRedis(under: shim.command)`.
package final class ClockShim: Sendable {
    private let directory: TemporaryDirectory

    /// Compiles the library that is preloaded.
    package init() async throws {
        directory = try TemporaryDirectory()
        let source = String(#filePath.dropLast("ClockShim.swift".count)) + "ClockShim/clockshim.c"
        let result = try await Subprocess.run(
            "cc", ["-shared", "-fPIC", "-O1", "-o", directory.path + "/clockshim.so", source])
        guard result.status == 0 else { throw TestSupportError("cc clockshim.c: \(result.output)") }
        try set(milliseconds: 0)
    }

    /// What a server is started by.
    package var command: [String] {
        ["env", "LD_PRELOAD=\(directory.path)/clockshim.so", "CLOCKSHIM=\(directory.path)/offset"]
    }

    /// From now on the server's clock is so far ahead of the true time.
    package func set(milliseconds: Int64) throws {
        let file = open(directory.path + "/offset", O_CREAT | O_WRONLY | O_CLOEXEC, 0o600)
        guard file >= 0 else { throw TestSupportError("cannot write the offset") }
        defer { close(file) }
        var bytes = milliseconds.littleEndian
        guard withUnsafeBytes(of: &bytes, { pwrite(file, $0.baseAddress, 8, 0) }) == 8 else {
            throw TestSupportError("cannot write the offset")
        }
    }
}
