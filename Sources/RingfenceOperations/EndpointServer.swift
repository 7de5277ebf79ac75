// SPDX-License-Identifier: Apache-2.0
//
// Endpoints that one module defines and another serves. The agent defines some and knows nothing of HTTP servers; the
// command line hands it the server of the HTTP service.
package import Logging

/// What an endpoint answers: a status code of HTTP, and JSON.
package struct EndpointAnswer: Sendable {
    package var status: Int
    package var body: String

    package init(status: Int, body: String) {
        self.status = status
        self.body = body
    }
}

/// What is answered at a path.
package struct HTTPEndpoint: Sendable {
    package var path: String
    /// It is asked by POST, and by no web page. Others are asked by GET, HEAD or OPTIONS.
    package var isOrder: Bool
    package var answer: @Sendable (_ query: String) async -> EndpointAnswer

    package init(
        _ path: String, isOrder: Bool = false, answer: @escaping @Sendable (_ query: String) async -> EndpointAnswer
    ) {
        self.path = path
        self.isOrder = isOrder
        self.answer = answer
    }
}

/// A server of endpoints.
package protocol EndpointServer: Sendable {
    /// Returns once connections are accepted.
    /// - Parameter port: 0 takes a free one.
    /// - Throws: the error of listening there.
    func serve(_ endpoints: [HTTPEndpoint], host: String, port: Int, logger: Logger) async throws
        -> any ServedEndpoints
}

/// Endpoints that are served until they are closed.
package protocol ServedEndpoints: Sendable {
    /// The port that is listened on.
    var port: Int { get }
    func close() async
}
