// SPDX-License-Identifier: Apache-2.0
//
// Which groups there are.
import ArgumentParser
import Ringfence
import RingfenceConsole
import RingfenceOperations

struct GroupsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "groups",
        abstract: "Show all groups.",
        discussion: """
            Every group that ever had a member, with how many it has now and its version, which grows by one with \
            every join, change, leave and death. Of groups that elect a primary: who it is, its epoch, and its phase: \
            elected (being promoted), ready, handingOver, vacant, or recovering (Redis lost data).

            EXAMPLES
              ringfence groups
              ringfence groups --json | jq -r '.group'        # one JSON object a line
              ringfence groups --json | jq -r 'select(.primary.phase == "vacant") | .group'
            """)

    @Flag(help: "Print JSON, one object a line.")
    var json = false
    @OptionGroup(title: "Redis and general options")
    var redis: RedisOptions

    func run() async throws {
        let groups = try await redis.withClient { try await $0.groupSummaries() }
        guard !json else {
            for group in groups {
                var line = JSONWriter()
                line.group(group)
                try put(namingRedis(line.text))
            }
            return
        }
        if groups.isEmpty { return try put("there are no groups") }
        try printTable(
            ["GROUP", "MEMBERS", "VERSION", "PRIMARY", "EPOCH", "PHASE"],
            groups.map { group in
                let primary = group.primary
                return [
                    group.name, "\(group.memberCount)", "\(group.version)", primary.map { $0.member ?? "nobody" } ?? "",
                    primary.map { "\($0.epoch)" } ?? "", primary?.phase.rawValue ?? "",
                ]
            })
    }
}
