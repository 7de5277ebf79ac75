// SPDX-License-Identifier: Apache-2.0
//
// What RingfenceCache uses of this library that is not public: it stands on a group and a client, sends scripts by the
// client's connection, and notes events in the group's log. Anything more that it needs is to be added here, so that it
// shows how much of the library others rely on.

package import Hiredis
package import NIOCore
package import RingfenceCore

extension RingfenceClient {
    /// What all keys of the client's namespace begin with.
    package var keyPrefix: String { keys.prefix }

    /// The event loop of the client's connection.
    package var eventLoop: any EventLoop { hub.eventLoop }

    /// Nothing is sent any more.
    package var isClosed: Bool { hub.isShutDown }

    /// A text that nobody else makes.
    package func uniqueText() -> String { nonces.session() }

    /// Runs a script; `completion` comes exactly once, on an event loop, never before this returns.
    package func run(_ call: ScriptCall, completion: @escaping @Sendable (Result<RedisReply, RedisError>) -> Void) {
        courier.run(call, confirmation: nil, completion: completion)
    }

    /// The same for a caller that waits for the answer.
    package func result(of call: ScriptCall) async -> Result<RedisReply, RedisError> {
        await courier.result(of: call)
    }

    /// Writes an event about a group that changes nothing, if Redis can be reached now. Nobody waits for it.
    package func note(_ type: String, group: String, member: String, reason: String, detail: [UInt8]) {
        hub.note(type, group: group, member: member, reason: reason, detail: detail)
    }
}

extension Group {
    /// How the group's ring is made; the default while the group has none.
    package var ringPolicy: RingPolicy { policy ?? GroupScripts.defaultPolicy }
}
