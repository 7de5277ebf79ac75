// SPDX-License-Identifier: Apache-2.0
package import Logging
package import Ringfence

/// Runs `body` with a client of its own, and shuts that down.
package func withRingfenceClient<Result: Sendable>(
    _ configuration: RingfenceConfiguration, _ logger: Logger, _ body: (RingfenceClient) async throws -> Result
) async throws -> Result {
    let client = try RingfenceClient(configuration, logger: logger)
    do {
        let result = try await body(client)
        await client.shutdown()
        return result
    } catch {
        await client.shutdown()
        throw error
    }
}
