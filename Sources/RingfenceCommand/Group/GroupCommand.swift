// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Ringfence
import RingfenceOperations

struct GroupCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "group",
        abstract: "Show a group, its primary and its members; switch it over, pause it, stop calls to it, watch it.",
        usage: "ringfence group [ACTION] NAME [options]",
        discussion: """
            Without an action it shows the group. (A group that is called like an action: ringfence group show NAME.) \
            Each action has its own help: ringfence group switchover --help.

            EXIT CODES
              0    done
              1    there is no such group
              2    refused: every reason is said
              64   bad usage
              69   Redis cannot be reached, or refused
              75   it did not come about in time

            EXAMPLES
              ringfence group ledger
              ringfence group plan ledger        # who would win now, and why
              ringfence group switchover ledger --to node-2 --reason 'kernel update'
              ringfence group watch ledger
              ringfence group ledger --json | jq '.members[] | select(.weight == 0) | .id'
            """,
        subcommands: [
            ShowGroupCommand.self, PlanGroupCommand.self, GroupHistoryCommand.self, WatchGroupCommand.self,
            SwitchoverCommand.self, FailoverCommand.self, PauseCommand.self, ResumeCommand.self,
            MaintenanceCommand.self, AcknowledgeCommand.self, SettingsCommand.self, BreakerCommand.self,
            RemoveGroupCommand.self,
        ],
        defaultSubcommand: ShowGroupCommand.self)
}

/// What every action takes.
struct GroupArguments: ParsableArguments {
    @Argument(help: "The group's name.")
    var name: String
    @Flag(help: "Print JSON.")
    var json = false
    @OptionGroup(title: "Redis and general options")
    var redis: RedisOptions

    /// Connects, and runs operations on the group.
    func withOperations<Result: Sendable>(
        _ body: @Sendable @escaping (GroupOperations) async throws -> Result
    ) async throws -> Result {
        let name = name
        return try await redis.withClient { client in try await body(client.operations(on: name)) }
    }
}
