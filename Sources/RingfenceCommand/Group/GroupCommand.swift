// SPDX-License-Identifier: Apache-2.0
//
// `ringfence group NAME [ACTION …]`: the name comes first, as people say it ("the group ledger, switch it over"), and
// each action is a command with options and help of its own. ArgumentParser wants the subcommand first, so the two are
// put the other way round before it reads them; a group may have any name, also that of an action.
import ArgumentParser

struct GroupCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "group",
        abstract: "Show a group, its primary and its members; switch it over, pause it, stop calls to it, watch it.",
        usage: "ringfence group NAME [ACTION] [options]",
        discussion: """
            Without an action it shows the group. Each action has its own --help: ringfence group NAME switchover --help.

            EXIT CODES
              0    done
              1    there is no such group
              2    refused: every reason is said
              64   bad usage
              69   Redis cannot be reached, or refused
              75   it did not come about in time

            EXAMPLES
              ringfence group ledger
              ringfence group ledger plan        # who would win now, and why
              ringfence group ledger switchover --to node-2 --reason 'kernel update'
              ringfence group ledger watch
              ringfence group ledger --json | jq '.members[] | select(.weight == 0) | .id'
            """,
        subcommands: [
            ShowGroupCommand.self, PlanGroupCommand.self, GroupHistoryCommand.self, WatchGroupCommand.self,
            SwitchoverCommand.self, FailoverCommand.self, PauseCommand.self, ResumeCommand.self,
            MaintenanceCommand.self, AcknowledgeCommand.self, SettingsCommand.self, BreakerCommand.self,
            RemoveGroupCommand.self,
        ],
        defaultSubcommand: ShowGroupCommand.self)

    /// `group NAME ACTION …` as ArgumentParser reads it: `group ACTION NAME …`.
    static func ordered(_ arguments: [String]) -> [String] {
        guard arguments.count >= 2, arguments[0] == configuration.commandName, !arguments[1].hasPrefix("-") else {
            return arguments
        }
        // As ArgumentParser itself proposes it: group ACTION --help.
        if arguments.count == 3, ["--help", "-h"].contains(arguments[2]), names.contains(arguments[1]) {
            return arguments
        }
        var rest = arguments.dropFirst(2)
        var action = ShowGroupCommand.configuration.commandName ?? ""
        if let next = rest.first, names.contains(next) {
            action = next
            rest = rest.dropFirst()
        }
        return [arguments[0], action, arguments[1]] + rest
    }

    /// What an action is called in a message.
    static var actions: String {
        names.filter { $0 != "show" }.joined(separator: ", ")
    }

    // (A key path to a metatype's static property crashes the compiler.)
    private static var names: [String] { configuration.subcommands.compactMap { $0.configuration.commandName } }
}

/// What every action takes.
struct GroupArguments: ParsableArguments {
    @Argument(help: "The group's name.")
    var name: String
    @Flag(help: "Print JSON.")
    var json = false
    @OptionGroup(title: "Redis and general options")
    var redis: RedisOptions
}
