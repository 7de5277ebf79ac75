// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Logging
import Ringfence
import RingfenceAgent
import RingfenceConsole
import RingfenceHTTP
import RingfenceOperations
import ServiceLifecycle

struct AgentCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "agent",
        abstract: "Run the failover agent for a database, cache or service.",
        usage: """
            ringfence agent --config <file> [--check] [<options>]
            ringfence agent exec --group <name> --member <id> [<options>] -- <command> ...
            """,
        discussion: """
            One agent runs beside each instance of a group. It keeps a lease in Redis, looks at its instance, and \
            stands for primary. When the primary dies, the best of the others is elected within a lease, and its agent \
            runs your program that promotes it. Load balancers ask the agents who is primary.

            A file says what to look at and what to run:
              {
                "redis": "redis://127.0.0.1:6379",
                "group": "ledger-db", "member": "db-1", "zone": "a",
                "address": "10.0.0.1:5432", "listen": "0.0.0.0:8008",
                "lease": "3s", "suspendBudget": "1s", "onUnhealthy": "release",
                "checks": [
                  { "type": "postgres", "address": "127.0.0.1:5432" }
                ],
                "hooks": {
                  "onPromote": { "command": ["/etc/ringfence/promote.sh"] },
                  "onDemote":  { "command": ["/etc/ringfence/follow.sh"],
                                 "timeout": "5m" },
                  "onHandover": { "command": ["/etc/ringfence/handover.sh"] },
                  "onSuspend": { "command": ["/etc/ringfence/suspend.sh"] }
                }
              }

            CHECKS  tcp, http, https, command, redis, postgres; each with interval (1s), timeout (500ms), fall (3), \
            rise (2), fastInterval (200ms).
            HOOKS   must be idempotent. RINGFENCE_* and JSON on standard input tell what it is about.
              prePromote  may refuse to be primary (exit code other than 0)
              onPromote   be primary; after it the checks must agree before the group hears of it
              onHandover  take no more writes, for a planned handover; may print position=N
              onDemote    be a standby of $RINGFENCE_PRIMARY_ADDRESS
              onSuspend   take no more writes, within suspendBudget: the role is over
              onEvent     something happened in the group; decides nothing
            The file and the programs must belong to root or to the agent's user, and nobody else may write them.

            ENDPOINTS, 200 or 503:  GET /primary   GET /standby?lag=1MB   GET /health
            Agents ask each other there too, while Redis is away, if the group's settings say \
            onCoordinatorLoss=failsafe; where "listen" names no host of its own, "advertise" tells the others: \
            "10.0.0.1:8008".

            SIGTERM (or SIGINT, SIGQUIT) gives a role up, fences the instance and leaves: switch over first if you \
            want no gap. All other signals change nothing; SIGHUP does not read the file again. If the agent crashes, \
            the instance runs on, and the lease with the role ends.

            Without a "redis" in the file RINGFENCE_REDIS is used, else the Redis of a ringfence serve with the same \
            state directory on this machine; without one it is an error.
            """,
        subcommands: [AgentRunCommand.self, AgentExecCommand.self], defaultSubcommand: AgentRunCommand.self)
}

struct AgentRunCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run", abstract: "Run the agent of a file (what `ringfence agent --config` does).",
        shouldDisplay: false)

    @Option(name: .customLong("config"), help: ArgumentHelp("The agent's file.", valueName: "file"))
    var config: String
    @Flag(help: "Only say whether the file and its programs are in order.")
    var check = false
    @Option(name: .customLong("log-level"), help: .setting(.logLevel, "level"))
    var logLevel: String?

    func run() async throws {
        let configuration = try AgentConfiguration(file: config)
        var flags: [String: String] = [:]
        flags[SettingKey.logLevel.name] = logLevel
        var environment = Environment.values
        // That names the settings of the other commands.
        environment["RINGFENCE_CONFIG"] = nil
        var settings = try Settings(flags: flags, environment: environment, file: nil)
        if check { return try put(configuration.summary) }
        settings.namespace = configuration.namespace
        settings.tls.authorityFile = configuration.tls.authorityFile ?? settings.tls.authorityFile
        settings.tls.certificateFile = configuration.tls.certificateFile ?? settings.tls.certificateFile
        settings.tls.privateKeyFile = configuration.tls.privateKeyFile ?? settings.tls.privateKeyFile
        settings.tls.serverName = configuration.tls.serverName ?? settings.tls.serverName
        settings.redis = configuration.redis ?? settings.redis
        settings.redisPasswordFile = configuration.redisPasswordFile ?? settings.redisPasswordFile
        let place = try settings.place()
        place.announce()
        let logger = makeLogger(settings, default: .info)
        var client = settings.configuration(url: place.url)
        client.owner = "agent/\(configuration.member)"
        try await AgentRun.run(configuration, client, logger: logger, server: HTTPEndpointServer()) { port in
            let endpoints = port.map { ", health endpoints on port \($0)" } ?? ""
            let line = "ringfence agent: \(configuration.member) is in \(configuration.group)\(endpoints)\n"
            // That nobody reads it is no reason not to stand by.
            if let failure = Output.write(Array(line.utf8), to: 1) {
                logger.warning("cannot write to standard output", metadata: ["errno": "\(failure.number)"])
            }
        }
    }
}

