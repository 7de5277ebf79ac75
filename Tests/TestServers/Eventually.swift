// SPDX-License-Identifier: Apache-2.0

/// Waits until `condition` holds, asking every few milliseconds; throws when it does not within `limit`.
///
/// The limit is a safety net and generous on purpose: a correct program never meets it, however slow the machine.
package func eventually(
    _ what: String = "condition", within limit: Duration = .seconds(20), every pause: Duration = .milliseconds(2),
    file: StaticString = #fileID, line: UInt = #line, isolation: isolated (any Actor)? = #isolation,
    _ condition: () async throws -> Bool
) async throws {
    let end = ContinuousClock.now + limit
    while true {
        if try await condition() { return }
        guard ContinuousClock.now < end else {
            throw TestSupportError("\(file):\(line): \(what) did not hold within \(limit)")
        }
        try await Task.sleep(for: pause)
    }
}
