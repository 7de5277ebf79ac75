// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Ringfence
import RingfenceConsole
import RingfenceOperations
import RingfencePlatform

struct LockCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "lock",
        abstract: "Run a command while holding a lock.",
        usage: "ringfence lock <name> ... [--ttl <duration>] [--wait <duration>] [<options>] -- <command> ...",
        discussion: """
            Waits in line for the lock (for all locks at once, if several are named), runs the command, and releases \
            the lock as soon as the command has ended, however it ended. The lock is renewed meanwhile.

            If the lock cannot be renewed, the command gets SIGTERM a third of --ttl (at most 5 s) before the lock \
            ends, and SIGKILL before it ends, and so does all it started, in whatever session or process group \
            (setsid, timeout, job control): nobody else holds the lock while they live. If somebody takes the lock \
            away (ringfence unlock --force) they get SIGTERM at once and SIGKILL after 1 s. What the command leaves \
            behind when it ends by itself gets SIGTERM, SIGKILL after 1 s, and then the lock is released.

            The command finds in its environment
              RINGFENCE_FENCE   the fence: hand it to what you protect, which refuses older ones
              RINGFENCE_LOCK    the (first) name
              RINGFENCE_LOCKS   all names, one a line
              RINGFENCE_OWNER   who holds
              RINGFENCE_HOLD    the unique id of this hold

            Signals and Ctrl-C are passed on to the command and its process group. If ringfence itself is killed \
            (kill -9), Linux kills the command, but not what it started: that works on, and --ttl later without the \
            lock, unless a container or a systemd service ends it. So does the command itself where the machine or \
            ringfence is paused, and what it gave others to run (docker run, systemd-run, at) or what runs as another \
            user (sudo) was never ours to end. What keeps their writes out then is the fence.

            EXIT CODES
              the command's own, or 128 + the signal that ended it
              64   bad usage              69   Redis cannot be reached, or refused
              75   the lock was not free, or not confirmed
              79   the lock was lost while the command ran
              126  cannot run it          127  command not found

            EXAMPLES
              ringfence lock payout/nightly -- ./payout.sh
              # Skip it if another runs it:
              ringfence lock payout/nightly --wait 0s -- ./payout.sh || [ $? = 75 ]
              ringfence lock account/17 account/42 --ttl 30s -- ./transfer 17 42 9.50
              ringfence lock ledger -- sh -c 'psql -v fence=$RINGFENCE_FENCE -f x.sql'
            """)

    /// Names before `--`, the command after it. One list, because the parser takes no second one behind a first.
    @Argument(help: ArgumentHelp("Names (several are held together, all or none), --, the command.", valueName: "name"))
    var words: [String]
    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            "How long the lock outlives a machine that dies. 100ms to 1d. (default: 10s)", valueName: "duration"),
        transform: DurationArgument.parse)
    var ttl = DurationArgument(.seconds(10))
    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            """
            How long to wait for the lock, and for a Redis that is away; 0s does not wait. At most 1d. (default: 30s \
            for the lock; a Redis that is away is an error at once)
            """, valueName: "duration"),
        transform: DurationArgument.parse)
    var wait: DurationArgument?
    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            "The longest the command may run: then its lock is not renewed any more. At most 30d. (default: 1d)",
            valueName: "duration"),
        transform: DurationArgument.parse)
    var maximumHold = DurationArgument(.seconds(86_400))
    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            """
            Run the command only if so many replicas of Redis have the lock: 1 to 1000, or all that are connected. \
            Else it is given back. (default: nobody is asked)
            """, valueName: "number|all"),
        transform: ConfirmArgument.parse)
    var confirm: ConfirmArgument?
    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            "How long --confirm waits for them. At most a third of --ttl, and 5s. (default: 100ms)",
            valueName: "duration"),
        transform: DurationArgument.parse)
    var confirmWithin: DurationArgument?
    @OptionGroup(title: "Redis and general options")
    var redis: RedisOptions

    private var commandCount: Int {
        let all = CommandLine.arguments
        return all.firstIndex(of: "--").map { all.count - $0 - 1 } ?? 0
    }
    private var names: [String] { words.dropLast(commandCount) }
    private var command: [String] { words.suffix(commandCount) }

    func validate() throws {
        if names.isEmpty { throw ValidationError("the lock's name is missing: ringfence lock NAME -- COMMAND …") }
        if command.isEmpty {
            throw ValidationError("the command is missing: ringfence lock \(names.joined(separator: " ")) -- COMMAND …")
        }
        if confirmWithin != nil, confirm == nil {
            throw ValidationError("--confirm-within is for --confirm: say how many replicas must have the lock")
        }
        guard (.milliseconds(1)...longestConfirmation).contains(confirmation) else {
            throw ValidationError(
                "--confirm-within must be 1ms to a third of --ttl, which is \(longestConfirmation), not \(confirmation)"
            )
        }
    }

    private var longestConfirmation: Duration { max(.milliseconds(1), min(ttl.duration / 3, .seconds(5))) }
    private var confirmation: Duration {
        confirmWithin?.duration ?? min(.milliseconds(100), longestConfirmation)
    }

    func run() async throws {
        var runner = LockRunner(
            names: names, command: command, ttl: ttl.duration, wait: wait?.duration ?? .seconds(30), owner: redis.owner,
            maximumHold: maximumHold.duration,
            durability: confirm?.durability(confirmation) ?? .primary,
            say: { say("ringfence: " + $0) })
        if isatty(2) == 1 { runner.note = { note($0) } }
        let plan = runner
        // A job that names a time, at boot say, wants to be run when Redis comes within it.
        let waits = wait.map { $0.duration > .zero } ?? false
        switch try await redis.withClient(isLasting: true, waits: waits, { try await plan.run(with: $0) }) {
        case .ended(let exit): throw ExitCode(exit.shellCode)
        case .interrupted(let signal): throw ExitCode(signal: signal)
        case .leaseLost(let reason):
            say("ringfence: \(reason). What the command did may be incomplete; the fence keeps late writes out")
            throw ExitCode.leaseLost
        }
    }
}

/// `--confirm`: a number of replicas, or all.
struct ConfirmArgument: Sendable {
    /// nil: all.
    private var number: Int?

    @Sendable static func parse(_ text: String) throws -> ConfirmArgument {
        if text == "all" { return ConfirmArgument() }
        guard let number = Int(text), (1...1000).contains(number) else {
            throw ValidationError("must be 1 to 1000, or all")
        }
        return ConfirmArgument(number: number)
    }

    func durability(_ within: Duration) -> Durability {
        number.map { .confirmed(replicas: $0, within: within) } ?? .confirmed(replicas: .all, within: within)
    }
}
