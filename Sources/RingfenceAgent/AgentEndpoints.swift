// SPDX-License-Identifier: Apache-2.0
//
// The endpoints for load balancers: is the primary here, is a standby here? The answer is the status code, 200 or 503;
// the body is for people. Names and methods are those of Patroni's endpoints, `OPTIONS` and `HEAD` included. Agent and
// AgentExec define the answers; the command line provides the server.
import Logging
import RingfenceOperations

extension AgentConfiguration.Endpoint {
    /// The paths that load balancers ask.
    static let healthPaths = ["/primary", "/standby", "/replica", "/health"]

    /// Has endpoints served here.
    /// - Throws: ``Settings/Failure`` when nobody can listen here.
    func serve(
        _ endpoints: [HTTPEndpoint], by server: any EndpointServer, _ logger: Logger
    ) async throws -> any ServedEndpoints {
        do { return try await server.serve(endpoints, host: host, port: port, logger: logger) } catch {
            throw Settings.Failure(
                description: "listen: cannot listen on \(host):\(port): \(connectFailure(error))")
        }
    }
}
