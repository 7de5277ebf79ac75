// SPDX-License-Identifier: Apache-2.0
//
// How the programs of this package begin and end: signals are taken before there is a second thread, and every failure
// is one readable sentence on standard error and a documented exit code.
package import ArgumentParser
import RingfenceOperations
import RingfencePlatform

/// exit() of the system, under a name that the parser does not have too.
private func leave(_ code: Int32) -> Never { exit(code) }

/// This process, from its beginning to its end.
package enum Program {
    /// Where it begins. Not in `async` code, which another thread runs: the signals are taken from this one, before
    /// there is a second.
    package static func begin(_ main: @escaping @Sendable () async -> Void) -> Never {
        Signals.hold()
        Output.guardDescriptors()
        Task.detached {
            await main()
            leave(0)
        }
        // Not dispatchMain(), which waits with all signals let in (sigsuspend). Nothing here runs on the main actor.
        while true { pause() }
    }

    /// Parses the arguments and runs the command they name; returns when all it printed is written.
    package static func run(_ root: (some ParsableCommand).Type, _ arguments: [String]) async {
        do {
            var command = try root.parseAsRoot(arguments)
            if var command = command as? any AsyncParsableCommand {
                try await command.run()
            } else {
                try command.run()
            }
            try Output.flush()
        } catch {
            end(root, by: error)
        }
    }

    /// Ends the program by an error, or by what is thrown for good: help, an exit code.
    package static func end(_ root: (some ParsableCommand).Type, by error: any Error) -> Never {
        let name = root.configuration.commandName ?? ""
        var code = root.exitCode(for: error)
        if let failure = error as? Output.Failure {
            if !failure.isClosed, let told = Failure(failure) { say("\(name): " + told.message) }
            code = failure.isClosed ? .outputClosed : .inputOutput
        } else {
            let own = Failure(error)
            code = own?.code ?? code
            let text = own.map { "\(name): " + $0.message } ?? root.fullMessage(for: error)
            do {
                if !text.isEmpty {
                    if code == .success { try put(text) } else { say(text) }
                }
                try Output.flush()
            } catch { if code == .success || code == .inputOutput { end(root, by: error) } }
        }
        leave(code.rawValue)
    }
}