struct AgentExecCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "exec",
        abstract: "Run a command under the agent; when it exits, the primary role is released at once.",
        usage: "ringfence agent exec --group <name> --member <id> [--while-primary] [<options>] -- <command> ...",
        discussion: """
            The command is a child of this process, so its death is known at once and is proof: the member leaves the \
            group (reason exited; finished if it ended with 0, left if it was told to end) and another is elected \
            within milliseconds, long before its lease would end. Then this process exits with the command's code; let \
            your init system start it again.

            By default the command runs always, and the group says which of the instances is primary: see it in \
            `ringfence group NAME`, or let a load balancer ask --listen (GET /primary, /standby, /health: 200 or 503). \
            It runs on if this process is killed.

            With --while-primary it is the primary's work: started when this member is elected, with its epoch in \
            RINGFENCE_EPOCH, and ended when the role ends: SIGTERM, and SIGKILL in time for nobody else to be primary \
            while it or anything it started lives. It dies with this process (kill -9 too; what it started does not \
            then: use a container or a systemd service). If it ends by itself, so does this process. (A machine or a \
            process that is frozen can end nothing: hand RINGFENCE_EPOCH to what you change, and let it refuse older \
            ones.)

            Signals are passed on to the command and its process group. What the command leaves behind when it ends, \
            in whatever session or group, gets SIGTERM, and SIGKILL after 1 s; then the member leaves.

            EXIT CODES
              the command's own, or 128 + the signal that ended it
              64   bad usage              69   Redis refused
              126  cannot run it          127  command not found
              79   another process joined as this member

            EXAMPLES
              ringfence agent exec --group api --member api-1 --address 10.0.0.1:8080 \\
                  --listen 0.0.0.0:8009 -- ./server --port 8080
              ringfence agent exec --group reports --member $(hostname) \\
                  --while-primary -- ./nightly-loop
            """)

    @Option(help: ArgumentHelp("The group.", valueName: "name"))
    var group: String
    @Option(help: ArgumentHelp("This instance's id in it.", valueName: "id"))
    var member: String
    @Option(help: ArgumentHelp("Where the instance can be reached.", valueName: "host:port"))
    var address = ""
    @Option(help: ArgumentHelp("What fails together with it.", valueName: "name"))
    var zone = ""
    @Option(help: ArgumentHelp("Who is preferred, -1000 to 1000.", valueName: "number"))
    var priority = 0
    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            "How long a machine that died stays primary. 200ms to 1h. (default: 3s)", valueName: "duration"),
        transform: DurationArgument.parse)
    var lease = DurationArgument(.seconds(3))
    @Flag(help: "Run the command only while this member is primary.")
    var whilePrimary = false
    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            "From SIGTERM to SIGKILL at a planned handover and at the end. At most 1h. (default: 10s)",
            valueName: "duration"),
        transform: DurationArgument.parse)
    var grace = DurationArgument(.seconds(10))
    @Option(help: ArgumentHelp("Address for health endpoints; port 0 takes a free one.", valueName: "host:port"))
    var listen: String?
    @OptionGroup(title: "Redis and general options")
    var redis: RedisOptions
    @Argument(help: ArgumentHelp("--, the command and its arguments.", valueName: "command"))
    var command: [String]

    func validate() throws {
        if command.isEmpty {
            throw ValidationError("the command is missing: ringfence agent exec --group G --member M -- COMMAND …")
        }
        if let listen, AgentConfiguration.Endpoint(listen, lowestPort: 0) == nil {
            throw ValidationError("--listen must be HOST:PORT, not \(listen)")
        }
        guard grace.duration >= .zero, grace.duration <= .seconds(3_600) else {
            throw ValidationError("--grace must be 0s to 1h")
        }
    }

    func run() async throws {
        var exec = AgentExec(group: group, member: member, command: command, say: { say("ringfence: " + $0) })
        exec.address = address
        exec.zone = zone
        exec.priority = priority
        exec.lease = lease.duration
        exec.whilePrimary = whilePrimary
        exec.grace = grace.duration
        exec.listen = listen.flatMap { AgentConfiguration.Endpoint($0, lowestPort: 0) }
        if whilePrimary { note("the command runs once \(member) is primary of \(group)") }
        let plan = exec
        switch try await redis.withClient(
            isLasting: true, waits: true, { try await plan.run(with: $0, server: HTTPEndpointServer()) })
        {
        case .ended(let exit): throw ExitCode(exit.shellCode)
        case .interrupted(let signal): throw ExitCode(signal: signal)
        case .replaced:
            say("ringfence: another process joined the group \(group) as \(member)")
            throw ExitCode.leaseLost
        }
    }
}
