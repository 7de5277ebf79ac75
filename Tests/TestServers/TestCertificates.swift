// SPDX-License-Identifier: Apache-2.0

/// Certificates made by `openssl` for one test: an authority, a server signed by it, a client signed by it, and a
/// second authority that signed nothing.
package struct TestCertificates: Sendable {
    package let directory: TemporaryDirectory
    package var authority: String { directory.path + "/ca.crt" }
    package var strangerAuthority: String { directory.path + "/stranger.crt" }
    package var serverCertificate: String { directory.path + "/server.crt" }
    package var serverKey: String { directory.path + "/server.key" }
    package var clientCertificate: String { directory.path + "/client.crt" }
    package var clientKey: String { directory.path + "/client.key" }

    /// Makes the files. `serverNames` is the subject alternative name of the server's certificate, `days` how long it
    /// is valid: less than 0 for one that has expired.
    package static func make(
        serverNames: String = "DNS:localhost,IP:127.0.0.1", days: Int = 30
    ) async throws -> TestCertificates {
        let certificates = TestCertificates(directory: try TemporaryDirectory())
        for name in ["ca", "stranger"] {
            try await certificates.openssl(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=\(name)"
                    + " -keyout \(name).key -out \(name).crt")
        }
        for (name, names) in [("server", serverNames), ("client", "DNS:client")] {
            try await certificates.openssl(
                "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=\(name)"
                    + " -addext subjectAltName=\(names) -keyout \(name).key -out \(name).csr")
            try await certificates.openssl(
                "x509 -req -in \(name).csr -CA ca.crt -CAkey ca.key -CAcreateserial -days \(days) -copy_extensions copy"
                    + " -out \(name).crt")
        }
        return certificates
    }

    private func openssl(_ command: String) async throws {
        let result = try await Subprocess.run(
            "env", ["-C", directory.path, "openssl"] + command.split(separator: " ").map(String.init))
        guard result.status == 0 else { throw TestSupportError("openssl \(command): \(result.output)") }
    }
}
