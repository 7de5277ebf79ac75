// SPDX-License-Identifier: Apache-2.0

package import Hiredis

/// One call of a script, ready to be written, again if need be.
package struct ScriptCall: Sendable {
    package let script: RedisScript
    package let keys: Int
    package let arguments: Int
    package let encode: @Sendable (inout CommandWriter) -> Void
    /// How large the answer may be, about, if it may be large: only so much is asked for at a time.
    var answerBytes: Int?

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

extension RedisClient {
    /// Runs the call for a caller that waits for the answer.
    func run(_ call: ScriptCall) async throws(RedisError) -> RedisReply {
        guard let bytes = call.answerBytes else {
            return try await run(call.script, keys: call.keys, arguments: call.arguments, call.encode)
        }
        let part = ScriptPart(script: call.script, keys: call.keys, arguments: call.arguments, encode: call.encode)
        return try await bulk(part, answerBytes: bytes)
    }
}
