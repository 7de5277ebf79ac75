// SPDX-License-Identifier: Apache-2.0
//
// What a load balancer asks: is the primary here, is a standby here? The answer is the status code, 200 or 503; the
// body is for people. The words are those that users of Patroni's endpoints know, `OPTIONS` and `HEAD` included. What
// is answered is said where it is known, in Agent and AgentExec; who serves it, the command line decides.
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
