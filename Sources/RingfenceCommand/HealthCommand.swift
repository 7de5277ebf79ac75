// SPDX-License-Identifier: Apache-2.0
//
// What a container's health check runs.
//
// It must ask the service beside it, wherever that listens: by a flag of `serve`, a variable or the file. A check is a
// process of its own, so it does not see those flags, and the service cannot leave them in a file, for it writes none.
// But in a container `serve` is process 1, or the child of an init whose command line ends with that of `serve`, and
// everybody there may read the command line of process 1.
//
// Alive is what it asks for by default, not ready: whoever ends a container for a failed check would end all instances
// when Redis is away, which mends nothing.
import ArgumentParser
import RingfenceAgent
import RingfenceConsole
import RingfenceHTTP
import RingfenceOperations

struct HealthCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "health",
        abstract: "Ask the service here whether it lives, for a container's health check.",
        discussion: """
            Asks GET /livez, which never looks at Redis; with --ready GET /readyz, which says whether locks can be \
            had. Restart what does not live; send nobody to what is not ready.

            In a container it asks the `ringfence serve` that is process 1, by that one's flags, variables and file; \
            elsewhere by the flags, variables and file given here. No token is needed.

            EXIT CODES
              0    yes
              1    no, or no answer within 2 s
              64   bad usage

            EXAMPLES
              HEALTHCHECK CMD ["ringfence", "health"]
              ringfence health --ready --port 8000
            """)

    @Flag(help: "Ask whether locks can be had, too.")
    var ready = false
    @Option(help: ArgumentHelp("The address on which it listens. (default: 127.0.0.1)", valueName: "address"))
    var host: String?
    @Option(help: ArgumentHelp("The port on which it listens. (default: 7420)", valueName: "number"))
    var port: String?
    @Option(help: ArgumentHelp("Its file of settings.", valueName: "file"))
    var config: String?

    /// How long an answer may take.
    private static let patience: Duration = .seconds(2)

    func run() async throws {
        // Of a flag that is given twice the last counts.
        var arguments = (try? readFile("/proc/1/cmdline", limit: 65_536)).flatMap(Self.argumentsOfServe) ?? []
        for (flag, value) in [("--host", host), ("--port", port), ("--config", config)] {
            if let value { arguments += [flag, value] }
        }
        let settings = try ServeCommand.parse(arguments).settings()
        guard settings.port != 0 else {
            throw Settings.Failure(description: "port is 0, so serve took a free one: say which with --port")
        }
        let path = ready ? "/readyz" : "/livez"
        let host = Serve.reachableHost(settings.host)
        let failure = await HTTPProbe.failure(
            ofGetting: path, host: host, port: settings.port, timeout: Self.patience)
        let url = "http://\(Serve.authority(host, settings.port))\(path)"
        if let failure { throw CommandFailure("\(url): \(failure)") }
        try put("\(url): \(ready ? "ready" : "alive")")
    }

    /// The arguments of `ringfence serve` in the command line of a process: words, each ended by a zero byte.
    /// - Returns: nil if it runs something else.
    static func argumentsOfServe(in commandLine: [UInt8]) -> [String]? {
        let words = commandLine.split(separator: 0, omittingEmptySubsequences: false).dropLast()
            .map { String(decoding: $0, as: UTF8.self) }
        let isProgram = { (word: String) in word == "ringfence" || word.hasSuffix("/ringfence") }
        guard let program = words.firstIndex(where: isProgram), words.dropFirst(program + 1).first == "serve" else {
            return nil
        }
        return Array(words[(program + 2)...])
    }
}
