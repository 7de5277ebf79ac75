// SPDX-License-Identifier: Apache-2.0
//
// The program `ringfence`: parse, call, print. Each subcommand is one file; to add one, write it and name it below.
import ArgumentParser
import RingfenceConsole
import RingfenceOperations

@main
enum Beginning {
    static func main() { Program.begin { await Main.main() } }
}

struct Main: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ringfence",
        abstract: "Fenced locks, groups and failover on Redis.",
        discussion: """
            A lock is held by one owner until a deadline, and carries a fence: a number that only grows. Hand the \
            fence to what you protect (a database, a file) and let it refuse older ones: that holds even when a holder \
            was paused and woke up late.

            EXAMPLES
              ringfence serve                             a lock service with its Redis
              ringfence lock payout/nightly -- ./pay.sh   a job on one machine only
              ringfence agent --config db-1.json          fail a database over
              ringfence locks                             who holds what
              ringfence group ledger                      who is in a group, and for how long
              ringfence ring owner ledger account/4711    where a key belongs
              ringfence pick card-issuer                  whom to call now
              ringfence events --follow                   what happens to groups
              ringfence doctor                            is this Redis good enough, and for which lease
            """,
        version: "ringfence \(ringfenceVersion)",
        subcommands: [DemoWorkerCommand.self],
        groupedSubcommands: [
            CommandGroup(name: "Running", subcommands: [ServeCommand.self, LockCommand.self, AgentCommand.self]),
            CommandGroup(
                name: "Operating",
                subcommands: [
                    LocksCommand.self, UnlockCommand.self, AuditCommand.self, GroupsCommand.self, GroupCommand.self,
                    RingCommand.self, PickCommand.self, EventsCommand.self, DoctorCommand.self, HealthCommand.self,
                ]),
            CommandGroup(name: "Trying out", subcommands: [DemoCommand.self]),
        ])

    static func main() async {
        let arguments = Array(CommandLine.arguments.dropFirst())
        do { try refuseUnknownCommand(arguments) } catch { Program.end(Main.self, by: error) }
        await Program.run(Main.self, arguments)
    }
}
