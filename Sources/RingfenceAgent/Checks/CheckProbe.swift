// SPDX-License-Identifier: Apache-2.0
//
// The probes of a resource, one file for each kind. A probe may keep a connection from look to look; it never throws:
// that a resource cannot be reached is a result.
import NIOCore
import NIOPosix
import RingfenceAgentCore
import RingfenceCore
import RingfenceOperations
import RingfencePlatform

/// Looks at a resource.
protocol CheckProbe: Sendable {
    /// Looks once. Ends within `timeout`, or little later.
    func look(timeout: Duration) async -> Observation
    func close() async
}

extension CheckProbe {
    func close() async {}
}

extension AgentConfiguration.Check {
    /// - Throws: ``Settings/Failure`` when what it needs (a certificate, a password file) cannot be read.
    func makeProbe() throws -> any CheckProbe {
        switch probe {
        case .tcp(let endpoint): TCPProbe(endpoint: endpoint)
        case .http(let plan): try HTTPProbe(plan)
        case .command(let command): CommandProbe(command: command)
        case .redis(let url, let passwordFile): try RedisProbe(url: url, passwordFile: passwordFile)
        case .postgres(let plan): PostgresProbe(plan)
        }
    }
}

/// Passes when a connection is accepted.
struct TCPProbe: CheckProbe {
    let endpoint: AgentConfiguration.Endpoint

    func look(timeout: Duration) async -> Observation {
        do {
            let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                .connectTimeout(.init(timeout))
                .connect(host: endpoint.host, port: endpoint.port).get()
            channel.close(promise: nil)
            return Observation()
        } catch { return Observation(failure: connectFailure(error)) }
    }
}

/// Passes when the program exits with 0. A line `role=primary` or `role=standby` tells the role, `position=N` the
/// position.
struct CommandProbe: CheckProbe {
    let command: [String]

    func look(timeout: Duration) async -> Observation {
        let result = await BoundedRun(.init(command, environment: HookContext.inherited, limit: timeout)).run()
        guard result.end == .exited(.code(0)) else { return Observation(failure: result.what) }
        return Observation(
            role: BoundedRun.Result.word("role", in: result.output).flatMap { ResourceRole(rawValue: String($0)) },
            position: BoundedRun.Result.position(in: result.output))
    }
}

/// Why a connection could not be made, in few words.
func connectFailure(_ error: any Error) -> String {
    switch error {
    case let error as IOError: return String(cString: strerror(error.errnoCode)).lowercased()
    case let error as NIOConnectionError:
        if let error = error.connectionErrors.first?.error { return connectFailure(error) }
        return "\(error.host) cannot be resolved"
    case ChannelError.connectTimeout: return "timed out"
    default: return "\(error)"
    }
}
