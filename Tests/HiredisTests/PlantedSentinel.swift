// SPDX-License-Identifier: Apache-2.0
@testable import Hiredis

/// Replies as a Sentinel of Redis 7.0 gives them.
enum PlantedSentinel {
    static func bulk(_ text: String) -> RedisReply { .string(Array(text.utf8)) }

    static func address(_ host: String, _ port: Int = 6379) -> RedisReply { .array([bulk(host), bulk("\(port)")]) }

    /// What SENTINEL MASTER shows.
    static func row(
        ip: String, epoch: Int, flags: String = "master", others: Int = 2
    ) -> RedisReply {
        let fields = [
            "name", "main", "ip", ip, "port", "6379", "runid", "abc", "flags", flags, "link-pending-commands", "0",
            "config-epoch", "\(epoch)", "num-slaves", "2", "num-other-sentinels", "\(others)", "quorum", "2",
        ]
        return .array(fields.map(bulk))
    }

    static func replies(
        _ host: String, epoch: Int, row: String? = nil, after: String? = nil, others: Int = 2, id: String? = nil
    ) -> [RedisReply] {
        [address(host), Self.row(ip: row ?? host, epoch: epoch, others: others), address(after ?? host)]
            + (id.map { [bulk($0)] } ?? [])
    }

    /// Its own id, and who the others are, by id and host.
    static func list(_ others: [(id: String, host: String)], id: String) -> [RedisReply] {
        let rows = others.map { other in
            RedisReply.array(
                ["name", other.id, "ip", other.host, "port", "26379", "runid", other.id, "flags", "sentinel"].map(bulk))
        }
        return [bulk(id), .array(rows)]
    }
}
