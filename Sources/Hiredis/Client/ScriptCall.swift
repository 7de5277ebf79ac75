// SPDX-License-Identifier: Apache-2.0
//
// A script to be run, in two shapes. A call is a value: it can be kept and written again. A request is an object of its
// caller's that holds all that belongs to it: where a script is run a hundred thousand times a second, closures are
// felt. A call becomes a request with the closure that is told.

/// One call of a script, ready to be written, again if need be.
package struct ScriptCall: Sendable {
    package let script: RedisScript
    package let keys: Int
    package let arguments: Int
    /// Writes the keys and arguments.
    package let encode: @Sendable (inout CommandWriter) -> Void
    /// About how large the answer may be, if it may be large: the total asked for at a time is limited.
    package var answerBytes: Int?

    package init(
        script: RedisScript, keys: Int, arguments: Int, answerBytes: Int? = nil,
        encode: @escaping @Sendable (inout CommandWriter) -> Void
    ) {
        self.script = script
        self.keys = keys
        self.arguments = arguments
        self.encode = encode
        self.answerBytes = answerBytes
    }
}

/// A script to be run, and the receiver of its reply.
package protocol ScriptRequest: AnyObject, Sendable {
    var script: RedisScript { get }
    var keys: Int { get }
    var arguments: Int { get }
    /// From when it is submitted; nil: the configuration's `commandTimeout`.
    var deadline: Duration? { get }
    /// Writes the keys and arguments; once, or twice if the server does not know the script yet.
    func encode(_ writer: inout CommandWriter)
    func finish(_ result: Result<RedisReply, RedisError>)
}

/// A call, and the closure that is told.
package final class ScriptCallRequest: ScriptRequest {
    private let call: ScriptCall
    package let deadline: Duration?
    private let completion: @Sendable (Result<RedisReply, RedisError>) -> Void

    package init(
        _ call: ScriptCall, deadline: Duration?,
        completion: @escaping @Sendable (Result<RedisReply, RedisError>) -> Void
    ) {
        self.call = call
        self.deadline = deadline
        self.completion = completion
    }

    package var script: RedisScript { call.script }
    package var keys: Int { call.keys }
    package var arguments: Int { call.arguments }
    package func encode(_ writer: inout CommandWriter) { call.encode(&writer) }
    package func finish(_ result: Result<RedisReply, RedisError>) { completion(result) }
}
