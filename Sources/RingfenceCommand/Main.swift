// SPDX-License-Identifier: Apache-2.0
//
// The program `ringfence`: parse, call, print. Each subcommand is one file; to add one, write it and name it below.
import ArgumentParser
import RingfenceService

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// exit() of the system, under a name that the parser does not have too.
private func leave(_ code: Int32) -> Never { exit(code) }

/// Where the program begins. Not in `async` code, which another thread runs: the signals are taken from this one,
/// before there is a second.
@main
enum Beginning {
    static func main() {
        Signals.hold()
        Output.guardDescriptors()
        Task.detached {
            await Main.main()
            exit(0)
        }
        // Not dispatchMain(), which waits with all signals let in (sigsuspend). Nothing here runs on the main actor.
        while true { pause() }
    }
}

struct Main: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ringfence",
        abstract: "Fenced locks, groups and failover on Redis.",
        discussion: """
            A lock is held by one owner until a deadline, and carries a fence: a number that only grows. Hand the fence \
            to what you protect (a database, a file) and let it refuse older ones: that holds even when a holder was \
            paused and woke up late.

            EXAMPLES
              ringfence serve                             a lock service with its Redis
              ringfence lock payout/nightly -- ./pay.sh   a job on one machine only
              ringfence agent --config db-1.json          fail a database over
              ringfence locks                             who holds what
              ringfence group ledger                      who is in a group, and for how long
              ringfence ring ledger owner account/4711    where a key belongs
              ringfence pick card-issuer                  whom to call now
              ringfence events --follow                   what happens to groups
              ringfence doctor                            is this Redis good enough, and for which lease
            """,
        version: "ringfence \(ringfenceVersion)",
        subcommands: [DemoWorkerCommand.self, BenchPrimaryCommand.self],
        groupedSubcommands: [
            CommandGroup(name: "Running", subcommands: [ServeCommand.self, LockCommand.self, AgentCommand.self]),
            CommandGroup(
                name: "Operating",
                subcommands: [
                    LocksCommand.self, UnlockCommand.self, AuditCommand.self, GroupsCommand.self, GroupCommand.self,
                    RingCommand.self, PickCommand.self, EventsCommand.self, DoctorCommand.self,
                ]),
        ] + (trials.isEmpty ? [] : [CommandGroup(name: "Trying out", subcommands: trials)]))

    /// Benchmarks and demonstrations.
    private static let trials: [any ParsableCommand.Type] = [DemoCommand.self, BenchCommand.self]

    /// Every failure is one readable sentence on standard error and a documented exit code.
    static func main() async {
        do {
            var command = try parseAsRoot(GroupCommand.ordered(Array(CommandLine.arguments.dropFirst())))
            if var command = command as? any AsyncParsableCommand {
                try await command.run()
            } else {
                try command.run()
            }
            try Output.flush()
        } catch {
            end(by: error)
        }
    }

    /// Ends the program by an error, or by what is thrown for good: help, an exit code.
    static func end(by error: any Error) -> Never {
        var code = exitCode(for: error)
        if let failure = error as? Output.Failure {
            if !failure.isClosed, let told = Failure(failure) { say("ringfence: " + told.message) }
            code = failure.isClosed ? ExitCode(Output.Failure.closedCode) : .inputOutput
        } else {
            let own = Failure(error)
            code = own?.code ?? code
            let text = own.map { "ringfence: " + $0.message } ?? fullMessage(for: error)
            do {
                if !text.isEmpty {
                    if code == .success { try put(text) } else { say(text) }
                }
                try Output.flush()
            } catch { if code == .success || code == .inputOutput { end(by: error) } }
        }
        leave(code.rawValue)
    }
}
