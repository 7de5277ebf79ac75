// SPDX-License-Identifier: Apache-2.0
//
// The whole of `ringfence agent`: the client and the agent as services, ended in order.
package import Logging
package import Ringfence
import RingfenceAgentCore
import RingfenceCore
package import RingfenceOperations
import ServiceLifecycle

package enum AgentRun {
    /// Runs until SIGTERM, SIGINT or SIGQUIT, or until it cannot go on.
    /// - Throws: ``Settings/Failure``, `RingfenceError`.
    package static func run(
        _ configuration: AgentConfiguration, _ redis: RingfenceConfiguration, logger: Logger,
        server: any EndpointServer, onRunning: @Sendable @escaping (Int?) -> Void
    ) async throws {
        Signals.become(.starting)
        let client = try RingfenceClient(redis, logger: logger)
        let agent = Agent(
            configuration, client: client, logger: logger, server: server, onRunning: onRunning)
        let quiet = Logger(label: "ringfence.lifecycle") { _ in SwiftLogNoOpLogHandler() }
        var group = ServiceGroupConfiguration(
            services: [
                .init(service: client),
                .init(
                    service: agent, successTerminationBehavior: .gracefullyShutdownGroup,
                    failureTerminationBehavior: .cancelGroup),
            ], logger: quiet)
        group.maximumGracefulShutdownDuration = .seconds(45)
        let running = ServiceGroup(configuration: group)
        let signals = Signals.listen(as: .agent)
        let listening = Task {
            for await signal in signals {
                if signal.meaning == .endInOrder {
                    await running.triggerGracefulShutdown()
                } else {
                    logger.notice("SIGHUP: the agent's file is read at its start only")
                }
            }
        }
        defer { listening.cancel() }
        do { try await running.run() } catch {
            await client.shutdown()
            throw error
        }
        await client.shutdown()
        logger.info("ended")
    }
}

extension AgentConfiguration {
    /// What a file says, for `--check`.
    package var summary: String {
        var lines = [
            "in order: \(member) of \(group), lease \(lease.shortText), role over \(suspendBudget.shortText) before "
                + "its end"
        ]
        if !isCandidate { lines.append("it does not stand for primary") }
        if checks.isEmpty { lines.append("no checks: whatever state the resource is in, it may be elected") }
        for check in checks { lines.append("check \(check.name)") }
        for kind in HookKind.allCases {
            if let hook = hooks[kind] {
                lines.append("\(kind.rawValue) \(hook.command.joined(separator: " ")), \(hook.timeout.shortText)")
            }
        }
        if hooks[.onSuspend] == nil, isCandidate {
            lines.append("no onSuspend: a resource whose role is over goes on taking writes until it is demoted")
        }
        return lines.joined(separator: "\n")
    }
}
