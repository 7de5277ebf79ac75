// SPDX-License-Identifier: Apache-2.0
//
// The whole of `ringfence agent`: the client and the agent as services, ended in order.
package import Logging
package import Ringfence
import RingfenceCore
import ServiceLifecycle
import UnixSignals

package enum AgentRun {
    /// Runs until SIGTERM or SIGINT, or until there is no going on.
    /// - Throws: ``Settings/Failure``, `RingfenceError`.
    package static func run(
        _ configuration: AgentConfiguration, _ redis: RingfenceConfiguration, logger: Logger,
        onRunning: @Sendable @escaping (Int?) -> Void
    ) async throws {
        let client = try RingfenceClient(redis, logger: logger)
        let agent = Agent(configuration, client: client, logger: logger, onRunning: onRunning)
        let quiet = Logger(label: "ringfence.lifecycle") { _ in SwiftLogNoOpLogHandler() }
        var group = ServiceGroupConfiguration(
            services: [
                .init(service: client),
                .init(
                    service: agent, successTerminationBehavior: .gracefullyShutdownGroup,
                    failureTerminationBehavior: .cancelGroup),
            ], gracefulShutdownSignals: [.sigterm, .sigint], logger: quiet)
        group.maximumGracefulShutdownDuration = .seconds(45)
        do { try await ServiceGroup(configuration: group).run() } catch {
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
            "in order: \(member) of \(group), lease \(lease.shortText), role over \(fenceBudget.shortText) before its end"
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
