// SPDX-License-Identifier: Apache-2.0
import TestSupport

/// What each protection of a cache is worth: with it switched off the checker must find something, within so many
/// seeds.
struct CacheControl: Sendable, CustomStringConvertible {
    var description: String
    var faults: [CacheWorld.Fault]
    var seeds: UInt64 = 100
    var nodeFlaws = CacheNodeModel.Flaws()
    var flaws = CacheWorld.Flaws()

    private init(
        _ description: String, _ faults: [CacheWorld.Fault], seeds: UInt64 = 100,
        _ spoil: (inout CacheNodeModel.Flaws, inout CacheWorld.Flaws) -> Void
    ) {
        (self.description, self.faults, self.seeds) = (description, faults, seeds)
        spoil(&nodeFlaws, &flaws)
    }

    static let all: [CacheControl] = [
        CacheControl("a node that says it is whole after a flush", [.flush, .lose, .cut]) { node, _ in
            node.isAlwaysWhole = true
        },
        CacheControl("a client that counts nodes that are not whole", [.loseData, .lose, .cut]) { _, client in
            client.countsUnwhole = true
        },
        CacheControl("a writer that takes \"newer there\" for done", [.stepClientClock]) { _, client in
            client.takesNewerForDone = true
        },
        CacheControl("quorums that do not meet", [.late, .cut]) { _, client in client.quorums = (3, 1, 1) },
        CacheControl(
            "a node that hears who knows an old layout", [.join, .drain, .pauseClient, .late, .cut, .coordinatorAway]
        ) { node, _ in node.ignoresEpochs = true },
        CacheControl("removals that are forgotten before all know of them", [.cut, .freeze, .lose]) { _, client in
            client.life = 300
        },
        CacheControl("a wipe that comes late and is obeyed", [.flush, .again]) { node, client in
            node.wipesForAnybody = true
            client.mishaps = 500
            client.quorums = (2, 2, 1)
        },
    ]
}
