// SPDX-License-Identifier: Apache-2.0

package import Hiredis
import RingfenceCore

/// The Redis that a client works on, for those who look after it. Nothing is asked for it.
package struct RedisView: Sendable {
    /// What the URL names: `single`, `sentinel`, `cluster` or `replicated`.
    package var kind: String
    /// Where the primary is; nil while there is none.
    package var primary: RedisConfiguration.Address?
    /// Such as `Valkey 8.1.8`; nil where it may not be asked.
    package var software: String?
    /// The config epoch under which it was named, where there is one.
    package var epoch: Int64?
    /// Counts the places of this client, from 1.
    package var generation: Int
    /// Since when it is there, or is not.
    package var since: Duration
    /// How many are connected to it; nil where it may not be asked.
    package var replicas: Int?
    /// Why there is none.
    package var plight: RedisError?
    /// Of a URL that names Sentinels: how many of those that are known answer.
    package var sentinels: SentinelStanding?
    /// What is wrong though locks can be had: a stable code, and what to do.
    package var faults: [(code: String, message: String)]
}

extension RingfenceClient {
    package var redis: RedisView {
        let status = locator.status
        let (server, faults) = watch.view
        let seen = server ?? status.server
        return RedisView(
            kind: locator.kind, primary: status.address, software: seen?.software, epoch: status.epoch,
            generation: status.generation, since: status.age, replicas: seen?.connectedReplicas, plight: status.plight,
            sentinels: status.sentinels, faults: faults)
    }
}
