// SPDX-License-Identifier: Apache-2.0
//
// `ringfence demo`: the promise of the project on a screen. Money is moved by processes that are killed and paused at
// the worst moments, and at the end every cent is where it belongs; with `--unsafe` one sees why that takes a lock and
// a guard.

import ArgumentParser
import FoundationEssentials
import Logging
import RingfenceConsole
import RingfenceOperations

/// `ringfence demo`.
struct DemoCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo",
        abstract: "Move money with workers that are killed and paused, and reconcile every cent.",
        discussion: """
            Reads a file of transfers and applies it to balances in a real Redis with several worker processes. Each \
            transfer runs under one lock of its two accounts and is written through the fence guard. Meanwhile \
            workers are killed with SIGKILL, and paused with SIGSTOP between reading and writing until their lease is \
            over and another worker has done their work. At the end the balances are compared with the file.

            --unsafe runs the same without locks and guard, and shows what happens then.

            With --redis the variables of the settings are heeded, as everywhere: certificates, passwords, the \
            address map.

            EXAMPLES
              ringfence demo                              20,000 transfers, about 20 s
              ringfence demo --unsafe                     without locks: money is lost
              ringfence demo --file my-transfers.jsonl    your own file
              ringfence demo --redis redis://127.0.0.1:6379 --json

            FILE: one JSON object a line.
              {"id":"t-1","from":"alice","to":"bob","amount":1250,"currency":"EUR"}
            id, from and to are texts of 1 to 128 bytes, id unique in the file; amount is in minor units (cents), 1 to \
            1000000000000; currency is optional, but only one a file; other fields are passed over.

            EXIT CODES: 0 the books balance; 1 they do not (so --unsafe ends with 1 when it has shown its damage); \
            64 wrong use; 65 the file is wrong; 70 the run could not be finished.
            """)

    @Option(help: ArgumentHelp("Your own file of transfers.", valueName: "path"))
    var file: String?

    @Option(help: ArgumentHelp("The Redis to use, instead of a private one.", valueName: "url"))
    var redis: String?

    @Option(help: "Worker processes, 2 to 64.")
    var workers = 8

    @Flag(help: "Without locks and guard: watch the damage.")
    var unsafe = false

    @Flag(help: "Print the result only, as one JSON object.")
    var json = false

    @Option(help: ArgumentHelp("Write the transfers of the demo to this path, and end.", visibility: .hidden))
    var generate: String?

    func validate() throws {
        guard (2...64).contains(workers) else { throw ValidationError("--workers must be 2 to 64, not \(workers)") }
        try CommandRedis.check(url: redis)
    }

    func run() async throws {
        if let generate { return try Self.write(TransferGenerator.contents(), to: generate) }
        let transfers = try readFile()
        let logger = Logger.command("ringfence.demo")
        let printer = DemoPrinter(isSilent: json)
        let report: DemoReport
        do {
            report = try await CommandRedis.with(url: redis, logger: logger) { [logger] redis in
                // A private Redis is reached as it was started.
                let environment = redis.isPrivate ? [:] : Environment.values
                let settings = DemoRun.Settings(
                    url: redis.url, workers: workers, isUnsafe: unsafe,
                    environment: environment.filter { $0.key.hasPrefix("RINGFENCE_") })
                printer.line(introduction(transfers, redis))
                return try await DemoRun(settings, transfers, printer, logger: logger).run()
            }
        } catch is CancellationError {
            throw CancellationError()
        } catch let failure as Output.Failure {
            throw failure
        } catch {
            say("ringfence: the demo could not be finished: \(Failure(error)?.message ?? "\(error)")")
            throw ExitCode.unfinished
        }
        if json { try put(report.json) } else { printer.line(report.text) }
        if !report.books.isBalanced { throw ExitCode.failure }
    }

    /// The user's file, or the demo's own transfers, which are written anew and read as any other (see
    /// `TransferGenerator`).
    private func readFile() throws -> TransferFile {
        let path = file ?? "/tmp/ringfence-transfers-\(UInt64.random(in: 0 ... .max)).jsonl"
        if file == nil { try Self.write(TransferGenerator.contents(), to: path) }
        defer { if file == nil { try? FileManager.default.removeItem(atPath: path) } }
        do {
            return try TransferFile(contents: [UInt8](Data(contentsOf: URL(filePath: path))))
        } catch let problem as TransferFile.Problem {
            say("\(path): \(problem)")
        } catch {
            say("cannot read \(path): no such file, or no permission to read it")
        }
        throw ExitCode.data
    }

    private func introduction(_ file: TransferFile, _ redis: CommandRedis) -> String {
        let count = DemoPrinter.grouped
        let guards =
            unsafe
            ? "UNSAFE: no locks, no guard."
            : "Each transfer under one lock of two accounts, written through the fence guard."
        return """
            \(count(Int64(file.transfers.count))) transfers over \(count(Int64(file.accounts.count))) accounts \
            (\(self.file ?? "the transfers of the demo")), \(workers) worker processes, \
            \(redis.isPrivate ? "a private Redis" : "the given Redis").
            \(guards)

            """
    }

    private static func write(_ text: String, to path: String) throws {
        do { try Data(text.utf8).write(to: URL(filePath: path)) } catch {
            say("cannot write \(path)")
            throw ExitCode.unfinished
        }
    }
}
