// SPDX-License-Identifier: Apache-2.0

/// Runs a program (searched in PATH) to its end and returns what it printed.
/// - Throws: ``TestSupportError`` with its output if it failed.
package func output(of program: String, _ arguments: [String]) async throws -> String {
    let (status, output) = try await Subprocess.run(program, arguments)
    guard status == 0 else { throw TestSupportError("\(program) exited with \(status):\n\(output)") }
    return output
}
