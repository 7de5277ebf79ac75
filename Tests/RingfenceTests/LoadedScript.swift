// SPDX-License-Identifier: Apache-2.0

import Hiredis
import Testing

/// A script that a server has loaded: where many steps are played in one write, each call of it is a command among
/// others.
struct LoadedScript: Sendable {
    /// The first half of KEYS becomes what the second half is.
    static let copy = """
        for i = 1, #KEYS / 2 do
            redis.call('DEL', KEYS[i])
            redis.call('COPY', KEYS[#KEYS / 2 + i], KEYS[i])
        end
        return 'OK'
        """

    private let sha: String

    init(_ source: String, on client: RedisClient) async throws {
        let reply = try await client.send { writer in
            writer.begin(3)
            writer.argument("SCRIPT")
            writer.argument("LOAD")
            writer.argument(source)
        }
        sha = try #require(reply.text)
    }

    /// So many keys, then so many arguments must follow.
    func begin(_ writer: inout CommandWriter, keys: Int, arguments: Int) {
        writer.begin(3 + keys + arguments)
        writer.argument("EVALSHA")
        writer.argument(sha)
        writer.argument(Int64(keys))
    }
}
