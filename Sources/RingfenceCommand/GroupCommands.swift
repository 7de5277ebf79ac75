// SPDX-License-Identifier: Apache-2.0
//
// Which groups there are, and who is in one.
import ArgumentParser
import Ringfence
import RingfenceService

struct GroupsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "groups",
        abstract: "Show all groups.",
        discussion: """
            Every group that ever had a member, with how many it has now and its version, which grows by one with every \
            join, change, leave and death.

            EXAMPLES
              ringfence groups
              ringfence groups --json | jq -r '.group'        # one JSON object a line
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
                print(line.text)
            }
            return
        }
        if groups.isEmpty { return print("there are no groups") }
        printTable(["GROUP", "MEMBERS", "VERSION"], groups.map { [$0.name, "\($0.memberCount)", "\($0.version)"] })
    }
}

struct GroupCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "group",
        abstract: "Show a group's members and what is left of their leases.",
        discussion: """
            A member that lives renews its lease long before it ends; one whose time left keeps falling has stopped. \
            Weight 0 is a member that is draining. Exits with 1 for a group that never had a member.

            EXAMPLES
              ringfence group ledger
              ringfence group ledger --json | jq '.members[] | select(.weight == 0) | .id'
            """)

    @Argument(help: "The group's name.")
    var name: String
    @Flag(help: "Print JSON.")
    var json = false
    @OptionGroup(title: "Redis and general options")
    var redis: RedisOptions

    func run() async throws {
        let status = try await redis.withClient { try await $0.inspectGroup(name) }
        guard status.version > 0 else {
            say("ringfence: no group \(name): nobody ever joined it; `ringfence groups` shows those there are")
            throw ExitCode.failure
        }
        if json { return print(JSONWriter.describing(GroupView(status)).text) }
        let count = status.members.isEmpty ? "no" : "\(status.members.count)"
        print("\(name): \(count) member\(status.members.count == 1 ? "" : "s"), version \(status.version)")
        if status.held > .zero {
            print("nobody is taken out for \(status.held.shortText): Redis was out of reach, or lost data")
        }
        guard !status.members.isEmpty else { return }
        printTable(
            ["MEMBER", "ADDRESS", "ZONE", "WEIGHT", "PRIORITY", "TIME LEFT", "SESSION"],
            status.members.map { entry in
                let member = entry.member
                return [
                    member.id, member.address, member.zone, "\(member.weight)", "\(member.priority)",
                    entry.remaining.shortText, member.session,
                ]
            })
    }
}
