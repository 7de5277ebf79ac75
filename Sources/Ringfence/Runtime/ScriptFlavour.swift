// SPDX-License-Identifier: Apache-2.0
//
// How the scripts' messages travel.
//
// In a Cluster PUBLISH goes to every node, whoever listens there, and answers with the listeners of one node. From 7.0
// there are channels that belong to a slot: SPUBLISH stays at the slot's owner and its replicas, and says rightly who
// heard it, for whoever listens to such a channel must do so at its owner. The two kinds do not meet, so all clients of
// a namespace must use the same one. It follows from the kind of URL and from the version of the server: a script finds
// out the version itself, and so needs no other text on 6.2, which has no such channels.

package import Hiredis

/// Which commands the scripts of a client publish with.
package enum ScriptFlavour: Sendable, Hashable {
    case plain
    /// For a Cluster: with the channels of the slot, where the server has them.
    case sharded

    package init(_ place: RedisPlace) { self = place.isCluster ? .sharded : .plain }

    /// The commands that have a sharded sibling.
    private static let siblings = [
        ("'PUBLISH'", "'SPUBLISH'"), ("'NUMSUB'", "'SHARDNUMSUB'"), ("'SUBSCRIBE'", "'SSUBSCRIBE'"),
    ]

    /// The script as it is run. Its lines keep their numbers. `REDIS_VERSION_NUM` came with 7.0.
    package func text(_ source: String) -> String {
        guard self == .sharded else { return source }
        return Self.siblings.reduce(source) { text, words in
            text.replacing(words.0, with: "redis.REDIS_VERSION_NUM and \(words.1) or \(words.0)")
        }
    }
}
