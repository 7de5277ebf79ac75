// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Logging
import RingfenceConsole
import RingfenceHTTP
import RingfenceOperations

struct ServeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve",
        abstract: "Serve locks, groups and events over HTTP.",
        discussion: """
            Without --redis it starts a private redis-server of its own: append-only file in --state-dir, unix socket \
            only, ended with the service. Every instance is stateless, so several may serve the same Redis.

            Every setting may also be given as an environment variable (--token-file is RINGFENCE_TOKEN_FILE) or in a \
            JSON file named by --config or RINGFENCE_CONFIG ({"port": 7420, "log-level": "debug"}). A flag wins over a \
            variable, a variable over the file. Put passwords in a variable or the file: flags show in the process list.

            SIGTERM, SIGQUIT and Ctrl-C drain: requests in progress are answered, waits for locks end with 503, and \
            the service exits with 0 within 10 s. SIGHUP reads the token file again; what waits or streams under a \
            token that left it ends.

            Behind a proxy that resets its connections to servers and neither says that it is one (X-Forwarded-For, \
            Forwarded, Via) nor writes field names in small letters, set --delivery-time 0ms: it would cost living \
            holders their locks.

            A web page of another origin can order nothing, and a Host that is not localhost, --host, an address or an \
            --allowed-host is answered 421.

            EXAMPLES
              ringfence serve
              ringfence serve --redis rediss://user@redis.internal:6380 --redis-ca ca.pem
              ringfence serve --host 0.0.0.0 --token-file /run/secrets/ringfence-tokens

              curl -s localhost:7420/v1/locks/payout%2Fnightly/acquire \\
                   -H 'Content-Type: application/json' -d '{"ttlMs":10000,"waitMs":5000}'
              curl -s localhost:7420/openapi.json
            """)

    @Option(help: .setting(.host, "address"))
    var host: String?
    @Option(help: .setting(.port, "number"))
    var port: String?
    @Option(help: .setting(.tokenFile, "file"))
    var tokenFile: String?
    @Option(help: .setting(.allowedHost, "names"))
    var allowedHost: [String] = []
    @Option(help: .setting(.connections, "number"))
    var connections: String?
    @Option(help: .setting(.deliveryTime, "duration"))
    var deliveryTime: String?
    @Option(help: .setting(.eventHeartbeat, "duration"))
    var eventHeartbeat: String?
    @Option(help: .setting(.eventLength, "number"))
    var eventLength: String?
    @Option(help: .setting(.maxMembers, "number"))
    var maxMembers: String?
    @Option(help: .setting(.maxGroups, "number"))
    var maxGroups: String?
    @Option(help: .setting(.maxWaiters, "number"))
    var maxWaiters: String?
    @Option(help: .setting(.fenceRetention, "duration"))
    var fenceRetention: String?
    @Option(help: .setting(.emptyGroups, "duration"))
    var emptyGroups: String?
    @OptionGroup(title: "Redis and general options")
    var redis: RedisOptions

    /// What the flags, the variables and the file say together.
    func settings() throws -> Settings {
        try redis.settings([
            .host: host, .port: port, .tokenFile: tokenFile,
            .allowedHost: allowedHost.isEmpty ? nil : allowedHost.joined(separator: ","), .connections: connections,
            .deliveryTime: deliveryTime, .eventHeartbeat: eventHeartbeat, .eventLength: eventLength,
            .maxMembers: maxMembers, .maxGroups: maxGroups,
            .maxWaiters: maxWaiters, .fenceRetention: fenceRetention, .emptyGroups: emptyGroups,
        ])
    }

    func run() async throws {
        let settings = try settings()
        let logger = makeLogger(settings, default: .info)
        try await Serve.run(settings, logger: logger) { lines in
            // That nobody reads it is no reason not to serve.
            if let failure = Output.write(Array(lines.utf8), to: 1) {
                logger.warning("cannot write to standard output", metadata: ["errno": "\(failure.number)"])
            }
        }
    }
}
