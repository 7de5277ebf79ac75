// SPDX-License-Identifier: Apache-2.0
import Ringfence

extension BenchSettings {
    /// Runs `body` with a client of its own, and shuts that down.
    func withClient<Result: Sendable>(
        namespace: String, owner: String? = nil, eventLength: Int = 10_000,
        _ body: (RingfenceClient) async throws -> Result
    ) async throws -> Result {
        let client = try RingfenceClient(
            .init(url: redis.url, namespace: namespace, owner: owner, eventLength: eventLength), logger: logger)
        do {
            let result = try await body(client)
            await client.shutdown()
            return result
        } catch {
            await client.shutdown()
            throw error
        }
    }
}
