// SPDX-License-Identifier: Apache-2.0
//
// Whether the user that Redis knows us as may do what Ringfence does, asked before it is needed. A missing right on the
// channels is the one that hurts unseen: locks work, but waiters are told late. Redis 7 gives new users no
// channel.

package import Hiredis

package enum Rights {
    /// The commands that this user may not give on the keys and channels of `namespace`; nothing is written.
    package static func missing(on client: RedisClient, namespace: String) async throws -> [String] {
        let keys = Keyspace(namespace: namespace)
        let text = String(decoding: PackageResources.rights_lua, as: UTF8.self)
        let script = RedisScript(ScriptFlavour(client.place).text(text))
        let reply = try await client.run(script, keys: 5, arguments: 1) { writer in
            writer.argument(keys.lock)
            writer.argument(keys.queue)
            writer.argument(keys.audit)
            writer.argument(keys.state)
            writer.argument(keys.absent)
            writer.argument(keys.inbox(""))
        }
        return reply.array?.compactMap(\.text) ?? []
    }
}
